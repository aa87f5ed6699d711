"""The inner loops of attention: one query head against 16 keys, one chunk of values.

Each exists for float16 and for float32 caches; several independent sums hide the latency of
the additions, always the same ones, so results do not depend on how much is computed at once.
"""

from typing import Any

from csaq_runtime.kernels import lanes
from csaq_runtime.kernels.jit import part


def build_score_block(load_cached: Any, n_byte: int) -> Any:
    """`score_block` for a cache of `n_byte`-byte elements that `load_cached` reads."""

    @part
    def score_block(query: int, block: int, scores: int, head_pad: int, scale: Any) -> None:
        """Scaled dot products of a query with the 16 keys of a block."""
        row = 16 * n_byte
        first, second, third, fourth = lanes.zero(), lanes.zero(), lanes.zero(), lanes.zero()
        for _ in range(0, head_pad, 4):
            key = load_cached(block)
            first = lanes.multiply_add(lanes.load_splat(query), key, first)
            key = load_cached(block + row)
            second = lanes.multiply_add(lanes.load_splat(query + 4), key, second)
            key = load_cached(block + 2 * row)
            third = lanes.multiply_add(lanes.load_splat(query + 8), key, third)
            key = load_cached(block + 3 * row)
            fourth = lanes.multiply_add(lanes.load_splat(query + 12), key, fourth)
            query += 16
            block += 4 * row
        total = lanes.add(lanes.add(first, second), lanes.add(third, fourth))
        lanes.store(scores, lanes.multiply(total, lanes.splat(scale)))

    return score_block


def build_add_values(load_cached: Any, n_byte: int) -> Any:
    """`add_values` for a cache of `n_byte`-byte elements that `load_cached` reads."""

    @part
    def add_columns(weights: int, value: int, total: int, row: int, n_position: int) -> None:
        """`add_values` for 32 columns: even and odd positions are summed apart."""
        low, high = lanes.load(total), lanes.load(total + 64)
        odd_low, odd_high = lanes.zero(), lanes.zero()
        half_row = 16 * n_byte
        for _ in range(n_position // 2):
            weight = lanes.load_splat(weights)
            low = lanes.multiply_add(weight, load_cached(value), low)
            high = lanes.multiply_add(weight, load_cached(value + half_row), high)
            weight = lanes.load_splat(weights + 4)
            odd_low = lanes.multiply_add(weight, load_cached(value + row), odd_low)
            odd_high = lanes.multiply_add(weight, load_cached(value + row + half_row), odd_high)
            weights += 8
            value += 2 * row
        if n_position % 2:
            weight = lanes.load_splat(weights)
            low = lanes.multiply_add(weight, load_cached(value), low)
            high = lanes.multiply_add(weight, load_cached(value + half_row), high)
        lanes.store(total, lanes.add(low, odd_low))
        lanes.store(total + 64, lanes.add(high, odd_high))

    @part
    def add_values(weights: int, values: int, total: int, head_pad: int, n_position: int) -> None:
        """`total[head_pad] += Σ weight · value` over `n_position` rows of values."""
        for column in range(0, head_pad, 32):
            place = values + column * n_byte
            add_columns(weights, place, total + 4 * column, head_pad * n_byte, n_position)

    return add_values


score_block_single = build_score_block(lanes.load, 4)
score_block_half = build_score_block(lanes.load_half, 2)
add_values_single = build_add_values(lanes.load, 4)
add_values_half = build_add_values(lanes.load_half, 2)
