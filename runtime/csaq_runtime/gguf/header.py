"""The first 24 bytes of a GGUF file: magic, version and two counts.

Read by `file.py`; the counts bound what `metadata.py` and `tensors.py` read next.
Layout: ggml's docs/gguf.md; checks: ggml/src/gguf.cpp.
"""

from dataclasses import dataclass

from csaq_runtime.gguf.cursor import Cursor

MAGIC = b"GGUF"
VERSIONS = (2, 3)

# Smallest possible entries: one-letter name; 8-bit value; one dimension.
_MIN_KEY_VALUE_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_INFO_BYTES = 8 + 1 + 4 + 8 + 4 + 8


@dataclass(frozen=True)
class Header:
    """Format version and how many metadata pairs and tensors follow."""

    version: int
    n_tensor: int
    n_key_value: int


def read_header(cursor: Cursor) -> Header:
    """Read and check the header; raises GGUFError naming magic, version or the count."""
    _check_magic(cursor)
    version = _read_version(cursor)
    at = cursor.position
    n_tensor, n_key_value = cursor.u64("tensor count"), cursor.u64("metadata count")
    left = cursor.size - cursor.position
    if n_tensor * _MIN_TENSOR_INFO_BYTES > left:
        raise cursor.error("tensor count", f"{n_tensor} tensors do not fit in the file", at)
    if n_key_value * _MIN_KEY_VALUE_BYTES > left:
        raise cursor.error("metadata count", f"{n_key_value} keys do not fit in the file", at + 8)
    return Header(version, n_tensor, n_key_value)


def _check_magic(cursor: Cursor) -> None:
    start = cursor.skip(4, "magic")
    magic = cursor.data[start : start + 4]
    if magic != MAGIC:
        raise cursor.error("magic", f"{magic!r} is not {MAGIC!r}: no GGUF file", start)


def _read_version(cursor: Cursor) -> int:
    at = cursor.position
    version = cursor.u32("version")
    if version in VERSIONS:
        return version
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    if swapped in (1, *VERSIONS):
        raise cursor.error("version", "big-endian GGUF files are not supported", at)
    if version == 1:
        raise cursor.error("version", "GGUF version 1 is obsolete and not supported", at)
    raise cursor.error("version", f"version {version} is unknown, only 2 and 3 are", at)
