"""Root-mean-square normalization (arXiv:1910.07467) of padded float32 rows at raw addresses."""

import numpy as np

from csaq_runtime.kernels import lanes
from csaq_runtime.kernels.jit import part

ROW_STEP = 64


@part
def mean_square_scale(x: int, n_element: int, n_byte: int, epsilon: float) -> float:
    """1 / sqrt(mean(x²) + epsilon) over `n_element` values; the padding up to `n_byte` is zero."""
    squares = lanes.zero()
    for offset in range(0, n_byte, ROW_STEP):
        value = lanes.load(x + offset)
        squares = lanes.multiply_add(value, value, squares)
    mean = lanes.total(squares) / np.float32(n_element)
    scale: float = np.float32(1.0) / lanes.square_root(mean + np.float32(epsilon))
    return scale


@part
def rms_norm(x: int, weight: int, y: int, n_element: int, n_byte: int, epsilon: float) -> None:
    """`y = x / rms(x) · weight`; rows of `n_byte` bytes, a multiple of 64, zero-padded."""
    scale = lanes.splat(mean_square_scale(x, n_element, n_byte, epsilon))
    for offset in range(0, n_byte, ROW_STEP):
        value = lanes.multiply(lanes.load(x + offset), scale)
        lanes.store(y + offset, lanes.multiply(value, lanes.load(weight + offset)))
