"""Attention of one layer over a batch of tokens, as every thread runs it.

A module of its own, which the rest of the step calls by its address: so another process compiles
it, and the first start takes less time.
"""

from typing import Any

from csaq_runtime.kernels import attention, lanes
from csaq_runtime.kernels.access import layers_at, rows_at, step_at, tiles_at
from csaq_runtime.kernels.attention_store import store_key, store_value
from csaq_runtime.kernels.barrier import wait_for_all
from csaq_runtime.kernels.jit import emit, part
from csaq_runtime.kernels.norm import rms_norm
from csaq_runtime.kernels.rope import rotate_head


@part
def place_head(step: Any, head: int, norm: int, position: int) -> None:
    """Normalize (unless `norm` is 0) and rotate one query or key head, in place."""
    head_bytes = 4 * step.head_pad
    if norm != 0:
        rms_norm(head, norm, head, step.head_dim, head_bytes, step.epsilon)
    rotate_head(head, step.rope + position * head_bytes, head_bytes // 2)


@part
def cache_of(step: Any, row: Any, index: int, head: int) -> Any:
    """(keys, values, kind, bytes per position) of one layer's key/value head, for a token."""
    offset = (index * step.n_head_kv + head) * step.cached_head_bytes
    return row.keys + offset, row.values + offset, step.cache_kind, step.cached_row_bytes


@part
def remember(step: Any, row: Any, layer: Any, index: int, head: int, token: int) -> None:
    """Write one token's key and value of one head into the cache of its sequence."""
    position, head_pad = row.position, step.head_pad
    offset = token * step.kv_bytes + 4 * head * head_pad
    place_head(step, step.k + offset, layer.k_norm, position)
    keys, values, kind, _ = cache_of(step, row, index, head)
    store_key(step.k + offset, keys, kind, position, head_pad)
    store_value(step.v + offset, values, kind, position, head_pad)


@part
def copy_attended(step: Any, totals: int, out: int, n_head: int) -> None:
    """Copy heads from rows of `head_pad` to rows of `head_dim` floats."""
    for head in range(n_head):
        source, target = totals + 4 * head * step.head_pad, out + 4 * head * step.head_dim
        whole = step.head_dim // 16 * 16
        for element in range(0, whole, 16):
            lanes.store(target + 4 * element, lanes.load(source + 4 * element))
        for element in range(whole, step.head_dim):
            lanes.store_scalar(target + 4 * element, lanes.load_scalar(source + 4 * element))


@part
def place_queries(step: Any, layer: Any, head_kv: int, tile: Any, position: int, out: int) -> None:
    """Normalize and rotate the query heads of a tile and gather them at `out`.

    `position` is that of its first token.
    """
    n_head, head_bytes = step.n_head // step.n_head_kv, 4 * step.head_pad
    for number in range(tile.n_token):
        row = step.q + (tile.token + number) * step.q_bytes + head_kv * n_head * head_bytes
        for head in range(n_head):
            query = row + head * head_bytes
            place_head(step, query, layer.q_norm, position + number)
            for offset in range(0, head_bytes, 64):
                lanes.store(out + offset, lanes.load(query + offset))
            out += head_bytes


@part
def attend_tile(
    step: Any, thread: int, layer: Any, index: int, head_kv: int, tile: Any, row: Any
) -> None:
    """Attention of a tile's query heads that share one key/value head; `row`: its first token."""
    n_token = tile.n_token
    n_head, head_pad = step.n_head // step.n_head_kv, step.head_pad
    start = step.scratch + thread * step.scratch_bytes
    queries, totals = start + step.scratch_queries, start + step.scratch_totals
    place_queries(step, layer, head_kv, tile, row.position, queries)
    scratch = (start + step.scratch_scores, step.scratch_score_bytes, totals)
    head_cache, rows = cache_of(step, row, index, head_kv), (n_token * n_head, n_head, head_pad)
    attention.attend(queries, head_cache, scratch, rows, row.position + 1, step.attention_scale)
    for number in range(n_token):
        out = step.attended + (tile.token + number) * step.attended_bytes
        out += 4 * head_kv * n_head * step.head_dim
        copy_attended(step, totals + 4 * number * n_head * head_pad, out, n_head)


@part
def attend(step: Any, thread: int, layer: Any, index: int, first: int, meeting: int) -> int:
    """Fill the caches, then attend for the tiles from `first` on.

    Work items are (key/value head, tile), dealt out in turn. With one token a thread
    attends to the very heads it has just written, so nobody needs to wait in between.
    """
    n_token, n_thread = step.n_token, step.n_thread
    rows, tiles = rows_at(step.rows, n_token), tiles_at(step.tiles, step.n_tile)
    for item in range(thread, step.n_head_kv * n_token, n_thread):
        token = item % n_token
        remember(step, rows[token], layer, index, item // n_token, token)
    if n_token > 1:
        meeting = wait_for_all(step.counter, meeting, n_thread)
    n_tile = step.n_tile - first
    for item in range(thread, step.n_head_kv * n_tile, n_thread):
        tile = tiles[first + item % n_tile]
        attend_tile(step, thread, layer, index, item // n_tile, tile, rows[tile.token])
    return wait_for_all(step.counter, meeting, n_thread)


@part
def attend_layer(address: int, thread: int, index: int, first: int, meeting: int) -> int:
    """`attend` for layer `index` of the step whose `STEP` record is at `address`."""
    step = step_at(address)
    layer = layers_at(step.layers, step.n_layer)[index]
    last: int = attend(step, thread, layer, index, first, meeting)
    return last


def emit_attention(entry: str) -> str:
    """LLVM IR of `attend_layer`, exported as `entry(result*, error**, address, …)`."""
    return emit(attend_layer, 5, entry)
