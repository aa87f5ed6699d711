"""Weight format → LLVM module with its two entry points.

    matmul(w, x, y, y_stride, n_col, n_token, group_start, group_end)
    interleave(rows, row_stride, n_row, n_block, out, group_start, group_end)

All arguments are int64 (addresses, byte strides, counts); nothing is checked
here, callers do (`weights.pack_matrix`, the engine). A group is 16 rows.
`interleave` returns an int64 that is not 0 where rows cannot be divided into planes.
"""

from dataclasses import replace
from typing import Any

from llvmlite import ir

from csaq_runtime.kernels.activation import TILE_SIZES, WORD, Activation
from csaq_runtime.kernels.tile import (
    MOST_TOKENS_AT_ONCE,
    N_ROW,
    TOKENS_PER_PASS,
    Field,
    Slots,
    Stack,
    Tile,
    WeightFormat,
)
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

_VOID = ir.VoidType()


def build_module(weight_format: WeightFormat, target: Target) -> Any:
    """The LLVM module of a format, ready for `compile.machine_code`."""
    module = ir.Module(weight_format.name)
    module.triple = target.triple
    tiles = {n: _tile_function(module, weight_format, target, n) for n in TILE_SIZES}
    _matmul_function(module, weight_format, target, tiles)
    _interleave_function(module, weight_format)
    return module


def new_function(module: Any, name: str, n_argument: int, result: Any = _VOID) -> tuple[Any, Any]:
    """A function of int64 arguments: (function, builder at its entry)."""
    signature = ir.FunctionType(result, [I64] * n_argument)
    function = ir.Function(module, signature, name)
    return function, ir.IRBuilder(function.append_basic_block("entry"))


def _tile_function(module: Any, fmt: WeightFormat, target: Target, n_token: int) -> Any:
    """`tile(w, lower, x, y, y_stride, n_block, n_tile)`: y[token] = 16 rows times each token.

    lower: the end of the first block's lower plane; `n_tile` tiles of `n_token`: one, unless
    they are stacked.
    """
    function, b = new_function(module, f"tile_{n_token}", 7)
    function.linkage = "internal"
    function.attributes.add("noinline")
    weights, lower, x, y, y_stride, n_block, n_tile = function.args
    size = min(n_token, MOST_TOKENS_AT_ONCE) if target.has_byte_chains else n_token
    is_stacked = _is_stacked(fmt, target, n_token)
    stack = Stack(n_tile, b.mul(n_block, integer(fmt.x_words * WORD * n_token)))
    totals = Slots(b, F32_X16, size, is_stacked)
    places = (weights, lower, x)
    tile = Tile(b, target, size, n_token, fmt.upper_bytes, *places, totals)
    tile = replace(tile, stack=stack if is_stacked else None)
    for first in range(0, 1 if is_stacked else n_token, size):
        part = replace(tile, x=offset(b, x, first * WORD))
        _multiply_rows(part, fmt, n_block)
        _store_totals(part, b.add(y, b.mul(y_stride, integer(first))), y_stride)
    b.ret_void()
    return function


def _multiply_rows(tile: Tile, fmt: WeightFormat, n_block: Any) -> None:
    """`totals` = 16 rows, given by their first block, times every token."""
    b = tile.b
    for part in tile.narrow():
        for token in range(part.n_token):
            part.totals.store(part, token, zeros(F32_X16))
    first_lower = offset(b, tile.lower, -fmt.lower_bytes)
    with counted_loop(b, integer(0), n_block) as block:
        weights = scaled(b, tile.weights, block, fmt.upper_bytes)
        lower = scaled(b, first_lower, block, -fmt.lower_bytes)
        x = scaled(b, tile.x, block, fmt.x_words * WORD * tile.n_beside)
        fmt.emit(replace(tile, weights=weights, lower=lower, x=x))


def _store_totals(tile: Tile, y: Any, y_stride: Any) -> None:
    b = tile.b
    for part in tile.narrow():
        for token in range(part.n_token):
            number = integer(token) if part.first is None else offset(b, part.first, token)
            total = part.totals.load(part, token)
            store(b, total, b.add(y, b.mul(y_stride, number)))


