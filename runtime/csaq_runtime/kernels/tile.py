"""One tile of a matrix product: 16 rows of weights times 1, 2, 3, 4 or 8 tokens, or up to 64.

`Tile` is what a weight format's emitter works with: it sees one block of 16
interleaved rows and the matching block of every token, and adds to one running
float32 vector (16 rows) per token. The order of additions for an output does
not depend on the number of tokens, so results are bit-identical in every tile.

A stacked tile is several tiles of 8 tokens, one after the other, for which
weights are unpacked once: emitters loop over `Tile.narrow()`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from llvmlite import ir

from csaq_runtime.kernels.activation import LAYOUTS, WORD, Activation
from csaq_runtime.simd.convert import half_to_float
from csaq_runtime.simd.prefetch import CACHE_LINE, prefetch
from csaq_runtime.simd.target import Target
from csaq_runtime.simd.vector import (
    F32,
    I16_X16,
    I32,
    as_bytes,
    counted_loop,
    fused_multiply_add,
    integer,
    load,
    offset,
    scaled,
    splat_load,
    to_float,
)

N_ROW = 16
"""Rows that are interleaved: the lanes of a 64-byte vector."""

TOKENS_PER_PASS = 64
"""Tokens that meet all weights before the next ones do: their packed rows stay in cache."""

MOST_TOKENS_AT_ONCE = 4
"""AVX2's 16 registers hold the sums of 16 rows of four tokens, not of eight."""


@dataclass(frozen=True)
class Stack:
    """Several tiles of `n_beside` tokens: how many (i64), and bytes of x from one to the next."""

    n_tile: Any
    tile_bytes: Any


