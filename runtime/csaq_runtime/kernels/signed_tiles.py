"""256-column types with signed codes: IQ4_XS, and CODES_16, the layout of all exotic types.

CODES_16 is this runtime's own: types whose weights come from large grids
(IQ1_*, IQ2_*, IQ3_*, TQ*) are expanded at load to one int8 code per weight
and one float32 scale per 16, at 10 bits per weight.
"""

from functools import partial
from typing import Any

from csaq_runtime.kernels.activation import WORD, Activation, Block256
from csaq_runtime.kernels.block32_tiles import flip_sign_bits
from csaq_runtime.kernels.lookup import IQ4_VALUES, lookup_biased
from csaq_runtime.kernels.superblock import (
    Codes,
    ScaleTable,
    Starts,
    finish,
    multiply_into,
    scale_into,
    sub_blocks,
    zero_sums,
)
from csaq_runtime.kernels.tile import Field, Tile, WeightFormat
from csaq_runtime.simd.integer_dot import biased_start
from csaq_runtime.simd.vector import (
    BYTES_64,
    F32_X16,
    I16_X16,
    I32,
    I32_X16,
    and_mask,
    as_bytes,
    constant,
    scaled,
    shift_right,
    splat,
)

_NIBBLES = 0x0F0F0F0F
_NUMBERS = [(half, k) for half in range(2) for k in range(4)]


def _starts(index: Any, words: range) -> Starts:
    """Accumulators for `dot_biased`: the sum of some -128 · Σ₁₆ words, `len(words)` per index."""

    def starts(tile: Tile) -> list[Any]:
        b = tile.b
        base = scaled(b, tile.x, index, len(words) * tile.n_beside * WORD)

        def correction(token: int) -> Any:
            values = [tile.x_word(I32, word, token, base) for word in words]
            total = values[0]
            for value in values[1:]:
                total = b.add(total, value)
            return total

        return [
            biased_start(tile.target, partial(correction, token)) for token in range(tile.n_token)
        ]

    return starts


def _iq4_xs_scales(tile: Tile) -> list[Any]:
    """Eight signed scales (6-bit code - 32): 4 low bits in a word, 2 high bits in a half word."""
    b = tile.b
    high = b.zext(tile.weight(I16_X16, 32), I32_X16)
    low = tile.weight(I32_X16, 64)
    scales = []
    for index in range(8):
        bottom = and_mask(b, shift_right(b, low, 4 * index), 0xF)
        top = and_mask(b, shift_right(b, high, 2 * index - 4), 0x30)
        scales.append(b.sub(b.or_(bottom, top), constant(I32_X16, 32)))
    return scales


def _iq4_xs(tile: Tile) -> None:
    b = tile.b
    scale, table, sums = tile.half(0), ScaleTable(tile, _iq4_xs_scales(tile)), zero_sums(tile)
    first = Block256.MINUS_128_SUM_16
    with sub_blocks(tile, 8, 8) as (block, from_x):
        base = scaled(b, tile.weights, block, 256)
        words = ((half, tile.weight(I32_X16, 128 + 64 * k, base)) for half, k in _NUMBERS)
        nibbles = (and_mask(b, shift_right(b, word, 4 * half), _NIBBLES) for half, word in words)
        codes = (lookup_biased(b, tile.target, as_bytes(b, word), IQ4_VALUES) for word in nibbles)
        group = Codes(8, codes, 128, 0, from_x, _starts(block, range(first, first + 2)))
        multiply_into(tile, sums, group, table.at(block))
    finish(tile, sums, scale)


def _codes_16(tile: Tile) -> None:
    b, sums = tile.b, zero_sums(tile, F32_X16)
    first = Block256.MINUS_128_SUM_16
    with sub_blocks(tile, 16, 4) as (group, from_x):
        scale = tile.weight(F32_X16, 0, scaled(b, tile.weights, group, 64))
        base = scaled(b, tile.weights, group, 256)
        codes = [tile.weight(BYTES_64, 1024 + 64 * index, base) for index in range(4)]
        starts = _starts(group, range(first, first + 1))
        scale_into(tile, sums, Codes(4, codes, 128, 0, from_x, starts), scale)
    one = splat(b, F32_X16.element(1.0))
    finish(tile, sums, one)


IQ4_XS_FORMAT = WeightFormat(
    "IQ4_XS",
    Activation.BLOCK_256,
    256,
    136,
    (Field(0, 2, 2), Field(2, 2, 2), Field(4, 4, 4), Field(8, 128, 4)),
    _iq4_xs,
)

CODES_16_FORMAT = WeightFormat(
    "CODES_16",
    Activation.BLOCK_256,
    256,
    16 * 4 + 256,
    (Field(0, 64, 4), Field(64, 256, 4, flip_sign_bits)),
    _codes_16,
)
