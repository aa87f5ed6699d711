"""Memory whose pages come before it is needed: a thread asks the system for one after the other.

`csaq run` begins while Python still imports what reads the file; `buffers.Arena` hands out the
memory to those who pack weights. A fresh page costs more than filling it, and more yet where a
virtual machine must get it from its host. Only the standard library is imported, and little of it.
"""

import ctypes
import mmap
import sys
from threading import Lock, Thread

from csaq_runtime.memory_limits import available_memory

CACHE_LINE = 64

MOST_BYTES = 1 << 30
"""More pages do not come while Python imports."""

STEP_BYTES = 4 << 20
"""Pages that are asked for at a time."""

_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, since Linux 5.14; the module `mmap` has no name for it."""


class Pages:
    """Memory of any value for several takers. Close it when nothing more is taken.

    `n_fetched`: bytes that have come so far.
    """

    def __init__(self, n_byte: int) -> None:
        """Begin to fetch up to `n_byte`, but no more than half of what is available."""
        limit = available_memory()
        n_most = MOST_BYTES if limit is None else min(MOST_BYTES, limit.n_byte // 2)
        self._mapping = _mapped(min(n_byte, n_most))
        self._memory = memoryview(self._mapping or bytearray())
        self.n_fetched = self._n_taken = 0
        self._lock, self._is_closed = Lock(), False
        self._thread = Thread(target=self._fetch, daemon=True)
        self._thread.start()

    def take(self, n_byte: int) -> memoryview | None:
        """Memory that starts on a cache line; None if so much is not left."""
        n_whole = whole_lines(n_byte)
        with self._lock:
            start = self._n_taken
            if self._is_closed or start + n_whole > len(self._memory):
                return None
            self._n_taken += n_whole
        return self._memory[start : start + n_byte]

    def close(self) -> None:
        """Give back what was not taken; what was lives as long as its takers."""
        with self._lock:
            self._is_closed = True
        self._thread.join()
        start = -(-self._n_taken // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._mapping is not None and start < len(self._mapping):
            self._mapping.madvise(mmap.MADV_DONTNEED, start, len(self._mapping) - start)

    def _fetch(self) -> None:
        if self._mapping is None:
            return
        madvise = ctypes.CDLL(None).madvise  # unlike the method of `mmap` it lets others run
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        first, n_byte = ctypes.addressof(ctypes.c_char.from_buffer(self._memory)), len(self._memory)
        for start in range(0, n_byte, STEP_BYTES):
            n = min(STEP_BYTES, n_byte - start)
            if self._is_closed or madvise(first + start, n, _POPULATE_WRITE):
                return
            self.n_fetched = start + n


def whole_lines(n_byte: int) -> int:
    """Bytes of the cache lines that hold `n_byte`."""
    return -(-n_byte // CACHE_LINE) * CACHE_LINE


def _mapped(n_byte: int) -> mmap.mmap | None:
    """None where the system has no such pages to give."""
    if sys.platform != "linux" or n_byte <= 0:
        return None
    try:
        return mmap.mmap(-1, n_byte, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        return None
