"""Vectors of 16 float32: what jitted code computes equals NumPy."""

from collections.abc import Callable

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from csaq_runtime.kernels import lanes

ROWS = arrays(np.float32, 16, elements=st.floats(-80, 80, width=32))


@numba.njit
def transform(x: int, y: int) -> None:
    """Everything at once, because a compilation takes longer than all checks."""
    value = lanes.load(x)
    lanes.store(y, lanes.exponential(value))
    lanes.store_half(y + 64, value)
    lanes.store(y + 128, lanes.load_half(y + 64))
    lanes.store_scalar(y + 192, lanes.total(value))
    lanes.store_scalar(y + 196, lanes.largest(value))
    lanes.store_half_scalar(y + 200, lanes.load_scalar(x + 4))
    lanes.store(y + 256, lanes.load_splat(x + 8))
    lanes.store(y + 320, lanes.multiply_add(value, value, lanes.splat(np.float32(1))))


Results = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@pytest.fixture(scope="module")
def results() -> Results:
    def run(row: NDArray[np.float32]) -> NDArray[np.float32]:
        out = np.zeros(96, np.float32)
        transform(row.ctypes.data, out.ctypes.data)
        return out

    return run


@given(row=ROWS)
def test_exponential_is_good_to_the_last_bits(results: Results, row: NDArray[np.float32]) -> None:
    expected = np.exp(row.astype(np.float64))
    np.testing.assert_allclose(results(row)[:16], expected, rtol=4e-7)


@given(row=ROWS)
def test_halves_round_like_numpy(results: Results, row: NDArray[np.float32]) -> None:
    out = results(row)
    assert (out[32:48] == row.astype(np.float16)).all()
    assert out[50:51].view(np.float16)[0] == row[1].astype(np.float16)


@given(row=ROWS)
def test_reductions_and_arithmetic(results: Results, row: NDArray[np.float32]) -> None:
    out = results(row)
    pairs = row
    while pairs.size > 1:
        half = pairs.size // 2
        pairs = pairs[:half] + pairs[half:]
    assert out[48] == pairs[0]
    assert out[49] == row.max()
    assert (out[64:80] == row[2]).all()
    exact = row.astype(np.float64) ** 2 + 1
    np.testing.assert_allclose(out[80:96], exact, rtol=6e-8)
