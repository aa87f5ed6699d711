"""The tensor infos of a GGUF file: names, shapes, types and places, all checked.

Comes after the metadata; `file.py` hands out the bytes the infos point at.
Rules: ggml/src/gguf.cpp, except that empty tensors are refused here.
"""

from dataclasses import dataclass
from math import prod

from csaq_runtime.formats.types import LAYOUTS, GGMLType, row_bytes
from csaq_runtime.gguf.cursor import Cursor, printable

# ggml.h: GGML_MAX_NAME counts the terminating NUL.
_MAX_NAME_BYTES = 63
_MAX_DIMS = 4
_MAX_ITEMS = 2**63 - 1


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: `offset` and `n_bytes` in bytes from the start of the file.

    `shape` is row-major, (n_row, n_col) for a matrix: ggml's `ne` reversed.
    """

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    offset: int
    n_bytes: int

    @property
    def n_col(self) -> int:
        """Weights in a row."""
        return self.shape[-1]

    @property
    def n_row(self) -> int:
        """Rows, those of all leading dimensions together; 1 for a vector."""
        return prod(self.shape[:-1])


def read_tensors(cursor: Cursor, count: int, alignment: int) -> dict[str, TensorInfo]:
    """Read `count` infos, in file order; raises GGUFError for any that is not sound.

    Data must follow without gaps or overlaps, each tensor padded to `alignment`
    bytes, as llama.cpp demands; bytes after the last tensor are ignored.
    """
    infos: dict[str, TensorInfo] = {}
    places: dict[str, int] = {}
    for i in range(count):
        places[f"tensor {i}"] = cursor.position
        info = _read_info(cursor, f"tensor {i}")
        if info.name in infos:
            at = places[f"tensor {i}"]
            raise cursor.error(f"tensor {printable(info.name)}", "name given twice", at)
        infos[info.name] = info
    return _place(cursor, infos, alignment, list(places.values()))


def _read_info(cursor: Cursor, field: str) -> TensorInfo:
    """One info with its offset still relative to the data section."""
    name = _read_name(cursor, field)
    field = f"tensor {name}"
    shape = _read_shape(cursor, field)
    ggml_type = _read_type(cursor, field)
    at = cursor.position
    try:
        n_bytes = row_bytes(ggml_type, shape[-1]) * prod(shape[:-1])
    except ValueError as failure:
        raise cursor.error(field, f"row length {failure}", at) from None
    return TensorInfo(name, ggml_type, shape, cursor.u64(f"{field} offset"), n_bytes)


def _read_name(cursor: Cursor, field: str) -> str:
    at = cursor.position
    name = cursor.text(f"{field} name", _MAX_NAME_BYTES)
    if not name or not name.isprintable():
        raise cursor.error(f"{field} name", f"{name!a} is empty or not printable", at)
    return name


def _read_shape(cursor: Cursor, field: str) -> tuple[int, ...]:
    at = cursor.position
    n_dims = cursor.u32(f"{field} dimension count")
    if not 1 <= n_dims <= _MAX_DIMS:
        raise cursor.error(field, f"{n_dims} dimensions, must be 1 to {_MAX_DIMS}", at)
    dims = [cursor.u64(f"{field} dimensions") for _ in range(n_dims)]
    if 0 in dims or prod(dims) > _MAX_ITEMS:
        raise cursor.error(field, f"dimensions {dims} are zero or too large", at)
    return tuple(reversed(dims))


def _read_type(cursor: Cursor, field: str) -> GGMLType:
    at = cursor.position
    number = cursor.u32(f"{field} type")
    if number not in LAYOUTS:
        raise cursor.error(field, f"tensor type {number} is unknown or not supported", at)
    return GGMLType(number)


def _place(
    cursor: Cursor, infos: dict[str, TensorInfo], alignment: int, places: list[int]
) -> dict[str, TensorInfo]:
    """Check relative offsets against the sizes before them and make them absolute."""
    start = _padded(cursor.position, alignment)
    expected = 0
    placed: dict[str, TensorInfo] = {}
    for info, at in zip(infos.values(), places, strict=True):
        if info.offset != expected:
            raise cursor.error(*_misplaced(info, expected, alignment), at)
        end = start + expected + info.n_bytes
        if end > cursor.size:
            reason = f"data ends at byte {end}, the file at {cursor.size}"
            raise cursor.error(f"tensor {info.name}", reason, at)
        placed[info.name] = TensorInfo(
            info.name, info.type, info.shape, start + expected, info.n_bytes
        )
        expected = _padded(expected + info.n_bytes, alignment)
    return placed


def _misplaced(info: TensorInfo, expected: int, alignment: int) -> tuple[str, str]:
    """Field and reason for an offset that is not the one the tensors before it leave."""
    field = f"tensor {info.name} offset"
    if info.offset % alignment:
        return field, f"{info.offset} is not a multiple of the alignment {alignment}"
    if info.offset < expected:
        return field, f"{info.offset} overlaps the data that ends at {expected}"
    return field, f"{info.offset} leaves a gap after the data that ends at {expected}"


def _padded(n_bytes: int, alignment: int) -> int:
    return -(-n_bytes // alignment) * alignment
