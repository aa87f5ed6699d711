"""Aligned memory for the kernels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

CACHE_LINE = 64


def aligned_bytes(n_byte: int) -> NDArray[np.uint8]:
    """Zeroed memory that starts and ends on a cache line; pages come when first touched."""
    buffer = np.zeros(n_byte + 2 * CACHE_LINE, np.uint8)
    start = -buffer.ctypes.data % CACHE_LINE
    return buffer[start : start + -(-n_byte // CACHE_LINE) * CACHE_LINE]


def aligned_floats(n_row: int, n_col: int) -> NDArray[np.float32]:
    """Zeroed float32 [n_row, n_col]; rows are aligned if `n_col` is a multiple of 16."""
    floats: NDArray[np.float32] = aligned_bytes(4 * n_row * n_col).view(np.float32)
    return floats[: n_row * n_col].reshape(n_row, n_col)


def address(array: NDArray[Any] | None) -> int:
    """Address of an array's first byte; 0 for None. The array must outlive its use."""
    return 0 if array is None else int(array.ctypes.data)
