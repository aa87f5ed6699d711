"""A planned file → bytes on disk: front matter first, then tensor after tensor, row by row.

Sizes are known before any weight is read, so the file is written once from front to
back; memory holds a few rows at a time. Nothing appears under the final name before
all of it is on disk.
"""

import io
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

import gguf
import numpy as np
from gguf.gguf_writer import WriterState
from numpy.typing import NDArray

from csaq_export.metadata import Metadata
from csaq_export.weight import Weight
from csaq_runtime.errors import ModelError, ResourceError, UsageError
from csaq_runtime.formats import GGMLType

ALIGNMENT = 32


class Tensor(Protocol):
    """What of a tensor the file's index holds."""

    @property
    def weight(self) -> Weight: ...  # noqa: D102
    @property
    def type(self) -> GGMLType: ...  # noqa: D102
    @property
    def n_bytes(self) -> int: ...  # noqa: D102


def padded(n_bytes: int) -> int:
    """`n_bytes` rounded up to the alignment of tensor data."""
    return -n_bytes % ALIGNMENT + n_bytes


def front_matter(metadata: Metadata, tensors: Sequence[Tensor]) -> bytes:
    """Header, metadata and tensor index, padded to where the data begins."""
    writer = gguf.GGUFWriter(None, "")
    writer.kv_data[0].update(metadata)
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.weight.name,
            tensor.weight.shape,
            np.dtype(np.float32),
            tensor.n_bytes,
            gguf.GGMLQuantizationType(tensor.type),
        )
    buffer = io.BytesIO()
    output = io.BufferedWriter(buffer)
    writer.fout, writer.state = [output], WriterState.EMPTY  # type: ignore[list-item]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    output.flush()
    return buffer.getvalue().ljust(padded(buffer.tell()), b"\0")


@contextmanager
def new_file(path: Path, n_bytes: int, force: bool) -> Iterator[IO[bytes]]:
    """A file that becomes `path` when the context ends well and vanishes when it does not.

    Raises UsageError if `path` exists and `force` is not given or its folder is missing,
    ResourceError if the disk has no room for `n_bytes`.
    """
    check_place(path, n_bytes, force)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ResourceError(f"{path}: cannot be written: {error.strerror or error}") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_rows(file: IO[bytes], chunks: Iterable[NDArray[np.uint8]], n_bytes: int) -> None:
    """Append the packed rows of one tensor, `n_bytes` in all, and pad."""
    written = sum(file.write(np.ascontiguousarray(chunk).data) for chunk in chunks)
    if written != n_bytes:
        raise ModelError(f"a tensor came out as {written} bytes, {n_bytes} were planned")
    file.write(bytes(padded(n_bytes) - n_bytes))


def check_place(path: Path, n_bytes: int, force: bool) -> None:
    """Raise what `new_file` would, before the work begins."""
    if path.is_dir() or (path.exists() and not force):
        raise UsageError(f"{path}: exists already", "--force overwrites it")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder")
    free = shutil.disk_usage(path.parent).free
    if free < n_bytes:
        raise ResourceError(f"{path}: needs {n_bytes:,} bytes, the disk has {free:,} left")


def _sync_folder(folder: Path) -> None:
    """Make the new name durable; a file system that cannot do it is not an error."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
