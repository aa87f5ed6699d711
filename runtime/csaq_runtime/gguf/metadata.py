"""The key-value section of a GGUF file, as Python values.

Comes after the header, before the tensor infos; `file.py` offers typed getters
on top. Value types and limits: ggml's docs/gguf.md and ggml/src/gguf.cpp.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.gguf.cursor import Cursor, printable

MetadataValue = int | float | bool | str | list[str] | NDArray[Any]

ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32

# docs/gguf.md: a key is at most 2^16 - 1 bytes.
_MAX_KEY_BYTES = 2**16 - 1
# gguf.cpp: GGUF_MAX_ARRAY_ELEMENTS.
_MAX_ARRAY_ITEMS = 2**30


class ValueType(IntEnum):
    """Value type id as stored (`enum gguf_type`)."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_DTYPES: dict[ValueType, np.dtype[Any]] = {
    ValueType.UINT8: np.dtype("<u1"),
    ValueType.INT8: np.dtype("<i1"),
    ValueType.UINT16: np.dtype("<u2"),
    ValueType.INT16: np.dtype("<i2"),
    ValueType.UINT32: np.dtype("<u4"),
    ValueType.INT32: np.dtype("<i4"),
    ValueType.FLOAT32: np.dtype("<f4"),
    ValueType.BOOL: np.dtype("u1"),
    ValueType.UINT64: np.dtype("<u8"),
    ValueType.INT64: np.dtype("<i8"),
    ValueType.FLOAT64: np.dtype("<f8"),
}


@dataclass(frozen=True)
class Entry:
    """One metadata pair: its stored type, its value and the file offset of its key."""

    type: ValueType
    value: MetadataValue
    offset: int


def read_metadata(cursor: Cursor, count: int) -> dict[str, Entry]:
    """Read `count` pairs in file order.

    Numeric arrays are read-only views of the file, string arrays `list[str]`.
    Raises GGUFError for any pair that is damaged, nested or given twice.
    """
    entries: dict[str, Entry] = {}
    for i in range(count):
        at = cursor.position
        key = cursor.text(f"metadata key {i}", _MAX_KEY_BYTES)
        _check_key(cursor, key, i, at, entries)
        entries[key] = _read_entry(cursor, printable(key), at)
    return entries


def alignment_of(entries: dict[str, Entry], cursor: Cursor) -> int:
    """Bytes that tensor data is aligned to; raises GGUFError unless u32 and a power of two."""
    entry = entries.get(ALIGNMENT_KEY)
    if entry is None:
        return DEFAULT_ALIGNMENT
    value = entry.value
    if entry.type is not ValueType.UINT32 or not isinstance(value, int):
        reason = f"stored as {entry.type.name}, must be UINT32"
        raise cursor.error(ALIGNMENT_KEY, reason, entry.offset)
    if value == 0 or value & (value - 1):
        raise cursor.error(ALIGNMENT_KEY, f"{value} is not a power of two", entry.offset)
    return value


def _check_key(cursor: Cursor, key: str, i: int, at: int, entries: dict[str, Entry]) -> None:
    if not key or "\0" in key:
        raise cursor.error(f"metadata key {i}", "is empty or holds a NUL", at)
    if key in entries:
        raise cursor.error(printable(key), "key given twice", at)


def _read_entry(cursor: Cursor, field: str, at: int) -> Entry:
    kind = _read_type(cursor, field)
    if kind is ValueType.ARRAY:
        return Entry(kind, _read_array(cursor, field), at)
    if kind is ValueType.STRING:
        return Entry(kind, cursor.text(field), at)
    return Entry(kind, _read_numbers(cursor, kind, 1, field)[0].item(), at)


def _read_type(cursor: Cursor, field: str) -> ValueType:
    at = cursor.position
    number = cursor.u32(f"{field} type")
    try:
        return ValueType(number)
    except ValueError:
        raise cursor.error(field, f"unknown value type {number}", at) from None


def _read_array(cursor: Cursor, field: str) -> list[str] | NDArray[Any]:
    at = cursor.position
    kind = _read_type(cursor, field)
    if kind is ValueType.ARRAY:
        raise cursor.error(field, "arrays of arrays are not supported", at)
    count = cursor.u64(f"{field} count")
    if count > _MAX_ARRAY_ITEMS:
        raise cursor.error(field, f"array of {count} items, at most {_MAX_ARRAY_ITEMS} allowed", at)
    if kind is ValueType.STRING:
        return cursor.texts(count, field)
    return _read_numbers(cursor, kind, count, field)


def _read_numbers(cursor: Cursor, kind: ValueType, count: int, field: str) -> NDArray[Any]:
    dtype = _DTYPES[kind]
    start = cursor.skip(count * dtype.itemsize, field)
    numbers = np.frombuffer(cursor.data, dtype, count, start)
    if kind is not ValueType.BOOL:
        return numbers
    if count and numbers.max() > 1:
        place = start + int(numbers.argmax())
        raise cursor.error(field, f"{numbers.max()} is no truth value (0 or 1)", place)
    return numbers.view(np.bool_)
