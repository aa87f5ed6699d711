"""Reordering heads keeps every dot product of queries and keys, whatever the head size."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from csaq_runtime.heads import head_pad, rotary_rows, take_elements, take_rows, value_rows
from tests.runtime.test_cache import HPARAMS

HALVES = st.integers(1, 40)
ARCHITECTURES = st.sampled_from(["llama", "qwen2"])


@given(HALVES, ARCHITECTURES, st.integers(1, 3))
def test_every_row_appears_once_and_padding_is_zero(
    half: int, architecture: str, n_head: int
) -> None:
    hparams = replace(HPARAMS, head_dim=2 * half, architecture=architecture)
    matrix = np.arange(1, 2 * half * n_head + 1, dtype=np.uint8)[:, None].repeat(3, 1) | 1
    for rows in (rotary_rows(hparams, n_head), value_rows(hparams, n_head)):
        assert rows.size == n_head * head_pad(hparams)
        assert sorted(rows[rows >= 0].tolist()) == list(range(len(matrix)))
        taken = take_rows(matrix, rows)
        assert (taken[rows < 0] == 0).all()
        assert (taken[rows >= 0] == matrix[rows[rows >= 0]]).all()


@given(HALVES, ARCHITECTURES)
def test_pairs_meet_at_the_same_place_of_both_halves(half: int, architecture: str) -> None:
    hparams = replace(HPARAMS, head_dim=2 * half, architecture=architecture)
    first, second = rotary_rows(hparams, 1).reshape(2, -1)[:, :half]
    distance = 1 if architecture == "llama" else half
    assert (second - first == distance).all()


def test_rows_in_place_are_not_copied() -> None:
    matrix = np.zeros((64, 4), np.uint8)
    assert take_rows(matrix, np.arange(64)) is matrix


def test_elements_follow_the_rows() -> None:
    vector = np.array([5.0, 6.0], np.float32)
    assert take_elements(vector, np.array([1, -1, 0])).tolist() == [6.0, 0.0, 5.0]
