"""Linear layers inside a step: packing their inputs and multiplying, shared among threads.

Up to 8 tokens every thread packs all of them for itself, which is cheaper than waiting for
each other; larger batches are packed once, 8 tokens (one tile) at a time, by all threads.
"""

from typing import Any

from csaq_runtime.kernels.access import inputs_at
from csaq_runtime.kernels.barrier import wait_for_all
from csaq_runtime.kernels.call import call_matmul, call_quantize
from csaq_runtime.kernels.elementwise import scale_and_shift
from csaq_runtime.kernels.jit import ZERO, part
from csaq_runtime.kernels.mixed import gather_columns, multiply_mixed
from csaq_runtime.kernels.norm import rms_norm
from csaq_runtime.kernels.pieces import take_piece
from csaq_runtime.kernels.record import TILE_TOKENS


@part
def multiply(
    step: Any, thread: int, linear: Any, packed: Any, y: int, y_bytes: int, n_token: int
) -> None:
    """This thread's part of `y = (W · x) · scale + bias`: let all meet before anyone reads y.

    `packed` is (address, bytes per slot) as `pack_rows` returns it.
    """
    if linear.mixed != 0:
        multiply_mixed(step, thread, linear, packed, (y, y_bytes), n_token)
        return
    if n_token == 0:
        return
    address, slot_bytes = packed
    x, n_group, n_thread = address + linear.slot * slot_bytes, linear.n_group, step.n_thread
    if n_token == 1:
        # Memory bounds this, not the cores, and one long stream is read fastest.
        first, end = n_group * thread // n_thread, n_group * (thread + 1) // n_thread
        _multiply_groups(linear, x, (y, y_bytes), n_token, first, end)
        return
    first, end = take_piece(linear.tickets, n_group, n_thread)
    while first < n_group:
        _multiply_groups(linear, x, (y, y_bytes), n_token, first, end)
        first, end = take_piece(linear.tickets, n_group, n_thread)


@part
def _multiply_groups(linear: Any, x: int, rows: Any, n_token: int, first: int, end: int) -> None:
    """Groups `first … end` of a product; `rows`: address of y, bytes of a row."""
    y, y_bytes = rows
    n_col = linear.n_col
    call_matmul(linear.matmul, linear.weight, x, y, y_bytes, n_col, n_token, first, end)
    if linear.bias != 0:
        scale_and_shift(y, linear.bias, linear.scale, y_bytes, n_token, 64 * first, 64 * end)


@part
def _pack_tile(
    step: Any, inputs: Any, rows: Any, n_token: int, packed: Any, tile: int, scratch: int
) -> None:
    """Pack up to 8 rows in every way that `inputs` lists; `rows`: (address, bytes of a row)."""
    table = inputs_at(inputs.table, inputs.n_slot)
    address, slot_bytes = packed
    for slot in range(inputs.n_slot):
        form = table[slot]
        place = address + slot * slot_bytes + tile * form.tile_bytes
        source, row_bytes = rows
        if form.columns != 0:
            gathered = scratch + step.scratch_gathered
            gather_columns(rows, form, gathered, step.gathered_bytes, n_token)
            source, row_bytes = gathered, step.gathered_bytes
        call_quantize(form.quantize, source, row_bytes, form.n_col, n_token, place)


@part
def _tile_rows(
    step: Any, scratch: int, rows: int, row_bytes: int, norm: int, tile: int, n_token: int
) -> int:
    """Address of a tile's rows, normalized into the thread's scratch where `norm` says so."""
    rows += tile * TILE_TOKENS * row_bytes
    if norm == 0:
        return rows
    for token in range(n_token):
        offset = token * row_bytes
        rms_norm(rows + offset, norm, scratch + offset, step.n_embd, row_bytes, step.epsilon)
    return scratch


@part
def pack_rows(step: Any, thread: int, inputs: Any, source: Any, n_token: int) -> Any:
    """Normalize rows and pack them in the ways that `inputs` lists.

    `source` is (address of the rows, bytes of a row, address of norm weights or 0).
    Returns (address, bytes per slot). After a batch of more than 8 tokens the caller must
    let all threads meet before anyone reads the result.
    """
    rows, row_bytes, norm = source
    scratch = step.scratch + thread * step.scratch_bytes
    if n_token <= TILE_TOKENS:
        tile_rows = _tile_rows(step, scratch, rows, row_bytes, norm, ZERO, n_token)
        packed = (scratch + step.scratch_packed, step.scratch_slot_bytes)
        if n_token > 0:
            _pack_tile(step, inputs, (tile_rows, row_bytes), n_token, packed, ZERO, scratch)
        return packed
    shared = (step.packed, step.slot_bytes)
    for tile in range(thread, (n_token + TILE_TOKENS - 1) // TILE_TOKENS, step.n_thread):
        n = min(TILE_TOKENS, n_token - tile * TILE_TOKENS)
        tile_rows = _tile_rows(step, scratch, rows, row_bytes, norm, tile, n)
        _pack_tile(step, inputs, (tile_rows, row_bytes), n, shared, tile, scratch)
    return shared


@part
def meet_if_shared(step: Any, meeting: int, n_token: int) -> int:
    """Wait for the other threads' tiles where `pack_rows` shared the work."""
    if n_token <= TILE_TOKENS:
        return meeting
    return wait_for_all(step.counter, meeting, step.n_thread)
