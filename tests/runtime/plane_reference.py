"""Two planes of Q8_0 and BF16 rows by NumPy: what `kernels/plane_split.py` is compared with."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.formats import GGMLType
from csaq_runtime.kernels.plane_split import BF16_COLUMNS, BF16_LEVELS, BF16_SPAN
from csaq_runtime.kernels.tile import N_ROW, WeightFormat

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint16]


def planes(rows: Bytes, ggml_type: GGMLType, fmt: WeightFormat) -> Bytes:
    """The bytes of a packed matrix: the lower plane from its end to its beginning, the upper one.

    rows: uint8 [n_row, row_bytes]; `fmt`: of all bits.
    """
    blocks = split_rows(rows, ggml_type)
    n_group = -(-len(rows) // N_ROW)
    padded = np.zeros((n_group * N_ROW, blocks.shape[1]), np.uint8)
    padded[: len(rows)] = blocks
    groups = padded.reshape(n_group, N_ROW, -1, fmt.type_size).transpose(0, 2, 1, 3)
    parts, start = [], 0
    for field in fmt.fields:
        part = groups[..., start : start + field.n_byte]
        units = part.reshape(*part.shape[:3], -1, field.unit).swapaxes(2, 3)
        parts.append(units.reshape(groups.shape[0] * groups.shape[1], -1))
        start += field.n_byte
    *upper, lower = parts
    return np.concatenate([lower[::-1].reshape(-1), np.concatenate(upper, 1).reshape(-1)])


def split_rows(rows: Bytes, ggml_type: GGMLType) -> Bytes:
    """Blocks of scale, upper nibbles and lower bits: uint8 [n_row, bytes].

    rows: Q8_0 or BF16, uint8 [n_row, row_bytes].
    """
    return _split_q8_0(rows) if ggml_type is GGMLType.Q8_0 else _split_bf16(rows)


def _split_q8_0(rows: Bytes) -> Bytes:
    blocks = rows.reshape(len(rows), -1, 34)
    biased = blocks[:, :, 2:] ^ np.uint8(0x80)
    first, second = biased[:, :, :16], biased[:, :, 16:]
    upper = (first >> 4) | (second & 0xF0)
    lower = (first & 0x0F) | (second << 4)
    return _joined(blocks[:, :, :2], upper.astype(np.uint8), lower.astype(np.uint8))


def _split_bf16(rows: Bytes) -> Bytes:
    n_row = len(rows)
    words = np.ascontiguousarray(rows).view("<u2").reshape(n_row, -1, BF16_COLUMNS)
    exponents = ((words >> 7) & 0xFF).max(axis=2)
    lowest = (exponents - np.uint16(BF16_SPAN)) << 7
    magnitudes = words & 0x7FFF
    is_weight = magnitudes > 0
    rest = (magnitudes - lowest[:, :, None]) * is_weight
    nibbles = _LEVEL_OF_REST.take(rest) | ((words >> 12) & 8).astype(np.uint8)
    fours = nibbles.view("<u4")
    upper = fours[:, :, 0::2] | fours[:, :, 1::2] << 4
    shared = exponents.astype(np.uint8)[:, :, None]
    return _joined(shared, upper.view(np.uint8), _twelve_bits(rest).view(np.uint8))


def _levels() -> Bytes:
    """The nearest of `BF16_LEVELS` for every number of 5 bits of exponent and 7 of mantissa."""
    codes = np.arange((BF16_SPAN + 1) << 7)
    values = 16 * (1 + (codes & 127) / 128) * 2.0 ** ((codes >> 7) - BF16_SPAN)
    levels = np.array(BF16_LEVELS)
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, values).astype(np.uint8)


_LEVEL_OF_REST = _levels()


def _twelve_bits(rest: Words) -> NDArray[np.uint32]:
    """Four 12-bit numbers each, those of one half word of nibbles, in three words.

    Words of eight columns in opposite order: [n_row, n_block, 24].
    """
    fours: NDArray[np.uint64] = rest.view("<u8")
    first, second = fours[:, :, 0::2], fours[:, :, 1::2]
    numbers = [_even_columns(four) for four in (first, second, first >> 16)]
    fourth = _even_columns(second >> 16)
    words = np.empty((*first.shape, len(numbers)), np.uint32)
    for index, number in enumerate(numbers):
        words[:, :, ::-1, index] = number | ((fourth >> (4 * index)) & 0x000F000F) << 12
    return words.reshape(*rest.shape[:2], -1)


def _even_columns(four: NDArray[Any]) -> NDArray[np.uint32]:
    """Columns 0 and 2 of four 16-bit numbers, side by side."""
    return (four & 0xFFFF | (four >> 16) & 0xFFFF0000).astype(np.uint32)


def _joined(scales: Bytes, upper: Bytes, lower: Bytes) -> Bytes:
    """The three parts of every block behind each other: [n_row, bytes]."""
    blocks: Bytes = np.concatenate([scales, upper, lower], axis=2)
    return blocks.reshape(len(blocks), -1)
