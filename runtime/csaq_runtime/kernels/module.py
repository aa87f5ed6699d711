"""Weight format → LLVM module with its two entry points.

    matmul(w, x, y, y_stride, n_col, n_token, group_start, group_end)
    interleave(rows, row_stride, n_row, n_block, out, group_start, group_end)

All arguments are int64 (addresses, byte strides, counts); nothing is checked
here, callers do (`weights.pack_matrix`, the engine). A group is 16 rows.
"""

from typing import Any

from llvmlite import ir

from csaq_runtime.kernels.activation import LAYOUTS, TILE_SIZES, WORD
from csaq_runtime.kernels.tile import N_ROW, Field, Tile, WeightFormat
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
    """`tile(w, x, y, y_stride, n_block)`: y[token] = 16 rows times each token."""
    function, b = new_function(module, f"tile_{n_token}", 5)
    function.linkage = "internal"
    function.attributes.add("noinline")
    weights, x, y, y_stride, n_block = function.args
    size = min(n_token, MOST_TOKENS_AT_ONCE) if target.has_byte_chains else n_token
    x_bytes = LAYOUTS[fmt.activation].n_word * WORD * n_token
    totals = [variable(b, zeros(F32_X16)) for _ in range(size)]
    with counted_loop(b, integer(0), integer(n_token), size) as first:
        for slot in totals:
            b.store(zeros(F32_X16), slot)
        x_part = scaled(b, x, first, WORD)
        with counted_loop(b, integer(0), n_block) as block:
            weights_at = scaled(b, weights, block, fmt.block_bytes)
            x_at = scaled(b, x_part, block, x_bytes)
            fmt.emit(Tile(b, target, size, n_token, fmt.block_bytes, weights_at, x_at, totals))
        for token, slot in enumerate(totals):
            y_token = b.add(y, b.mul(y_stride, offset(b, first, token)))
            store(b, b.load(slot), y_token)
    b.ret_void()
    return function


def _matmul_function(module: Any, fmt: WeightFormat, tiles: dict[int, Any]) -> None:
    function, b = new_function(module, "matmul", 8)
    w, x, y, y_stride, n_col, n_token, group_start, group_end = function.args
    n_block = b.udiv(b.add(n_col, integer(fmt.block_size - 1)), integer(fmt.block_size))
    group_bytes = b.mul(n_block, integer(fmt.block_bytes))
    token_bytes = b.mul(n_block, integer(LAYOUTS[fmt.activation].n_word * WORD))
    with counted_loop(b, integer(0), n_token, TOKENS_PER_PASS) as first:
        limit = b.add(first, integer(TOKENS_PER_PASS))
        last = b.select(b.icmp_signed("<", limit, n_token), limit, n_token)
        with counted_loop(b, group_start, group_end) as group:
            weights = b.add(w, b.mul(group, group_bytes))
            y_group = scaled(b, y, group, N_ROW * 4)
            start = first
            for size in TILE_SIZES:
                stop = b.and_(last, integer(-size))
                with counted_loop(b, start, stop, size) as token:
                    x_tile = b.add(x, b.mul(token, token_bytes))
                    y_tile = b.add(y_group, b.mul(token, y_stride))
                    b.call(tiles[size], [weights, x_tile, y_tile, y_stride, n_block])
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
        _interleave_block(b, fmt, source, exists, scaled(b, out, number, fmt.block_bytes), lane)
    b.ret_void()


def _interleave_block(
    b: Any, fmt: WeightFormat, source: Any, exists: Any, block: Any, lane: Any
) -> None:
    """Spread one row's block over the 16-row block; a row that does not exist becomes zeros."""
    with b.if_else(exists) as (copy, clear):
        with copy:
            _write_fields(b, fmt.fields, source, block, lane)
        with clear:
            _write_fields(b, fmt.fields, None, block, lane)


def _write_fields(
    b: Any, fields: tuple[Field, ...], source: Any | None, block: Any, lane: Any
) -> None:
    start = 0
    for field in fields:
        unit_type = ir.IntType(8 * field.unit)
        lane_at = scaled(b, offset(b, block, start), lane, field.unit)
        for index in range(field.n_byte // field.unit):
            place = N_ROW * field.unit * index
            value = unit_type(0)
            if source is not None:
                value = load(b, source, unit_type, field.offset + index * field.unit)
                value = field.transform(b, value) if field.transform else value
            store(b, value, lane_at, place)
        start += N_ROW * field.n_byte
