"""Codebook types in super-blocks of 256: IQ1_S, IQ1_M, IQ2_XXS/XS/S, IQ3_XXS/S.

Each function turns blocks [n_block, type_size] into exact integer codes, int8
[n_block, 256], and float32 scales, one per 16 weights; their product is the weight.
Layouts: ggml/src/ggml-common.h; codebooks: `grids.py`.
"""

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.formats.bits import Bytes, Floats, half, unpack, words
from csaq_runtime.formats.grids import grid

Codes = NDArray[np.int8]

# The eighth sign of a 7-bit sign index makes the number of minus signs even
# (ggml-common.h: ksigns_iq2xs).
_PARITY = np.array([i | (i.bit_count() & 1) << 7 for i in range(128)], np.uint8)


def _signed(name: str, index: NDArray[np.generic], signs: Bytes) -> Codes:
    """Vectors `index` [n, n_vector] of a codebook, negated where the sign bits [n, 32] say so."""
    levels = grid(name)[index].reshape(len(index), -1)
    signed: Codes = np.where(unpack(signs, 1, 1) == 1, -levels, levels)
    return signed


def _indexed_signs(packed: NDArray[np.uint32]) -> Bytes:
    """Sign bytes from [n, 8] words holding four 7-bit sign indices each."""
    shifts = np.array([0, 7, 14, 21], np.uint32)
    signs: Bytes = _PARITY[(packed[:, :, None] >> shifts) & 127]
    return signs.reshape(len(packed), -1)


def _odd_scales(d: Floats, scales: NDArray[np.generic], unit: float, repeat: int = 1) -> Floats:
    """d · (2 · scale + 1) · unit: every step is exact, so the order does not matter."""
    odd = scales.astype(np.float32) * np.float32(2) + np.float32(1)
    return np.repeat(d * odd * np.float32(unit), repeat, axis=1)


def iq2_xxs(blocks: Bytes) -> tuple[Codes, Floats]:
    """f16 d, then per 32 weights 4 index bytes and a word: four 7-bit signs, 4-bit scale."""
    groups = blocks[:, 2:].reshape(len(blocks), 8, 8)
    index = groups[:, :, :4].reshape(len(blocks), -1)
    packed = words(groups[:, :, 4:].reshape(len(blocks), -1), "<u4")
    codes = _signed("iq2xxs", index, _indexed_signs(packed))
    return codes, _odd_scales(half(blocks, 0), packed >> 28, 1 / 8, repeat=2)


def iq2_xs(blocks: Bytes) -> tuple[Codes, Floats]:
    """f16 d, 32 words of 9-bit index and 7-bit sign index, 8 bytes of 4-bit scales."""
    packed = words(blocks[:, 2:66], "<u2")
    codes = _signed("iq2xs", packed & 511, _PARITY[packed >> 9])
    return codes, _odd_scales(half(blocks, 0), unpack(blocks[:, 66:], 4, 1), 1 / 8)


def iq2_s(blocks: Bytes) -> tuple[Codes, Floats]:
    """f16 d, 32 index bytes, 32 sign bytes, 8 of 2-bit index tops, 8 of 4-bit scales."""
    index = blocks[:, 2:34] | unpack(blocks[:, 66:74], 2, 1).astype(np.uint16) << 8
    codes = _signed("iq2s", index, blocks[:, 34:66])
    return codes, _odd_scales(half(blocks, 0), unpack(blocks[:, 74:], 4, 1), 1 / 8)


def iq3_xxs(blocks: Bytes) -> tuple[Codes, Floats]:
    """f16 d, 64 index bytes, 8 words: four 7-bit signs, 4-bit scale."""
    packed = words(blocks[:, 66:], "<u4")
    codes = _signed("iq3xxs", blocks[:, 2:66], _indexed_signs(packed))
    return codes, _odd_scales(half(blocks, 0), packed >> 28, 1 / 4, repeat=2)


def iq3_s(blocks: Bytes) -> tuple[Codes, Floats]:
    """f16 d, 64 index bytes, 8 of ninth bits, 32 sign bytes, 4 of 4-bit scales."""
    index = blocks[:, 2:66] | unpack(blocks[:, 66:74], 1, 1).astype(np.uint16) << 8
    codes = _signed("iq3s", index, blocks[:, 74:106])
    return codes, _odd_scales(half(blocks, 0), unpack(blocks[:, 106:], 4, 1), 1, repeat=2)


def _shifted(index: NDArray[np.generic], minus: NDArray[np.bool_]) -> Codes:
    """IQ1 codes 8 · level ± 1: vectors `index` [n, 32], each moved by an eighth of a step."""
    levels = grid("iq1s")[index] * np.int8(8)
    delta = np.where(minus, np.int8(-1), np.int8(1))[:, :, None]
    codes: Codes = levels + delta
    return codes.reshape(len(index), -1)


def iq1_s(blocks: Bytes) -> tuple[Codes, Floats]:
    """f16 d, 32 index bytes, 8 words: four 3-bit index tops, 3-bit scale, sign of the shift."""
    packed = words(blocks[:, 34:], "<u2")
    tops = (packed[:, :, None] >> np.array([0, 3, 6, 9], np.uint16)) & 7
    index = blocks[:, 2:34] | (tops.reshape(len(blocks), -1) << 8)
    minus = np.repeat(packed >> 15 == 1, 4, axis=1)
    return _shifted(index, minus), _odd_scales(half(blocks, 0), (packed >> 12) & 7, 1 / 8, 2)


def iq1_m(blocks: Bytes) -> tuple[Codes, Floats]:
    """32 index bytes, 16 of 3-bit tops with shift sign, 4 words: four 3-bit scales, d's nibble."""
    packed = words(blocks[:, 48:], "<u2")
    tops = unpack(blocks[:, 32:48], 4, 1)
    index = blocks[:, :32] | (tops & 7).astype(np.uint16) << 8
    nibbles = (packed >> 12) << np.array([0, 4, 8, 12], np.uint16)
    d = words(np.bitwise_or.reduce(nibbles, axis=1, keepdims=True), "<f2").astype(np.float32)
    scales = (packed[:, :, None] >> np.array([0, 3, 6, 9], np.uint16)) & 7
    return _shifted(index, tops > 7), _odd_scales(d, scales.reshape(len(blocks), -1), 1 / 8)