def _is_stacked(fmt: WeightFormat, target: Target, n_token: int) -> bool:
    """Whether blocks are unpacked once for several tiles: AVX2 multiplies no faster."""
    has_codes = fmt.activation in (Activation.BLOCK_32, Activation.BLOCK_256)
    return has_codes and target.has_byte_chains and n_token == TILE_SIZES[0]


def _matmul_function(module: Any, fmt: WeightFormat, target: Target, tiles: dict[int, Any]) -> None:
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
                stop = b.sub(last, b.urem(b.sub(last, start), integer(size)))
                is_stacked = _is_stacked(fmt, target, size)
                step = TOKENS_PER_PASS if is_stacked else size
                with counted_loop(b, start, stop, step) as token:
                    x_tile = b.add(x, b.mul(token, token_bytes))
                    y_tile = b.add(y_group, b.mul(token, y_stride))
                    n_tile = b.udiv(b.sub(stop, token), integer(size)) if is_stacked else integer(1)
                    places = [weights, lower, x_tile, y_tile]
                    b.call(tiles[size], [*places, y_stride, n_block, n_tile])
                start = stop
    b.ret_void()


def _interleave_function(module: Any, fmt: WeightFormat) -> None:
    function, b = new_function(module, "interleave", 7, I64)
    rows, row_stride, n_row, n_block, out, group_start, group_end = function.args
    failed = variable(b, integer(0))
    with (
        counted_loop(b, group_start, group_end) as group,
        counted_loop(b, integer(0), n_block) as block,
        counted_loop(b, integer(0), integer(N_ROW)) as lane,
    ):
        row = scaled(b, lane, group, N_ROW)
        exists = b.icmp_signed("<", row, n_row)
        source = scaled(b, b.add(rows, b.mul(row, row_stride)), block, fmt.source_size)
        number = b.add(b.mul(group, n_block), block)
        upper = scaled(b, out, number, fmt.upper_bytes)
        lower = scaled(b, out, offset(b, number, 1), -fmt.lower_bytes)
        # A row that does not exist becomes zeros.
        with b.if_else(exists) as (copy, clear):
            with copy:
                units, failure = _units(b, fmt, source)
                b.store(b.or_(b.load(failed), failure), failed)
                _write_units(b, fmt, units, (upper, lower), lane)
            with clear:
                nothing = [_unit_type(field)(0) for field in _unit_fields(fmt)]
                _write_units(b, fmt, nothing, (upper, lower), lane)
    b.ret(b.load(failed))


def _unit_type(field: Field) -> Any:
    return ir.IntType(8 * field.unit)


def _unit_fields(fmt: WeightFormat) -> list[Field]:
    """Which field each unit of a block belongs to."""
    return [field for field in fmt.fields for _ in range(field.n_byte // field.unit)]


def _units(b: Any, fmt: WeightFormat, source: Any) -> tuple[list[Any], Any]:
    """The units of all fields of a row's block, and whether it cannot be divided (int64)."""
    if fmt.splitter is not None:
        return fmt.splitter.emit(b, source)
    units = []
    for field in fmt.fields:
        for start in range(0, field.n_byte, field.unit):
            value = load(b, source, _unit_type(field), field.offset + start)
            units.append(field.transform(b, value) if field.transform else value)
    return units, integer(0)


def _write_units(
    b: Any, fmt: WeightFormat, units: list[Any], planes: tuple[Any, Any], lane: Any
) -> None:
    """Spread one row's block over the 16-row block."""
    upper, lower = planes
    start, rest = 0, iter(units)
    for field in fmt.fields:
        is_upper = start < fmt.upper_bytes
        block_at = (
            offset(b, upper, start) if is_upper else offset(b, lower, start - fmt.upper_bytes)
        )
        lane_at = scaled(b, block_at, lane, field.unit)
        for place in range(0, N_ROW * field.n_byte, N_ROW * field.unit):
            store(b, next(rest), lane_at, place)
        start += N_ROW * field.n_byte
