"""A GGUF file, mapped read-only and checked in full before anyone sees a byte of it.

Takes a path; gives metadata (through typed, range-checked getters) to the
tokenizer and the hyper-parameters, and packed rows to the weight loader.
"""

import mmap
import os
import stat
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import EllipsisType, MappingProxyType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.errors import GGUFError
from csaq_runtime.formats import dequantize
from csaq_runtime.gguf.cursor import Cursor, printable
from csaq_runtime.gguf.header import read_header
from csaq_runtime.gguf.metadata import MetadataValue, alignment_of, read_metadata
from csaq_runtime.gguf.tensors import TensorInfo, read_tensors


def open_gguf(path: str | os.PathLike[str]) -> "GGUFFile":
    """Map and validate the GGUF file (version 2 or 3, little-endian) at `path`.

    Raises GGUFError, naming field and offset, if it cannot be read or breaks the format.
    """
    return GGUFFile(Path(path))


class GGUFFile:
    """An open, validated GGUF file; a context manager.

    Attributes:
        path: where it lies.
        version: format version, 2 or 3.
        alignment: bytes tensor data is aligned to, relative to the data section.
        metadata: key → scalar, str, list[str] or read-only NumPy array.
        tensors: name → TensorInfo, in file order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor, self._map = _map_file(path)
        self._let_go = weakref.finalize(self, os.close, self._descriptor)
        cursor = Cursor(path, self._map)
        header = read_header(cursor)
        entries = read_metadata(cursor, header.n_key_value)
        self.version = header.version
        self.alignment = alignment_of(entries, cursor)
        tensors = read_tensors(cursor, header.n_tensor, self.alignment)
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(tensors)
        self.metadata: Mapping[str, MetadataValue] = MappingProxyType(
            {key: entry.value for key, entry in entries.items()}
        )
        self._offsets = {key: entry.offset for key, entry in entries.items()}

    def __enter__(self) -> "GGUFFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the file, or leave that to the last array still looking into it."""
        # A number that is no descriptor: the real one may soon belong to another file.
        self._descriptor = -1
        self._let_go()
        try:
            self._map.close()
        except BufferError:
            # Arrays handed out keep the mapping; it goes when they do.
            return

    def release(self) -> None:
        """Give back the memory of the pages read so far; reading them again brings them back."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def data(self, name: str) -> NDArray[np.uint8]:
        """Packed rows of a tensor, [n_row, row_bytes], a read-only view; vectors have one row.

        GGUFError if somebody has cut the file short since it was opened. If that happens while
        the view is in use, the system ends the process (SIGBUS): copy soon, or use `rows`.
        """
        info = self._tensor(name)
        if info.offset + info.n_bytes > self._map.size():
            raise self._shortened(info)
        flat = np.frombuffer(self._map, np.uint8, info.n_bytes, info.offset)
        return flat.reshape(info.n_row, -1)

    def rows(self, name: str, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copies of some packed rows, [n, row_bytes], read anew and not through the mapping.

        GGUFError if the file has become shorter since it was opened, or is closed.
        """
        info = self._tensor(name)
        row_bytes = info.n_bytes // info.n_row
        if not hasattr(os, "pread"):  # where there is none, nobody can cut a mapped file short
            return self.data(name)[indices]
        offsets = [info.offset + int(index) * row_bytes for index in indices]
        try:
            read = b"".join(os.pread(self._descriptor, row_bytes, at) for at in offsets)
        except OSError as failure:
            reason = "the file is closed" if self._descriptor < 0 else str(failure.strerror)
            raise GGUFError(self.path, f"tensor {name}", reason) from None
        if len(read) != row_bytes * len(offsets):
            raise self._shortened(info)
        return np.frombuffer(read, np.uint8).reshape(-1, row_bytes)

    def float32(self, name: str) -> NDArray[np.float32]:
        """A tensor's values in its row-major shape; GGUFError if its type holds no weights."""
        info = self._tensor(name)
        try:
            return dequantize(self.data(name), info.type).reshape(info.shape)
        except ValueError as failure:
            raise GGUFError(self.path, f"tensor {name}", str(failure), info.offset) from None

    def integer(
        self,
        key: str,
        default: int | EllipsisType = ...,
        minimum: int = 0,
        maximum: int = 2**31 - 1,
    ) -> int:
        """Integer under `key`, in minimum … maximum; `default` (not checked) if it is absent."""
        if key not in self.metadata and not isinstance(default, EllipsisType):
            return default
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._error(key, "must be an integer")
        if not minimum <= value <= maximum:
            raise self._error(key, f"{value} is outside {minimum} … {maximum}")
        return value

    def number(self, key: str, default: float | EllipsisType = ...) -> float:
        """Finite number under `key` (stored as a float or an integer)."""
        if key not in self.metadata and not isinstance(default, EllipsisType):
            return default
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._error(key, "must be a number")
        if not np.isfinite(value):
            raise self._error(key, f"{value} is not finite")
        return float(value)

    def text(self, key: str, default: str | EllipsisType = ...) -> str:
        """String under `key`."""
        if key not in self.metadata and not isinstance(default, EllipsisType):
            return default
        value = self._value(key)
        if not isinstance(value, str):
            raise self._error(key, "must be a string")
        return value

    def flag(self, key: str, default: bool | EllipsisType = ...) -> bool:
        """Truth value under `key`."""
        if key not in self.metadata and not isinstance(default, EllipsisType):
            return default
        value = self._value(key)
        if not isinstance(value, bool):
            raise self._error(key, "must be a truth value")
        return value

    def texts(self, key: str, default: list[str] | EllipsisType = ...) -> list[str]:
        """Array of strings under `key`."""
        if key not in self.metadata and not isinstance(default, EllipsisType):
            return default
        value = self._value(key)
        # The format keeps a type for empty arrays, so an empty numeric one is no list either.
        if not isinstance(value, list):
            raise self._error(key, "must be an array of strings")
        return value

    def integers(
        self, key: str, default: NDArray[np.int64] | EllipsisType = ...
    ) -> NDArray[np.int64]:
        """Array of integers under `key`, as a new int64 array."""
        if key not in self.metadata and not isinstance(default, EllipsisType):
            return default
        value = self._array(key, "iu", "must be an array of integers")
        if value.dtype.kind == "u" and value.size and value.max() > np.iinfo(np.int64).max:
            raise self._error(key, f"{value.max()} does not fit in 63 bits")
        return value.astype(np.int64)

    def numbers(
        self, key: str, default: NDArray[np.float32] | EllipsisType = ...
    ) -> NDArray[np.float32]:
        """Array of finite numbers under `key`, as a new float32 array."""
        if key not in self.metadata and not isinstance(default, EllipsisType):
            return default
        value = self._array(key, "iuf", "must be an array of numbers")
        with np.errstate(over="ignore"):
            single = value.astype(np.float32)
        if not np.isfinite(single).all():
            raise self._error(key, f"item {np.isfinite(single).argmin()} is not finite")
        return single

    def _value(self, key: str) -> MetadataValue:
        if key not in self.metadata:
            raise GGUFError(self.path, key, "required key is missing")
        return self.metadata[key]

    def _array(self, key: str, kinds: str, complaint: str) -> NDArray[Any]:
        value = self._value(key)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds:
            raise self._error(key, complaint)
        return value

    def _tensor(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise GGUFError(self.path, f"tensor {printable(name)}", "is missing")
        return self.tensors[name]

    def _shortened(self, info: TensorInfo) -> GGUFError:
        reason = "the file has become shorter since it was opened"
        return GGUFError(self.path, f"tensor {info.name}", reason, info.offset)

    def _error(self, key: str, reason: str) -> GGUFError:
        return GGUFError(self.path, key, reason, self._offsets[key])


def _map_file(path: Path) -> tuple[int, mmap.mmap]:
    """An open descriptor of the file, which the caller closes, and its mapping."""
    try:
        # Asked before opening: opening a named pipe would wait for a writer.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise GGUFError(path, "file", "is not a regular file")
        if status.st_size == 0:
            raise GGUFError(path, "file", "is empty", 0)
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return os.dup(file.fileno()), mapped
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "strerror", None) or str(failure)
        raise GGUFError(path, "file", reason) from None
