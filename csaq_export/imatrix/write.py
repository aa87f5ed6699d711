"""Imatrix → a GGUF that llama-quantize takes (layout of llama.cpp's tools/imatrix/imatrix.cpp)."""

from pathlib import Path

import numpy as np
from gguf import GGUFValueType
from numpy.typing import NDArray

from csaq_export.imatrix.matrix import Entry, Imatrix, check_entry
from csaq_export.imatrix.read import COUNTS, SUMS
from csaq_export.metadata import array, text, u32
from csaq_export.weight import Weight
from csaq_export.write_gguf import front_matter, new_file, padded, write_rows
from csaq_runtime.errors import ModelError
from csaq_runtime.formats import GGMLType

# With the closing NUL: GGML_MAX_NAME.
MAX_NAME_BYTES = 64


class _Column:
    """A small F32 tensor of the file, [1, n]."""

    type = GGMLType.F32

    def __init__(self, name: str, values: NDArray[np.float32]) -> None:
        data = np.ascontiguousarray(values, "<f4").view(np.uint8).reshape(1, -1)
        shape = (1, data.size // 4)
        self.weight = Weight(name, shape, self.type, lambda start, end: data[start:end])
        self.n_bytes = data.size


def write_imatrix(path: Path, imatrix: Imatrix, force: bool = False) -> None:
    """Write `imatrix`, whole or not at all.

    Raises UsageError if `path` exists and `force` is not given, ModelError for numbers that
    are no importance and names that ggml cannot hold, ResourceError if the disk is full.
    """
    if not imatrix.entries or not imatrix.datasets:
        raise ModelError(f"{path}: an imatrix file needs entries and the name of a data set")
    columns: list[_Column] = []
    for name, entry in sorted(imatrix.entries.items()):
        columns += _pair(path, name, entry)
    metadata = {
        "general.type": text("imatrix"),
        "imatrix.datasets": array(list(imatrix.datasets), GGUFValueType.STRING),
        "imatrix.chunk_count": u32(imatrix.chunk_count),
        "imatrix.chunk_size": u32(imatrix.chunk_size),
    }
    front = front_matter(metadata, columns)
    n_bytes = len(front) + sum(padded(column.n_bytes) for column in columns)
    with new_file(path, n_bytes, force) as file:
        file.write(front)
        for column in columns:
            write_rows(file, [column.weight.read(0, 1)], column.n_bytes)


def _pair(path: Path, name: str, entry: Entry) -> list[_Column]:
    check_entry(str(path), name, entry)
    if len((name + SUMS).encode()) >= MAX_NAME_BYTES:
        raise ModelError(f"{path}: {name}: the name is too long for ggml")
    count = np.array([entry.count], np.float32)
    return [_Column(name + SUMS, entry.sums), _Column(name + COUNTS, count)]
