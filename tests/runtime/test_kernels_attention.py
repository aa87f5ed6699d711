"""Attention over the blocked cache against plain NumPy, for every remainder of a block."""

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from csaq_runtime.kernels import attention
from csaq_runtime.kernels.attention_store import store_key, store_value
from csaq_runtime.kernels.cached import CACHE_FORMATS

N_HEAD, HEAD_PAD, N_POSITION = 3, 96, 150
TOLERANCE = {"f32": 2e-6, "f16": 2e-6, "q8_0": 0.05}


@numba.njit
def attend(
    query: int, data: int, places: tuple[int, ...], form: tuple[int, ...], n: int, n_row: int
) -> None:
    """Fill the cache with all keys and values from `data`, then attend to `n` of them on."""
    kind, row_bytes, n_query, n_head = form
    keys, values, scores, totals = places
    for position in range(n_row):
        key = data + 8 * position * HEAD_PAD
        store_key(key, keys, kind, position, HEAD_PAD)
        store_value(key + 4 * HEAD_PAD, values, kind, position, HEAD_PAD)
    head_cache = (keys, values, kind, row_bytes)
    rows, scratch = (n_query, n_head, HEAD_PAD), (scores, 4 * 160, totals)
    attention.attend(query, head_cache, scratch, rows, n, 0.3)


def expected(query: NDArray[np.float32], rows: NDArray[np.float32], n: int) -> NDArray[np.float64]:
    scores = query.astype(np.float64) @ rows[:n, 0].T * 0.3
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(weights @ rows[:n, 1])


def results(
    query: NDArray[np.float32], rows: NDArray[np.float32], n: int, cache_type: str, n_head: int
) -> NDArray[np.float32]:
    """Attention of `query` [n_query, HEAD_PAD]: `n_head` heads for each of some tokens."""
    fmt = CACHE_FORMATS[cache_type]
    n_query, n_row = len(query), n + len(query) // n_head - 1
    # Positions past the end may hold anything, as after a rollback.
    keys, values = (np.full(160 * fmt.row_bytes(HEAD_PAD), 0xFF, np.uint8) for _ in range(2))
    scores, totals = (np.full((n_query, width), np.nan, np.float32) for width in (160, HEAD_PAD))
    places = tuple(array.ctypes.data for array in (keys, values, scores, totals))
    form = (fmt.kind, fmt.row_bytes(HEAD_PAD), n_query, n_head)
    attend(query.ctypes.data, rows.ctypes.data, places, form, n, n_row)
    return totals


@pytest.mark.parametrize("cache_type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 63, 64, 65, 129, 145])
def test_attention_equals_numpy_and_heads_and_tokens_do_not_touch_each_other(
    n: int, cache_type: str
) -> None:
    random = np.random.default_rng(n)
    query = random.normal(size=(4 * N_HEAD, HEAD_PAD)).astype(np.float32)
    rows = random.normal(size=(N_POSITION, 2, HEAD_PAD)).astype(np.float32)
    together = results(query, rows, n, cache_type, N_HEAD)
    stored = rows.astype(np.float16).astype(np.float32) if cache_type == "f16" else rows
    for token in range(4):
        heads = slice(token * N_HEAD, (token + 1) * N_HEAD)
        reference = expected(query[heads], stored, n + token)
        atol = TOLERANCE[cache_type]
        np.testing.assert_allclose(together[heads], reference, atol=atol, rtol=1e-5)
    for row in range(4 * N_HEAD):
        alone = results(query[row : row + 1].copy(), rows, n + row // N_HEAD, cache_type, 1)
        assert (together[row] == alone[0]).all()
