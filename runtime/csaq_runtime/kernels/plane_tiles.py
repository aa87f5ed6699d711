"""Weights in two planes: the upper bits, which a draft reads alone, and the rest of them.

`plane_split.py` makes the blocks. The whole products are those of the undivided type to the last
bit; a draft's are products of the middle of what the upper bits leave open. In 32 columns of Q8_0,
or 8 of BF16, word k of a plane holds a lower and an upper nibble of every byte as `block32_tiles`
says; codes of Q8_0 are biased: code + 128 = 16 · upper + lower.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from csaq_runtime.kernels.activation import WORD, Activation, Block32
from csaq_runtime.kernels.block32_tiles import (
    biased_starts,
    finish_block,
    multiply_codes,
    multiply_nibbles,
    multiply_unsigned,
    nibbles,
    unpacked,
    x_sums,
    zero_starts,
)
from csaq_runtime.kernels.lookup import lookup
from csaq_runtime.kernels.plane_split import (
    BF16_COLUMNS,
    BF16_LEVELS,
    BF16_SPAN,
    split_bf16,
    split_q8_0,
)
from csaq_runtime.kernels.tile import Field, Splitter, Tile, WeightFormat
from csaq_runtime.simd.integer_dot import dot_biased
from csaq_runtime.simd.target import Target
from csaq_runtime.simd.vector import (
    BYTES_16,
    F32_X16,
    I16_X16,
    I16_X32,
    I32_X16,
    and_mask,
    as_bytes,
    as_i32,
    call_llvm,
    constant,
    counted_loop,
    integer,
    join,
    offset,
    parts,
    scaled,
    shift_right,
    to_float,
)

_LOWER, _UPPER = 0x0F0F0F0F, 0xF0F0F0F0

Q8_0_MIDDLE = 15.0625
"""A code with the upper nibble h is 16 h - 120.5 in the middle; see `Block32.MINUS_8_SUM`."""

_OFFSET = 32
_BF16_TABLE = [_OFFSET + sign * level for sign in (1, -1) for level in BF16_LEVELS]
_LARGEST = max(_BF16_TABLE)
_WORD_COLUMNS = 8
"""Columns that a 4-byte word of upper nibbles has."""


def _q8_0_codes(tile: Tile) -> Iterator[tuple[int, Any]]:
    """(word of x, biased codes), put together of both planes."""
    b = tile.b
    for k in range(4):
        upper, lower = tile.weight(I32_X16, 32 + 64 * k), tile.weight(I32_X16, 64 * k, tile.lower)
        high = and_mask(b, shift_right(b, upper, -4), _UPPER)
        yield k, b.or_(high, and_mask(b, lower, _LOWER))
        low = and_mask(b, shift_right(b, lower, 4), _LOWER)
        yield 4 + k, b.or_(and_mask(b, upper, _UPPER), low)


def _q8_0(tile: Tile) -> None:
    tile.fetch_ahead(integer(0), 1)
    tile.fetch_lower(16 * 16)
    scale = tile.half(0)
    if not tile.target.has_byte_chains:
        codes = ((word, as_bytes(tile.b, vector)) for word, vector in _q8_0_codes(tile))
        dots = multiply_codes(tile, dot_biased, biased_starts(tile), unpacked(tile, codes))
        finish_block(tile, dots, scale)
        return
    upper = unpacked(tile, nibbles(tile, 32))
    lower = unpacked(tile, nibbles(tile, 0, tile.lower))
    for part in tile.narrow():
        finish_block(part, multiply_nibbles(part, upper, lower), scale)


def _q8_0_draft(tile: Tile) -> None:
    tile.fetch_ahead(integer(0), 1)
    b, scale = tile.b, tile.half(0)
    sixteen, middle = constant(F32_X16, 16.0), constant(F32_X16, Q8_0_MIDDLE)
    codes = unpacked(tile, nibbles(tile, 32))
    for part in tile.narrow():
        dots = multiply_unsigned(part, zero_starts(part), codes, 15)
        centred = [
            b.fadd(b.fmul(to_float(b, dot), sixteen), b.fmul(to_float(b, rest), middle))
            for dot, rest in zip(dots, x_sums(part, Block32.MINUS_8_SUM), strict=True)
        ]
        finish_block(part, centred, scale)


def _exponents(tile: Tile) -> Any:
    """The 16 rows' shared exponents as int32."""
    return tile.b.zext(tile.weight(BYTES_16, 0), I32_X16)


