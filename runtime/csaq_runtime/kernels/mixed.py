"""Matrices of the rows layout inside a step: rows of several types, outliers, a factor.

A thread takes its share of every part's 16-row groups. A few groups at a time, for up to 64
tokens, are multiplied into its scratch, corrected there and put where they belong in y: the
permutation costs one store per element and no meeting of the threads. What a row of y is summed
from, and in which order, depends neither on the threads nor on the other tokens.
"""

from typing import Any

import numpy as np

from csaq_runtime.kernels import lanes
from csaq_runtime.kernels.access import int32_at, int64_at, mixed_at, parts_at
from csaq_runtime.kernels.activation import TILE_SIZES
from csaq_runtime.kernels.call import call_matmul
from csaq_runtime.kernels.elementwise import accumulate, scale_and_shift
from csaq_runtime.kernels.jit import ZERO, part
from csaq_runtime.kernels.record import (
    GROUPS_TOGETHER,
    STORED_BYTES,
    STORED_ROW,
    TILE_TOKENS,
    TOKENS_TOGETHER,
)

STRIDE: Any = np.int64(STORED_ROW)
"""For calls, as `ZERO` is."""


@part
def gather_columns(rows: Any, form: Any, out: int, out_bytes: int, n_token: int) -> None:
    """Copy the columns that an `INPUT` wants; `rows`: (address, bytes of a row)."""
    address, row_bytes = rows
    columns = int32_at(form.columns, form.n_col)
    for token in range(n_token):
        source, target = address + token * row_bytes, out + token * out_bytes
        for index in range(form.n_col):
            value = lanes.load_scalar(source + 4 * columns[index])
            lanes.store_scalar(target + 4 * index, value)
        for end in range(target + 4 * form.n_col, target + out_bytes, 4):
            lanes.store_scalar(end, np.float32(0.0))


@part
def multiply_mixed(step: Any, thread: int, linear: Any, packed: Any, y: Any, n_token: int) -> None:
    """This thread's rows of y; `y`: (address, bytes of a row), `packed` as in `multiply`."""
    mixed = mixed_at(linear.mixed)
    parts = parts_at(mixed.parts, mixed.n_part)
    stored = step.scratch + thread * step.scratch_bytes + step.scratch_stored
    for first in range(0, n_token, TOKENS_TOGETHER):
        tokens = (first, min(TOKENS_TOGETHER, n_token - first))
        for number in range(mixed.n_part):
            rows = parts[number]
            start = rows.n_group * thread // step.n_thread
            stop = rows.n_group * (thread + 1) // step.n_thread
            for group in range(start, stop, GROUPS_TOGETHER):
                groups = (rows.first_group + group, min(GROUPS_TOGETHER, stop - group))
                _multiply_part(rows, packed, tokens, groups, stored)
                _correct(mixed, packed, tokens, groups, stored)
                if linear.bias != 0:
                    _shift(linear, tokens, groups, stored)
                _place(mixed, tokens, groups, stored, y)


@part
def _multiply_part(rows: Any, packed: Any, tokens: Any, groups: Any, out: int) -> None:
    """`out` = rows · x for some of the groups, counted over all parts."""
    address, slot_bytes = packed
    first, n = tokens
    x = address + rows.slot * slot_bytes + first // TILE_TOKENS * rows.tile_bytes
    start = groups[0] - rows.first_group
    # The kernel puts group g at 64·g.
    y = out - 64 * start
    call_matmul(rows.matmul, rows.weight, x, y, STORED_ROW, rows.n_col, n, start, start + groups[1])


@part
def _correct(mixed: Any, packed: Any, tokens: Any, groups: Any, stored: int) -> None:
    """Add what stands beside the tiers."""
    if mixed.n_outlier != 0:
        _add_outliers(mixed, packed, tokens, groups, stored)
    if mixed.has_factor != 0:
        product = stored + STORED_BYTES
        _multiply_part(mixed.factor, packed, tokens, groups, product)
        accumulate(stored, product, STRIDE, tokens[1], ZERO, 64 * groups[1])


@part
def _add_outliers(mixed: Any, packed: Any, tokens: Any, groups: Any, stored: int) -> None:
    """Sparse rows times the float32 copy of the input, in the tiles of `activation`."""
    address, slot_bytes = packed
    first, n = tokens
    x = address + mixed.float_slot * slot_bytes
    x += first // TILE_TOKENS * mixed.float_tile_bytes
    token_bytes = mixed.float_tile_bytes // TILE_TOKENS
    offsets = int64_at(mixed.offsets, mixed.n_stored + 1)
    for row in range(16 * groups[1]):
        begin, end = offsets[16 * groups[0] + row], offsets[16 * groups[0] + row + 1]
        token = 0
        while token < n and begin < end:
            size = _tile_size(n - token)
            out = stored + token * STORED_ROW + 4 * row
            _add_row(mixed, begin, end, x + token * token_bytes, size, out, stored)
            token += size


@part
def _tile_size(n_left: int) -> int:
    """Tokens of the next tile."""
    for size in TILE_SIZES:
        if size <= n_left:
            return size
    return 0


@part
def _add_row(mixed: Any, begin: int, end: int, x: int, size: int, out: int, stored: int) -> None:
    """One sparse row times a tile of `size` tokens; lanes beyond them are not looked at."""
    columns = int32_at(mixed.columns, mixed.n_outlier)
    total = lanes.zero()
    for index in range(begin, end):
        value = lanes.load_splat(mixed.values + 4 * index)
        total = lanes.multiply_add(value, lanes.load(x + 4 * size * columns[index]), total)
    sums = stored + 2 * STORED_BYTES
    lanes.store(sums, total)
    for token in range(size):
        place = out + token * STORED_ROW
        more = lanes.load_scalar(sums + 4 * token)
        lanes.store_scalar(place, lanes.load_scalar(place) + more)


@part
def _shift(linear: Any, tokens: Any, groups: Any, stored: int) -> None:
    """Scale and bias, which lie in stored order."""
    start = 64 * groups[0]
    y, n_token, stop = stored - start, tokens[1], start + 64 * groups[1]
    scale_and_shift(y, linear.bias, linear.scale, STRIDE, n_token, start, stop)


@part
def _place(mixed: Any, tokens: Any, groups: Any, stored: int, y: Any) -> None:
    """Stored rows → their elements of y."""
    address, row_bytes = y
    places = int32_at(mixed.places, mixed.n_stored)
    for token in range(tokens[1]):
        source, target = stored + token * STORED_ROW, address + (tokens[0] + token) * row_bytes
        for row in range(16 * groups[1]):
            place = places[16 * groups[0] + row]
            if place >= 0:
                lanes.store_scalar(target + 4 * place, lanes.load_scalar(source + 4 * row))
