"""Rows of a GGUF tensor → the 16-row interleaved copy that the kernels read.

`pack_matrix` checks every size, because the kernels take raw addresses. The
copy is a permutation of the file's bytes (rows padded to a multiple of 16), so
memory stays what the file needs; only the exotic types are expanded (see
`kernels.signed_tiles`). In two planes (`kernels.plane_split`) a matrix is its own draft.
"""

import ctypes
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.buffers import Allocate, empty_bytes
from csaq_runtime.errors import ModelError
from csaq_runtime.formats import LAYOUTS, GGMLType, integer_codes, row_bytes
from csaq_runtime.kernels.activation import Activation
from csaq_runtime.kernels.dispatch import (
    EXPANDED_TYPES,
    MATRIX_TYPES,
    PLANE_FORMATS,
    KernelEntry,
    kernel_for,
    kernel_on,
)
from csaq_runtime.kernels.tile import N_ROW
from csaq_runtime.simd.target import host_target

_CHUNK_BYTES = 8 << 20
"""Bytes that are interleaved at a time."""

_interleave_type = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 7)


class IndivisibleError(Exception):
    """Some of a matrix' weights do not fit into two planes."""


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A weight matrix ready for its kernel.

    `data` owns the interleaved bytes (64-byte aligned); `y` of a product has
    `n_row_padded` entries per token, the padding being zero. `matmul` is the
    address of the kernel, `activation` what x must be packed to. `lower_bytes`: of the lower
    plane, which comes first; `draft`: the kernels of the upper plane alone, if there are two.
    """

    type: GGMLType
    n_row: int
    n_col: int
    n_row_padded: int
    activation: Activation
    data: NDArray[np.uint8]
    matmul: int
    scale: float = 1.0
    lower_bytes: int = 0
    draft: KernelEntry | None = None

    @property
    def address(self) -> int:
        """Where the first group of rows begins; the lower plane ends there."""
        return int(self.data.ctypes.data) + self.lower_bytes

    @property
    def upper(self) -> "PackedMatrix":
        """The same memory as a draft reads it; the matrix itself where that is all of it."""
        if self.draft is None:
            return self
        return replace(self, matmul=self.draft.matmul, activation=self.draft.activation)

    @property
    def upper_bytes(self) -> int:
        """Bytes that a draft reads."""
        return self.data.nbytes - self.lower_bytes

    @property
    def n_group(self) -> int:
        """Groups of 16 rows: what threads share out."""
        return self.n_row_padded // N_ROW


def pack_matrix(
    data: NDArray[np.uint8],
    ggml_type: GGMLType,
    n_col: int,
    scale: float = 1.0,
    planes: bool = False,
    allocate: Allocate = empty_bytes,
) -> PackedMatrix:
    """Interleave `data` (uint8 [n_row, row_bytes], as in the file) for the kernels.

    Releases the GIL while it works: pack several matrices in parallel threads. `planes`: in two
    planes where type and weights allow it. `allocate`: where the memory comes from.

    Raises:
        ModelError: if the type cannot be multiplied or `data` has the wrong size.
    """
    _check(data, ggml_type, n_col)
    kind = ggml_type, n_col, scale
    if planes and ggml_type in PLANE_FORMATS:
        whole, draft = (kernel_on(fmt, host_target()) for fmt in PLANE_FORMATS[ggml_type])
        if n_col % whole.format.block_size == 0:
            with suppress(IndivisibleError):
                return _packed(data, kind, whole, draft, allocate)
    return _packed(data, kind, kernel_for(ggml_type), None, allocate)


def _packed(
    data: NDArray[np.uint8],
    kind: tuple[GGMLType, int, float],
    entry: KernelEntry,
    draft: KernelEntry | None,
    allocate: Allocate,
) -> PackedMatrix:
    """`kind`: type, columns, scale. Raises IndivisibleError."""
    ggml_type, n_col, scale = kind
    n_row, n_group = len(data), -(-len(data) // N_ROW)
    n_block = -(-n_col // entry.format.block_size)
    packed = allocate(n_group * n_block * entry.format.block_bytes)
    matrix = PackedMatrix(
        ggml_type,
        n_row,
        n_col,
        n_group * N_ROW,
        entry.activation,
        packed,
        entry.matmul,
        scale,
        n_group * n_block * entry.format.lower_bytes,
        draft,
    )
    step = max(1, _CHUNK_BYTES // max(1, N_ROW * data.shape[1]))
    for start in range(0, n_group, step):
        stop = min(start + step, n_group)
        rows = _format_rows(data[start * N_ROW : stop * N_ROW], ggml_type, n_block, entry)
        _interleave(entry, rows, n_block, matrix.address, (start, stop))
    return matrix


def _check(data: NDArray[np.uint8], ggml_type: GGMLType, n_col: int) -> None:
    if ggml_type not in MATRIX_TYPES:
        raise ModelError(f"{GGMLType(ggml_type).name}: not a type that weights are multiplied in")
    if data.ndim != 2 or data.dtype != np.uint8 or not len(data) or n_col < 1:
        raise ModelError(f"weights of {ggml_type.name}: expected a matrix, got {data.shape}")
    if n_col % LAYOUTS[ggml_type].block_size or data.shape[1] != row_bytes(ggml_type, n_col):
        raise ModelError(
            f"weights of {ggml_type.name}: {n_col} columns do not take {data.shape[1]} bytes a row"
        )


def _format_rows(
    rows: NDArray[np.uint8], ggml_type: GGMLType, n_block: int, entry: KernelEntry
) -> NDArray[np.uint8]:
    """Rows as the interleaver reads them: whole blocks, bytes of a row contiguous."""
    if ggml_type in EXPANDED_TYPES:
        rows = _expand(rows, ggml_type)
    width = n_block * entry.format.source_size
    if rows.shape[1] != width:  # float types: the last block of four columns is padded
        rows = np.pad(rows, ((0, 0), (0, width - rows.shape[1])))
    return rows if rows.strides[1] == 1 else np.ascontiguousarray(rows)


def _expand(rows: NDArray[np.uint8], ggml_type: GGMLType) -> NDArray[np.uint8]:
    """Exotic types → 16 float32 scales and 256 int8 codes per super-block."""
    codes, scales = integer_codes(rows, ggml_type)
    n_row = len(rows)
    scale_bytes = np.ascontiguousarray(scales, np.float32).view(np.uint8).reshape(n_row, -1, 64)
    code_bytes = np.ascontiguousarray(codes, np.int8).view(np.uint8).reshape(n_row, -1, 256)
    return np.concatenate([scale_bytes, code_bytes], axis=2).reshape(n_row, -1)


def _interleave(
    entry: KernelEntry,
    rows: NDArray[np.uint8],
    n_block: int,
    out: int,
    groups: tuple[int, int],
) -> None:
    """Write groups `groups[0]` … `groups[1]` − 1 of the matrix at `out`; `rows` are theirs.

    Raises IndivisibleError.
    """
    function, stride = _interleave_type(entry.interleave), rows.strides[0]
    before = groups[0] * N_ROW
    first = rows.ctypes.data - before * stride
    if function(first, stride, before + len(rows), n_block, out, *groups):
        raise IndivisibleError