def _bf16(tile: Tile) -> None:
    b = tile.b
    tile.fetch_ahead(integer(0), 1)
    tile.fetch_lower(16 * BF16_COLUMNS * 3 // 2)
    # (exponent - span) << 7 in both halves of every lane.
    lowest = b.sub(_exponents(tile), constant(I32_X16, BF16_SPAN))
    half = b.and_(b.shl(lowest, constant(I32_X16, 7)), constant(I32_X16, 0xFFFF))
    base = b.bitcast(b.or_(half, b.shl(half, constant(I32_X16, 16))), I16_X32)
    with counted_loop(b, integer(0), integer(BF16_COLUMNS // _WORD_COLUMNS)) as word:
        x = scaled(b, tile.x, word, _WORD_COLUMNS * tile.n_beside * WORD)
        weights = scaled(b, tile.weights, word, 64)
        # The lower plane goes downwards in every block, too: one stream for the prefetcher.
        lower = scaled(b, offset(b, tile.lower, 7 * 3 * 64), word, -3 * 64)
        part = replace(tile, x=x, weights=weights, lower=lower)
        for first in range(2):
            _add_columns(part, base, first)


def _add_columns(tile: Tile, base: Any, first: int) -> None:
    """Multiply four columns of the eight of a word, in the order of an undivided row."""
    b = tile.b
    upper = b.bitcast(tile.weight(I32_X16, 16), I16_X32)
    lower = [b.bitcast(tile.weight(I32_X16, 64 * part, tile.lower), I16_X32) for part in range(3)]
    # Nibble j of a 2-byte half stands for column 4 · (j % 2) + j // 2, in the other half 2 more.
    both = [_restored(b, tile.target, base, upper, lower, nibble) for nibble in (first, first + 2)]
    for half in range(2):
        for odd in range(2):
            pair = as_i32(b, both[odd])
            bits = b.and_(pair, constant(I32_X16, -65536)) if half else shift_right(b, pair, -16)
            weights = b.bitcast(bits, F32_X16)
            for token in range(tile.n_token):
                tile.add(token, weights, tile.x_float(4 * first + 2 * half + odd, token))


def _restored(b: Any, target: Target, base: Any, upper: Any, lower: list[Any], nibble: int) -> Any:
    """32 bfloat16 from nibble 0 … 3 of every half word and its twelve lower bits.

    The bits of a weight are its sign, which is a nibble's first bit, and the sum of the lower bits
    and `base`: seven bits of mantissa, and how far the exponent is above the lowest possible one.
    No lower bit is set in a zero.
    """
    rest = _twelve_bits(b, lower, nibble)
    sign = b.and_(_shifted(b, upper, 12 - 4 * nibble), constant(I16_X32, -0x8000))
    return b.or_(b.add(_unless_zero(b, target, base, rest), rest), sign)


def _unless_zero(b: Any, target: Target, base: Any, rest: Any) -> Any:
    """`base`, zero where `rest` (0 … 4095) is."""
    if target.has_avx2:
        name, halves = "llvm.x86.avx2.psign.w", (parts(b, vector, 2) for vector in (base, rest))
        return join(
            b, [call_llvm(b, name, I16_X16, list(pair)) for pair in zip(*halves, strict=True)]
        )
    is_zero = b.icmp_unsigned("==", rest, constant(I16_X32, 0))
    return b.select(is_zero, constant(I16_X32, 0), base)


def _twelve_bits(b: Any, lower: list[Any], nibble: int) -> Any:
    """Three words have 12 bits each, their upper nibbles a fourth's."""
    if nibble < 3:
        return b.and_(lower[nibble], constant(I16_X32, 0x0FFF))
    first = _shifted(b, lower[0], -12)
    second = b.and_(_shifted(b, lower[1], -8), constant(I16_X32, 0x00F0))
    third = b.and_(_shifted(b, lower[2], -4), constant(I16_X32, 0x0F00))
    return b.or_(b.or_(first, second), third)


def _shifted(b: Any, words: Any, n_bit: int) -> Any:
    """32 int16 shifted left, or right where `n_bit` is negative, zeros entering."""
    shift = b.shl if n_bit >= 0 else b.lshr
    return shift(words, constant(I16_X32, abs(n_bit))) if n_bit else words


def _bf16_draft(tile: Tile) -> None:
    b = tile.b
    power = b.bitcast(b.shl(_exponents(tile), constant(I32_X16, 23)), F32_X16)
    scale = b.fmul(power, constant(F32_X16, 1 / 16))
    for block in range(2):
        _add_draft(tile, block, scale)


def _add_draft(tile: Tile, block: int, scale: Any) -> None:
    """Multiply 32 of the 64 columns; activations are packed 32 by 32."""
    b, n_byte = tile.b, tile.block_bytes // 2
    x = offset(b, tile.x, block * Block32.LAYOUT.n_word * tile.n_beside * WORD)
    block_tile = replace(
        tile, x=x, weights=offset(b, tile.weights, n_byte * block), block_bytes=n_byte
    )
    block_tile.fetch_ahead(integer(0), 1)
    codes = unpacked(
        block_tile,
        (
            (word // 4 + 2 * (word % 4), lookup(b, tile.target, as_bytes(b, vector), _BF16_TABLE))
            for word, vector in nibbles(tile, 16 + 256 * block)
        ),
    )
    for part in block_tile.narrow():
        twice = [b.add(total, total) for total in x_sums(part, Block32.MINUS_16_SUM)]
        finish_block(part, multiply_unsigned(part, twice, codes, _LARGEST), scale)


def _format(
    name: str, activation: Activation, block: tuple[int, ...], emit: Any, split: Any
) -> WeightFormat:
    """`block`: columns, bytes in the file; then of its scale, upper nibbles and lower plane."""
    n_column, source, scale, upper, lower = block
    fields = (
        Field(0, scale, scale), Field(scale, upper, 4), Field(scale + upper, lower, 4)
    )  # fmt: skip
    size = scale + upper + lower
    return WeightFormat(
        name, activation, n_column, size, fields, emit, lower, Splitter(source, split)
    )


_Q8_0_BLOCK, _BF16_BLOCK = (32, 34, 2, 16, 16), (BF16_COLUMNS, 128, 1, 32, 96)

Q8_0_PLANES = _format("Q8_0_PLANES", Activation.BLOCK_32, _Q8_0_BLOCK, _q8_0, split_q8_0)
Q8_0_DRAFT = _format("Q8_0_DRAFT", Activation.BLOCK_32, _Q8_0_BLOCK, _q8_0_draft, split_q8_0)
BF16_PLANES = _format("BF16_PLANES", Activation.FLOAT32, _BF16_BLOCK, _bf16, split_bf16)
BF16_DRAFT = _format("BF16_DRAFT", Activation.BLOCK_32, _BF16_BLOCK, _bf16_draft, split_bf16)
