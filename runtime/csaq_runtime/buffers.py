"""Aligned memory for the kernels."""

import mmap
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.pages import CACHE_LINE, Pages, whole_lines

HUGE_PAGE = 2 << 20
ARENA_BYTES = 64 << 20

Allocate = Callable[[int], NDArray[np.uint8]]
"""Bytes → as many, of any value, that start on a cache line."""


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


def empty_bytes(n_byte: int) -> NDArray[np.uint8]:
    """Memory of any value that starts on a cache line."""
    buffer = np.empty(n_byte + CACHE_LINE, np.uint8)
    start = -buffer.ctypes.data % CACHE_LINE
    return buffer[start : start + n_byte]


class Arena:
    """Hands out memory for many arrays: from `pages`, then from large mappings of its own.

    Those are on huge pages where there are any. A mapping lives as long as its arrays.
    """

    def __init__(self, pages: Pages | None = None) -> None:
        self._lock, self._pages = Lock(), pages
        self._free = np.empty(0, np.uint8)

    def take(self, n_byte: int) -> NDArray[np.uint8]:
        """Memory of any value that starts on a cache line; MemoryError if there is none."""
        ready = None if self._pages is None else self._pages.take(n_byte)
        if ready is not None:
            return np.frombuffer(ready, np.uint8)
        n_whole = whole_lines(n_byte)
        with self._lock:
            if n_whole > self._free.size:
                self._free = _huge_pages(max(n_whole, ARENA_BYTES))
            taken, self._free = self._free[:n_byte], self._free[n_whole:]
            return taken


def _huge_pages(n_byte: int) -> NDArray[np.uint8]:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return empty_bytes(n_byte)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        mapped = mmap.mmap(-1, n_byte + HUGE_PAGE, flags=flags)
    except OSError as failure:
        raise MemoryError(f"{n_byte} bytes") from failure
    with suppress(OSError):  # a kernel without huge pages
        mapped.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(mapped, np.uint8)
    start = -whole.ctypes.data % HUGE_PAGE
    return whole[start : start + n_byte]
