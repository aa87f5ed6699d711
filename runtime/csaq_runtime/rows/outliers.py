"""Single weights that a matrix's types miss: a sparse matrix that is added to it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.formats import LAYOUTS, GGMLType
from csaq_runtime.gguf import GGUFFile
from csaq_runtime.rows.integers import check_range, read_columns, read_integers, whole_set, wrong
from csaq_runtime.rows.names import OUTLIER_SETS

VALUE_TYPES = frozenset(
    {GGMLType.F32, GGMLType.F16, GGMLType.BF16, GGMLType.Q8_0, GGMLType.Q5_0, GGMLType.Q4_0}
)


@dataclass(frozen=True)
class Outliers:
    """Compressed rows: row i has `values[offsets[i]:offsets[i + 1]]` in those `columns`.

    `values` float32, `columns` int64 [n]; `offsets` int64 [n_row + 1].
    """

    values: NDArray[np.float32]
    columns: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def dense(self, n_col: int) -> NDArray[np.float32]:
        """As a matrix, float32 [n_row, n_col]."""
        n_row = len(self.offsets) - 1
        full = np.zeros((n_row, n_col), np.float32)
        full[np.repeat(np.arange(n_row), np.diff(self.offsets)), self.columns] = self.values
        return full

    def of_rows(self, rows: NDArray[np.int64]) -> "Outliers":
        """Those of some rows, in that order; −1 stands for a row without any."""
        counts = np.where(rows < 0, 0, np.diff(self.offsets)[rows])
        offsets = np.concatenate([[0], np.cumsum(counts)])
        start = np.repeat(self.offsets[np.maximum(rows, 0)] - offsets[:-1], counts)
        taken = start + np.arange(offsets[-1])
        return Outliers(self.values[taken], self.columns[taken], offsets)


def read_outliers(file: GGUFFile, base: str, shape: tuple[int, int]) -> Outliers | None:
    """The outliers of matrix `base`, if it has any: of one set or two."""
    found = [_read_set(file, base, names, shape) for names in OUTLIER_SETS]
    sets = [each for each in found if each is not None]
    if len(sets) < 2:
        return sets[0] if sets else None
    merged = _merged(*sets)
    _check_columns(file, f"{base}.{OUTLIER_SETS[1][1]}", merged.columns, merged.offsets)
    return merged


def _read_set(
    file: GGUFFile, base: str, parts: tuple[str, ...], shape: tuple[int, int]
) -> Outliers | None:
    names = whole_set(file, base, parts)
    if not names:
        return None
    columns = read_columns(file, names[1])
    values = _read_values(file, names[0], len(columns))
    check_range(file, names[1], columns, shape[1])
    offsets = read_integers(file, names[2], shape[0] + 1)
    _check_offsets(file, names[2], offsets, len(values))
    _check_columns(file, names[1], columns, offsets)
    return Outliers(values, columns, offsets)


def _merged(first: Outliers, second: Outliers) -> Outliers:
    """Both sets as one, columns of a row in order."""
    rows = np.concatenate([np.repeat(np.arange(len(s.offsets) - 1), np.diff(s.offsets))
                           for s in (first, second)])  # fmt: skip
    columns = np.concatenate([first.columns, second.columns])
    order = np.lexsort((columns, rows))
    values = np.concatenate([first.values, second.values])
    return Outliers(values[order], columns[order], first.offsets + second.offsets)


def _read_values(file: GGUFFile, name: str, n: int) -> NDArray[np.float32]:
    """The first `n` values; a type of blocks fills its last one with zeros."""
    info = file.tensors[name]
    if info.type not in VALUE_TYPES or len(info.shape) != 1:
        raise wrong(file, name, f"{info.type.name} {info.shape}, expected a vector of values")
    block = LAYOUTS[info.type].block_size
    if info.shape[0] != -(-n // block) * block:
        raise wrong(file, name, f"{info.shape[0]} values for {n} columns")
    values = file.float32(name)[:n]
    if not np.isfinite(values).all():
        raise wrong(file, name, f"item {np.isfinite(values).argmin()} is not finite")
    return values


def _check_offsets(file: GGUFFile, name: str, offsets: NDArray[np.int64], n: int) -> None:
    if offsets[0] != 0 or offsets[-1] != n:
        raise wrong(file, name, f"run from {offsets[0]} to {offsets[-1]}, expected 0 to {n}")
    falls = np.diff(offsets) < 0
    if falls.any():
        raise wrong(file, name, f"item {falls.argmax() + 1} is below the one before")


def _check_columns(
    file: GGUFFile, name: str, columns: NDArray[np.int64], offsets: NDArray[np.int64]
) -> None:
    """Columns of a row must rise: a weight corrected twice has no one value."""
    stays = np.diff(columns, prepend=-1) <= 0
    starts = offsets[:-1]
    stays[starts[starts < len(columns)]] = False
    if stays.any():
        raise wrong(file, name, f"item {stays.argmax()} is not above the one before in its row")
