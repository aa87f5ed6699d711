"""What the emitters of 256-column super-blocks share: scale tables, sums against minima, loops.

Integer products with sub-block scales are added up in float32, which holds
them exactly below 2²⁴; only then do the float scales of weights and activations
come in.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llvmlite import ir

from csaq_runtime.kernels.activation import WORD, Block256
from csaq_runtime.kernels.byte_chain import byte_chains, signed_halves, signed_sums
from csaq_runtime.kernels.tile import Slots, Tile
from csaq_runtime.simd.chain import longest_chain, widen
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
    zeros,
)


@contextmanager
def sub_blocks(tile: Tile, count: int, x_words: int) -> Iterator[tuple[Any, Any]]:
    """Loop over `count` sub-blocks; yields (index, `from_x`: `x_words` words further each)."""
    with counted_loop(tile.b, integer(0), integer(count)) as index:
        tile.fetch_ahead(index, count)
        yield index, tile.b.mul(index, integer(x_words * tile.n_beside * WORD))


@dataclass(frozen=True)
class ColumnStep:
    """One of four steps through a super-block: columns 16·sixteen … of its half, every 32.

    A step's four groups of 16 columns start at 128·half + 16·sixteen and lie 32 apart;
    `from_x` is the distance of the first in x, `first_scale` its scale's number, `weights` the
    block's address plus the bytes of the steps before. Order: sixteen, then half.
    """

    half: Any
    sixteen: Any
    from_x: Any
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
        from_x = b.mul(first_group, integer(4 * tile.n_beside * WORD))
        weights = scaled(b, tile.weights, index, step_bytes)
        yield ColumnStep(half, sixteen, from_x, first_group, weights)


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
    for part in tile.narrow():
        for token in range(part.n_token):
            sums = weighted_sums(part, minima, first_word, token)
            part.add_scaled(token, sums, negative, part.x_float(Block256.SCALE, token))


def offset_sums(tile: Tile, scales: list[Any], code_offset: int) -> Slots:
    """Per token, what `code - code_offset` takes away: -code_offset · Σ scales · sums of 16."""
    b, factor, sums = tile.b, constant(I32_X16, -code_offset), tile.slots(I32_X16)
    for part in tile.narrow():
        for token in range(part.n_token):
            total = weighted_sums(part, scales, Block256.SUM_16_PAIRS, token)
            sums.store(part, token, b.mul(total, factor))
    return sums


def zero_sums(tile: Tile, vector_type: Any = I32_X16) -> Slots:
    """One running sum per token, at zero."""
    sums = tile.slots(vector_type)
    for part in tile.narrow():
        for token in range(part.n_token):
            sums.store(part, token, zeros(vector_type))
    return sums


Starts = Callable[[Tile], list[Any]]
"""What the accumulators of `dot_biased` start at, per token of a narrow tile."""


@dataclass(frozen=True)
class Codes:
    """Codes of consecutive columns: `n_vector` vectors that meet x from word `first_word` on.

    `vectors` emits them one by one, so that few are alive at a time. They are 0 … `largest`, or
    with `starts` biased ones as `dot_biased` takes them.
    """

    n_vector: int
    vectors: Iterable[Any]
    largest: int
    first_word: int
    from_x: Any
    starts: Starts | None = None


def multiply_into(tile: Tile, sums: Slots, codes: Codes, scale: Any) -> None:
    """`sums += scale · Σ codes · x` per token, in int32; `scale` is from a `ScaleTable`."""
    if tile.target.has_byte_chains:
        _chains_into(tile, sums, codes, scale)
        return
    b = tile.b
    for part in tile.narrow():
        for token, dot in enumerate(dot_products(part, codes)):
            sums.store(part, token, b.add(sums.load(part, token), b.mul(dot, scale)))


def dot_products(tile: Tile, codes: Codes) -> list[Any]:
    """Integer dot products of `codes` with x, one per token of a narrow tile."""
    dot = dot_biased if codes.starts else dot_unsigned
    dots = codes.starts(tile) if codes.starts else [zeros(I32_X16)] * tile.n_token
    base = tile.b.add(tile.x, codes.from_x)
    for word, vector in enumerate(codes.vectors, codes.first_word):
        for token in range(tile.n_token):
            x = tile.x_codes(word, token, base)
            dots[token] = dot(tile.b, tile.target, dots[token], as_bytes(tile.b, vector), x)
    return dots


def _chains_into(tile: Tile, sums: Slots, codes: Codes, scale: Any) -> None:
    b, n_word = tile.b, longest_chain(codes.largest)
    factors = parts(b, b.bitcast(scale, I16_X32), 2)
    if codes.starts:
        _signed_into(tile, sums, codes, factors)
        return
    # A stack meets the same vectors again and again, so they are made before.
    vectors = list(codes.vectors) if tile.stack else codes.vectors
    for part in tile.narrow():
        numbered, x = enumerate(vectors, codes.first_word), b.add(part.x, codes.from_x)
        for _ in range(0, codes.n_vector, n_word):
            chains = byte_chains(part, islice(numbered, n_word), x)
            for token, halves in enumerate(chains):
                products = [widen(b, *pair) for pair in zip(halves, factors, strict=True)]
                sums.store(part, token, b.add(sums.load(part, token), join(b, products)))


def _signed_into(tile: Tile, sums: Slots, codes: Codes, factors: list[Any]) -> None:
    b, halves = tile.b, (signed_halves(tile.b, vector) for vector in codes.vectors)
    known = list(halves) if tile.stack else halves
    for part in tile.narrow():
        numbered, x = enumerate(known, codes.first_word), b.add(part.x, codes.from_x)
        for token, dot in enumerate(signed_sums(part, numbered, x, factors)):
            sums.store(part, token, b.add(sums.load(part, token), dot))


def scale_into(tile: Tile, sums: Slots, codes: Codes, scale: Any) -> None:
    """`sums += scale · Σ codes · x` per token, in float32."""
    for part in tile.narrow():
        for token, dot in enumerate(dot_products(part, codes)):
            value = to_float(tile.b, dot)
            total = fused_multiply_add(tile.b, value, scale, sums.load(part, token))
            sums.store(part, token, total)


def finish(tile: Tile, sums: Slots, scale: Any) -> None:
    """`totals += (sums · scale) · scale of x`, per token."""
    for part in tile.narrow():
        for token in range(part.n_token):
            x_scale = part.x_float(Block256.SCALE, token)
            part.add_scaled(token, sums.load(part, token), scale, x_scale)
