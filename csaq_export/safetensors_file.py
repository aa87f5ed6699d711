"""One safetensors file: header → checked tensor places; rows are read when asked for.

The header comes from strangers, so nothing in it is believed: sizes, offsets and
types are checked against each other and against the file before any byte of a
weight is read. Format: https://github.com/huggingface/safetensors (README, "Format").
"""

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.errors import ModelError

MAX_HEADER_BYTES, MAX_DIMENSIONS = 100_000_000, 8
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: `offset` and `n_bytes` in bytes of `path`; `shape` row-major."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int

    def read(self, start: int, end: int) -> NDArray[np.uint8]:
        """Bytes of the rows `start:end` of the first axis, uint8 [end - start, row_bytes].

        Raises ModelError if the file has become shorter since its header was read.
        """
        row_bytes = self.n_bytes // self.shape[0]
        data = np.empty((end - start, row_bytes), np.uint8)
        with self.path.open("rb") as file:
            file.seek(self.offset + start * row_bytes)
            if file.readinto(data.data.cast("B") if data.size else bytearray()) != data.size:
                raise ModelError(f"{self.path}: {self.name}: the file ended early")
        return data


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """Check the header of `path` and return its tensors by name; ModelError if it is damaged."""
    header, data_start = _read_header(path)
    header.pop("__metadata__", None)
    data_bytes = os.path.getsize(path) - data_start
    tensors = {
        name: _checked_entry(path, name, entry, data_start, data_bytes)
        for name, entry in header.items()
    }
    _check_cover(path, list(tensors.values()), data_start, data_bytes)
    return tensors


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    size = os.path.getsize(path)
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ModelError(f"{path}: shorter than a safetensors header ({size} bytes)")
        (length,) = struct.unpack("<Q", prefix)
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ModelError(f"{path}: header length {length} exceeds the file or 100 MB")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise ModelError(f"{path}: header is not a JSON object")
    return header, 8 + length


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _checked_entry(
    path: Path, name: str, entry: Any, data_start: int, data_bytes: int
) -> StoredTensor:
    where = f"{path}: {name}"
    if not isinstance(entry, dict):
        raise ModelError(f"{where}: entry is not an object")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ModelError(f"{where}: unknown dtype {dtype!r}")
    if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
        raise ModelError(f"{where}: shape or data_offsets is not a list of sizes")
    if len(shape) > MAX_DIMENSIONS:
        raise ModelError(f"{where}: {len(shape)} dimensions, at most {MAX_DIMENSIONS} are allowed")
    start, end = offsets
    if not start <= end <= data_bytes:
        raise ModelError(f"{where}: data_offsets {offsets} lie outside the file's data")
    if end - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise ModelError(f"{where}: {end - start} bytes do not fit shape {shape} of {dtype}")
    return StoredTensor(path, name, dtype, tuple(shape), data_start + start, end - start)


def _is_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in value)


def _check_cover(path: Path, tensors: list[StoredTensor], start: int, n_bytes: int) -> None:
    """Tensors must tile the data: bytes no tensor owns, or two own, hide something."""
    position = start
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.n_bytes)):
        if tensor.offset != position:
            kind = (
                "overlaps its neighbour" if tensor.offset < position else "leaves a gap before it"
            )
            raise ModelError(f"{path}: {tensor.name}: {kind} (at byte {tensor.offset})")
        position += tensor.n_bytes
    if position != start + n_bytes:
        raise ModelError(f"{path}: {start + n_bytes - position} bytes after the last tensor")
