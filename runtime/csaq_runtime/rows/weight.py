"""One matrix of a rows file, read and checked: its tiers and what is added to them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.errors import GGUFError
from csaq_runtime.formats import dequantize
from csaq_runtime.gguf import GGUFFile
from csaq_runtime.rows.lowrank import LowRank, read_lowrank
from csaq_runtime.rows.names import BESIDE, tier_names
from csaq_runtime.rows.outliers import Outliers, read_outliers
from csaq_runtime.rows.tiers import Tiers, read_tiers

LOOKED_UP = "token_embd"
"""A matrix that is read row by row: only tiers, nothing beside them."""


@dataclass(frozen=True)
class RowsWeight:
    """W of `shape` (n_row, n_col): the tiers' rows, plus `outliers`, plus `lowrank` if any."""

    name: str
    shape: tuple[int, int]
    tiers: Tiers
    outliers: Outliers | None
    lowrank: LowRank | None

    @property
    def is_plain(self) -> bool:
        """Whether it is one tensor and nothing else, as in a stock file."""
        in_order = bool((self.tiers.rows == np.arange(self.shape[0])).all())
        alone = self.outliers is None and self.lowrank is None
        return alone and in_order and len(self.tiers.tensors) == 1

    def float32(self, file: GGUFFile) -> NDArray[np.float32]:
        """The whole matrix as it acts, float32 [n_row, n_col], rows in their original order."""
        full = np.empty(self.shape, np.float32)
        for info, rows in self.tiers.parts():
            full[rows] = dequantize(file.data(info.name), info.type)
        if self.outliers is not None:
            full += self.outliers.dense(self.shape[1])
        if self.lowrank is not None:
            full[:, self.lowrank.columns] += file.float32(self.lowrank.tensor.name)
        return full


def read_weights(
    file: GGUFFile, shapes: Mapping[str, tuple[int, int]], optional: frozenset[str] = frozenset()
) -> dict[str, RowsWeight]:
    """The matrices of `shapes` by name; those in `optional` may be missing.

    Raises GGUFError naming the tensor that is missing, misshapen or inconsistent.
    """
    tiers = tier_names(file.tensors)
    return {
        base: _read_weight(file, base, tiers.get(base, []), shape)
        for base, shape in shapes.items()
        if base not in optional or base in tiers or f"{base}.weight" in file.tensors
    }


def _read_weight(file: GGUFFile, base: str, names: list[str], shape: tuple[int, int]) -> RowsWeight:
    tiers = read_tiers(file, base, names, shape)
    outliers, lowrank = read_outliers(file, base, shape), read_lowrank(file, base, shape)
    if base == LOOKED_UP and (outliers is not None or lowrank is not None):
        raise GGUFError(file.path, f"tensor {base}.weight", "may have nothing but tiers")
    return RowsWeight(base, shape, tiers, outliers, lowrank)


def names_of(weight: RowsWeight) -> set[str]:
    """Every tensor name that belongs to the matrix, there or not."""
    own = {info.name for info in weight.tiers.tensors}
    return own | {f"{weight.name}.{last}" for last in BESIDE}
