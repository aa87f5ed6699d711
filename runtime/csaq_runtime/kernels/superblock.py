"""What the emitters of 256-column super-blocks share: scale tables, sums against minima, loops.

Integer products with sub-block scales are added up in float32, which holds
them exactly below 2²⁴; only then do the float scales of weights and activations
come in.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from csaq_runtime.kernels.activation import WORD, Block256
from csaq_runtime.kernels.byte_chain import byte_chains
from csaq_runtime.kernels.tile import Tile
from csaq_runtime.simd.chain import longest_chain, multiply_biased, multiply_bytes, widen
from csaq_runtime.simd.integer_dot import dot_biased, dot_pairs, dot_unsigned
from csaq_runtime.simd.vector import (
    I16_X32,
    I32,
    I32_X16,
    I64,
    as_bytes,
    as_i32,
    constant,
    counted_loop,
    fused_multiply_add,
    integer,
    join,
    offset,
    parts,
    scaled,
    shift_right,
    splat,
    to_float,
    variable,
    zeros,
)


@contextmanager
def sub_blocks(tile: Tile, count: int, x_words: int) -> Iterator[tuple[Any, Any]]:
    """Loop over `count` sub-blocks; yields (index, address of x, `x_words` words further each)."""
    with counted_loop(tile.b, integer(0), integer(count)) as index:
        tile.fetch_ahead(index, count)
        yield index, scaled(tile.b, tile.x, index, x_words * tile.n_beside * WORD)


@dataclass(frozen=True)
class ColumnStep:
    """One of four steps through a super-block: columns 16·sixteen … of its half, every 32.

    A step's four groups of 16 columns start at 128·half + 16·sixteen and lie 32 apart;
    `x` is the address of the first, `first_scale` its scale's number, `weights` the
    block's address plus the bytes of the steps before. Order: sixteen, then half.
    """

    half: Any
    sixteen: Any
    x: Any
    first_scale: Any
    weights: Any


@contextmanager
def column_steps(tile: Tile, step_bytes: int) -> Iterator[ColumnStep]:
    """Loop over the four `ColumnStep`s of Q2_K, Q3_K and Q6_K."""
    b = tile.b
    with counted_loop(b, integer(0), integer(4)) as index:
        tile.fetch_ahead(index, 4)
        sixteen, half = b.lshr(index, integer(1)), b.and_(index, integer(1))
        first_group = b.add(b.mul(half, integer(8)), sixteen)
        x = scaled(b, tile.x, first_group, 4 * tile.n_beside * WORD)
        yield ColumnStep(half, sixteen, x, first_group, scaled(b, tile.weights, index, step_bytes))


def variable_shift(b: Any, vector: Any, index: Any, n_bit: int) -> Any:
    """16 int32 lanes shifted right by `index * n_bit` (index: i64, known at run time)."""
    count = b.trunc(b.mul(index, integer(n_bit)), I32)
    return b.lshr(vector, splat(b, count))


class ScaleTable:
    """Sub-block scales of 16 rows (int32 vectors) on the stack, indexed at run time."""

    def __init__(self, tile: Tile, scales: list[Any]) -> None:
        self.b = b = tile.b
        with b.goto_entry_block():
            self.slots = b.alloca(ir.ArrayType(I32_X16, len(scales)))
        for index, scale in enumerate(scales):
            factor = both_halves(b, scale) if tile.target.has_byte_chains else scale
            b.store(factor, b.gep(self.slots, [integer(0), integer(index)]))

    def at(self, index: Any, stride: int = 1, first: int = 0) -> Any:
        """Scale number `index * stride + first` (index: i64), as `multiply_into` takes it."""
        number = offset(self.b, self.b.mul(index, integer(stride)), first)
        return self.b.load(self.b.gep(self.slots, [ir.Constant(I64, 0), number]))


def both_halves(b: Any, scale: Any) -> Any:
    """16 int32 within int16 → the same number in both int16 halves of every lane."""
    return b.or_(b.shl(scale, constant(I32_X16, 16)), b.and_(scale, constant(I32_X16, 0xFFFF)))


def byte_scales(tile: Tile, words: list[Any], signed: bool = False) -> list[Any]:
    """Scales packed four bytes to a word → one int32 vector per scale, in order."""
    b = tile.b
    scales = []
    for word in words:
        for index in range(4):
            top = b.shl(word, constant(I32_X16, 24 - 8 * index))
            shift = b.ashr if signed else b.lshr
            scales.append(shift(top, constant(I32_X16, 24)))
    return scales


def unsigned_pairs(b: Any, words: list[Any]) -> list[Any]:
    """Bytes (0,1,2,3) of each word → int16 pairs (0,2) and (1,3), zero-extended."""
    mask = constant(I32_X16, 0x00FF00FF)
    return [b.and_(shift_right(b, word, 8 * odd), mask) for word in words for odd in range(2)]


def signed_pairs(b: Any, words: list[Any]) -> list[Any]:
    """Bytes (0,1,2,3) of each word → int16 pairs (0,2) and (1,3), sign-extended."""
    eight = constant(I16_X32, 8)
    halves = [b.bitcast(word, I16_X32) for word in words]
    even_odd = ((b.ashr(b.shl(pair, eight), eight), b.ashr(pair, eight)) for pair in halves)
    return [as_i32(b, pair) for both in even_odd for pair in both]


def weighted_sums(tile: Tile, weights: list[Any], first_word: int, token: int) -> Any:
    """Σ weights · sums of x over int16 pairs: `weights[i]` meets word `first_word + i`."""
    total = zeros(I32_X16)
    for index, pair in enumerate(weights):
        sums = tile.x_word(I32, first_word + index, token)
        total = dot_pairs(tile.b, tile.target, total, pair, sums)
    return total


def subtract_minimum(tile: Tile, minima: list[Any], first_word: int, scale: Any) -> None:
    """`totals -= scale · Σ minima · sums of x`, for types with sub-block minima."""
    negative = tile.b.fneg(scale)
    for token in range(tile.n_token):
        sums = weighted_sums(tile, minima, first_word, token)
        tile.add_scaled(token, sums, negative, tile.x_float(Block256.SCALE, token))


def offset_sums(tile: Tile, scales: list[Any], code_offset: int) -> list[Any]:
    """Per token, what `code - code_offset` takes away: -code_offset · Σ scales · sums of 16."""
    factor = constant(I32_X16, -code_offset)

    def start(token: int) -> Any:
        sums = weighted_sums(tile, scales, Block256.SUM_16_PAIRS, token)
        return variable(tile.b, tile.b.mul(sums, factor))

    return tile.each_token(start)


def zero_sums(tile: Tile, vector_type: Any = I32_X16) -> list[Any]:
    """One running sum per token, at zero."""
    return tile.each_token(lambda _token: variable(tile.b, zeros(vector_type)))


def add_codes(
    tile: Tile,
    codes: list[Any],
    first_word: int,
    x: Any,
    starts: list[Any] | None = None,
    dot: Callable[..., Any] = dot_unsigned,
) -> list[Any]:
    """Integer dot products of consecutive words of x with `codes`, one per token."""
    dots = starts or [zeros(I32_X16)] * tile.n_token
    for index, vector in enumerate(codes):
        for token in range(tile.n_token):
            x_codes = tile.x_codes(first_word + index, token, x)
            dots[token] = dot(tile.b, tile.target, dots[token], as_bytes(tile.b, vector), x_codes)
    return dots


@dataclass(frozen=True)
class Codes:
    """Codes of consecutive columns: vectors that meet x from word `first_word` on.

    They are 0 … `largest`, or with `starts` biased ones as `dot_biased` takes them.
    """

    vectors: list[Any]
    largest: int
    first_word: int
    x: Any
    starts: list[Any] | None = None


def multiply_into(tile: Tile, sums: list[Any], codes: Codes, scale: Any) -> None:
    """`sums += scale · Σ codes · x` per token, in int32; `scale` is from a `ScaleTable`."""
    if tile.target.has_byte_chains:
        _chain_into(tile, sums, codes, scale)
    else:
        _dots_into(tile, sums, codes, scale)


def _dots_into(tile: Tile, sums: list[Any], codes: Codes, scale: Any) -> None:
    b = tile.b
    dot = dot_biased if codes.starts else dot_unsigned
    dots = add_codes(tile, codes.vectors, codes.first_word, codes.x, codes.starts, dot)
    for slot, dot in zip(sums, dots, strict=True):
        b.store(b.add(b.load(slot), b.mul(dot, scale)), slot)


def _chain_into(tile: Tile, sums: list[Any], codes: Codes, scale: Any) -> None:
    b, n_word = tile.b, 1 if codes.starts else longest_chain(codes.largest)
    product = multiply_biased if codes.starts else multiply_bytes
    factors = parts(b, b.bitcast(scale, I16_X32), 2)
    for start in range(0, len(codes.vectors), n_word):
        vectors = codes.vectors[start : start + n_word]
        numbered = enumerate(vectors, codes.first_word + start)
        chains = byte_chains(tile, numbered, codes.x, product)
        for slot, halves in zip(sums, chains, strict=True):
            products = [widen(b, *pair) for pair in zip(halves, factors, strict=True)]
            b.store(b.add(b.load(slot), join(b, products)), slot)


def scale_into(tile: Tile, sums: list[Any], dots: list[Any], scale: Any) -> None:
    """`sums += dots · scale` per token, in float32."""
    for slot, dot in zip(sums, dots, strict=True):
        total = fused_multiply_add(tile.b, to_float(tile.b, dot), scale, tile.b.load(slot))
        tile.b.store(total, slot)


def finish(tile: Tile, sums: list[Any], scale: Any) -> None:
    """`totals += (sums · scale) · scale of x`, per token."""
    for token, slot in enumerate(sums):
        x_scale = tile.x_float(Block256.SCALE, token)
        tile.add_scaled(token, tile.b.load(slot), scale, x_scale)
