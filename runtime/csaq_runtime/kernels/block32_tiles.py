"""Types with 32 weights per block: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4.

Block layouts: ggml-common.h. A block of 16 interleaved rows is the scales
(16 float16), then any minima, then high bits, then the codes: word k holds
columns 4k … 4k+3 of every row (low nibbles) and 16+4k … (high nibbles).
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from csaq_runtime.kernels.activation import Activation, Block32
from csaq_runtime.kernels.byte_chain import byte_chains, signed_halves, signed_sums
from csaq_runtime.kernels.lookup import IQ4_VALUES, MXFP4_VALUES, lookup_biased
from csaq_runtime.kernels.tile import Field, Tile, WeightFormat
from csaq_runtime.simd.chain import longest_chain, widen
from csaq_runtime.simd.integer_dot import biased_start, dot_biased, dot_unsigned
from csaq_runtime.simd.vector import (
    BYTES_16,
    BYTES_64,
    F32_X16,
    I16_X16,
    I32,
    I32_X16,
    and_mask,
    as_bytes,
    constant,
    integer,
    join,
    shift_right,
    zeros,
)

_NIBBLES = 0x0F0F0F0F
_FIFTH_BITS = 0x10101010
_Dot = Callable[[Any, Any, Any, Any, Any], Any]
Numbered = Iterable[tuple[int, Any]]
"""Codes with the word of x that they meet."""


def nibbles(tile: Tile, start: int, base: Any = None) -> Iterator[tuple[int, Any]]:
    """(word of x, codes) for 16 bytes of nibbles per row at `start` from `base` (the block)."""
    for k in range(4):
        both = tile.weight(I32_X16, start + 64 * k, base)
        for half in range(2):
            yield 4 * half + k, and_mask(tile.b, shift_right(tile.b, both, 4 * half), _NIBBLES)


def _with_fifth_bit(tile: Tile, start: int) -> Iterator[tuple[int, Any]]:
    """Like `nibbles`, with bit 4 from the word before: its bit k belongs to word k of x."""
    bits = tile.weight(I32_X16, start)
    for word, codes in nibbles(tile, start + 64):
        high = and_mask(tile.b, shift_right(tile.b, bits, word - 4), _FIFTH_BITS)
        yield word, tile.b.or_(codes, high)


def unpacked(tile: Tile, codes: Iterator[tuple[int, Any]]) -> Numbered:
    """The codes, made now where a stack meets them often."""
    return list(codes) if tile.stack else codes


def multiply_codes(tile: Tile, dot: _Dot, starts: list[Any], codes: Numbered) -> list[Any]:
    """Dot products of (word of x, codes) added to `starts`, one per token of a narrow tile."""
    dots = list(starts)
    for word, vector in codes:
        for token in range(tile.n_token):
            x = tile.x_codes(word, token)
            dots[token] = dot(tile.b, tile.target, dots[token], as_bytes(tile.b, vector), x)
    return dots


def multiply_unsigned(tile: Tile, starts: list[Any], codes: Numbered, largest: int) -> list[Any]:
    """Dot products with codes 0 … `largest`, added to `starts`."""
    if not tile.target.has_byte_chains:
        return multiply_codes(tile, dot_unsigned, starts, codes)
    return _chained(tile, starts, codes, largest, 1)


def _chained(
    tile: Tile, starts: list[Any], codes: Numbered, largest: int, factor: int
) -> list[Any]:
    """`starts + factor · Σ codes · x` in sums of int16 for as long as they fit."""
    b, dots, numbered = tile.b, list(starts), iter(codes)
    factors, n_word = constant(I16_X16, factor), longest_chain(largest)
    while some := list(islice(numbered, n_word)):
        for token, halves in enumerate(byte_chains(tile, some, tile.x)):
            products = join(b, [widen(b, half, factors) for half in halves])
            dots[token] = b.add(dots[token], products)
    return dots


def multiply_nibbles(tile: Tile, upper: Numbered, lower: Numbered) -> list[Any]:
    """Dot products with int8 codes stored plus 128 = 16 · upper + lower, in chains of bytes."""
    bias = x_sums(tile, Block32.MINUS_128_SUM)
    return _chained(tile, _chained(tile, bias, upper, 15, 16), lower, 15, 1)


def finish_block(tile: Tile, dots: list[Any], scale: Any) -> None:
    """`totals += (dots · scale) · scale of x`, per token of a narrow tile."""
    for token, dot in enumerate(dots):
        tile.add_scaled(token, dot, scale, tile.x_float(Block32.SCALE, token))


def _add_minimum(tile: Tile, minimum: Any) -> None:
    for token in range(tile.n_token):
        tile.add(token, minimum, tile.x_float(Block32.SCALED_SUM, token))


def x_sums(tile: Tile, word: int) -> list[Any]:
    """Word number `word` of each token, an int32 of `Block32`: what its sum starts at."""
    return tile.each_token(lambda token: tile.x_word(I32, word, token))


def biased_starts(tile: Tile) -> list[Any]:
    """What sums of `dot_biased` start at, one per token."""

    def correction(token: int) -> Any:
        return tile.x_word(I32, Block32.MINUS_128_SUM, token)

    return tile.each_token(lambda token: biased_start(tile.target, lambda: correction(token)))


def zero_starts(tile: Tile) -> list[Any]:
    """A sum of zero per token."""
    return [zeros(I32_X16)] * tile.n_token


def _biased(tile: Tile, codes: Iterator[tuple[int, Any]], scale: Any) -> None:
    """Multiply a block of int8 codes stored plus 128."""
    tile.fetch_ahead(integer(0), 1)
    if not tile.target.has_byte_chains:
        finish_block(tile, multiply_codes(tile, dot_biased, biased_starts(tile), codes), scale)
        return
    halves = unpacked(tile, ((word, signed_halves(tile.b, vector)) for word, vector in codes))
    factors = [constant(I16_X16, 1)] * 2
    for part in tile.narrow():
        finish_block(part, signed_sums(part, halves, part.x, factors), scale)


def _q8_0(tile: Tile) -> None:
    codes = ((k, tile.weight(BYTES_64, 32 + 64 * k)) for k in range(8))
    _biased(tile, codes, tile.half(0))


def _unsigned(tile: Tile, codes: Iterator[tuple[int, Any]], largest: int, offset_sum: int) -> None:
    """Multiply a block of codes 0 … `largest`, whose offset adds up to word `offset_sum` of x."""
    tile.fetch_ahead(integer(0), 1)
    scale, numbered = tile.half(0), unpacked(tile, codes)
    for part in tile.narrow():
        dots = multiply_unsigned(part, x_sums(part, offset_sum), numbered, largest)
        finish_block(part, dots, scale)


def _with_minimum(tile: Tile, codes: Iterator[tuple[int, Any]], largest: int) -> None:
    """Multiply a block of codes 0 … `largest` with a minimum."""
    tile.fetch_ahead(integer(0), 1)
    scale, minimum, numbered = tile.half(0), tile.half(32), unpacked(tile, codes)
    for part in tile.narrow():
        finish_block(part, multiply_unsigned(part, zero_starts(part), numbered, largest), scale)
        _add_minimum(part, minimum)


def _q4_0(tile: Tile) -> None:
    _unsigned(tile, nibbles(tile, 32), 15, Block32.MINUS_8_SUM)


def _q5_0(tile: Tile) -> None:
    _unsigned(tile, _with_fifth_bit(tile, 32), 31, Block32.MINUS_16_SUM)


def _q4_1(tile: Tile) -> None:
    _with_minimum(tile, nibbles(tile, 64), 15)


def _q5_1(tile: Tile) -> None:
    _with_minimum(tile, _with_fifth_bit(tile, 64), 31)


def _table(tile: Tile, start: int, values: tuple[int, ...]) -> Iterator[tuple[int, Any]]:
    for word, indices in nibbles(tile, start):
        yield word, lookup_biased(tile.b, tile.target, as_bytes(tile.b, indices), values)


def _iq4_nl(tile: Tile) -> None:
    _biased(tile, _table(tile, 32, IQ4_VALUES), tile.half(0))


def _mxfp4(tile: Tile) -> None:
    _biased(tile, _table(tile, 16, MXFP4_VALUES), _half_power_of_two(tile))


def _half_power_of_two(tile: Tile) -> Any:
    """2^(e - 128) of 16 exponent bytes (E8M0, halved because the table holds doubled values)."""
    b = tile.b
    exponent = b.zext(tile.weight(BYTES_16, 0), I32_X16)
    normal = b.shl(b.sub(exponent, constant(I32_X16, 1)), constant(I32_X16, 23))
    tiny = b.shl(constant(I32_X16, 0x00200000), b.and_(exponent, constant(I32_X16, 1)))
    is_tiny = b.icmp_unsigned("<", exponent, constant(I32_X16, 2))
    return b.bitcast(b.select(is_tiny, tiny, normal), F32_X16)


def flip_sign_bits(b: Any, word: Any) -> Any:
    """Four int8 codes plus 128 each: the form `dot_biased` takes."""
    return b.xor(word, word.type(0x80808080))


def _bits_to_byte_lanes(b: Any, word: Any) -> Any:
    """Bit 4k+i of a block's high-bit word → bit k of byte i, for 32 columns."""
    lanes = word.type(0)
    for lane in range(4):
        bits = b.and_(b.lshr(word, word.type(lane)), word.type(0x11111111))
        for shift, mask in ((3, 0x03030303), (6, 0x000F000F), (12, 0x000000FF)):
            bits = b.and_(b.or_(bits, b.lshr(bits, word.type(shift))), word.type(mask))
        lanes = b.or_(lanes, b.shl(bits, word.type(8 * lane)))
    return lanes


