"""Replies on a terminal: styles where Markdown has marks, the same text however it is cut."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csaq_cli.chat.display import Styler

MARKED = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "**", "`", "```", "# ", "###### ", "\n", "a", " ", "<", "*", "<th"]
    ),
    max_size=30,
).map("".join)


def shown_pieces(pieces):
    styler = Styler()
    return [*map(styler.push, pieces), styler.flush()]


def show(*pieces):
    return "".join(shown_pieces(pieces))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("so **this** matters", "so \x1b[1mthis\x1b[0m matters"),
        ("call `f(x)` now", "call \x1b[36mf(x)\x1b[0m now"),
        ("## Title\nbody", "\x1b[1;4mTitle\x1b[0m\nbody"),
        ("<think>why</think>because", "\x1b[2mwhy\x1b[0mbecause"),
        ("```py\nx ** y\n```\nend", "\x1b[36m```py\nx ** y\n\x1b[0m```\nend"),
    ],
)
def test_marks_become_styles(text, shown):
    assert show(text) == shown


@pytest.mark.parametrize("text", ["2 ** 3 = 8", "a < b", "#hashtag", "x *y* z", "a_b_c", "1 # 2"])
def test_what_is_no_mark_stays(text):
    assert show(text) == text


def test_style_ends_with_its_line_and_with_the_reply():
    assert show("**open\nnext") == "\x1b[1mopen\x1b[0m\nnext"
    assert show("`open").endswith("\x1b[0m")


def test_ordinary_text_is_not_held_back():
    pieces = shown_pieces(["Hello", " world", ", how", " are"])
    assert pieces[:4] == ["Hello", " world", ", how", " are"]


@given(MARKED, st.randoms(use_true_random=False))
def test_cut_into_any_pieces_the_result_is_the_same(text, random):
    cuts = sorted(random.choices(range(len(text) + 1), k=4))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert show(*pieces) == show(text)


@given(MARKED)
def test_nothing_but_marks_is_ever_lost(text):
    shown = re.sub(r"\x1b\[[\d;]*m", "", show(text))
    marks = r"</?think>|[*`#]| "
    assert re.sub(marks, "", shown) == re.sub(marks, "", text)
