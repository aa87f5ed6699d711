"""K-quants: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K (block layouts: ggml-common.h).

An interleaved super-block of 16 rows is its float16 scales, the packed
sub-block scales, then high bits and codes in 4-byte words; the byte numbers
below count from its start.
"""

from collections.abc import Iterator
from typing import Any

from csaq_runtime.kernels.activation import Activation, Block256
from csaq_runtime.kernels.superblock import (
    Codes,
    ScaleTable,
    byte_scales,
    column_steps,
    finish,
    multiply_into,
    offset_sums,
    signed_pairs,
    sub_blocks,
    subtract_minimum,
    unsigned_pairs,
    variable_shift,
    zero_sums,
)
from csaq_runtime.kernels.tile import Field, Tile, WeightFormat
from csaq_runtime.simd.vector import (
    BYTES_64,
    I32_X16,
    and_mask,
    as_bytes,
    as_i32,
    constant,
    scaled,
    shift_right,
)

_NIBBLES = 0x0F0F0F0F
_PAIRS = 0x03030303


def _each_word(tile: Tile, start: int, count: int, base: Any = None) -> Iterator[Any]:
    return (tile.weight(I32_X16, start + 64 * index, base) for index in range(count))


def _words(tile: Tile, start: int, count: int, base: Any = None) -> list[Any]:
    return list(_each_word(tile, start, count, base))


def _six_bit_scales(tile: Tile, start: int) -> tuple[list[Any], list[Any]]:
    """Q4_K's and Q5_K's 12 bytes → words of (scales 0–3, 4–7), (minima 0–3, 4–7)."""
    b = tile.b
    low, low_minima, high = _words(tile, start, 3)

    def upper(word: Any, nibble: int) -> Any:
        four = and_mask(b, shift_right(b, high, 4 * nibble), _NIBBLES)
        return b.or_(four, and_mask(b, shift_right(b, word, 2), 0x30303030))

    scales = [and_mask(b, low, 0x3F3F3F3F), upper(low, 0)]
    minima = [and_mask(b, low_minima, 0x3F3F3F3F), upper(low_minima, 1)]
    return scales, minima


def _q4_k(tile: Tile) -> None:
    b = tile.b
    scale, minimum_scale = tile.half(0), tile.half(32)
    scales, minima = _six_bit_scales(tile, 64)
    subtract_minimum(tile, unsigned_pairs(b, minima), Block256.SUM_32_PAIRS, minimum_scale)
    table, sums = ScaleTable(tile, byte_scales(tile, scales)), zero_sums(tile)
    with sub_blocks(tile, 4, 16) as (pair, from_x):
        base = scaled(b, tile.weights, pair, 512)
        for half in range(2):
            words = _each_word(tile, 256, 8, base)
            codes = (and_mask(b, shift_right(b, word, 4 * half), _NIBBLES) for word in words)
            group = Codes(8, codes, 15, 8 * half, from_x)
            multiply_into(tile, sums, group, table.at(pair, 2, half))
    finish(tile, sums, scale)


def _q5_k(tile: Tile) -> None:
    b = tile.b
    scale, minimum_scale = tile.half(0), tile.half(32)
    scales, minima = _six_bit_scales(tile, 64)
    subtract_minimum(tile, unsigned_pairs(b, minima), Block256.SUM_32_PAIRS, minimum_scale)
    table, sums = ScaleTable(tile, byte_scales(tile, scales)), zero_sums(tile)
    with sub_blocks(tile, 4, 16) as (pair, from_x):
        base = scaled(b, tile.weights, pair, 512)
        for half in range(2):
            fifth = (variable_shift(b, bits, pair, 2) for bits in _each_word(tile, 256, 8))
            codes = (
                b.or_(
                    and_mask(b, shift_right(b, word, 4 * half), _NIBBLES),
                    and_mask(b, shift_right(b, bits, half - 4), 0x10101010),
                )
                for word, bits in zip(_each_word(tile, 768, 8, base), fifth, strict=True)
            )
            group = Codes(8, codes, 31, 8 * half, from_x)
            multiply_into(tile, sums, group, table.at(pair, 2, half))
    finish(tile, sums, scale)


def _q6_k(tile: Tile) -> None:
    b = tile.b
    scale, words = tile.half(0), _words(tile, 32, 4)
    table = ScaleTable(tile, byte_scales(tile, words, signed=True))
    sums = offset_sums(tile, signed_pairs(b, words), 32)
    with column_steps(tile, 768) as step:
        for number in range(4):
            nibble, column = divmod(number, 2)
            bottom = _each_word(tile, 544 + 256 * column, 4, step.weights)
            top = _each_word(tile, 288, 4, step.weights)
            codes = (
                b.or_(
                    and_mask(b, shift_right(b, word, 4 * nibble), _NIBBLES),
                    and_mask(b, shift_right(b, bits, 2 * number - 4), 0x30303030),
                )
                for word, bits in zip(bottom, top, strict=True)
            )
            group = Codes(4, codes, 63, 8 * number, step.from_x)
            multiply_into(tile, sums, group, table.at(step.first_scale, 1, 2 * number))
    finish(tile, sums, scale)