def _format(
    name: str, type_size: int, fields: tuple[Field, ...], emit: Callable[[Tile], None]
) -> WeightFormat:
    return WeightFormat(name, Activation.BLOCK_32, 32, type_size, fields, emit)


_SCALE = Field(0, 2, 2)
_MINIMUM = Field(2, 2, 2)

BLOCK_32_FORMATS = (
    _format("Q8_0", 34, (_SCALE, Field(2, 32, 4, flip_sign_bits)), _q8_0),
    _format("Q4_0", 18, (_SCALE, Field(2, 16, 4)), _q4_0),
    _format("Q4_1", 20, (_SCALE, _MINIMUM, Field(4, 16, 4)), _q4_1),
    _format("Q5_0", 22, (_SCALE, Field(2, 4, 4, _bits_to_byte_lanes), Field(6, 16, 4)), _q5_0),
    _format(
        "Q5_1",
        24,
        (_SCALE, _MINIMUM, Field(4, 4, 4, _bits_to_byte_lanes), Field(8, 16, 4)),
        _q5_1,
    ),
    _format("IQ4_NL", 18, (_SCALE, Field(2, 16, 4)), _iq4_nl),
    _format("MXFP4", 17, (Field(0, 1, 1), Field(1, 16, 4)), _mxfp4),
)
