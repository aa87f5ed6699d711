"""Memory for the kernels: aligned, writable, nobody else's."""

import numpy as np

from csaq_runtime.buffers import ARENA_BYTES, Arena


def test_an_arena_hands_out_memory_that_nobody_else_has() -> None:
    arena = Arena()
    sizes = (1, 64, 100, ARENA_BYTES + 1, 5, ARENA_BYTES - 64, 4096)
    arrays = [arena.take(n_byte) for n_byte in sizes]
    assert [array.nbytes for array in arrays] == list(sizes)
    assert all(array.ctypes.data % 64 == 0 for array in arrays)
    places = sorted((array.ctypes.data, array.nbytes) for array in arrays)
    ends = [start + n_byte for start, n_byte in places]
    assert all(end <= start for end, (start, _) in zip(ends[:-1], places[1:], strict=True))
    arrays[0][:] = 7
    del arena
    assert np.array_equal(arrays[0], [7])
