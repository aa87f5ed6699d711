"""Causal attention of one token's query heads against one key/value head of the cache.

Cache layout, per layer and key/value head (see `cache.py`): keys in blocks of 16 positions,
`[n_block][head_pad][16]`, so that 16 scores form in one vector without horizontal sums; values
position by position, `[n_position][head_pad]`. All sums run in an order that depends on the
position only: neither threads nor batches change a bit of the result.
"""

from typing import Any

import numpy as np

from csaq_runtime.kernels import lanes
from csaq_runtime.kernels.jit import part

POSITION_CHUNK = 64
MASKED = np.float32(-np.inf)


@part
def softmax_weights(scores: int, n_position: int) -> float:
    """Turn scores into exp(score - max) in place; returns the sum. Lanes past the end become 0."""
    n_byte = (n_position + 15) // 16 * 64
    for offset in range(4 * n_position, n_byte, 4):
        lanes.store_scalar(scores + offset, MASKED)
    peak = lanes.load(scores)
    for offset in range(64, n_byte, 64):
        peak = lanes.larger(lanes.load(scores + offset), peak)
    maximum, weights = lanes.splat(lanes.largest(peak)), lanes.zero()
    for offset in range(0, n_byte, 64):
        weight = lanes.exponential(lanes.subtract(lanes.load(scores + offset), maximum))
        lanes.store(scores + offset, weight)
        weights = lanes.add(weights, weight)
    total: float = lanes.total(weights)
    return total


def build_key_scores(load_cached: Any, n_byte: int) -> Any:
    """`block_scores` for caches whose elements take `n_byte` and are read by `load_cached`."""

    @part
    def block_scores(query: int, block: int, head_pad: int) -> Any:
        """Dot products of one query head with the 16 keys of a block, unscaled."""
        row = 16 * n_byte
        first, second = lanes.zero(), lanes.zero()
        third, fourth = lanes.zero(), lanes.zero()
        for _ in range(0, head_pad, 4):
            first = lanes.multiply_add(lanes.load_splat(query), load_cached(block), first)
            second = lanes.multiply_add(
                lanes.load_splat(query + 4), load_cached(block + row), second
            )
            third = lanes.multiply_add(
                lanes.load_splat(query + 8), load_cached(block + 2 * row), third
            )
            fourth = lanes.multiply_add(
                lanes.load_splat(query + 12), load_cached(block + 3 * row), fourth
            )
            query += 16
            block += 4 * row
        return lanes.add(lanes.add(first, second), lanes.add(third, fourth))

    return block_scores


def build_value_sum(load_cached: Any, n_byte: int) -> Any:
    """`add_values` for caches whose elements take `n_byte` and are read by `load_cached`."""

    @part
    def add_values(weights: int, values: int, total: int, row: int, n_position: int) -> None:
        """`total += Σ weight · value` over `n_position` rows of `row` bytes, 32 lanes wide."""
        low, high = lanes.load(total), lanes.load(total + 64)
        odd_low, odd_high = lanes.zero(), lanes.zero()
        for position in range(0, n_position - 1, 2):
            value = values + position * row
            weight = lanes.load_splat(weights + 4 * position)
            odd_weight = lanes.load_splat(weights + 4 * position + 4)
            low = lanes.multiply_add(weight, load_cached(value), low)
            high = lanes.multiply_add(weight, load_cached(value + 16 * n_byte), high)
            value += row
            odd_low = lanes.multiply_add(odd_weight, load_cached(value), odd_low)
            odd_high = lanes.multiply_add(odd_weight, load_cached(value + 16 * n_byte), odd_high)
        if n_position % 2:
            value = values + (n_position - 1) * row
            weight = lanes.load_splat(weights + 4 * (n_position - 1))
            low = lanes.multiply_add(weight, load_cached(value), low)
            high = lanes.multiply_add(weight, load_cached(value + 16 * n_byte), high)
        lanes.store(total, lanes.add(low, odd_low))
        lanes.store(total + 64, lanes.add(high, odd_high))

    return add_values


