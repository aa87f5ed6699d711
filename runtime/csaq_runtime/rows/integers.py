"""Tensors beside a matrix of a rows file, checked before anything is looked up with them."""

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.errors import GGUFError
from csaq_runtime.formats import GGMLType
from csaq_runtime.gguf import GGUFFile


def wrong(file: GGUFFile, name: str, reason: str) -> GGUFError:
    """An error about a tensor that is in the file."""
    return GGUFError(file.path, f"tensor {name}", reason, file.tensors[name].offset)


def whole_set(file: GGUFFile, base: str, parts: tuple[str, ...]) -> list[str]:
    """Names of the tensors beside matrix `base` that belong together; empty if none is there.

    Raises GGUFError where only some are.
    """
    names = [f"{base}.{part}" for part in parts]
    there = [name for name in names if name in file.tensors]
    for name in names if there else []:
        if name not in there:
            raise GGUFError(file.path, f"tensor {name}", f"is missing, but {there[0]} is there")
    return names if there else []


def read_integers(file: GGUFFile, name: str, n: int | None = None) -> NDArray[np.int64]:
    """The values of an I32 vector, of `n` elements where that is known, as int64."""
    info = file.tensors[name]
    if info.type is not GGMLType.I32:
        raise wrong(file, name, f"type {info.type.name}, expected I32")
    if len(info.shape) != 1 or n not in (None, info.shape[0]):
        raise wrong(file, name, f"shape {info.shape}, expected ({'n' if n is None else n},)")
    values: NDArray[np.int32] = file.data(name)[0].view("<i4")
    return values.astype(np.int64)


def read_columns(file: GGUFFile, name: str) -> NDArray[np.int64]:
    """Columns or rows of a matrix: I32, or I16 without sign where there are at most 65,536."""
    info = file.tensors[name]
    if info.type is not GGMLType.I16:
        return read_integers(file, name)
    if len(info.shape) != 1:
        raise wrong(file, name, f"shape {info.shape}, expected a vector")
    values: NDArray[np.uint16] = file.data(name)[0].view("<u2")
    return values.astype(np.int64)


def check_range(file: GGUFFile, name: str, values: NDArray[np.int64], stop: int) -> None:
    """Refuse indices outside 0 … stop - 1."""
    outside = (values < 0) | (values >= stop)
    if outside.any():
        at = int(outside.argmax())
        raise wrong(file, name, f"item {at}: {values[at]} is outside 0 … {stop - 1}")
