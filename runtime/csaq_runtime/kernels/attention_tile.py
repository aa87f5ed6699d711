"""The inner loops of attention, generated: 1, 2 or 4 queries times 16 keys, or times values.

Loading and widening a key or value serves all queries of a tile. A query's sums are formed in
the same order whatever the tile, so neither batches nor neighbours change a bit of a result.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from csaq_runtime.kernels.cached import CACHE_FORMATS, GROUP, SCALE_BYTES, CacheFormat
from csaq_runtime.kernels.lanes import ADDRESS, NOTHING, SCALAR, operation
from csaq_runtime.simd.convert import half_to_float
from csaq_runtime.simd.target import Target
from csaq_runtime.simd.vector import (
    BYTES_16,
    F32,
    F32_X16,
    I16,
    I16_X16,
    I32_X16,
    counted_loop,
    fused_multiply_add,
    integer,
    load,
    offset,
    scaled,
    splat,
    splat_load,
    store,
    to_float,
    variable,
    zeros,
)

N_PARTIAL = 4
"""Independent sums of a score, element by element in turn: they hide the additions' latency."""

WIDE = 64
"""Columns of values taken together; some head sizes leave 32."""


TILE_QUERIES = (4, 2, 1)
"""Queries of a tile; four of them, with four sums each, keep every addition unit busy."""


def _for_each_tile(b: Any, kind: Any, n: Any, emit: Callable[[CacheFormat, int], None]) -> None:
    """Emit the code of every cache format and number of queries, chosen at run time."""
    for fmt in CACHE_FORMATS.values():
        with b.if_then(b.icmp_signed("==", kind, integer(fmt.kind))):
            for n_query in TILE_QUERIES:
                with b.if_then(b.icmp_signed("==", n, integer(n_query))):
                    emit(fmt, n_query)


def _score_tile(b: Any, target: Target, *values: Any) -> None:
    kind, n, query, block, out, out_bytes, head_pad, scale = values

    def emit(fmt: CacheFormat, n_query: int) -> None:
        row_bytes = b.mul(head_pad, integer(4))
        queries = [b.add(query, b.mul(row_bytes, integer(row))) for row in range(n_query)]
        dots = _scaled_dots if fmt.is_scaled else _dots
        for row, total in enumerate(dots(b, target, fmt, queries, block, head_pad)):
            place = b.add(out, b.mul(out_bytes, integer(row)))
            store(b, b.fmul(total, splat(b, scale)), place)

    _for_each_tile(b, kind, n, emit)


score_tile = operation(NOTHING, [*[ADDRESS] * 7, SCALAR], _score_tile)
"""`score_tile(kind, n, query, block, out, out_bytes, head_pad, scale)`.

Scaled dot products of `n` float32 queries [head_pad] with the 16 keys of a block of a cache of
format `kind`; 16 scores to each of `out`, `out_bytes` apart.
"""


def _dots(
    b: Any, target: Target, fmt: CacheFormat, queries: list[Any], keys: Any, n_element: Any
) -> list[Any]:
    """Dot products of each query with 16 keys over `n_element` (a multiple of 4) elements."""
    sums = [[variable(b, zeros(F32_X16)) for _ in range(N_PARTIAL)] for _ in queries]
    with counted_loop(b, integer(0), n_element, N_PARTIAL) as element:
        key_at = scaled(b, keys, element, 16 * fmt.n_byte)
        for part in range(N_PARTIAL):
            key = _load(b, target, fmt, offset(b, key_at, part * 16 * fmt.n_byte))
            for query, slots in zip(queries, sums, strict=True):
                value = splat_load(b, scaled(b, query, element, 4), F32, 4 * part)
                b.store(fused_multiply_add(b, value, key, b.load(slots[part])), slots[part])
    return [_total(b, [b.load(slot) for slot in slots]) for slots in sums]


def _total(b: Any, partial: list[Any]) -> Any:
    first, second, third, fourth = partial
    return b.fadd(b.fadd(first, second), b.fadd(third, fourth))


