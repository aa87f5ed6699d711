"""Kept weights of a matrix → the tensors that hold them beside its base.

A matrix `blk.3.ffn_up.weight` keeps what single weights differ from its base by in
compressed sparse rows: `blk.3.ffn_up.outlier_values`, `…_columns` and `…_offsets`. A second
set of coarser values, `…outlier8_*`, adds to the first.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from csaq_export.plan import TensorPlan
from csaq_export.quantize import decode, encode
from csaq_export.weight import Weight
from csaq_runtime.formats import LAYOUTS, GGMLType

# Rows up to this long have their columns in 16 bits.
SHORT_ROW = 1 << 16


@dataclass(frozen=True)
class OutlierSet:
    """How one set is stored: the ending of its tensors' names, and the type of its values."""

    ending: str
    type: GGMLType

    @property
    def bits(self) -> float:
        """Bits of a kept weight, its place in a short row included."""
        return LAYOUTS[self.type].bpw + LAYOUTS[GGMLType.I16].bpw

    def tensors(self, weight: Weight, n_kept: int) -> tuple[TensorPlan, ...]:
        """What `n_kept` weights of a matrix are stored as; nothing for none."""
        if n_kept == 0:
            return ()
        block = LAYOUTS[self.type].block_size
        stem = f"{weight.name.removesuffix('.weight')}.{self.ending}"
        index = GGMLType.I16 if weight.n_col <= SHORT_ROW else GGMLType.I32
        shapes = {
            "values": (-(-n_kept // block) * block, self.type),
            "columns": (n_kept, index),
            "offsets": (weight.n_row + 1, GGMLType.I32),
        }
        return tuple(_planned(f"{stem}_{part}", *shape) for part, shape in shapes.items())

    def packed(self, weight: Weight, residual: Tensor, kept: Tensor) -> "Stored":
        """The bytes of float32 `residual` [n_row, n_col] where `kept`, by tensor name.

        Raises ModelError where a value does not fit the type.
        """
        n_kept = int(kept.sum())
        plans = self.tensors(weight, n_kept)
        stored = torch.zeros_like(residual)
        if not plans:
            return Stored({}, stored)
        values, columns, offsets = plans
        flat = torch.zeros(1, values.weight.n_col)
        flat[0, :n_kept] = residual[kept]
        data = encode(flat, self.type)
        stored[kept] = decode(data, self.type)[0, :n_kept]
        index = np.uint16 if columns.type == GGMLType.I16 else np.int32
        starts = np.concatenate([[0], kept.sum(1).cumsum(0).numpy()]).astype(np.int32)
        found = {
            values.name: data.numpy().reshape(-1),
            columns.name: kept.nonzero()[:, 1].numpy().astype(index).view(np.uint8),
            offsets.name: starts.view(np.uint8),
        }
        return Stored({name: torch.from_numpy(bytes_) for name, bytes_ in found.items()}, stored)


@dataclass(frozen=True)
class Stored:
    """`data`: uint8 [n_bytes] by tensor name; `values`: what it adds, float32 [n_row, n_col]."""

    data: dict[str, Tensor]
    values: Tensor


# The residual as it is; what makes a tier of 16 bits, and TaCQ's circuit.
FULL = OutlierSet("outlier", GGMLType.F16)
_COARSE_TYPES = {4: GGMLType.Q4_0, 3: GGMLType.Q5_0, 2: GGMLType.Q8_0}


def coarse(base_bits: int) -> OutlierSet:
    """The set that brings a base of so many bits to 8."""
    return OutlierSet("outlier8", _COARSE_TYPES[base_bits])


def _planned(name: str, n: int, ggml_type: GGMLType) -> TensorPlan:
    """A vector made by the method itself; its bytes come from elsewhere."""
    empty = Weight(name, (n,), ggml_type, lambda start, end: np.empty((0, 0), np.uint8))
    return TensorPlan(empty, ggml_type, ggml_type)
