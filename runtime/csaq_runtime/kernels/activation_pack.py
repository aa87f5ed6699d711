"""LLVM module that writes the layouts of `activation`: one entry point per kind.

    quantize_<kind>(x, x_stride, n_col, n_token, out)

x: float32 rows, `x_stride` bytes apart; out: `packed_activation_bytes`. The
integer kinds follow ggml (quantize_row_q8_0 for x86, quantize_row_q8_K):
codes are rounded to nearest even with scale 127 / amax. A range of tokens may
be packed by itself if it starts at a multiple of 8, into
`out + start * packed_activation_bytes(kind, n_col, 1)`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from csaq_runtime.kernels.activation import (
    LAYOUTS,
    TILE_SIZES,
    WORD,
    Activation,
    Block32,
    Block256,
)
from csaq_runtime.kernels.module import new_function
from csaq_runtime.simd.convert import round_to_half
from csaq_runtime.simd.reduce import maximum, reduce_max, reduce_sum
from csaq_runtime.simd.target import Target
from csaq_runtime.simd.vector import (
    F32,
    F32_X16,
    I8,
    I16,
    I32,
    I32_X16,
    call_llvm,
    counted_loop,
    integer,
    load,
    offset,
    scaled,
    splat,
    store,
)


@dataclass(frozen=True)
class _Block:
    """One block of one token: where it comes from and where its words go."""

    b: Any
    target: Target
    x: Any
    out: Any
    word_stride: Any

    def put(self, word: int, value: Any) -> None:
        """Store a value as word number `word`."""
        store(self.b, value, self.b.add(self.out, self.b.mul(self.word_stride, integer(word))))


def build_pack_module(target: Target) -> Any:
    """The LLVM module with an entry point `quantize_<kind>` for every activation kind."""
    module = ir.Module("activation")
    module.triple = target.triple
    _pack_function(module, target, Activation.FLOAT32, _keep)
    _pack_function(module, target, Activation.FLOAT16, _round_to_half)
    _pack_function(module, target, Activation.BLOCK_32, _block_32)
    _pack_function(module, target, Activation.BLOCK_256, _block_256)
    return module


def _pack_function(
    module: Any, target: Target, kind: Activation, emit: Callable[[_Block], None]
) -> None:
    function, b = new_function(module, f"quantize_{kind.value}", 5)
    x, x_stride, n_col, n_token, out = function.args
    layout = LAYOUTS[kind]
    n_whole = b.udiv(n_col, integer(layout.block_size))
    n_block = b.udiv(b.add(n_col, integer(layout.block_size - 1)), integer(layout.block_size))
    token_bytes = b.mul(n_block, integer(layout.n_word * WORD))
    with counted_loop(b, integer(0), n_token) as token:
        start, size = _tile_of(b, token, n_token)
        stride = b.mul(size, integer(WORD))
        row = b.add(x, b.mul(token, x_stride))
        place = scaled(b, b.add(out, b.mul(start, token_bytes)), b.sub(token, start), WORD)
        block_bytes = b.mul(stride, integer(layout.n_word))
        with counted_loop(b, integer(0), n_whole) as index:
            x_at = scaled(b, row, index, layout.block_size * WORD)
            emit(_Block(b, target, x_at, b.add(place, b.mul(index, block_bytes)), stride))
        with counted_loop(b, n_whole, n_block) as index:
            x_at = scaled(b, row, index, layout.block_size * WORD)
            block = _Block(b, target, x_at, b.add(place, b.mul(index, block_bytes)), stride)
            _last_floats(block, kind, b.sub(n_col, b.mul(index, integer(layout.block_size))))
    b.ret_void()


def _tile_of(b: Any, token: Any, n_token: Any) -> tuple[Any, Any]:
    """First token and size of the tile a token belongs to (see `activation`)."""
    largest, *smaller = TILE_SIZES
    start, size = b.and_(token, integer(-largest)), integer(largest)
    left = b.urem(n_token, integer(largest))
    for tile_size in smaller:
        before = b.sub(n_token, left)
        is_later = b.icmp_signed(">=", token, before)
        start = b.select(is_later, before, start)
        size = b.select(is_later, integer(tile_size), size)
        left = b.urem(left, integer(tile_size))
    return start, size


def _put_floats(block: _Block, value: Any) -> None:
    for index in range(4):
        block.put(index, block.b.extract_element(value, ir.Constant(I32, index)))


def _keep(block: _Block) -> None:
    _put_floats(block, load(block.b, block.x, ir.VectorType(F32, 4)))


def _round_to_half(block: _Block) -> None:
    value = load(block.b, block.x, ir.VectorType(F32, 4))
    _put_floats(block, round_to_half(block.b, block.target, value))


def _last_floats(block: _Block, kind: Activation, n_left: Any) -> None:
    """The `n_left` < 4 last columns of a row, then zeros."""
    b = block.b
    value = ir.Constant(ir.VectorType(F32, 4), [0.0] * 4)
    for index in range(3):
        exists = b.icmp_signed("<", integer(index), n_left)
        place = b.select(exists, offset(b, block.x, 4 * index), block.x)
        number = b.select(exists, load(b, place, F32), F32(0.0))
        value = b.insert_element(value, number, ir.Constant(I32, index))
    if kind is Activation.FLOAT16:
        value = round_to_half(b, block.target, value)
    _put_floats(block, value)


def _largest(block: _Block, n_vector: int) -> Any:
    """Largest magnitude among `16 · n_vector` columns."""
    b = block.b
    vectors = [_magnitude(b, load(b, block.x, F32_X16, 64 * index)) for index in range(n_vector)]
    largest = vectors[0]
    for vector in vectors[1:]:
        largest = maximum(b, largest, vector)
    return reduce_max(b, largest)


def _magnitude(b: Any, vector: Any) -> Any:
    return call_llvm(b, "llvm.fabs.v16f32", F32_X16, [vector])


def _inverse(b: Any, numerator: float, value: Any) -> Any:
    """`numerator / value`, or 0 where value is 0."""
    is_zero = b.fcmp_ordered("==", value, F32(0.0))
    return b.select(is_zero, F32(0.0), b.fdiv(F32(numerator), value))


def _put_codes(block: _Block, vector: int, inverse: Any) -> Any:
    """Round 16 columns to int8 codes and store their four words; returns the codes as int32."""
    b = block.b
    product = b.fmul(load(b, block.x, F32_X16, 64 * vector), splat(b, inverse))
    codes = b.fptosi(call_llvm(b, "llvm.rint.v16f32", F32_X16, [product]), I32_X16)
    words = b.bitcast(b.trunc(codes, ir.VectorType(I8, 16)), ir.VectorType(I32, 4))
    for index in range(4):
        word = b.extract_element(words, ir.Constant(I32, index))
        block.put(4 * vector + index, word)
    return codes


def _half(block: _Block, value: Any) -> Any:
    """A float32 scalar rounded to float16."""
    rounded = round_to_half(block.b, block.target, splat(block.b, value, 4))
    return block.b.extract_element(rounded, ir.Constant(I32, 0))


def _block_32(block: _Block) -> None:
    b = block.b
    largest = _largest(block, 2)
    inverse = _inverse(b, 127.0, largest)
    exact_scale = b.fdiv(largest, F32(127.0))
    codes = [_put_codes(block, index, inverse) for index in range(2)]
    total = reduce_sum(b, b.add(*codes))
    block.put(Block32.SCALE, _half(block, exact_scale))
    # Rounded by itself, as ggml's Q8_1 stores it: Q4_1 and Q5_1 then agree with llama.cpp.
    block.put(Block32.SCALED_SUM, _half(block, b.fmul(exact_scale, b.sitofp(total, F32))))
    block.put(Block32.MINUS_8_SUM, b.mul(total, I32(-8)))
    block.put(Block32.MINUS_16_SUM, b.mul(total, I32(-16)))
    block.put(Block32.MINUS_128_SUM, b.mul(total, I32(-128)))


def _block_256(block: _Block) -> None:
    b = block.b
    inverse = _inverse(b, 127.0, _largest(block, 16))
    block.put(Block256.SCALE, _inverse(b, 1.0, inverse))
    base_x, stride = block.x, block.word_stride
    # Two vectors of codes per step keep the code small; words of sums are found by index.
    with counted_loop(b, integer(0), integer(8)) as step:
        x = scaled(b, base_x, step, 2 * 64)
        codes_at = b.add(block.out, b.mul(stride, b.mul(step, integer(8))))
        pair = _Block(b, block.target, x, codes_at, stride)
        sums = [reduce_sum(b, _put_codes(pair, index, inverse)) for index in range(2)]
        _put_sums(block, step, sums)


def _put_sums(block: _Block, step: Any, sums: list[Any]) -> None:
    """Sums of columns 32·step … +16 and +16 … +32 into their words."""
    b = block.b
    _put_in_pair(block, Block256.SUM_32_PAIRS, step, b.add(*sums))
    for index, total in enumerate(sums):
        number = offset(b, b.mul(step, integer(2)), index)
        _put_in_pair(block, Block256.SUM_16_PAIRS, number, total)
        place = b.add(block.out, b.mul(block.word_stride, number))
        shifted = _Block(b, block.target, block.x, place, block.word_stride)
        shifted.put(Block256.MINUS_128_SUM_16, b.mul(total, I32(-128)))


def _put_in_pair(block: _Block, first_word: int, number: Any, total: Any) -> None:
    """Store sum `number` as int16 where the order (0,2) (1,3) (4,6) (5,7) … puts it."""
    b = block.b
    four = b.mul(b.lshr(number, integer(2)), integer(2))
    word = b.add(four, b.and_(number, integer(1)))
    half = b.and_(b.lshr(number, integer(1)), integer(1))
    place = b.add(block.out, b.mul(block.word_stride, word))
    place = scaled(b, place, half, 2)
    _Block(b, block.target, block.x, place, block.word_stride).put(first_word, b.trunc(total, I16))
