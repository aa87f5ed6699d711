"""Bit fields and half floats inside packed blocks, unpacked a whole array at a time.

The families (`legacy`, `k_quants`, …) say which bytes hold what; this says how
ggml lays fields out in them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def unpack(packed: Bytes, bits: int, run: int) -> Bytes:
    """Fields of `bits` bits from [n, n_byte] as [n, n_byte * 8 // bits].

    ggml stores weights in runs of `run` bytes: the lowest field of every byte of
    the run comes first, then the second field of every byte, and so on.
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    runs = packed.reshape(len(packed), -1, 1, run)
    fields: Bytes = (runs >> shifts) & np.uint8((1 << bits) - 1)
    return fields.reshape(len(packed), -1)


def words(packed: Bytes, dtype: str) -> NDArray[Any]:
    """Little-endian numbers of NumPy type `dtype` from [n, n_byte]."""
    return np.ascontiguousarray(packed).view(dtype)


def half(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of every block, as float32 [n, 1]."""
    return words(blocks[:, at : at + 2], "<f2").astype(np.float32)
