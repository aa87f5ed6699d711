"""Model → the record tables that the kernels walk through (`kernels/record.py`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.buffers import address, aligned_bytes
from csaq_runtime.kernels.activation import Activation, packed_activation_bytes
from csaq_runtime.kernels.dispatch import quantize_address
from csaq_runtime.kernels.record import INPUT, INPUTS, LAYER, LINEAR, MIXED, PART, TILE_TOKENS
from csaq_runtime.kernels.tile import N_ROW
from csaq_runtime.model import Linear, Model
from csaq_runtime.rows.linear import MixedLinear
from csaq_runtime.weights import PackedMatrix

READ_TOGETHER = {
    "qkv_inputs": ("q", "k", "v"),
    "o_inputs": ("o",),
    "gate_up_inputs": ("gate", "up"),
    "down_inputs": ("down",),
}
"""Linear layers that read the same input, by the field that lists its packed copies."""

Keep = Callable[[NDArray[np.generic]], int]
"""Holds an array for as long as the tables live; returns its address."""


@dataclass(frozen=True, eq=False)
class Form:
    """A way to pack an input: all of its columns, or some (int32 [n_col])."""

    activation: Activation
    n_col: int
    columns: NDArray[np.int32] | None = None

    def bytes_of(self, n_token: int) -> int:
        """Packed bytes of `n_token` rows."""
        return packed_activation_bytes(self.activation, self.n_col, n_token)

    def fits(self, activation: Activation, columns: NDArray[np.int32] | None) -> bool:
        """Whether these columns packed so are this form."""
        return self.activation is activation and self.columns is columns


def forms(linears: Sequence[Linear | MixedLinear]) -> list[Form]:
    """What the layers, which read one input, need it packed to: numbered from 0."""
    found: list[Form] = []
    for linear in linears:
        for activation, n_col, columns in _wants(linear):
            if not any(form.fits(activation, columns) for form in found):
                found.append(Form(activation, n_col, columns))
    return found


def _wants(
    linear: Linear | MixedLinear,
) -> list[tuple[Activation, int, NDArray[np.int32] | None]]:
    if isinstance(linear, Linear):
        return [(linear.matrix.activation, linear.matrix.n_col, None)]
    n_col = linear.parts[0].n_col
    wants: list[tuple[Activation, int, NDArray[np.int32] | None]] = [
        (part.activation, n_col, None) for part in linear.parts
    ]
    if linear.outliers is not None:
        wants.append((Activation.FLOAT32, n_col, None))
    if linear.factor is not None:
        matrix = linear.factor.matrix
        wants.append((matrix.activation, matrix.n_col, linear.factor.columns))
    return wants


def _slot(
    known: Sequence[Form], activation: Activation, columns: NDArray[np.int32] | None = None
) -> int:
    return next(i for i, form in enumerate(known) if form.fits(activation, columns))


def inputs_record(known: Sequence[Form], keep: Keep) -> np.void:
    """The `INPUTS` record of some forms."""
    table = np.zeros(len(known), INPUT)
    for record, form in zip(table, known, strict=True):
        record["quantize"], record["n_col"] = quantize_address(form.activation), form.n_col
        record["tile_bytes"], record["columns"] = form.bytes_of(TILE_TOKENS), address(form.columns)
    inputs: np.void = np.zeros(1, INPUTS)[0]
    inputs["table"], inputs["n_slot"] = keep(table), len(table)
    return inputs


def linear_record(linear: Linear | MixedLinear, known: Sequence[Form], keep: Keep) -> np.void:
    """The `LINEAR` record of a layer whose input is packed in the ways of `known`."""
    record: np.void = np.zeros(1, LINEAR)[0]
    record["bias"], record["scale"] = address(linear.bias), linear.scale
    if isinstance(linear, MixedLinear):
        record["n_group"] = -(-linear.n_out // N_ROW)
        record["mixed"] = keep(_mixed_table(linear, known, keep))
        return record
    matrix = linear.matrix
    record["weight"], record["matmul"] = matrix.address, matrix.matmul
    record["n_col"], record["n_group"] = matrix.n_col, matrix.n_group
    record["slot"] = _slot(known, matrix.activation)
    record["tickets"] = keep(aligned_bytes(8))
    return record


def _mixed_table(linear: MixedLinear, known: Sequence[Form], keep: Keep) -> NDArray[np.void]:
    """One `MIXED` record."""
    parts, first = np.zeros(len(linear.parts), PART), 0
    for record, matrix in zip(parts, linear.parts, strict=True):
        _fill_part(record, matrix, first, _slot(known, matrix.activation))
        first += matrix.n_group
    table: NDArray[np.void] = np.zeros(1, MIXED)
    mixed = table[0]
    mixed["parts"], mixed["n_part"] = keep(parts), len(parts)
    mixed["places"], mixed["n_stored"] = address(linear.places), len(linear.places)
    if linear.outliers is not None and len(linear.outliers.values):
        sparse = linear.outliers
        mixed["n_outlier"], mixed["values"] = len(sparse.values), address(sparse.values)
        mixed["offsets"] = address(sparse.offsets)
        mixed["columns"] = keep(sparse.columns.astype(np.int32))
        mixed["float_slot"] = slot = _slot(known, Activation.FLOAT32)
        mixed["float_tile_bytes"] = known[slot].bytes_of(TILE_TOKENS)
    if linear.factor is not None:
        matrix, columns = linear.factor.matrix, linear.factor.columns
        mixed["has_factor"] = 1
        _fill_part(mixed["factor"], matrix, 0, _slot(known, matrix.activation, columns))
    return table


def _fill_part(record: Any, matrix: PackedMatrix, first_group: int, slot: int) -> None:
    record["weight"], record["matmul"] = matrix.address, matrix.matmul
    record["n_col"], record["n_group"] = matrix.n_col, matrix.n_group
    record["first_group"], record["slot"] = first_group, slot
    record["tile_bytes"] = packed_activation_bytes(matrix.activation, matrix.n_col, TILE_TOKENS)


def layer_table(model: Model, keep: Keep) -> NDArray[np.void]:
    """`LAYER` records of all layers; they point into `model`, which must outlive them."""
    table = np.zeros(len(model.layers), LAYER)
    for record, layer in zip(table, model.layers, strict=True):
        for name in ("attn_norm", "ffn_norm", "q_norm", "k_norm"):
            record[name] = address(getattr(layer, name))
        for field, names in READ_TOGETHER.items():
            known = forms([layer.linears[name] for name in names])
            record[field] = inputs_record(known, keep)
            for name in names:
                record[name] = linear_record(layer.linears[name], known, keep)
    return table


def all_forms(model: Model) -> list[list[Form]]:
    """The forms of every input of `model`."""
    groups = [
        [layer.linears[name] for name in names]
        for layer in model.layers
        for names in READ_TOGETHER.values()
    ]
    return [forms(group) for group in [*groups, [model.output]]]
