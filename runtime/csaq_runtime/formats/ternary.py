"""Ternary weights −1, 0, 1 in super-blocks of 256 with one scale: TQ1_0, TQ2_0.

Each function turns blocks [n_block, type_size] into codes int8 [n_block, 256] and
float32 scales [n_block, 16]; their product is the weight. Layouts: ggml/src/ggml-common.h.
"""

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.formats.bits import Bytes, Floats, half, unpack


def tq1_0(blocks: Bytes) -> tuple[NDArray[np.int8], Floats]:
    """48 bytes of five base-3 digits, 4 of four, f16 d."""
    parts = [
        _digits(blocks[:, :32], 5, 32),
        _digits(blocks[:, 32:48], 5, 16),
        _digits(blocks[:, 48:52], 4, 4),
    ]
    codes = np.concatenate(parts, axis=1) - np.int8(1)
    return codes, np.repeat(half(blocks, 52), 16, axis=1)


def tq2_0(blocks: Bytes) -> tuple[NDArray[np.int8], Floats]:
    """64 bytes of 2-bit fields, f16 d; the field 3 means 2 times d."""
    codes = unpack(blocks[:, :64], 2, 32).astype(np.int8) - np.int8(1)
    return codes, np.repeat(half(blocks, 64), 16, axis=1)


def _digits(packed: Bytes, n_digit: int, run: int) -> NDArray[np.int8]:
    """Base-3 digits, most significant first, of bytes that hold a fraction of 256.

    Multiplying by 3 moves the next digit above the byte; the multiplications by
    powers of 3 wrap in 8 bits, which drops the digits before.
    """
    powers = (3 ** np.arange(n_digit, dtype=np.uint8)).astype(np.uint8)[:, None]
    shifted = packed.reshape(len(packed), -1, 1, run) * powers
    digits = (shifted.astype(np.uint16) * np.uint16(3)) // np.uint16(256)
    return digits.reshape(len(packed), -1).astype(np.int8)
