"""Linear layers inside a step: packing their inputs and multiplying, shared among threads.

Up to 8 tokens every thread packs all of them for itself, which is cheaper than waiting for
each other; larger batches are packed once, 8 tokens (one tile) at a time, by all threads.
"""

from typing import Any

from csaq_runtime.kernels.barrier import wait_for_all
from csaq_runtime.kernels.call import call_matmul, call_quantize
from csaq_runtime.kernels.elementwise import scale_and_shift
from csaq_runtime.kernels.jit import part
from csaq_runtime.kernels.norm import rms_norm
from csaq_runtime.kernels.record import TILE_TOKENS


@part
def multiply(
    step: Any, thread: int, linear: Any, packed: Any, y: int, y_bytes: int, n_token: int
) -> None:
    """`y = (W · x) · scale + bias` for this thread's share of the rows of W.

    `packed` is (address, bytes per slot) as `pack_rows` returns it.
    """
    address, slot_bytes = packed
    start = linear.n_group * thread // step.n_thread
    stop = linear.n_group * (thread + 1) // step.n_thread
    if start == stop or n_token == 0:
        return
    x = address + linear.slot * slot_bytes
    call_matmul(linear.matmul, linear.weight, x, y, y_bytes, linear.n_col, n_token, start, stop)
    if linear.bias != 0:
        scale_and_shift(y, linear.bias, linear.scale, y_bytes, n_token, 64 * start, 64 * stop)


@part
def _pack_tile(
    readers: Any, rows: int, row_bytes: int, n_token: int, packed: int, slot_bytes: int, tile: int
) -> None:
    """Pack up to 8 rows for every kind of input the three `readers` want."""
    first, second, third = readers
    for slot in range(3):
        reader = first
        if slot == second.slot:
            reader = second
        if slot == third.slot:
            reader = third
        if slot == reader.slot:
            place = packed + slot * slot_bytes + tile * reader.tile_bytes
            call_quantize(reader.quantize, rows, row_bytes, reader.n_col, n_token, place)


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
def pack_rows(step: Any, thread: int, readers: Any, source: Any, n_token: int) -> Any:
    """Normalize and pack rows for three linear layers.

    `source` is (address of the rows, bytes of a row, address of norm weights or 0).
    Returns (address, bytes per slot). After a batch of more than 8 tokens the caller must
    let all threads meet before anyone reads the result.
    """
    rows, row_bytes, norm = source
    scratch = step.scratch + thread * step.scratch_bytes
    if n_token <= TILE_TOKENS:
        tile_rows = _tile_rows(step, scratch, rows, row_bytes, norm, 0, n_token)
        packed, slot_bytes = scratch + step.scratch_packed, step.scratch_slot_bytes
        if n_token > 0:
            _pack_tile(readers, tile_rows, row_bytes, n_token, packed, slot_bytes, 0)
        return packed, slot_bytes
    for tile in range(thread, (n_token + TILE_TOKENS - 1) // TILE_TOKENS, step.n_thread):
        n = min(TILE_TOKENS, n_token - tile * TILE_TOKENS)
        tile_rows = _tile_rows(step, scratch, rows, row_bytes, norm, tile, n)
        _pack_tile(readers, tile_rows, row_bytes, n, step.packed, step.slot_bytes, tile)
    return step.packed, step.slot_bytes


@part
def meet_if_shared(step: Any, meeting: int, n_token: int) -> int:
    """Wait for the other threads' tiles where `pack_rows` shared the work."""
    if n_token <= TILE_TOKENS:
        return meeting
    return wait_for_all(step.counter, meeting, step.n_thread)
