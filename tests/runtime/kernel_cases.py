"""What the kernel tests share: random blocks of every type, NumPy references, ctypes calls."""

import ctypes
import zlib
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.formats import LAYOUTS, GGMLType, row_bytes
from csaq_runtime.kernels.activation import Activation, packed_activation_bytes
from csaq_runtime.kernels.dispatch import MATRIX_TYPES, KernelEntry
from csaq_runtime.weights import PackedMatrix

TYPES = sorted(MATRIX_TYPES)
FLOAT_TYPES = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)
HALF_FIELDS = {  # byte offsets of the float16 fields in a block (ggml-common.h)
    "Q8_0": (0,), "Q4_0": (0,), "Q5_0": (0,), "IQ4_NL": (0,), "IQ4_XS": (0,),
    "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q6_K": (208,), "IQ1_S": (0,), "IQ2_XXS": (0,), "IQ2_XS": (0,),
    "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,), "TQ1_0": (52,), "TQ2_0": (64,),
}  # fmt: skip

_matmul = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 8)
_quantize = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 5)


def columns_of(ggml_type: GGMLType) -> int:
    """Two or more blocks; for float types a number that fills no block of four."""
    return 133 if ggml_type in FLOAT_TYPES else max(96, 2 * LAYOUTS[ggml_type].block_size)


def random_rows(ggml_type: GGMLType, n_row: int, n_col: int) -> NDArray[np.uint8]:
    """Rows of random blocks with scales of ordinary size: every code pattern occurs."""
    generator = np.random.default_rng(zlib.crc32(f"{ggml_type.name}{n_row}{n_col}".encode()))
    if ggml_type in FLOAT_TYPES:
        return _random_floats(generator, ggml_type, n_row, n_col)
    layout = LAYOUTS[ggml_type]
    shape = (n_row, n_col // layout.block_size, layout.type_size)
    blocks = generator.integers(0, 256, shape, dtype=np.uint8)
    for offset in HALF_FIELDS.get(ggml_type.name, ()):
        scales = (generator.random(shape[:2]) * 0.02 + 0.01).astype(np.float16)
        blocks[..., offset : offset + 2] = scales[..., None].view(np.uint8)
    if ggml_type is GGMLType.MXFP4:
        blocks[..., 0] = generator.integers(118, 132, shape[:2])
    if ggml_type is GGMLType.IQ1_M:  # the float16 scale is spread over the top nibbles of 4 words
        blocks[..., 49::2] &= 0x0F
        blocks[..., 55] |= 0x20
    return blocks.reshape(n_row, row_bytes(ggml_type, n_col))


def _random_floats(
    generator: np.random.Generator, ggml_type: GGMLType, n_row: int, n_col: int
) -> NDArray[np.uint8]:
    values = generator.standard_normal((n_row, n_col)).astype(np.float32)
    if ggml_type is GGMLType.F16:
        return values.astype(np.float16).view(np.uint8)
    if ggml_type is GGMLType.BF16:
        return np.ascontiguousarray(values.view(np.uint16)[:, 1::2]).view(np.uint8)
    return values.view(np.uint8)


def random_x(n_token: int, n_col: int) -> NDArray[np.float32]:
    """Activations with a few large columns; the first token is the same whatever `n_token`."""
    generator = np.random.default_rng(n_col)
    x = generator.standard_normal((64, n_col)).astype(np.float32)
    x[:, ::37] *= 20
    return np.ascontiguousarray(x[:n_token])


def integer_blocks(
    kind: Activation, x: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Codes [n_token, n_block, block] and scales [n_token, n_block], as ggml computes them."""
    size = 32 if kind is Activation.BLOCK_32 else 256
    blocks = x.reshape(len(x), -1, size)
    largest = np.abs(blocks).max(axis=2)
    safe = np.where(largest > 0, largest, np.float32(1))
    inverse = np.where(largest > 0, np.float32(127) / safe, np.float32(0))
    codes = np.rint(blocks * inverse[..., None]).astype(np.int32)
    if size == 32:
        return codes, (largest / np.float32(127)).astype(np.float16).astype(np.float32)
    safe = np.where(inverse > 0, inverse, np.float32(1))
    return codes, np.where(inverse > 0, np.float32(1) / safe, np.float32(0))


def scaled_sums(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """amax / 127 · Σ codes of every 32 columns, rounded to float16 (ggml's Q8_1 `s`)."""
    codes, _ = integer_blocks(Activation.BLOCK_32, x)
    scales = np.abs(x.reshape(len(x), -1, 32)).max(axis=2) / np.float32(127)
    totals = codes.sum(axis=2).astype(np.float32)
    return (scales * totals).astype(np.float16).astype(np.float32)


def rounding_of_sums(
    ggml_type: GGMLType, rows: NDArray[np.uint8], x: NDArray[np.float32]
) -> NDArray[np.float64]:
    """What that rounding adds to the product [n_token, n_row] with types that have a minimum."""
    if ggml_type not in (GGMLType.Q4_1, GGMLType.Q5_1):
        return np.zeros((len(x), len(rows)))
    codes, scales = integer_blocks(Activation.BLOCK_32, x)
    error = scaled_sums(x).astype(np.float64) - scales.astype(np.float64) * codes.sum(axis=2)
    blocks = rows.reshape(len(rows), -1, LAYOUTS[ggml_type].type_size)
    minima = np.ascontiguousarray(blocks[..., 2:4]).view(np.float16)[..., 0]
    return error @ minima.astype(np.float64).T


def seen_by_kernel(kind: Activation, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """The activations after quantization, in float64."""
    if kind is Activation.FLOAT32:
        return x.astype(np.float64)
    if kind is Activation.FLOAT16:
        return x.astype(np.float16).astype(np.float64)
    codes, scales = integer_blocks(kind, x)
    return (codes * scales[..., None].astype(np.float64)).reshape(x.shape)


def pack_x(entry: KernelEntry, x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The packed activations, as the machine code writes them."""
    n_token, n_col = x.shape
    out = np.zeros(packed_activation_bytes(entry.activation, n_col, n_token), np.uint8)
    _quantize(entry.quantize)(x.ctypes.data, x.strides[0], n_col, n_token, out.ctypes.data)
    return out


def product(
    entry: KernelEntry,
    matrix: PackedMatrix,
    x: NDArray[np.float32],
    cuts: tuple[int, ...] = (),
) -> NDArray[np.float32]:
    """`x · Wᵀ` [n_token, n_row_padded]; `cuts` splits the groups as threads would."""
    packed = pack_x(entry, x)
    y = np.full((len(x), matrix.n_row_padded), np.nan, np.float32)
    edges = (0, *cuts, matrix.n_group)
    for start, stop in pairwise(edges):
        _matmul(entry.matmul)(
            *(matrix.address, packed.ctypes.data, y.ctypes.data, y.strides[0]),
            *(matrix.n_col, len(x), start, stop),
        )
    return y
