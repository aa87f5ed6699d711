"""A reading position in a mapped file that cannot leave the file.

`file.py` opens the mapping; `header.py`, `metadata.py` and `tensors.py` pull
little-endian numbers and UTF-8 strings through it, in file order.
"""

import struct
from mmap import mmap
from pathlib import Path

from csaq_runtime.errors import GGUFError
from csaq_runtime.gguf.short_texts import short_texts

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

# gguf.cpp (GGUF_MAX_STRING_LENGTH) refuses longer ones.
MAX_STRING_BYTES = 2**30

TEXTS_TOGETHER = 1024
"""Strings that are read one by one where `short_texts` does not read the next."""


def printable(name: str, limit: int = 100) -> str:
    """`name` on one line and at most about `limit` characters, fit for an error message."""
    shown = name if len(name) <= limit else name[:limit] + "…"
    return shown if shown.isprintable() else ascii(shown)


class Cursor:
    """Position in `data` (the whole file); every read is bounded and raises GGUFError."""

    def __init__(self, path: Path, data: mmap) -> None:
        self.path, self.data = path, data
        self.size = len(data)
        self.position = 0

    def error(self, field: str, reason: str, offset: int | None = None) -> GGUFError:
        """A GGUFError about `field`, at `offset` or the current position."""
        return GGUFError(self.path, field, reason, self.position if offset is None else offset)

    def require(self, n_bytes: int, field: str) -> None:
        """Raise GGUFError unless `n_bytes` more bytes are in the file."""
        if n_bytes > self.size - self.position:
            left = self.size - self.position
            raise self.error(field, f"needs {n_bytes} bytes, the file has {left} left")

    def skip(self, n_bytes: int, field: str) -> int:
        """Step over `n_bytes` bytes of the file; returns where they begin."""
        self.require(n_bytes, field)
        start = self.position
        self.position = start + n_bytes
        return start

    def u32(self, field: str) -> int:
        """The next unsigned 32-bit integer."""
        value: int = _U32.unpack_from(self.data, self.skip(4, field))[0]
        return value

    def u64(self, field: str) -> int:
        """The next unsigned 64-bit integer."""
        value: int = _U64.unpack_from(self.data, self.skip(8, field))[0]
        return value

    def text(self, field: str, limit: int = MAX_STRING_BYTES) -> str:
        """The next string (u64 length, UTF-8 bytes), of at most `limit` bytes."""
        at = self.position
        n_bytes = self.u64(f"{field} length")
        if n_bytes > limit:
            raise self.error(field, f"string of {n_bytes} bytes, at most {limit} allowed", at)
        start = self.skip(n_bytes, field)
        try:
            return str(self.data[start : start + n_bytes], "utf-8")
        except UnicodeDecodeError as failure:
            raise self.error(field, "not valid UTF-8", start + failure.start) from None

    def texts(self, count: int, field: str) -> list[str]:
        """The next `count` strings; vocabularies hold hundreds of thousands of short ones."""
        # Every string takes at least its length, so a hostile count stops here.
        self.require(8 * count, field)
        found: list[str] = []
        while len(found) < count:
            some, n_bytes = short_texts(self.data, self.position, count - len(found))
            self.position += n_bytes
            n = min(TEXTS_TOGETHER, count - len(found))
            found += some or self._any_texts(n, field, len(found))
        return found

    def _any_texts(self, count: int, field: str, before: int) -> list[str]:
        """The next strings after `before` others: of any length, and each error where it is."""
        data, size, at = self.data, self.size, self.position
        found: list[str] = []
        try:
            for _ in range(count):
                # Too near the end for a length: unpack_from raises struct.error.
                start: int = at + 8
                end: int = start + _U64.unpack_from(data, at)[0]
                if end > size or end - start > MAX_STRING_BYTES:
                    raise self.error(
                        f"{field}[{before + len(found)}]", "string leaves the file", at
                    )
                found.append(str(data[start:end], "utf-8"))
                at = end
        except UnicodeDecodeError as failure:
            place = at + 8 + failure.start
            raise self.error(f"{field}[{before + len(found)}]", "not valid UTF-8", place) from None
        except struct.error:
            raise self.error(
                f"{field}[{before + len(found)}]", "string leaves the file", at
            ) from None
        self.position = at
        return found
