"""One transformer layer over a batch of tokens, as every thread runs it, and the output head."""

from typing import Any

from csaq_runtime.kernels import attention, lanes
from csaq_runtime.kernels.access import rows_at, tiles_at
from csaq_runtime.kernels.attention_store import store_key, store_value
from csaq_runtime.kernels.barrier import wait_for_all
from csaq_runtime.kernels.elementwise import accumulate, silu_multiply
from csaq_runtime.kernels.jit import part
from csaq_runtime.kernels.linear import meet_if_mixed, meet_if_shared, multiply, pack_rows
from csaq_runtime.kernels.norm import rms_norm
from csaq_runtime.kernels.rope import rotate_head


@part
def project_qkv(step: Any, thread: int, layer: Any, meeting: int) -> int:
    """Norm, then queries, keys and values of the whole batch."""
    n = step.n_token
    packed = pack_rows(step, thread, layer.qkv_inputs, (step.x, step.x_bytes, layer.attn_norm), n)
    meeting = meet_if_shared(step, meeting, n)
    multiply(step, thread, layer.q, packed, step.q, step.q_bytes, n)
    multiply(step, thread, layer.k, packed, step.k, step.kv_bytes, n)
    multiply(step, thread, layer.v, packed, step.v, step.kv_bytes, n)
    return wait_for_all(step.counter, meeting, step.n_thread)


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
def add_product(step: Any, thread: int, reader: Any, source: Any, first: int, meeting: int) -> int:
    """`x += W · source`, for the tokens from `first` on; `source` as in `pack_rows`.

    `reader`: the linear layer and its inputs.
    """
    n = step.n_token - first
    linear, inputs = reader
    rows, row_bytes, norm = source
    source = (rows + first * row_bytes, row_bytes, norm)
    packed = pack_rows(step, thread, inputs, source, n)
    meeting = meet_if_shared(step, meeting, n)
    multiply(step, thread, linear, packed, step.projected, step.x_bytes, n)
    meeting = meet_if_mixed(step, meeting, linear)
    start = linear.n_group * thread // step.n_thread
    stop = linear.n_group * (thread + 1) // step.n_thread
    x = step.x + first * step.x_bytes
    accumulate(x, step.projected, step.x_bytes, n, 64 * start, 64 * stop)
    return wait_for_all(step.counter, meeting, step.n_thread)


@part
def feed_forward(step: Any, thread: int, layer: Any, first: int, meeting: int) -> int:
    """`x += down(silu(gate(norm(x))) · up(norm(x)))`, for the tokens from `first` on."""
    n = step.n_token - first
    x, ff_bytes = step.x + first * step.x_bytes, step.ff_bytes
    packed = pack_rows(step, thread, layer.gate_up_inputs, (x, step.x_bytes, layer.ffn_norm), n)
    meeting = meet_if_shared(step, meeting, n)
    multiply(step, thread, layer.gate, packed, step.gate, ff_bytes, n)
    multiply(step, thread, layer.up, packed, step.up, ff_bytes, n)
    meeting = meet_if_mixed(step, meeting, layer.gate)
    meeting = meet_if_mixed(step, meeting, layer.up)
    start = layer.gate.n_group * thread // step.n_thread
    stop = layer.gate.n_group * (thread + 1) // step.n_thread
    silu_multiply(step.gate, step.up, ff_bytes, n, 64 * start, 64 * stop)
    meeting = wait_for_all(step.counter, meeting, step.n_thread)
    source = (step.gate - first * ff_bytes, ff_bytes, 0)
    return add_product(step, thread, (layer.down, layer.down_inputs), source, first, meeting)


@part
def output_logits(step: Any, thread: int, logits: int, meeting: int) -> int:
    """Final norm, and at `logits` the logits of the tokens from `first_output` on."""
    n = step.n_token - step.first_output
    x = step.x + step.first_output * step.x_bytes
    packed = pack_rows(step, thread, step.output_inputs, (x, step.x_bytes, step.output_norm), n)
    meeting = meet_if_shared(step, meeting, n)
    multiply(step, thread, step.output, packed, logits, step.logits_bytes, n)
    return wait_for_all(step.counter, meeting, step.n_thread)
