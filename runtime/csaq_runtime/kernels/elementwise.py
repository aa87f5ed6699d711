"""Elementwise passes over a thread's own 16-column groups of a batch of float32 rows."""

import numpy as np

from csaq_runtime.kernels import lanes
from csaq_runtime.kernels.jit import part


@part
def silu_multiply(gate: int, up: int, row_bytes: int, n_row: int, start: int, stop: int) -> None:
    """`gate = gate · sigmoid(gate) · up` for the bytes `start … stop` of each of `n_row` rows."""
    one = lanes.splat(np.float32(1.0))
    for row in range(n_row):
        for offset in range(row * row_bytes + start, row * row_bytes + stop, 64):
            value = lanes.load(gate + offset)
            sigmoid = lanes.divide(one, lanes.add(one, lanes.exponential(lanes.negate(value))))
            product = lanes.multiply(lanes.multiply(value, sigmoid), lanes.load(up + offset))
            lanes.store(gate + offset, product)


@part
def scale_and_shift(
    y: int, bias: int, scale: float, row_bytes: int, n_row: int, start: int, stop: int
) -> None:
    """`y = y · scale + bias` for the bytes `start … stop` of each of `n_row` rows."""
    factor = lanes.splat(np.float32(scale))
    for row in range(n_row):
        for offset in range(start, stop, 64):
            value = lanes.load(y + row * row_bytes + offset)
            shifted = lanes.multiply_add(value, factor, lanes.load(bias + offset))
            lanes.store(y + row * row_bytes + offset, shifted)


@part
def accumulate(x: int, y: int, row_bytes: int, n_row: int, start: int, stop: int) -> None:
    """`x += y` for the bytes `start … stop` of each of `n_row` rows."""
    for row in range(n_row):
        for offset in range(row * row_bytes + start, row * row_bytes + stop, 64):
            lanes.store(x + offset, lanes.add(lanes.load(x + offset), lanes.load(y + offset)))
