"""Floats and the blocks of 32 weights: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.

Each function turns blocks [n_block, type_size] into float32 [n_block, block_size];
`reference.dequantize` calls them. Layouts: ggml/src/ggml-common.h.
"""

import numpy as np

from csaq_runtime.formats.bits import Bytes, Floats, half, unpack, words


def f32(blocks: Bytes) -> Floats:
    """Stored as they are."""
    return words(blocks, "<f4").astype(np.float32)


def f16(blocks: Bytes) -> Floats:
    """IEEE half precision."""
    return words(blocks, "<f2").astype(np.float32)


def bf16(blocks: Bytes) -> Floats:
    """The upper half of a float32."""
    return (words(blocks, "<u2").astype(np.uint32) << 16).view(np.float32)


def q4_0(blocks: Bytes) -> Floats:
    """d · (q − 8): f16 d, 16 bytes of nibbles."""
    q = unpack(blocks[:, 2:], 4, 16).astype(np.float32) - np.float32(8)
    return half(blocks, 0) * q


def q4_1(blocks: Bytes) -> Floats:
    """d · q + m: f16 d, f16 m, 16 bytes of nibbles."""
    q = unpack(blocks[:, 4:], 4, 16).astype(np.float32)
    return half(blocks, 0) * q + half(blocks, 2)


def _five_bits(high: Bytes, low: Bytes) -> Floats:
    """Quants 0 … 31: fifth bits in 4 bytes, in order; low nibbles in 16 bytes."""
    return (unpack(low, 4, 16) | unpack(high, 1, 1) << 4).astype(np.float32)


def q5_0(blocks: Bytes) -> Floats:
    """d · (q − 16): f16 d, 4 bytes of fifth bits, 16 bytes of nibbles."""
    q = _five_bits(blocks[:, 2:6], blocks[:, 6:]) - np.float32(16)
    return half(blocks, 0) * q


def q5_1(blocks: Bytes) -> Floats:
    """d · q + m: f16 d, f16 m, 4 bytes of fifth bits, 16 bytes of nibbles."""
    q = _five_bits(blocks[:, 4:8], blocks[:, 8:])
    return half(blocks, 0) * q + half(blocks, 2)


def q8_0(blocks: Bytes) -> Floats:
    """d · q: f16 d, 32 signed bytes."""
    return half(blocks, 0) * words(blocks[:, 2:], "i1").astype(np.float32)