def _q3_k_scales(tile: Tile) -> list[Any]:
    """12 bytes → words of four signed 6-bit scales (code - 32)."""
    b = tile.b
    first, second, high = _words(tile, 32, 3)

    def scales(word: Any, nibble: int, shift: int) -> Any:
        low = and_mask(b, shift_right(b, word, 4 * nibble), _NIBBLES)
        top = and_mask(b, shift_right(b, high, shift), _PAIRS)
        code = as_bytes(b, b.or_(low, shift_right(b, top, -4)))
        return as_i32(b, b.sub(code, constant(BYTES_64, 32)))

    return [scales(first, 0, 0), scales(second, 0, 2), scales(first, 1, 4), scales(second, 1, 6)]


def _q3_k(tile: Tile) -> None:
    b = tile.b
    scale, words = tile.half(0), _q3_k_scales(tile)
    table = ScaleTable(tile, byte_scales(tile, words, signed=True))
    sums = offset_sums(tile, signed_pairs(b, words), 4)
    with column_steps(tile, 256) as step:
        third_at = scaled(b, tile.weights, step.sixteen, 768)
        third = [variable_shift(b, word, step.half, 4) for word in _words(tile, 224, 4, third_at)]
        pairs_at = scaled(b, step.weights, step.sixteen, 256)
        for plane in range(4):
            pairs = _each_word(tile, 480, 4, pairs_at)
            codes = (
                b.or_(
                    and_mask(b, shift_right(b, word, 2 * plane), _PAIRS),
                    and_mask(b, shift_right(b, bits, plane - 2), 0x04040404),
                )
                for word, bits in zip(pairs, third, strict=True)
            )
            group = Codes(4, codes, 7, 8 * plane, step.from_x)
            multiply_into(tile, sums, group, table.at(step.first_scale, 1, 2 * plane))
    finish(tile, sums, scale)


def _q2_k(tile: Tile) -> None:
    b = tile.b
    scale, minimum_scale, words = tile.half(0), tile.half(32), _words(tile, 64, 4)
    minima = [and_mask(b, shift_right(b, word, 4), _NIBBLES) for word in words]
    subtract_minimum(tile, unsigned_pairs(b, minima), Block256.SUM_16_PAIRS, minimum_scale)
    scales = [and_mask(b, word, _NIBBLES) for word in words]
    table, sums = ScaleTable(tile, byte_scales(tile, scales)), zero_sums(tile)
    with column_steps(tile, 256) as step:
        for plane in range(4):
            pairs = _each_word(tile, 320, 4, step.weights)
            codes = (and_mask(b, shift_right(b, word, 2 * plane), _PAIRS) for word in pairs)
            group = Codes(4, codes, 3, 8 * plane, step.from_x)
            multiply_into(tile, sums, group, table.at(step.first_scale, 1, 2 * plane))
    finish(tile, sums, scale)


_STEPS = [(half, sixteen) for sixteen in range(2) for half in range(2)]
# Codes lie in the order of `column_steps`: hardware prefetchers follow one ascending stream.


def _plane_fields(start: int) -> list[Field]:
    """The 64 bytes of Q2_K's and Q3_K's two-bit planes from `start`, step by step."""
    return [Field(start + 32 * half + 16 * sixteen, 16, 4) for half, sixteen in _STEPS]


def _q3_k_fields() -> list[Field]:
    """Scales, then for each 16 columns of 32 their third bits and two steps of planes."""
    planes = _plane_fields(32)
    codes = [Field(0, 16, 4), *planes[:2], Field(16, 16, 4), *planes[2:]]
    return [Field(108, 2, 2), Field(96, 12, 4), *codes]


def _q6_k_fields() -> list[Field]:
    """Scales, then for every step its high bits and its two rows of low bits."""
    starts = [
        start + 16 * sixteen
        for half, sixteen in _STEPS
        for start in (128 + 32 * half, 64 * half, 64 * half + 32)
    ]
    return [Field(208, 2, 2), Field(192, 16, 4), *(Field(start, 16, 4) for start in starts)]


def _format(name: str, type_size: int, emit: Any, *fields: Field) -> WeightFormat:
    return WeightFormat(name, Activation.BLOCK_256, 256, type_size, fields, emit)


K_FORMATS = (
    _format(
        "Q2_K", 84, _q2_k, Field(80, 2, 2), Field(82, 2, 2), Field(0, 16, 4), *_plane_fields(16)
    ),
    _format("Q3_K", 110, _q3_k, *_q3_k_fields()),
    _format("Q4_K", 144, _q4_k, Field(0, 2, 2), Field(2, 2, 2), Field(4, 12, 4), Field(16, 128, 4)),
    _format(
        "Q5_K",
        176,
        _q5_k,
        *(Field(0, 2, 2), Field(2, 2, 2), Field(4, 12, 4), Field(16, 32, 4), Field(48, 128, 4)),
    ),
    _format("Q6_K", 210, _q6_k, *_q6_k_fields()),
)
