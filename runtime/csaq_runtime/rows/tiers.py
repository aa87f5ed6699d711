"""The tiers of a matrix: which tensor holds which of its rows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.errors import GGUFError
from csaq_runtime.gguf import GGUFFile, TensorInfo
from csaq_runtime.kernels.dispatch import MATRIX_TYPES
from csaq_runtime.rows.integers import check_range, read_columns, wrong
from csaq_runtime.rows.names import ROWS


@dataclass(frozen=True)
class Tiers:
    """`rows` int64 [n_row]: original index of every stored row, tensor after tensor."""

    tensors: tuple[TensorInfo, ...]
    rows: NDArray[np.int64]

    def parts(self) -> list[tuple[TensorInfo, NDArray[np.int64]]]:
        """Each tensor with the original indices of its rows."""
        ends = np.cumsum([info.n_row for info in self.tensors])[:-1]
        return list(zip(self.tensors, np.split(self.rows, ends), strict=True))


def read_tiers(file: GGUFFile, base: str, names: list[str], shape: tuple[int, int]) -> Tiers:
    """The tiers `names` (or none: the matrix is one tensor) of matrix `base`."""
    plain = f"{base}.weight"
    if names and plain in file.tensors:
        raise wrong(file, plain, f"stands beside the tier {names[0]}")
    if not names and plain not in file.tensors:
        raise GGUFError(file.path, f"tensor {plain}", "is missing, and there are no tiers of it")
    tensors = tuple(file.tensors[name] for name in names or [plain])
    for info in tensors:
        _check_tensor(file, info, shape[1])
    n_row = sum(info.n_row for info in tensors)
    if n_row != shape[0]:
        raise wrong(
            file, tensors[-1].name, f"the tiers hold {n_row} rows, the matrix has {shape[0]}"
        )
    return Tiers(tensors, _read_order(file, f"{base}.{ROWS}", len(names), shape[0]))


def _check_tensor(file: GGUFFile, info: TensorInfo, n_col: int) -> None:
    if len(info.shape) != 2 or info.n_col != n_col:
        raise wrong(file, info.name, f"shape {info.shape}, expected (n, {n_col})")
    if info.type not in MATRIX_TYPES:
        raise wrong(file, info.name, f"type {info.type.name} is not supported here")


def _read_order(file: GGUFFile, name: str, n_tier: int, n_row: int) -> NDArray[np.int64]:
    if name not in file.tensors:
        return np.arange(n_row)
    if n_tier == 0:
        raise wrong(file, name, "the matrix has no tiers")
    rows = read_columns(file, name)
    if len(rows) != n_row:
        raise wrong(file, name, f"shape {rows.shape}, expected ({n_row},)")
    check_range(file, name, rows, n_row)
    counts = np.bincount(rows, minlength=n_row)
    if (counts != 1).any():
        row = int((counts != 1).argmax())
        raise wrong(file, name, f"row {row} is there {counts[row]} times: not a permutation")
    return rows
