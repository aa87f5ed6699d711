"""The look-up drafter: which earlier place it takes, and what it makes of a changed context."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from csaq_runtime.sample import Sampler, Sampling
from csaq_runtime.speculate import ngram
from csaq_runtime.speculate.ngram import NGramDrafter

SAMPLER = Sampler(Sampling(temperature=0))


def drafter() -> NGramDrafter:
    fresh = NGramDrafter()
    fresh.begin(SAMPLER)
    return fresh


def ids(context: list[int], n: int = 4) -> list[int]:
    return list(drafter().propose(context, n, None).ids)


def test_what_followed_is_proposed() -> None:
    assert ids([1, 2, 3, 4, 5, 6, 7, 1, 2, 3]) == [4, 5, 6, 7]
    assert ids([1, 2, 3, 4, 5, 6, 7, 1, 2, 3], 2) == [4, 5]


def test_nothing_is_proposed_where_nothing_matches() -> None:
    for context in ([], [1], [1, 2, 3, 4]):
        draft = drafter().propose(context, 4, None)
        assert (list(draft.ids), draft.drawn_from) == ([], None)


def test_the_longest_match_wins_over_later_ones() -> None:
    assert ids([9, 1, 2, 3, 50, 8, 1, 2, 3, 60, 7, 1, 2, 3, 70, 9, 1, 2, 3], 1) == [50]
    assert ids([5, 1, 50, 6, 1, 60, 6, 1, 70, 5, 1], 1) == [50]


def test_of_equal_matches_the_more_frequent_continuation_then_the_latest_wins() -> None:
    assert ids([1, 2, 1, 2, 1, 3, 1], 1) == [2]
    assert ids([4, 1, 2, 5, 1, 3, 6, 1], 1) == [3]


def test_a_repetition_goes_on_beyond_what_is_known() -> None:
    assert ids([1, 2, 3, 1, 2, 3, 1, 2], 7) == [3, 1, 2, 3, 1, 2, 3]
    assert ids([7, 7], 3) == [7, 7, 7]


def test_longer_matches_and_agreement_give_confidence() -> None:
    def confidence(context: list[int]) -> list[float]:
        return list(drafter().propose(context, 2, None).confidence)

    short, long = confidence([1, 2, 3, 9, 1]), confidence([4, 5, 6, 1, 2, 3, 4, 5, 6, 1])
    assert short == sorted(short)
    assert long[0] > short[0]
    divided, agreed = [1, 2, 1, 3, 1, 4, 1, 5, 1], [1, 2, 1, 2, 1, 2, 1, 2, 1]
    assert confidence(divided)[0] < short[0] < confidence(agreed)[0] <= 1


@given(st.lists(st.integers(0, 5), max_size=60), st.lists(st.integers(1, 9), max_size=8))
def test_growing_step_by_step_gives_the_same_as_all_at_once(
    context: list[int], steps: list[int]
) -> None:
    growing, n = drafter(), 0
    for step in steps:
        n = min(n + step, len(context))
        assert growing.propose(context[:n], 5, None) == drafter().propose(context[:n], 5, None)


def test_an_earlier_reply_is_remembered_but_never_read_across_its_end() -> None:
    lookup = drafter()
    lookup.propose([1, 2, 3, 4, 5, 6], 3, None)
    lookup.begin(SAMPLER)
    assert list(lookup.propose([1, 2, 3], 5, None).ids) == [4, 5, 6]
    lookup.begin(SAMPLER)
    assert list(lookup.propose([8, 2, 3, 4], 5, None).ids) == [5, 6]
    lookup.begin(SAMPLER)
    assert list(lookup.propose([8, 2, 3, 4], 5, None).ids) == [5, 6]


def test_a_very_long_history_is_dropped(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(ngram, "MAX_CORPUS", 50)
    lookup, context = drafter(), [1, 2, 3, 4, 5, 6] * 9
    lookup.propose(context, 3, None)
    assert list(lookup.propose([*context, 1], 3, None).ids) == [2, 3, 4]


def test_proposals_agree_with_a_search_through_the_context() -> None:
    random = np.random.default_rng(1)
    context = random.integers(0, 30, 400).tolist()
    lookup = drafter()
    for n in range(20, 400):
        (*draft,) = lookup.propose(context[:n], 3, None).ids
        ends = [p for p in range(3, n) if context[p - 3 : p] == context[n - 3 : n]]
        ends = ends or [p for p in range(1, n) if context[p - 1] == context[n - 1]]
        assert bool(draft) == bool(ends)
        if draft:
            assert draft in [(context[:n] + draft)[p : p + 3] for p in ends]
