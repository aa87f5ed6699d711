"""Causal attention of one token's query heads that share one key/value head of the cache.

Cache layout, per layer and key/value head (`cache.py` allocates it): keys in blocks of 16
positions, `[n_block][head_pad][16]`, so that 16 scores form in one vector without horizontal
sums; values position by position, `[n_position][head_pad]`. Elements are float16 (`half` not 0)
or float32. All sums run in an order that depends on the position only: neither threads nor
batches nor neighbouring heads change a bit of the result.
"""

from typing import Any

import numpy as np

from csaq_runtime.kernels import lanes
from csaq_runtime.kernels.attention_block import (
    add_values_half,
    add_values_single,
    score_block_half,
    score_block_single,
)
from csaq_runtime.kernels.attention_pair import (
    add_value_pair_half,
    add_value_pair_single,
    score_pair_half,
    score_pair_single,
)
from csaq_runtime.kernels.jit import part

POSITION_CHUNK = 64
MASKED = np.float32(-np.inf)


@part
def attend(query: int, head_cache: Any, scratch: Any, group: Any, n: int, scale: float) -> None:
    """Attention of a group of query heads, float32 [n_head][head_pad], to `n` positions.

    `head_cache` is (keys, values, half) of one head; `scratch` (scores, bytes per row of scores,
    totals); `group` (n_head, head_pad). Leaves the results, [n_head][head_pad], in `totals`.
    """
    scores, score_bytes, totals = scratch
    n_head, head_pad = group
    score_all(query, head_cache, scratch, group, n, scale)
    for head in range(n_head):
        softmax(scores + head * score_bytes, n)
    for offset in range(0, 4 * n_head * head_pad, 64):
        lanes.store(totals + offset, lanes.zero())
    sum_all(head_cache, scratch, group, n)


@part
def score_all(query: int, head_cache: Any, scratch: Any, group: Any, n: int, scale: float) -> None:
    """Scores of all heads of the group; a block of keys comes from memory once."""
    keys, _, half = head_cache
    scores, score_bytes, _ = scratch
    n_head, head_pad = group
    factor = np.float32(scale)
    block_bytes = 16 * head_pad * (2 if half != 0 else 4)
    for block in range((n + 15) // 16):
        key = keys + block * block_bytes
        for head in range(0, n_head, 2):
            row, place = query + 4 * head * head_pad, scores + head * score_bytes + 64 * block
            rows, places = (row, row + 4 * head_pad), (place, place + score_bytes)
            if half != 0 and head + 1 < n_head:
                score_pair_half(rows, key, places, head_pad, factor)
            elif half != 0:
                score_block_half(row, key, place, head_pad, factor)
            elif head + 1 < n_head:
                score_pair_single(rows, key, places, head_pad, factor)
            else:
                score_block_single(row, key, place, head_pad, factor)


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
def sum_all(head_cache: Any, scratch: Any, group: Any, n: int) -> None:
    """Weighted sums of all heads of the group; a chunk of values comes from memory once."""
    _, values, half = head_cache
    scores, score_bytes, totals = scratch
    n_head, head_pad = group
    row_bytes = head_pad * (2 if half != 0 else 4)
    for start in range(0, n, POSITION_CHUNK):
        n_chunk, chunk = min(POSITION_CHUNK, n - start), values + start * row_bytes
        for head in range(0, n_head, 2):
            weight = scores + head * score_bytes + 4 * start
            total = totals + 4 * head * head_pad
            weights, sums = (weight, weight + score_bytes), (total, total + 4 * head_pad)
            if half != 0 and head + 1 < n_head:
                add_value_pair_half(weights, chunk, sums, head_pad, n_chunk)
            elif half != 0:
                add_values_half(weight, chunk, total, head_pad, n_chunk)
            elif head + 1 < n_head:
                add_value_pair_single(weights, chunk, sums, head_pad, n_chunk)
            else:
                add_values_single(weight, chunk, total, head_pad, n_chunk)


@part
def store_key(key: int, keys: int, half: int, position: int, head_pad: int) -> None:
    """Scatter a float32 key [head_pad] into its block of 16 positions."""
    place = position // 16 * 16 * head_pad + position % 16
    for element in range(head_pad):
        value = lanes.load_scalar(key + 4 * element)
        if half != 0:
            lanes.store_half_scalar(keys + 2 * place + 32 * element, value)
        else:
            lanes.store_scalar(keys + 4 * place + 64 * element, value)


@part
def store_value(value: int, values: int, half: int, position: int, head_pad: int) -> None:
    """Append a float32 value row [head_pad]."""
    for element in range(0, head_pad, 16):
        row, place = lanes.load(value + 4 * element), position * head_pad + element
        if half != 0:
            lanes.store_half(values + 2 * place, row)
        else:
            lanes.store(values + 4 * place, row)