@dataclass(frozen=True)
class Tile:
    """Where one block's operands are, and the running totals (one slot per token).

    The words of `n_beside` tokens lie side by side; the tile's are the first `n_token` of them.
    `lower`: where the block's lower plane is, if the format has one.
    `first`: number (i64) of the first token in a stack's slots; None outside of one.
    """

    b: Any
    target: Target
    n_token: int
    n_beside: int
    block_bytes: int
    weights: Any
    lower: Any
    x: Any
    totals: "Slots"
    stack: Stack | None = None
    first: Any = None

    def narrow(self) -> Iterator["Tile"]:
        """The tile itself, or each part of a stack, in a loop: whatever is emitted for it runs.

        To be iterated to its end.
        """
        if self.stack is None:
            yield self
            return
        with counted_loop(self.b, integer(0), self.stack.n_tile) as number:
            x = self.b.add(self.x, self.b.mul(number, self.stack.tile_bytes))
            first = self.b.mul(number, integer(self.n_beside))
            for token in range(0, self.n_beside, self.n_token):
                place = offset(self.b, x, token * WORD)
                start = offset(self.b, first, token)
                yield replace(self, x=place, first=start, stack=None)

    def slots(self, vector_type: Any) -> "Slots":
        """A mutable vector for each token."""
        return Slots(self.b, vector_type, self.n_token, self.stack is not None)

    def weight(self, vector_type: Any, n_byte: int, base: Any = None) -> Any:
        """Weights at `n_byte` from `base` (default: the start of the block)."""
        return load(self.b, self.weights if base is None else base, vector_type, n_byte)

    def fetch_ahead(self, part: Any, n_part: int) -> None:
        """Prefetch part number `part` (i64) of `n_part` of what will be needed soon.

        To be called once for every part of a block, spread over the work: asking twice for
        a line that is still on its way costs as much as another line.
        """
        ends_within_line = n_part == 1 and self.block_bytes % CACHE_LINE != 0
        if ends_within_line and self.n_beside == 1 and self.target.is_zen:
            # Lines asked for twice: two threads read Q8_0 for one token a quarter slower.
            return
        n_byte = -(-self.block_bytes // n_part)
        start = scaled(self.b, self.weights, part, n_byte)
        for line in range(0, n_byte, CACHE_LINE):
            prefetch(self.b, start, line + self.target.prefetch_distance)

    def fetch_lower(self, n_byte: int) -> None:
        """Prefetch a block of `n_byte` of the lower plane, which goes towards lower addresses."""
        for line in range(0, n_byte, CACHE_LINE):
            prefetch(self.b, self.lower, line - self.target.prefetch_distance)

    def half(self, n_byte: int) -> Any:
        """16 float16 (one per row) as float32."""
        bits = self.weight(I16_X16, n_byte)
        return half_to_float(self.b, self.target, bits)

    def x_word(
        self, word_type: Any, word: int, token: int, base: Any = None, n_lane: int = N_ROW
    ) -> Any:
        """Word number `word` of a token in all lanes; `base` replaces the block's address."""
        base = self.x if base is None else base
        place = (word * self.n_beside + token) * WORD
        return splat_load(self.b, base, word_type, place, n_lane)

    def x_codes(self, word: int, token: int, base: Any = None) -> Any:
        """Four codes of a token, repeated 16 times."""
        return as_bytes(self.b, self.x_word(I32, word, token, base))

    def x_float(self, word: int, token: int) -> Any:
        """A float32 word of a token in all lanes."""
        return self.x_word(F32, word, token)

    def each_token(self, value: Callable[[int], Any]) -> list[Any]:
        """`value(token)` for every token of the tile."""
        return [value(token) for token in range(self.n_token)]

    def add(self, token: int, product: Any, factor: Any) -> None:
        """`totals[token] += product · factor`, fused."""
        total = fused_multiply_add(self.b, product, factor, self.totals.load(self, token))
        self.totals.store(self, token, total)

    def add_scaled(self, token: int, dot: Any, scale: Any, x_scale: Any) -> None:
        """`totals[token] += (dot · scale) · x_scale` for an int32 or float32 `dot`."""
        value = to_float(self.b, dot) if dot.type.element == I32 else dot
        self.add(token, self.b.fmul(value, scale), x_scale)


class Slots:
    """A mutable vector per token: registers of a tile, an array in memory of a stacked one."""

    def __init__(self, b: Any, vector_type: Any, n_token: int, is_stacked: bool) -> None:
        self._b, self.vector_type = b, vector_type
        with b.goto_entry_block():
            if is_stacked:
                self._array = b.alloca(ir.ArrayType(vector_type, TOKENS_PER_PASS))
            else:
                self._single = [b.alloca(vector_type) for _ in range(n_token)]

    def load(self, tile: Tile, token: int) -> Any:
        """The vector of a token of a narrow tile."""
        return self._b.load(self._place(tile, token))

    def store(self, tile: Tile, token: int, value: Any) -> None:
        """Replace the vector of a token of a narrow tile."""
        self._b.store(value, self._place(tile, token))

    def _place(self, tile: Tile, token: int) -> Any:
        if tile.first is None:
            return self._single[token]
        number = offset(self._b, tile.first, token)
        return self._b.gep(self._array, [integer(0), number])


@dataclass(frozen=True)
class Field:
    """A piece of a GGUF block that is interleaved over 16 rows in `unit`-byte steps.

    `transform` changes each 4-byte unit on the way (losslessly), given builder and value.
    """

    offset: int
    n_byte: int
    unit: int
    transform: Callable[[Any, Any], Any] | None = None


@dataclass(frozen=True)
class Splitter:
    """How a block of `n_byte` bytes in a row of the file becomes the fields of two planes.

    `emit`, given builder and address, returns their units in order, and an int64 that is not 0
    where the block cannot be divided.
    """

    n_byte: int
    emit: Callable[[Any, Any], tuple[list[Any], Any]]


@dataclass(frozen=True)
class WeightFormat:
    """Everything the code generator needs to know about a weight type.

    `block_size` columns take `type_size` bytes in a row, split into `fields`,
    which lie one after another in the interleaved block (16 · `type_size`
    bytes); `emit` multiplies one such block. The fields of the last `lower_size`
    bytes make a plane of their own: its blocks lie before all others of the
    matrix, in opposite order, so that either plane is one stream. Where blocks of the
    file hold the same in another order, `splitter` makes the fields of them.
    """

    name: str
    activation: Activation
    block_size: int
    type_size: int
    fields: tuple[Field, ...]
    emit: Callable[[Tile], None]
    lower_size: int = 0
    splitter: Splitter | None = None

    @property
    def source_size(self) -> int:
        """Bytes of a block in a row of the file."""
        return self.splitter.n_byte if self.splitter else self.type_size

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of 16 interleaved rows."""
        return N_ROW * self.type_size

    @property
    def lower_bytes(self) -> int:
        """Those of them that are in the lower plane."""
        return N_ROW * self.lower_size

    @property
    def upper_bytes(self) -> int:
        """The others."""
        return self.block_bytes - self.lower_bytes

    @property
    def x_words(self) -> int:
        """Words of a token's packed row that meet one block."""
        layout = LAYOUTS[self.activation]
        return layout.n_word * self.block_size // layout.block_size
