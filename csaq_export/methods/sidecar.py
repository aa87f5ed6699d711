"""Matrices of a rows file → ordinary ones, and factors for an adapter with what these lack.

The ordinary matrix has the type of most rows: their bytes are copied, all others are rounded to
that type, and the adapter adds what they lose by it. A factor of salient columns (`lowrank`) joins
the adapter as it is. Single weights have no low rank, and where the factors would take more bytes
than the matrix in F16 they are not worth it: such matrices are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from csaq_export.lora import Factors, joined, of_columns, of_rows
from csaq_export.quantize import decode, encode
from csaq_export.weight import Weight
from csaq_runtime.formats import GGMLType, row_bytes
from csaq_runtime.gguf import GGUFFile, TensorInfo
from csaq_runtime.hparams import read_hparams
from csaq_runtime.rows.weight import LOOKED_UP, RowsWeight
from csaq_runtime.tensors import check_tensors


@dataclass(frozen=True)
class Split:
    """A matrix = `base` + what `factors` say, but for the rounding of these to F16."""

    base: Weight
    factors: Factors


def split_matrices(file: GGUFFile) -> dict[str, Split]:
    """Name → Split of those matrices of a rows file that an adapter suits."""
    return {f"{each.name}.weight": _split(file, each) for each in _suited(file)}


def _suited(file: GGUFFile) -> Iterator[RowsWeight]:
    for matrix in check_tensors(file, read_hparams(file)).values():
        can = matrix.outliers is None and matrix.name != LOOKED_UP and not matrix.is_plain
        if can and _n_bytes(matrix) < matrix.shape[0] * row_bytes(GGMLType.F16, matrix.shape[1]):
            yield matrix


def _n_bytes(matrix: RowsWeight) -> int:
    """Bytes of the ordinary matrix and of the factors."""
    n_row, n_col = matrix.shape
    info, rows = _largest(matrix)
    n_column = 0 if matrix.lowrank is None else len(matrix.lowrank.columns)
    rank = n_row - len(rows) + n_column
    return n_row * row_bytes(info.type, n_col) + rank * row_bytes(GGMLType.F16, n_row + n_col)


def _largest(matrix: RowsWeight) -> tuple[TensorInfo, NDArray[np.int64]]:
    return max(matrix.tiers.parts(), key=lambda part: len(part[1]))


def _split(file: GGUFFile, matrix: RowsWeight) -> Split:
    n_row, n_col = matrix.shape
    info, rows = _largest(matrix)
    meant = torch.from_numpy(replace(matrix, lowrank=None).float32(file))
    packed = encode(meant, info.type)
    packed[rows] = torch.from_numpy(file.data(info.name).copy())
    others = torch.from_numpy(np.setdiff1d(np.arange(n_row), rows))
    lacking = (meant - decode(packed, info.type))[others]
    factors = of_rows(lacking, others, n_row)
    if matrix.lowrank is not None:
        change = torch.from_numpy(file.float32(matrix.lowrank.tensor.name))
        columns = torch.from_numpy(matrix.lowrank.columns)
        factors = joined(factors, of_columns(change, columns, n_col))
    data = packed.numpy()
    base = Weight(f"{matrix.name}.weight", matrix.shape, info.type, lambda i, j: data[i:j])
    return Split(base, factors)
