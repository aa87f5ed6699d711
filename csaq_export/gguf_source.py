"""A GGUF file → Model, to quantize it again: metadata carried over as stored, weights unread.

Any type the runtime can dequantize serves as source; quantized ones lose a little more.
"""

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFValueType
from gguf.gguf_writer import GGUFValue
from numpy.typing import NDArray

from csaq_export.metadata import Metadata, text, u32
from csaq_export.model import Model
from csaq_export.weight import FLOAT_DTYPES, Weight
from csaq_runtime.errors import GGUFError
from csaq_runtime.formats import DEQUANTIZABLE, GGMLType
from csaq_runtime.gguf import GGUFFile, TensorInfo, open_gguf
from csaq_runtime.gguf.cursor import Cursor
from csaq_runtime.gguf.header import read_header
from csaq_runtime.gguf.metadata import Entry, ValueType, read_metadata
from csaq_runtime.hparams import read_hparams
from csaq_runtime.rows.names import base_architecture, is_rows, matrix_of
from csaq_runtime.rows.weight import RowsWeight
from csaq_runtime.tensors import check_tensors

ARCHITECTURES = ("llama", "qwen2", "qwen3")
# Written anew for every file, or about the layout of the old one.
DROPPED_KEYS = ("general.file_type", "general.quantization_version", "general.alignment")
DROPPED_PREFIXES = ("split.", "quantize.imatrix.", "csaq.")
ARRAY_KINDS = {
    "u1": GGUFValueType.UINT8, "i1": GGUFValueType.INT8,
    "u2": GGUFValueType.UINT16, "i2": GGUFValueType.INT16,
    "u4": GGUFValueType.UINT32, "i4": GGUFValueType.INT32,
    "u8": GGUFValueType.UINT64, "i8": GGUFValueType.INT64,
    "f4": GGUFValueType.FLOAT32, "f8": GGUFValueType.FLOAT64,
}  # fmt: skip


@contextmanager
def open_gguf_model(path: Path) -> Iterator[Model]:
    """The model in `path`, whose weights can be read inside the context.

    Raises GGUFError if the file is damaged, of another architecture or one part of several.
    """
    with open_gguf(path) as file:
        stored = file.text("general.architecture")
        architecture = base_architecture(stored)
        if architecture not in ARCHITECTURES:
            raise GGUFError(
                path,
                "general.architecture",
                f"{architecture!r} is not supported",
                hint=f"supported: {', '.join(ARCHITECTURES)}",
            )
        if file.integer("split.count", 1) > 1:
            raise GGUFError(
                path, "split.count", "one part of several", hint="merge with llama-gguf-split first"
            )
        file.integer(f"{stored}.block_count", minimum=1)
        n_head = file.integer(f"{stored}.attention.head_count", minimum=1)
        shared = u32(file.integer(f"{stored}.attention.head_count_kv", n_head, minimum=1))
        matrices = check_tensors(file, read_hparams(file)) if is_rows(stored) else {}
        weights = tuple(_weights(file, matrices))
        name = file.text("general.name", path.stem)
        metadata = {f"{architecture}.attention.head_count_kv": shared}
        metadata |= _of_base(_metadata(path), stored, architecture)
        yield Model(name, architecture, metadata, weights, tuple(_notes(file)))


def _metadata(path: Path) -> Metadata:
    """All key/value pairs with the types they are stored in, but for the dropped ones."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        cursor = Cursor(path, data)
        entries = read_metadata(cursor, read_header(cursor).n_key_value)
        kept = {
            key: _value(entry)
            for key, entry in entries.items()
            if key not in DROPPED_KEYS and not key.startswith(DROPPED_PREFIXES)
        }
        # The arrays of the entries look into the mapping, which ends here.
        entries.clear()
    kept["general.quantization_version"] = u32(gguf.GGML_QUANT_VERSION)
    return {key: value for key, value in kept.items() if value is not None}


def _value(entry: Entry) -> GGUFValue | None:
    value: Any = entry.value
    if entry.type is not ValueType.ARRAY:
        return GGUFValue(value, GGUFValueType(entry.type))
    if len(value) == 0:
        return None
    if isinstance(value, np.ndarray):
        kind = ARRAY_KINDS[value.dtype.str[1:]]
        return GGUFValue(value.tolist(), GGUFValueType.ARRAY, kind)
    return GGUFValue(value, GGUFValueType.ARRAY, GGUFValueType.STRING)


def _of_base(metadata: Metadata, stored: str, architecture: str) -> Metadata:
    """The keys of a rows file under the name of the architecture that it computes."""
    if stored == architecture:
        return metadata
    prefix = f"{stored}."
    keys = {
        f"{architecture}.{key.removeprefix(prefix)}" if key.startswith(prefix) else key: value
        for key, value in metadata.items()
    }
    return keys | {"general.architecture": text(architecture)}


def _weights(file: GGUFFile, matrices: Mapping[str, RowsWeight]) -> Iterator[Weight]:
    """All tensors; the parts of a rows file's matrix as the one that they stand for, in F32."""
    done = set()
    for info in file.tensors.values():
        base = matrix_of(info.name)
        if base is None or base not in matrices:
            yield _weight(file, info)
        elif base not in done:
            done.add(base)
            yield _whole(file, matrices[base])


def _whole(file: GGUFFile, matrix: RowsWeight) -> Weight:
    name = f"{matrix.name}.weight"
    if matrix.is_plain:
        return replace(_weight(file, matrix.tiers.tensors[0]), name=name)

    def read(start: int, end: int) -> NDArray[np.uint8]:
        return matrix.float32(file)[start:end].view(np.uint8)

    return Weight(name, matrix.shape, GGMLType.F32, read)


def _weight(file: GGUFFile, info: TensorInfo) -> Weight:
    if info.type not in FLOAT_DTYPES and info.type not in DEQUANTIZABLE:
        raise GGUFError(file.path, f"tensor {info.name}", f"type {info.type.name} holds no weights")
    return Weight(
        *(info.name, info.shape, info.type),
        lambda start, end: file.rows(info.name, range(start, end)).copy(),
    )


def _notes(file: GGUFFile) -> Iterator[str]:
    types = {info.type for info in file.tensors.values()} - FLOAT_DTYPES.keys()
    if types:
        names = ", ".join(sorted(t.name for t in types))
        yield f"the source is already quantized ({names}): its errors stay and new ones are added"