def _scaled_dots(
    b: Any, target: Target, fmt: CacheFormat, queries: list[Any], block: Any, head_pad: Any
) -> list[Any]:
    """Like `_dots`, group by group, each times the group's 16 scales, which follow its codes."""
    totals = [variable(b, zeros(F32_X16)) for _ in queries]
    code_bytes = 16 * fmt.n_byte * GROUP
    with counted_loop(b, integer(0), b.udiv(head_pad, integer(GROUP))) as group:
        codes = scaled(b, block, group, code_bytes + 16 * SCALE_BYTES)
        parts = [scaled(b, query, group, 4 * GROUP) for query in queries]
        dots = _dots(b, target, fmt, parts, codes, integer(GROUP))
        scale = half_to_float(b, target, load(b, codes, I16_X16, code_bytes))
        for slot, dot in zip(totals, dots, strict=True):
            b.store(fused_multiply_add(b, dot, scale, b.load(slot)), slot)
    return [b.load(slot) for slot in totals]


def _value_tile(b: Any, target: Target, *values: Any) -> None:
    kind, n, weights, weight_bytes, value, totals, head_pad, n_position = values

    def emit(fmt: CacheFormat, n_query: int) -> None:
        rows = [b.add(weights, b.mul(weight_bytes, integer(row))) for row in range(n_query)]
        sums = [scaled(b, totals, b.mul(head_pad, integer(row)), 4) for row in range(n_query)]
        whole = integer(0) if fmt.is_scaled else b.and_(head_pad, integer(-WIDE))
        row_bytes = b.mul(b.udiv(head_pad, integer(GROUP)), integer(fmt.row_bytes(GROUP)))
        for start, stop, width in ((integer(0), whole, WIDE), (whole, head_pad, GROUP)):
            with counted_loop(b, start, stop, width) as column:
                group_at = scaled(b, value, b.udiv(column, integer(GROUP)), fmt.row_bytes(GROUP))
                places = [scaled(b, total, column, 4) for total in sums]
                _add_values(b, target, fmt, rows, (group_at, row_bytes, n_position), places, width)

    _for_each_tile(b, kind, n, emit)


def _add_values(
    b: Any,
    target: Target,
    fmt: CacheFormat,
    weights: list[Any],
    rows: tuple[Any, Any, Any],
    totals: list[Any],
    n_column: int,
) -> None:
    """Add weighted rows (address, bytes from one to the next, number) of `n_column` columns."""
    value, row_bytes, n_position = rows
    places = [offset(b, total, 4 * column) for total in totals for column in range(0, n_column, 16)]
    sums = [variable(b, load(b, place, F32_X16)) for place in places]
    with counted_loop(b, integer(0), n_position) as position:
        row_at = b.add(value, b.mul(position, row_bytes))
        columns = _columns(b, target, fmt, row_at, n_column // 16)
        for query, weight_at in enumerate(weights):
            weight = splat_load(b, scaled(b, weight_at, position, 4), F32)
            if fmt.is_scaled:
                weight = b.fmul(weight, _scale(b, target, row_at))
            for slot, column in zip(sums[query * len(columns) :], columns, strict=False):
                b.store(fused_multiply_add(b, weight, column, b.load(slot)), slot)
    for slot, place in zip(sums, places, strict=True):
        store(b, b.load(slot), place)


value_tile = operation(NOTHING, [ADDRESS] * 8, _value_tile)
"""`value_tile(kind, n, weights, weight_bytes, value, totals, head_pad, n_position)`.

`totals += Σ weight · value` over `n_position` rows of values, for `n` queries: totals are
float32 [n][head_pad], weights [n_position] lie `weight_bytes` apart.
"""


def _load(b: Any, target: Target, fmt: CacheFormat, address: Any) -> Any:
    """Sixteen elements as float32, or sixteen codes still to be scaled."""
    if fmt.is_scaled:
        return to_float(b, b.sext(load(b, address, BYTES_16), I32_X16))
    if fmt.n_byte == 2:
        return half_to_float(b, target, load(b, address, I16_X16))
    return load(b, address, F32_X16)


def _columns(b: Any, target: Target, fmt: CacheFormat, row_at: Any, n_vector: int) -> list[Any]:
    start = SCALE_BYTES if fmt.is_scaled else 0
    return [
        _load(b, target, fmt, offset(b, row_at, start + 16 * fmt.n_byte * column))
        for column in range(n_vector)
    ]


def _scale(b: Any, target: Target, row_at: Any) -> Any:
    """The group's scale in all lanes."""
    half = splat(b, load(b, row_at, I16), 4)
    floats = half_to_float(b, target, half)
    return splat(b, b.extract_element(floats, ir.Constant(ir.IntType(32), 0)))
