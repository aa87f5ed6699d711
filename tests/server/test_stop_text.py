"""Stop strings are found wherever the tokens break, and nothing of them is ever shown."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from csaq_runtime.server.stop_text import StopText

TEXTS = st.text("abc", max_size=30)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=4)


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:stop] for start, stop in pairwise(places)]


@given(TEXTS, STOPS, st.lists(st.integers(0, 30), max_size=12))
def test_shown_is_the_text_before_the_first_stop(text: str, stops: list[str], cuts) -> None:
    matcher, shown = StopText(stops), ""
    for piece in pieces_of(text, cuts):
        shown += matcher.push(piece)
        if matcher.found is not None:
            break
    if matcher.found is None:
        assert not any(stop in text for stop in stops)
        assert shown + matcher.flush() == text
    else:
        assert text.startswith(shown + matcher.found)
        # No stop ends before the one that was found.
        assert not any(stop in (shown + matcher.found)[:-1] for stop in stops)


def test_only_what_may_begin_a_stop_waits() -> None:
    matcher = StopText(["END"])
    assert matcher.push("abc") == "abc"
    assert matcher.push("xE") == "x"
    assert matcher.push("N") == ""
    assert matcher.push("T") == "ENT"
    assert matcher.push("EEND") == "E"
    assert matcher.found == "END"
