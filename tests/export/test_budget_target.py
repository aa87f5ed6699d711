"""Sizes as users write them."""

import pytest

from csaq_export.budget.target import Target, parse_size
from csaq_runtime.errors import UsageError


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("1500000", 1500000), ("3.2GiB", int(3.2 * 2**30)), ("800MB", 800 * 10**6), ("2 kib", 2048)],
)
def test_sizes_are_read(text, n_bytes):
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "big", "-3G", "3TB", "1e9", "GiB"])
def test_other_texts_are_refused(text):
    with pytest.raises(UsageError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    "given", [{}, {"bpw": 4.0, "size": 3}, {"like": "Q4_K_M", "bpw": 4.0}, {"bpw": -1.0},
              {"bpw": 100.0}],
)  # fmt: skip
def test_exactly_one_sensible_target_is_needed(given):
    with pytest.raises(UsageError, match="--bpw"):
        Target(**given)
