"""K-quants: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K (block layouts: ggml-common.h).

An interleaved super-block of 16 rows is its float16 scales, the packed
sub-block scales, then high bits and codes in 4-byte words; the byte numbers
below count from its start.
"""

from typing import Any

from csaq_runtime.kernels.activation import Activation, Block256
from csaq_runtime.kernels.superblock import (
    ScaleTable,
    add_codes,
    byte_scales,
    finish,
    offset_sums,
    scale_into,
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
    integer,
    scaled,
    shift_right,
)

_NIBBLES = 0x0F0F0F0F
_PAIRS = 0x03030303
_ONES = 0x01010101


def _words(tile: Tile, start: int, count: int, base: Any = None) -> list[Any]:
    return [tile.weight(I32_X16, start + 64 * index, base) for index in range(count)]


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
    table, sums = ScaleTable(b, byte_scales(tile, scales)), zero_sums(tile)
    with sub_blocks(tile, 4, 16) as (pair, x):
        both = _words(tile, 256, 8, scaled(b, tile.weights, pair, 512))
        for half in range(2):
            codes = [and_mask(b, shift_right(b, word, 4 * half), _NIBBLES) for word in both]
            scale_into(tile, sums, add_codes(tile, codes, 8 * half, x), table.at(pair, 2, half))
    finish(tile, sums, scale)


def _q5_k(tile: Tile) -> None:
    b = tile.b
    scale, minimum_scale = tile.half(0), tile.half(32)
    scales, minima = _six_bit_scales(tile, 64)
    subtract_minimum(tile, unsigned_pairs(b, minima), Block256.SUM_32_PAIRS, minimum_scale)
    table, sums = ScaleTable(b, byte_scales(tile, scales)), zero_sums(tile)
    with sub_blocks(tile, 4, 16) as (pair, x):
        both = _words(tile, 768, 8, scaled(b, tile.weights, pair, 512))
        fifth = [variable_shift(b, word, pair, 2) for word in _words(tile, 256, 8)]
        for half in range(2):
            codes = [
                b.or_(
                    and_mask(b, shift_right(b, word, 4 * half), _NIBBLES),
                    and_mask(b, shift_right(b, bits, half - 4), 0x10101010),
                )
                for word, bits in zip(both, fifth, strict=True)
            ]
            scale_into(tile, sums, add_codes(tile, codes, 8 * half, x), table.at(pair, 2, half))
    finish(tile, sums, scale)


def _q6_k(tile: Tile) -> None:
    b = tile.b
    scale, words = tile.half(0), _words(tile, 32, 4)
    table = ScaleTable(b, byte_scales(tile, words, signed=True))
    sums = offset_sums(tile, signed_pairs(b, words), 32)
    with sub_blocks(tile, 4, 16) as (quarter, x):
        # Quarter: 64 columns, (half of the super-block, low or high nibbles).
        half, nibble = b.lshr(quarter, integer(1)), b.and_(quarter, integer(1))
        low = scaled(b, tile.weights, half, 1024)
        high = scaled(b, tile.weights, half, 512)
        for sixteen in range(2):
            top = _words(tile, 2336 + 256 * sixteen, 4, high)
            top = [variable_shift(b, word, nibble, 4) for word in top]
            for column in range(2):
                bottom = _words(tile, 288 + 512 * column + 256 * sixteen, 4, low)
                bottom = [variable_shift(b, word, nibble, 4) for word in bottom]
                codes = [
                    b.or_(
                        and_mask(b, word, _NIBBLES),
                        and_mask(b, shift_right(b, bits, 2 * column - 4), 0x30303030),
                    )
                    for word, bits in zip(bottom, top, strict=True)
                ]
                group = 2 * column + sixteen
                dots = add_codes(tile, codes, 4 * group, x)
                scale_into(tile, sums, dots, table.at(quarter, 4, group))
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
    table = ScaleTable(b, byte_scales(tile, words, signed=True))
    sums = offset_sums(tile, signed_pairs(b, words), 4)
    with sub_blocks(tile, 8, 8) as (eighth, x):
        quarter, plane = b.lshr(eighth, integer(2)), b.and_(eighth, integer(3))
        codes_at = scaled(b, tile.weights, quarter, 512)
        for sixteen in range(2):
            pairs = _words(tile, 736 + 256 * sixteen, 4, codes_at)
            third = _words(tile, 224 + 256 * sixteen, 4)
            codes = [
                b.or_(
                    and_mask(b, variable_shift(b, word, plane, 2), _PAIRS),
                    shift_right(b, and_mask(b, variable_shift(b, bits, eighth, 1), _ONES), -2),
                )
                for word, bits in zip(pairs, third, strict=True)
            ]
            dots = add_codes(tile, codes, 4 * sixteen, x)
            scale_into(tile, sums, dots, table.at(eighth, 2, sixteen))
    finish(tile, sums, scale)


def _q2_k(tile: Tile) -> None:
    b = tile.b
    scale, minimum_scale, words = tile.half(0), tile.half(32), _words(tile, 64, 4)
    minima = [and_mask(b, shift_right(b, word, 4), _NIBBLES) for word in words]
    subtract_minimum(tile, unsigned_pairs(b, minima), Block256.SUM_16_PAIRS, minimum_scale)
    scales = [and_mask(b, word, _NIBBLES) for word in words]
    table, sums = ScaleTable(b, byte_scales(tile, scales)), zero_sums(tile)
    with sub_blocks(tile, 8, 8) as (eighth, x):
        quarter, plane = b.lshr(eighth, integer(2)), b.and_(eighth, integer(3))
        codes_at = scaled(b, tile.weights, quarter, 512)
        for sixteen in range(2):
            pairs = _words(tile, 320 + 256 * sixteen, 4, codes_at)
            codes = [and_mask(b, variable_shift(b, word, plane, 2), _PAIRS) for word in pairs]
            dots = add_codes(tile, codes, 4 * sixteen, x)
            scale_into(tile, sums, dots, table.at(eighth, 2, sixteen))
    finish(tile, sums, scale)


def _format(name: str, type_size: int, emit: Any, *fields: Field) -> WeightFormat:
    return WeightFormat(name, Activation.BLOCK_256, 256, type_size, fields, emit)


K_FORMATS = (
    _format("Q2_K", 84, _q2_k, Field(80, 2, 2), Field(82, 2, 2), Field(0, 16, 4), Field(16, 64, 4)),
    _format(
        "Q3_K", 110, _q3_k, Field(108, 2, 2), Field(96, 12, 4), Field(0, 32, 4), Field(32, 64, 4)
    ),
    _format("Q4_K", 144, _q4_k, Field(0, 2, 2), Field(2, 2, 2), Field(4, 12, 4), Field(16, 128, 4)),
    _format(
        "Q5_K",
        176,
        _q5_k,
        *(Field(0, 2, 2), Field(2, 2, 2), Field(4, 12, 4), Field(16, 32, 4), Field(48, 128, 4)),
    ),
    _format(
        "Q6_K", 210, _q6_k, Field(208, 2, 2), Field(192, 16, 4), Field(0, 128, 4), Field(128, 64, 4)
    ),
)
