"""A matrix of a rows file → parts, places and corrections, as `kernels/mixed.py` reads them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.gguf import GGUFFile
from csaq_runtime.heads import PADDING, take_elements, take_rows
from csaq_runtime.kernels.tile import N_ROW
from csaq_runtime.rows.lowrank import LowRank
from csaq_runtime.rows.outliers import Outliers
from csaq_runtime.rows.weight import RowsWeight
from csaq_runtime.weights import PackedMatrix, pack_matrix

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Factor:
    """R with its rows in stored order, and `columns` int32 [r] of x that it multiplies."""

    matrix: PackedMatrix
    columns: NDArray[np.int32]


@dataclass(frozen=True)
class MixedLinear:
    """`y[places] = ((W + S) · x + R · x[columns]) · scale + bias`; W in `parts` of one type each.

    Stored rows are counted over all parts, each padded to whole groups of 16: `places` int32
    [n_stored] is the element of y that a row goes to, −1 for padding; `n_out` elements of y are
    filled. `outliers` (S, by stored row) and `factor` (R) may be None, `bias` float32 [n_stored].
    """

    parts: tuple[PackedMatrix, ...]
    places: NDArray[np.int32]
    n_out: int
    outliers: Outliers | None
    factor: Factor | None
    scale: float
    bias: NDArray[np.float32] | None


@dataclass(frozen=True)
class _Part:
    """Rows of one tier: which of its rows (−1 for zeros), where they go, which they were."""

    name: str
    taken: Indices
    places: Indices
    original: Indices


def pack_mixed(
    file: GGUFFile,
    weight: RowsWeight,
    wanted: Indices,
    scale: float,
    bias: NDArray[np.float32] | None,
    planes: bool,
) -> MixedLinear:
    """Pack the rows `wanted` of `weight`: element i of y is row `wanted[i]`, or 0 for −1.

    `bias` float32 [len(wanted)] or longer. `planes` as in `pack_matrix`.
    """
    parts = _parts(weight, wanted)
    matrices = tuple(_packed(file, part, planes) for part in parts)
    places = _in_groups([part.places for part in parts])
    original = _in_groups([part.original for part in parts])
    outliers = None if weight.outliers is None else weight.outliers.of_rows(original)
    factor = None if weight.lowrank is None else _factor(file, weight.lowrank, original)
    moved = None if bias is None else take_elements(bias, places)
    return MixedLinear(
        matrices, places.astype(np.int32), len(wanted), outliers, factor, scale, moved
    )


def _parts(weight: RowsWeight, wanted: Indices) -> list[_Part]:
    """The tiers that hold wanted rows; the last one also gives the zeros."""
    place_of = np.full(weight.shape[0], PADDING)
    is_row = wanted != PADDING
    place_of[wanted[is_row]] = np.flatnonzero(is_row)
    found = []
    for info, rows in weight.tiers.parts():
        taken = np.flatnonzero(place_of[rows] != PADDING)
        if len(taken):
            found.append(_Part(info.name, taken, place_of[rows[taken]], rows[taken]))
    zeros = np.flatnonzero(~is_row)
    if len(zeros):
        last, none = found.pop(), np.full(len(zeros), PADDING)
        found.append(
            _Part(
                last.name,
                np.concatenate([last.taken, none]),
                np.concatenate([last.places, zeros]),
                np.concatenate([last.original, none]),
            )
        )
    return found


def _packed(file: GGUFFile, part: _Part, planes: bool) -> PackedMatrix:
    info = file.tensors[part.name]
    rows = take_rows(file.data(part.name), part.taken)
    return pack_matrix(rows, info.type, info.n_col, planes=planes)


def _in_groups(pieces: list[Indices]) -> Indices:
    """Pieces one after another, each padded to whole groups with −1."""
    return np.concatenate(
        [np.pad(p, (0, -len(p) % N_ROW), constant_values=PADDING) for p in pieces]
    )


def _factor(file: GGUFFile, lowrank: LowRank, original: Indices) -> Factor:
    info = lowrank.tensor
    rows = take_rows(file.data(info.name), original)
    return Factor(pack_matrix(rows, info.type, info.n_col), lowrank.columns.astype(np.int32))
