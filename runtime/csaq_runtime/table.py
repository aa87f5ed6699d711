"""Model → the record tables that the kernels walk through (`kernels/record.py`)."""

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.buffers import address
from csaq_runtime.kernels.activation import Activation, packed_activation_bytes
from csaq_runtime.kernels.dispatch import quantize_address
from csaq_runtime.kernels.record import LAYER, LINEAR, TILE_TOKENS
from csaq_runtime.model import Layer, Linear, Model

READ_TOGETHER = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
"""Linear layers that read the same input."""

N_SLOT = max(len(names) for names in READ_TOGETHER)
"""Packed copies of one input that may be needed at once."""


def linear_record(linear: Linear, slot: int) -> np.void:
    """The `LINEAR` record of a layer that reads packed copy number `slot` of its input."""
    matrix = linear.matrix
    record: np.void = np.zeros(1, LINEAR)[0]
    record["weight"], record["matmul"] = matrix.address, matrix.matmul
    record["quantize"] = quantize_address(matrix.activation)
    record["n_col"], record["n_group"] = matrix.n_col, matrix.n_group
    record["tile_bytes"] = packed_activation_bytes(matrix.activation, matrix.n_col, TILE_TOKENS)
    record["slot"] = slot
    record["bias"], record["scale"] = address(linear.bias), linear.scale
    return record


def layer_table(model: Model) -> NDArray[np.void]:
    """`LAYER` records of all layers; they point into `model`, which must outlive them."""
    table = np.zeros(len(model.layers), LAYER)
    for record, layer in zip(table, model.layers, strict=True):
        for name in ("attn_norm", "ffn_norm", "q_norm", "k_norm"):
            record[name] = address(getattr(layer, name))
        for names in READ_TOGETHER:
            for name, slot in zip(names, _slots(layer, names), strict=True):
                record[name] = linear_record(layer.linears[name], slot)
    return table


def _slots(layer: Layer, names: tuple[str, ...]) -> list[int]:
    """Packed copy that each of the layers reads: one per kind of activation, numbered from 0."""
    kinds: list[Activation] = []
    for name in names:
        kind = layer.linears[name].matrix.activation
        if kind not in kinds:
            kinds.append(kind)
    return [kinds.index(layer.linears[name].matrix.activation) for name in names]


def slot_bytes(model: Model, n_token: int) -> int:
    """Bytes that the largest packed copy of `n_token` input rows takes."""
    shapes = {(linear.matrix.activation, linear.matrix.n_col) for linear in model.linears}
    return max(packed_activation_bytes(kind, n_col, n_token) for kind, n_col in shapes)
