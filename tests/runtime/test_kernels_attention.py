"""Attention over the blocked cache against plain NumPy, for every remainder of a block."""

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from csaq_runtime.kernels import attention

N_HEAD, HEAD_PAD, N_POSITION = 3, 64, 150


@numba.njit
def attend(
    query: int, rows: int, cache: int, scratch: int, n: int, half: int, n_head: int, scale: float
) -> None:
    """Fill the cache with `n` keys and values from `rows`, then attend to all of them."""
    keys, values = cache, cache + 4 * 160 * HEAD_PAD
    for position in range(n):
        key = rows + 8 * position * HEAD_PAD
        attention.store_key(key, keys, half, position, HEAD_PAD)
        attention.store_value(key + 4 * HEAD_PAD, values, half, position, HEAD_PAD)
    places = (scratch + 4 * N_HEAD * HEAD_PAD, 4 * 160, scratch)
    attention.attend(query, (keys, values, half), places, (n_head, HEAD_PAD), n, scale)


def expected(
    query: NDArray[np.float32], rows: NDArray[np.float32], scale: float
) -> NDArray[np.float64]:
    scores = query.astype(np.float64) @ rows[:, 0].T * scale
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(weights @ rows[:, 1])


def results(
    query: NDArray[np.float32], rows: NDArray[np.float32], n: int, is_half: bool
) -> NDArray[np.float32]:
    # Positions past the end may hold anything, as after a rollback.
    cache = np.full(2 * 160 * HEAD_PAD, np.nan, np.float32)
    scratch = np.full(N_HEAD * (HEAD_PAD + 160), np.nan, np.float32)
    addresses = [array.ctypes.data for array in (query, rows, cache, scratch)]
    attend(*addresses, n, int(is_half), len(query), np.float32(0.3))
    return scratch[: query.size].reshape(query.shape)


@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 63, 64, 65, 129, 150])
def test_attention_equals_numpy_and_heads_do_not_touch_each_other(n: int, is_half: bool) -> None:
    random = np.random.default_rng(n)
    query = random.normal(size=(N_HEAD, HEAD_PAD)).astype(np.float32)
    rows = random.normal(size=(N_POSITION, 2, HEAD_PAD)).astype(np.float32)
    together = results(query, rows, n, is_half)
    stored = rows.astype(np.float16) if is_half else rows
    reference = expected(query, stored[:n], 0.3)
    np.testing.assert_allclose(together, reference, atol=2e-6, rtol=1e-5)
    for head in range(N_HEAD):
        alone = results(query[head : head + 1].copy(), rows, n, is_half)
        assert (together[head] == alone[0]).all()
