"""A file of any method → the matrices it stands for, put together by NumPy alone."""

from pathlib import Path

import numpy as np

from csaq_runtime.formats import GGMLType
from csaq_runtime.gguf import GGUFFile, open_gguf

SETS = ("outlier", "outlier8")


def dense(path: Path) -> dict[str, np.ndarray]:
    """Float32 weights by the names an ordinary file has: base and everything beside it."""
    with open_gguf(path) as file:
        names = [name for name in file.tensors if name.endswith((".weight", ".bias"))]
        return {name: whole(file, name) for name in names}


def whole(file: GGUFFile, name: str) -> np.ndarray:
    """One matrix with the kept weights of all its sets added."""
    weight = file.float32(name).copy()
    for ending in SETS:
        stem = f"{name.removesuffix('.weight')}.{ending}"
        if f"{stem}_values" in file.tensors:
            add_outliers(file, stem, weight)
    return weight


def add_outliers(file: GGUFFile, stem: str, weight: np.ndarray) -> None:
    """Add one set in compressed sparse rows."""
    offsets = file.data(f"{stem}_offsets").reshape(-1).view("<i4")
    short = file.tensors[f"{stem}_columns"].type == GGMLType.I16
    columns = file.data(f"{stem}_columns").reshape(-1).view("<u2" if short else "<i4")
    values = file.float32(f"{stem}_values")[: offsets[-1]]
    rows = np.repeat(np.arange(len(weight)), np.diff(offsets))
    np.add.at(weight, (rows, columns.astype(np.int64)), values)


def n_kept(path: Path, ending: str) -> int:
    """Weights that a set keeps in the whole file."""
    with open_gguf(path) as file:
        return sum(
            int(file.data(name).reshape(-1).view("<i4")[-1])
            for name in file.tensors
            if name.endswith(f".{ending}_offsets")
        )
