"""Writes one position's key and value of a head into the cache (layout: `attention.py`)."""

from typing import Any

import numpy as np

from csaq_runtime.kernels import lanes
from csaq_runtime.kernels.cached import F16_CACHE, F32_CACHE, GROUP, SCALE_BYTES
from csaq_runtime.kernels.jit import part

F32, F16 = F32_CACHE.kind, F16_CACHE.kind
CODE_MAX = np.float32(127)


@part
def store_key(key: int, keys: int, kind: int, position: int, head_pad: int) -> None:
    """Scatter a float32 key [head_pad] into its block of 16 positions."""
    place = position // 16 * 16 * head_pad + position % 16
    if kind == F32:
        for element in range(head_pad):
            value = lanes.load_scalar(key + 4 * element)
            lanes.store_scalar(keys + 4 * place + 64 * element, value)
    elif kind == F16:
        for element in range(head_pad):
            value = lanes.load_scalar(key + 4 * element)
            lanes.store_half_scalar(keys + 2 * place + 32 * element, value)
    else:
        store_key_codes(key, keys, position, head_pad)


@part
def store_value(value: int, values: int, kind: int, position: int, head_pad: int) -> None:
    """Append a float32 value row [head_pad]."""
    place = position * head_pad
    if kind == F32:
        for element in range(0, head_pad, 16):
            lanes.store(values + 4 * (place + element), lanes.load(value + 4 * element))
    elif kind == F16:
        for element in range(0, head_pad, 16):
            lanes.store_half(values + 2 * (place + element), lanes.load(value + 4 * element))
    else:
        store_value_codes(value, values, position, head_pad)


@part
def scale_of(x: int) -> Any:
    """(scale, 1 / scale) of a group of 32 float32, as ggml's quantize_row_q8_0 takes them."""
    first, second = lanes.magnitude(lanes.load(x)), lanes.magnitude(lanes.load(x + 64))
    scale = lanes.largest(lanes.larger(first, second)) / CODE_MAX
    inverse = np.float32(0)
    if scale > np.float32(0):
        inverse = np.float32(1) / scale
    return scale, inverse


@part
def store_key_codes(key: int, keys: int, position: int, head_pad: int) -> None:
    """Scatter a key as int8 codes; 16 scales follow the codes of each group of 32 elements."""
    group_bytes = 16 * (GROUP + SCALE_BYTES)
    lane = position % 16
    block = keys + position // 16 * (head_pad // GROUP) * group_bytes
    for group in range(head_pad // GROUP):
        source, place = key + 4 * GROUP * group, block + group * group_bytes
        scale, inverse = scale_of(source)
        for element in range(GROUP):
            value = lanes.load_scalar(source + 4 * element) * inverse
            lanes.store_code(place + 16 * element + lane, value)
        lanes.store_half_scalar(place + 16 * GROUP + SCALE_BYTES * lane, scale)


@part
def store_value_codes(value: int, values: int, position: int, head_pad: int) -> None:
    """Append a value row as groups of a scale and 32 int8 codes."""
    group_bytes = GROUP + SCALE_BYTES
    row = values + position * (head_pad // GROUP) * group_bytes
    for group in range(head_pad // GROUP):
        source, place = value + 4 * GROUP * group, row + group * group_bytes
        scale, inverse = scale_of(source)
        factor = lanes.splat(inverse)
        lanes.store_half_scalar(place, scale)
        for half in range(2):
            codes = lanes.multiply(lanes.load(source + 64 * half), factor)
            lanes.store_codes(place + SCALE_BYTES + 16 * half, codes)
