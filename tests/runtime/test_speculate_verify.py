"""Which drafted tokens stand: the reply's distribution must not change, nor greedy tokens."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from csaq_runtime.sample import Candidates, Sampler, Sampling
from csaq_runtime.speculate.drafter import Draft
from csaq_runtime.speculate.verify import verified

N_VOCAB, N_DRAW = 12, 2500
LOGITS = np.random.default_rng(3).normal(0, 0.9, (3, N_VOCAB)).astype(np.float32)
WRONG = LOGITS + np.random.default_rng(4).normal(0, 0.8, LOGITS.shape).astype(np.float32)
CONTEXT = [2, 5, 5, 7, 1]
GREEDY = Sampling(temperature=0)
SETTINGS = [
    Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0),
    Sampling(temperature=0.7, top_k=6),
    Sampling(temperature=1.3, top_k=0, top_p=0.8, min_p=0.1),
    Sampling(temperature=1.0, repeat_penalty=1.6, presence_penalty=0.3, frequency_penalty=0.2),
    Sampling(temperature=0.9, logit_bias=((3, 2.0), (4, -5.0)), top_k=0),
]
CHI_SQUARE_999 = (0, 10.8, 13.8, 16.3, 18.5, 20.5, 22.5, 24.3, 26.1, 27.9, 29.6, 31.3, 32.9)
"""Values that χ² with that many degrees of freedom exceeds once in a thousand times."""


def chi_square(counts: Counter[int], expected: Candidates) -> tuple[float, int]:
    n = sum(counts.values())
    wanted = {int(i): n * float(p) for i, p in zip(*_columns(expected), strict=True)}
    assert set(counts) <= set(wanted)
    rare = [i for i in wanted if wanted[i] < 5]
    cells = [(counts[i], wanted[i]) for i in wanted if i not in rare]
    if rare:
        cells.append((sum(counts[i] for i in rare), sum(wanted[i] for i in rare)))
    return sum((seen - mean) ** 2 / mean for seen, mean in cells), len(cells) - 1


def _columns(candidates: Candidates) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    return candidates.ids, candidates.probabilities


@pytest.mark.parametrize("sampling", SETTINGS)
def test_rejection_keeps_the_distribution_of_every_position(sampling: Sampling) -> None:
    sampler = Sampler(sampling, np.random.default_rng(17))
    drafting = sampler.spawn()
    first: Counter[int] = Counter()
    second: dict[int, Counter[int]] = {}
    n_accepted = 0
    for _ in range(N_DRAW):
        drawn_from = [drafting.candidates(WRONG[0], CONTEXT)]
        ids = [drafting.draw(drawn_from[0])]
        drawn_from.append(drafting.candidates(WRONG[1], [*CONTEXT, *ids]))
        ids.append(drafting.draw(drawn_from[1]))
        tokens = verified(LOGITS, Draft(ids, drawn_from), sampler, CONTEXT, ())
        n_accepted += len(tokens) > 1
        first[tokens[0]] += 1
        if len(tokens) > 1:
            second.setdefault(tokens[0], Counter())[tokens[1]] += 1
    statistic, freedom = chi_square(first, sampler.candidates(LOGITS[0], CONTEXT))
    assert statistic < CHI_SQUARE_999[freedom]
    assert 0.3 * N_DRAW < n_accepted < N_DRAW
    id, counts = max(second.items(), key=lambda item: item[1].total())
    statistic, freedom = chi_square(counts, sampler.candidates(LOGITS[1], [*CONTEXT, id]))
    assert statistic < CHI_SQUARE_999[freedom]


def test_the_check_of_the_distribution_sees_a_wrong_one() -> None:
    """Accepting every drafted token, as if p were q, must fail it."""
    sampler = Sampler(SETTINGS[0], np.random.default_rng(17))
    wrong = sampler.candidates(WRONG[0], CONTEXT)
    counts = Counter(sampler.draw(wrong) for _ in range(N_DRAW))
    statistic, freedom = chi_square(counts, sampler.candidates(LOGITS[0], CONTEXT))
    assert statistic > CHI_SQUARE_999[freedom]


@pytest.mark.parametrize("sampling", [GREEDY, *SETTINGS])
def test_tokens_looked_up_change_nothing_at_all(sampling: Sampling) -> None:
    """Same seed, same tokens as one draw after the other, whatever the draft says."""
    for seed in range(40):
        plain, sampler = (Sampler(sampling, np.random.default_rng(seed)) for _ in range(2))
        tokens: list[int] = []
        for row in LOGITS:
            tokens.append(plain.sample(row, [*CONTEXT, *tokens]))
        for n_right in (0, 1, 2):
            sampler = Sampler(sampling, np.random.default_rng(seed))
            guess = [*tokens[:n_right], *((t + 1) % N_VOCAB for t in tokens[n_right:2])]
            stand = verified(LOGITS, Draft(guess), sampler, CONTEXT, ())
            assert stand == tokens[: n_right + 1]


def test_greedy_tokens_survive_a_draft_by_chance() -> None:
    likeliest = LOGITS.argmax(axis=1).tolist()
    for _ in range(50):
        sampler = Sampler(GREEDY)
        spread = Candidates(np.arange(N_VOCAB), np.full(N_VOCAB, 1 / N_VOCAB))
        ids = [sampler.draw(spread), sampler.draw(spread)]
        tokens = verified(LOGITS, Draft(ids, [spread, spread]), sampler, CONTEXT, ())
        assert tokens == likeliest[: len(tokens)]


def test_a_stop_is_the_last_token() -> None:
    ids = LOGITS.argmax(axis=1).tolist()
    assert verified(LOGITS, Draft(ids[:2]), Sampler(GREEDY), CONTEXT, {ids[0]}) == ids[:1]
    assert verified(LOGITS, Draft(ids[:2]), Sampler(GREEDY), CONTEXT, {ids[2]}) == ids


def test_equal_distributions_accept_everything() -> None:
    sampler = Sampler(SETTINGS[0], np.random.default_rng(1))
    for _ in range(200):
        drawn_from = [sampler.candidates(LOGITS[0], CONTEXT)]
        ids = [sampler.draw(drawn_from[0])]
        assert len(verified(LOGITS[:2], Draft(ids, drawn_from), sampler, CONTEXT, ())) == 2
