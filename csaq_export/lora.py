"""Corrections of single rows or columns → an adapter GGUF that stock llama.cpp adds with `--lora`.

y = W·x + B·(A·x), names and keys as src/llama-adapter.cpp reads them; without
`adapter.lora.alpha` the factors count as they are. A stock file cannot mix types inside a
matrix, an adapter beside it can.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from csaq_export.metadata import Metadata, text
from csaq_export.plan import TensorPlan
from csaq_export.weight import Weight
from csaq_export.write_gguf import front_matter, new_file, write_rows
from csaq_runtime.errors import ModelError
from csaq_runtime.formats import GGMLType

_F16_MAX = 65504.0


@dataclass(frozen=True)
class Factors:
    """What is added to a matrix [n_row, n_col]: `b` @ `a`, float32 [n_row, r] and [r, n_col]."""

    a: Tensor
    b: Tensor


def of_columns(change: Tensor, columns: Tensor, n_col: int) -> Factors:
    """`change` [n_row, r] of the `columns` int64 [r]: A picks them."""
    return Factors(torch.nn.functional.one_hot(columns, n_col).float(), change)


def of_rows(change: Tensor, rows: Tensor, n_row: int) -> Factors:
    """`change` [r, n_col] of the `rows` int64 [r]: B puts them in their places."""
    return Factors(change, torch.nn.functional.one_hot(rows, n_row).float().T)


def joined(one: Factors, other: Factors) -> Factors:
    """Both changes of one matrix."""
    return Factors(torch.cat([one.a, other.a]), torch.cat([one.b, other.b], 1))


def adapter_path(out: Path) -> Path:
    """Where the adapter of the stock file `out` is."""
    return out.with_name(f"{out.stem}-lora.gguf")


def write_adapter(
    path: Path, architecture: str, factors: Mapping[str, Factors], force: bool
) -> None:
    """Write the factors (by the matrix's name) in F16; raises what `new_file` raises.

    ModelError where a value does not fit F16.
    """
    values: dict[str, Tensor] = {}
    for name, each in factors.items():
        values |= {f"{name}.lora_a": each.a, f"{name}.lora_b": each.b}
    tensors = [_planned(name, value) for name, value in values.items()]
    data = [tensor.weight.read(0, tensor.weight.n_row) for tensor in tensors]
    with new_file(path, sum(part.nbytes for part in data), force) as file:
        file.write(front_matter(_metadata(architecture), tensors))
        for tensor, part in zip(tensors, data, strict=True):
            write_rows(file, [part], tensor.n_bytes)


def _planned(name: str, value: Tensor) -> TensorPlan:
    if not bool((value.abs() <= _F16_MAX).all()):
        raise ModelError(f"{name}: a value does not fit F16")
    data = value.half().contiguous().numpy().view(np.uint8)
    shape = tuple(value.shape)
    weight = Weight(name, shape, GGMLType.F16, lambda start, end: data[start:end])
    return TensorPlan(weight, GGMLType.F16, GGMLType.F16)


def _metadata(architecture: str) -> Metadata:
    return {
        "general.architecture": text(architecture),
        "general.type": text("adapter"),
        "adapter.type": text("lora"),
    }
