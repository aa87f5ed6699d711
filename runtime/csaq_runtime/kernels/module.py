"""Weight format → LLVM module with its two entry points.

    matmul(w, x, y, y_stride, n_col, n_token, group_start, group_end)
    interleave(rows, row_stride, n_row, n_block, out, group_start, group_end)

All arguments are int64 (addresses, byte strides, counts); nothing is checked
here, callers do (`weights.pack_matrix`, the engine). A group is 16 rows.
"""

from typing import Any

from llvmlite import ir

from csaq_runtime.kernels.activation import TILE_SIZES, WORD
from csaq_runtime.kernels.tile import N_ROW, Tile, WeightFormat
from csaq_runtime.simd.target import Target
from csaq_runtime.simd.vector import (
    F32_X16,
    I64,
    counted_loop,
    integer,
    load,
    offset,
    scaled,
    store,
    variable,
    zeros,
)

TOKENS_PER_PASS = 64
"""Tokens that meet all weights before the next ones do: their packed rows stay in cache."""


MOST_TOKENS_AT_ONCE = 4
"""AVX2's 16 registers hold the sums of 16 rows of four tokens, not of eight."""


def build_module(weight_format: WeightFormat, target: Target) -> Any:
    """The LLVM module of a format, ready for `compile.machine_code`."""
    module = ir.Module(weight_format.name)
    module.triple = target.triple
    tiles = {n: _tile_function(module, weight_format, target, n) for n in TILE_SIZES}
    _matmul_function(module, weight_format, tiles)
    _interleave_function(module, weight_format)
    return module


def new_function(module: Any, name: str, n_argument: int) -> tuple[Any, Any]:
    """A void function of int64 arguments: (function, builder at its entry)."""
    signature = ir.FunctionType(ir.VoidType(), [I64] * n_argument)
    function = ir.Function(module, signature, name)
    return function, ir.IRBuilder(function.append_basic_block("entry"))


def _tile_function(module: Any, fmt: WeightFormat, target: Target, n_token: int) -> Any:
    """`tile(w, lower, x, y, y_stride, n_block)`: y[token] = 16 rows times each token.

    lower: the end of the first block's lower plane.
    """
    function, b = new_function(module, f"tile_{n_token}", 6)
    function.linkage = "internal"
    function.attributes.add("noinline")
    weights, lower, x, y, y_stride, n_block = function.args
    size = min(n_token, MOST_TOKENS_AT_ONCE) if target.has_byte_chains else n_token
    x_bytes = fmt.x_words * WORD * n_token
    totals = [variable(b, zeros(F32_X16)) for _ in range(size)]
    with counted_loop(b, integer(0), integer(n_token), size) as first:
        for slot in totals:
            b.store(zeros(F32_X16), slot)
        x_part = scaled(b, x, first, WORD)
        with counted_loop(b, integer(0), n_block) as block:
            weights_at = scaled(b, weights, block, fmt.upper_bytes)
            lower_at = scaled(b, offset(b, lower, -fmt.lower_bytes), block, -fmt.lower_bytes)
            x_at = scaled(b, x_part, block, x_bytes)
            places = (weights_at, lower_at, x_at)
            fmt.emit(Tile(b, target, size, n_token, fmt.upper_bytes, *places, totals))
        for token, slot in enumerate(totals):
            y_token = b.add(y, b.mul(y_stride, offset(b, first, token)))
            store(b, b.load(slot), y_token)
    b.ret_void()
    return function


def _matmul_function(module: Any, fmt: WeightFormat, tiles: dict[int, Any]) -> None:
    function, b = new_function(module, "matmul", 8)
    w, x, y, y_stride, n_col, n_token, group_start, group_end = function.args
    n_block = b.udiv(b.add(n_col, integer(fmt.block_size - 1)), integer(fmt.block_size))
    token_bytes = b.mul(n_block, integer(fmt.x_words * WORD))
    with counted_loop(b, integer(0), n_token, TOKENS_PER_PASS) as first:
        limit = b.add(first, integer(TOKENS_PER_PASS))
        last = b.select(b.icmp_signed("<", limit, n_token), limit, n_token)
        with counted_loop(b, group_start, group_end) as group:
            before = b.mul(group, n_block)
            weights = scaled(b, w, before, fmt.upper_bytes)
            lower = scaled(b, w, before, -fmt.lower_bytes)
            y_group = scaled(b, y, group, N_ROW * 4)
            start = first
            for size in TILE_SIZES:
                stop = b.and_(last, integer(-size))
                with counted_loop(b, start, stop, size) as token:
                    x_tile = b.add(x, b.mul(token, token_bytes))
                    y_tile = b.add(y_group, b.mul(token, y_stride))
                    b.call(tiles[size], [weights, lower, x_tile, y_tile, y_stride, n_block])
                start = stop
    b.ret_void()


def _interleave_function(module: Any, fmt: WeightFormat) -> None:
    function, b = new_function(module, "interleave", 7)
    rows, row_stride, n_row, n_block, out, group_start, group_end = function.args
    with (
        counted_loop(b, group_start, group_end) as group,
        counted_loop(b, integer(0), n_block) as block,
        counted_loop(b, integer(0), integer(N_ROW)) as lane,
    ):
        row = scaled(b, lane, group, N_ROW)
        exists = b.icmp_signed("<", row, n_row)
        source = scaled(b, b.add(rows, b.mul(row, row_stride)), block, fmt.type_size)
        number = b.add(b.mul(group, n_block), block)
        upper = scaled(b, out, number, fmt.upper_bytes)
        lower = scaled(b, out, offset(b, number, 1), -fmt.lower_bytes)
        _interleave_block(b, fmt, source, exists, (upper, lower), lane)
    b.ret_void()


def _interleave_block(
    b: Any, fmt: WeightFormat, source: Any, exists: Any, planes: tuple[Any, Any], lane: Any
) -> None:
    """Spread one row's block over the 16-row block; a row that does not exist becomes zeros."""
    with b.if_else(exists) as (copy, clear):
        with copy:
            _write_fields(b, fmt, source, planes, lane)
        with clear:
            _write_fields(b, fmt, None, planes, lane)


def _write_fields(
    b: Any, fmt: WeightFormat, source: Any | None, planes: tuple[Any, Any], lane: Any
) -> None:
    upper, lower = planes
    start = 0
    for field in fmt.fields:
        unit_type = ir.IntType(8 * field.unit)
        is_upper = start < fmt.upper_bytes
        block_at = (
            offset(b, upper, start) if is_upper else offset(b, lower, start - fmt.upper_bytes)
        )
        lane_at = scaled(b, block_at, lane, field.unit)
        for index in range(field.n_byte // field.unit):
            place = N_ROW * field.unit * index
            value = unit_type(0)
            if source is not None:
                value = load(b, source, unit_type, field.offset + index * field.unit)
                value = field.transform(b, value) if field.transform else value
            store(b, value, lane_at, place)
        start += N_ROW * field.n_byte
