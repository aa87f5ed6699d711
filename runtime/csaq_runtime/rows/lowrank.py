"""A factor R that some input columns are multiplied by beside the matrix: y += R · x[columns]."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.gguf import GGUFFile, TensorInfo
from csaq_runtime.kernels.dispatch import MATRIX_TYPES
from csaq_runtime.rows.integers import check_range, read_integers, whole_set, wrong
from csaq_runtime.rows.names import LOWRANK


@dataclass(frozen=True)
class LowRank:
    """`tensor` [n_row, r], its rows in the matrix's original order; `columns` int64 [r]."""

    tensor: TensorInfo
    columns: NDArray[np.int64]


def read_lowrank(file: GGUFFile, base: str, shape: tuple[int, int]) -> LowRank | None:
    """The factor of matrix `base`, if it has one."""
    names = whole_set(file, base, LOWRANK)
    if not names:
        return None
    info = file.tensors[names[0]]
    if len(info.shape) != 2 or info.n_row != shape[0]:
        raise wrong(file, names[0], f"shape {info.shape}, expected ({shape[0]}, r)")
    if info.type not in MATRIX_TYPES:
        raise wrong(file, names[0], f"type {info.type.name} is not supported here")
    columns = read_integers(file, names[1], info.n_col)
    check_range(file, names[1], columns, shape[1])
    if len(np.unique(columns)) < len(columns):
        raise wrong(file, names[1], "a column is there twice")
    return LowRank(info, columns)
