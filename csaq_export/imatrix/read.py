"""An imatrix file of either format → Imatrix, checked.

The formats are those of llama.cpp's common/imatrix-loader.cpp: GGUF with a pair of F32
tensors per matrix, and the older flat list of names and numbers.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from csaq_export.imatrix.matrix import Entry, Imatrix, check_entry
from csaq_runtime.errors import GGUFError, ModelError, UsageError
from csaq_runtime.formats import GGMLType
from csaq_runtime.gguf import GGUFFile, open_gguf
from csaq_runtime.gguf.cursor import Cursor, printable

SUMS, COUNTS = ".in_sum2", ".counts"
# ggml's limit for tensor names, with room for names that were cut elsewhere.
MAX_NAME_BYTES = 255
MAX_DATASET_BYTES = 1 << 16


def read_imatrix(path: Path) -> Imatrix:
    """Read `path`.

    Raises UsageError if it cannot be opened, ModelError (GGUFError with the offset where
    the layout is broken) if it is damaged, empty or belongs to a mixture of experts.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    imatrix = _read_gguf(path) if magic == b"GGUF" else _read_legacy(path)
    if not imatrix.entries:
        raise ModelError(f"{path}: holds no importance matrix")
    for name, entry in imatrix.entries.items():
        check_entry(str(path), printable(name), entry)
    return imatrix


def _read_gguf(path: Path) -> Imatrix:
    with open_gguf(path) as file:
        kind = file.text("general.type")
        if kind != "imatrix":
            raise GGUFError(path, "general.type", f"{printable(kind)!r} is not an imatrix")
        entries = {name: _gguf_entry(file, name) for name in _names(file)}
        return Imatrix(
            entries,
            tuple(file.texts("imatrix.datasets")),
            file.integer("imatrix.chunk_count"),
            file.integer("imatrix.chunk_size"),
        )


def _names(file: GGUFFile) -> Iterator[str]:
    """Matrices with both tensors; a lone one of a pair is an error."""
    for tensor in file.tensors:
        name, _, kind = tensor.rpartition(".")
        partner = name + {"in_sum2": COUNTS, "counts": SUMS}.get(kind, "")
        if not name or partner == name:
            raise GGUFError(file.path, f"tensor {printable(tensor)}", "not part of an imatrix")
        if partner not in file.tensors:
            raise GGUFError(file.path, f"tensor {printable(tensor)}", f"without its {partner}")
        if kind == "in_sum2":
            yield name


def _gguf_entry(file: GGUFFile, name: str) -> Entry:
    sums, counts = (file.tensors[name + ending] for ending in (SUMS, COUNTS))
    for info in (sums, counts):
        if info.type != GGMLType.F32:
            raise GGUFError(file.path, f"tensor {info.name}", f"{info.type.name}, not F32")
    count = file.float32(counts.name)
    if count.size != 1:
        raise GGUFError(
            file.path, f"tensor {counts.name}", f"{count.size} experts: mixtures are not supported"
        )
    return Entry(file.float32(sums.name).reshape(-1).copy(), float(count.reshape(-1)[0]))


def _read_legacy(path: Path) -> Imatrix:
    if os.path.getsize(path) == 0:
        raise ModelError(f"{path}: is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        cursor = Cursor(path, data)
        entries = dict(_legacy_entries(cursor))
        if cursor.position == cursor.size:
            return Imatrix(entries)
        chunk_count = _count(cursor, "chunk count", 0)
        return Imatrix(entries, _legacy_datasets(cursor), chunk_count)


def _legacy_entries(cursor: Cursor) -> Iterator[tuple[str, Entry]]:
    seen: set[str] = set()
    for index in range(_count(cursor, "number of entries", 1)):
        field = f"entry {index}"
        at = cursor.position
        name = _legacy_text(cursor, f"{field}: name", MAX_NAME_BYTES)
        if not name or name in seen:
            raise cursor.error(field, f"name {printable(name)!r} is empty or repeated", at)
        seen.add(name)
        n_call = _count(cursor, f"{field}: calls", 0)
        n_col = _count(cursor, f"{field}: number of values", 1)
        start = cursor.skip(4 * n_col, f"{field}: values")
        # A copy: the mapping ends with the reading.
        sums = np.frombuffer(cursor.data[start : cursor.position], "<f4").astype(np.float32)
        # Without calls llama.cpp takes the values as they are.
        yield name, Entry(sums, float(max(n_call, 1)))


def _legacy_datasets(cursor: Cursor) -> tuple[str, ...]:
    """The text's name, which the oldest files lack."""
    if cursor.position == cursor.size:
        return ()
    return (_legacy_text(cursor, "dataset", MAX_DATASET_BYTES),)


def _count(cursor: Cursor, field: str, minimum: int) -> int:
    at = cursor.position
    value = cursor.u32(field)
    if not minimum <= value < 2**31:
        raise cursor.error(field, f"{value} is out of range; this is no imatrix file", at)
    return value


def _legacy_text(cursor: Cursor, field: str, limit: int) -> str:
    at = cursor.position
    n_bytes = _count(cursor, f"{field} length", 0)
    if n_bytes > limit:
        raise cursor.error(field, f"{n_bytes} bytes, at most {limit} allowed", at)
    start = cursor.skip(n_bytes, field)
    try:
        return str(cursor.data[start : start + n_bytes], "utf-8")
    except UnicodeDecodeError as failure:
        raise cursor.error(field, "not valid UTF-8", start + failure.start) from None