def build_attend(load_cached: Any, n_byte: int) -> Any:
    """`attend` for caches whose elements take `n_byte` and are read by `load_cached`."""
    block_scores = build_key_scores(load_cached, n_byte)
    add_values = build_value_sum(load_cached, n_byte)

    @part
    def score_all(
        query: int, keys: int, scores: int, shape: Any, n_position: int, scale: float
    ) -> None:
        """Scores of all heads of the group; a block of keys is read from memory once."""
        n_head, head_pad, score_stride = shape
        factor = lanes.splat(np.float32(scale))
        for position in range(0, n_position, 16):
            block = keys + position * head_pad * n_byte
            for head in range(n_head):
                score = block_scores(query + 4 * head * head_pad, block, head_pad)
                lanes.store(
                    scores + head * score_stride + 4 * position, lanes.multiply(score, factor)
                )

    @part
    def sum_all(weights: int, values: int, totals: int, shape: Any, n_position: int) -> None:
        """Weighted sums of all heads of the group; a chunk of values is read from memory once."""
        n_head, head_pad, score_stride = shape
        for start in range(0, n_position, POSITION_CHUNK):
            n = min(POSITION_CHUNK, n_position - start)
            chunk = values + start * head_pad * n_byte
            for head in range(n_head):
                weight = weights + head * score_stride + 4 * start
                total = totals + 4 * head * head_pad
                for lane in range(0, head_pad, 32):
                    place = chunk + lane * n_byte
                    add_values(weight, place, total + 4 * lane, head_pad * n_byte, n)

    @part
    def attend(
        query: int,
        keys: int,
        values: int,
        scores: int,
        totals: int,
        shape: Any,
        n_position: int,
        scale: float,
    ) -> None:
        """Attention of `n_head` query heads that share one key/value head.

        `shape` is (n_head, head_pad, bytes per row of `scores`). The results, float32
        [n_head][head_pad], are left in `totals`; `scores` is scratch.
        """
        n_head, head_pad, score_stride = shape
        score_all(query, keys, scores, shape, n_position, scale)
        for offset in range(0, 4 * n_head * head_pad, 64):
            lanes.store(totals + offset, lanes.zero())
        for head in range(n_head):
            row = scores + head * score_stride
            weight = np.float32(1.0) / softmax_weights(row, n_position)
            factor = lanes.splat(weight)
            for offset in range(0, 4 * n_position, 64):
                lanes.store(row + offset, lanes.multiply(lanes.load(row + offset), factor))
        sum_all(scores, values, totals, shape, n_position)

    return attend


attend_single = build_attend(lanes.load, 4)
attend_half = build_attend(lanes.load_half, 2)


@part
def store_key_single(key: int, keys: int, position: int, head_pad: int) -> None:
    """Scatter a float32 key [head_pad] into its block of 16 positions."""
    place = keys + 4 * (position // 16 * 16 * head_pad + position % 16)
    for element in range(head_pad):
        lanes.store_scalar(place + 64 * element, lanes.load_scalar(key + 4 * element))


@part
def store_key_half(key: int, keys: int, position: int, head_pad: int) -> None:
    """Scatter a float32 key [head_pad] as float16 into its block of 16 positions."""
    place = keys + 2 * (position // 16 * 16 * head_pad + position % 16)
    for element in range(head_pad):
        lanes.store_half_scalar(place + 32 * element, lanes.load_scalar(key + 4 * element))


@part
def store_value_single(value: int, values: int, position: int, head_pad: int) -> None:
    """Append a float32 value row [head_pad]."""
    for offset in range(0, 4 * head_pad, 64):
        lanes.store(values + 4 * position * head_pad + offset, lanes.load(value + offset))


@part
def store_value_half(value: int, values: int, position: int, head_pad: int) -> None:
    """Append a float32 value row [head_pad] as float16."""
    for element in range(0, head_pad, 16):
        lanes.store_half(
            values + 2 * (position * head_pad + element), lanes.load(value + 4 * element)
        )
