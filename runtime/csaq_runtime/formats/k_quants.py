"""K-quants: super-blocks of 256 weights with quantised scales, Q2_K … Q6_K.

Each function turns blocks [n_block, type_size] into float32 [n_block, 256];
`reference.dequantize` calls them. Layouts: ggml/src/ggml-common.h; the order of
the float operations is ggml-quants.c's, so results agree bit for bit.
"""

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.formats.bits import Bytes, Floats, half, unpack, words


def _scaled(d: Floats, scales: NDArray[np.generic], q: NDArray[np.generic]) -> Floats:
    """(d · scale) · q, one scale per group: d [n, 1], scales [n, n_group], q [n, 256]."""
    steps = d * scales.astype(np.float32)
    grouped = q.astype(np.float32).reshape(len(q), scales.shape[1], -1)
    return (steps[:, :, None] * grouped).reshape(len(q), -1)


def _less_minimum(values: Floats, dmin: Floats, minima: NDArray[np.generic]) -> Floats:
    """Take dmin · minimum from each group: dmin [n, 1], minima [n, n_group]."""
    offsets = dmin * minima.astype(np.float32)
    return values - np.repeat(offsets, values.shape[1] // minima.shape[1], axis=1)


def scales_and_minima(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The eight 6-bit scales and eight 6-bit minima of Q4_K and Q5_K from [n, 12].

    Bytes 0–3 and 4–7 hold the first four of each and, on top, two high bits of
    the last four, whose low nibbles share bytes 8–11.
    """
    first, second, low = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = [first & 0x3F, (low & 0x0F) | ((first >> 2) & 0x30)]
    minima = [second & 0x3F, (low >> 4) | ((second >> 2) & 0x30)]
    return np.concatenate(scales, axis=1), np.concatenate(minima, axis=1)


def q2_k(blocks: Bytes) -> Floats:
    """16 bytes of scale and minimum nibbles, 64 of 2-bit quants, f16 d, f16 dmin."""
    packed = blocks[:, :16]
    values = _scaled(half(blocks, 80), packed & 0x0F, unpack(blocks[:, 16:80], 2, 32))
    return _less_minimum(values, half(blocks, 82), packed >> 4)


def q3_k_scales(packed: Bytes) -> NDArray[np.int8]:
    """The sixteen 6-bit scales (offset 32) of Q3_K from [n, 12]: low nibbles, then high bits."""
    scales = unpack(packed[:, :8], 4, 8) | unpack(packed[:, 8:], 2, 4) << 4
    return scales.astype(np.int8) - np.int8(32)


def q3_k(blocks: Bytes) -> Floats:
    """32 bytes of third bits (set: no −4), 64 of 2-bit quants, 12 of scales, f16 d."""
    q = unpack(blocks[:, 32:96], 2, 32) | unpack(blocks[:, :32], 1, 32) << 2
    return _scaled(half(blocks, 108), q3_k_scales(blocks[:, 96:108]), q.astype(np.int8) - 4)


def q4_k(blocks: Bytes) -> Floats:
    """f16 d, f16 dmin, 12 bytes of scales and minima, 128 of nibbles."""
    scales, minima = scales_and_minima(blocks[:, 4:16])
    values = _scaled(half(blocks, 0), scales, unpack(blocks[:, 16:], 4, 32))
    return _less_minimum(values, half(blocks, 2), minima)


def q5_k(blocks: Bytes) -> Floats:
    """f16 d, f16 dmin, 12 bytes of scales and minima, 32 of fifth bits, 128 of nibbles."""
    scales, minima = scales_and_minima(blocks[:, 4:16])
    q = unpack(blocks[:, 48:], 4, 32) | unpack(blocks[:, 16:48], 1, 32) << 4
    return _less_minimum(_scaled(half(blocks, 0), scales, q), half(blocks, 2), minima)


def q6_k(blocks: Bytes) -> Floats:
    """128 bytes of low nibbles, 64 of high 2-bit fields, 16 signed scales, f16 d."""
    q = unpack(blocks[:, :128], 4, 64) | unpack(blocks[:, 128:192], 2, 32) << 4
    scales = words(blocks[:, 192:208], "i1")
    return _scaled(half(blocks, 208), scales, q.astype(np.int8) - 32)
