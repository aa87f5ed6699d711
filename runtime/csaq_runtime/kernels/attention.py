"""Causal attention of query heads that share one key/value head of the cache.

Cache layout, per layer and key/value head (`cache.py` allocates it): keys in blocks of 16
positions, `[n_block][head_pad][16]`, so that 16 scores form in one vector without horizontal
sums; values position by position, `[n_position][head_pad]`. In a Q8_0 cache each group of 32
elements is a unit of its own: `[32][16]` codes and 16 scales; a scale and `[32]` codes.

All sums run in an order that depends on the position only: neither threads nor batches nor
neighbouring heads change a bit of the result.
"""

from typing import Any

import numpy as np

from csaq_runtime.kernels import lanes
from csaq_runtime.kernels.attention_tile import score_tile, value_tile
from csaq_runtime.kernels.jit import part

POSITION_CHUNK = 64
"""Positions whose values stay in the first-level cache while all queries use them."""

MASKED = np.float32(-np.inf)


@part
def attend(queries: int, head_cache: Any, scratch: Any, rows: Any, n: int, scale: float) -> None:
    """Attention of float32 queries [n_query][head_pad]; results, as many, go to `totals`.

    `head_cache` is (keys, values, kind, bytes per position) of one head; `scratch` (scores,
    bytes per row of scores, totals); `rows` (n_query, n_head, head_pad): `n_head` heads of one
    token after the other. The first token attends to `n` positions, each later one to one more.
    """
    scores, score_bytes, totals = scratch
    n_query, n_head, head_pad = rows
    n_all = n + n_query // n_head - 1
    score_all(queries, head_cache, scratch, rows, n_all, scale)
    for query in range(n_query):
        row, n_seen = scores + query * score_bytes, n + query // n_head
        softmax(row, n_seen)
        for position in range(n_seen, n_all):
            lanes.store_scalar(row + 4 * position, np.float32(0))
    for offset in range(0, 4 * n_query * head_pad, 64):
        lanes.store(totals + offset, lanes.zero())
    sum_all(head_cache, scratch, rows, n_all)


@part
def tile_size(n_left: int) -> int:
    """Queries of the next tile: 4, 2 or 1."""
    if n_left >= 4:
        return 4
    return 2 if n_left >= 2 else 1


@part
def score_all(queries: int, head_cache: Any, scratch: Any, rows: Any, n: int, scale: float) -> None:
    """Scores of all queries; a block of keys comes from memory once."""
    keys, _, kind, row_bytes = head_cache
    scores, score_bytes, _ = scratch
    n_query, _, head_pad = rows
    factor = np.float32(scale)
    for block in range((n + 15) // 16):
        key, place = keys + block * 16 * row_bytes, scores + 64 * block
        query = 0
        while query < n_query:
            size = tile_size(n_query - query)
            at, out = queries + 4 * query * head_pad, place + query * score_bytes
            score_tile(kind, size, at, key, out, score_bytes, head_pad, factor)
            query += size


@part
def softmax(scores: int, n: int) -> None:
    """Turn `n` scores into probabilities, in place."""
    n_byte = (n + 15) // 16 * 64
    for offset in range(4 * n, n_byte, 4):
        lanes.store_scalar(scores + offset, MASKED)
    peak = lanes.load(scores)
    for offset in range(64, n_byte, 64):
        peak = lanes.larger(lanes.load(scores + offset), peak)
    maximum, weights = lanes.splat(lanes.largest(peak)), lanes.zero()
    for offset in range(0, n_byte, 64):
        weight = lanes.exponential(lanes.subtract(lanes.load(scores + offset), maximum))
        lanes.store(scores + offset, weight)
        weights = lanes.add(weights, weight)
    factor = lanes.splat(np.float32(1.0) / lanes.total(weights))
    for offset in range(0, n_byte, 64):
        lanes.store(scores + offset, lanes.multiply(lanes.load(scores + offset), factor))


@part
def sum_all(head_cache: Any, scratch: Any, rows: Any, n: int) -> None:
    """Weighted sums of all queries; a chunk of values comes from memory once."""
    _, values, kind, row_bytes = head_cache
    scores, score_bytes, totals = scratch
    n_query, _, head_pad = rows
    for start in range(0, n, POSITION_CHUNK):
        n_chunk, chunk = min(POSITION_CHUNK, n - start), values + start * row_bytes
        query = 0
        while query < n_query:
            size = tile_size(n_query - query)
            weights = scores + query * score_bytes + 4 * start
            total = totals + 4 * query * head_pad
            value_tile(kind, size, weights, score_bytes, chunk, total, head_pad, n_chunk)
            query += size
