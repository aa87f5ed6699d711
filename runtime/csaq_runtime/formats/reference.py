"""The reference dequantizer: packed rows of any supported type to float32.

Takes what `gguf.GGUFFile.data` gives. Vectorised, in slices that stay in cache;
equal bit for bit to ggml's own dequantizers (and gguf-py's).
"""

from collections.abc import Callable

import numpy as np

from csaq_runtime.formats import k_quants, legacy
from csaq_runtime.formats.bits import Bytes, Floats
from csaq_runtime.formats.codes import CODED
from csaq_runtime.formats.types import LAYOUTS, GGMLType

# Weights per slice; keeps the temporaries within a few MiB.
_SLICE = 2**18

_DIRECT: dict[GGMLType, Callable[[Bytes], Floats]] = {
    GGMLType.F32: legacy.f32,
    GGMLType.F16: legacy.f16,
    GGMLType.BF16: legacy.bf16,
    GGMLType.Q4_0: legacy.q4_0,
    GGMLType.Q4_1: legacy.q4_1,
    GGMLType.Q5_0: legacy.q5_0,
    GGMLType.Q5_1: legacy.q5_1,
    GGMLType.Q8_0: legacy.q8_0,
    GGMLType.Q2_K: k_quants.q2_k,
    GGMLType.Q3_K: k_quants.q3_k,
    GGMLType.Q4_K: k_quants.q4_k,
    GGMLType.Q5_K: k_quants.q5_k,
    GGMLType.Q6_K: k_quants.q6_k,
}

DEQUANTIZABLE: frozenset[GGMLType] = frozenset(_DIRECT) | frozenset(CODED)


def dequantize(data: Bytes, ggml_type: GGMLType) -> Floats:
    """Weights float32 [n_row, n_col] of packed rows uint8 [n_row, row_bytes].

    Raises ValueError for a type that holds no weights (I8, Q8_K, …) or rows that
    are not whole blocks.
    """
    if ggml_type not in DEQUANTIZABLE:
        raise ValueError(f"{ggml_type.name} cannot be dequantized")
    layout = LAYOUTS[ggml_type]
    if data.shape[1] % layout.type_size:
        raise ValueError(f"{data.shape[1]} bytes are no whole {ggml_type.name} blocks")
    blocks = np.ascontiguousarray(data).reshape(-1, layout.type_size)
    out = np.empty((len(blocks), layout.block_size), np.float32)
    step = _SLICE // layout.block_size
    for start in range(0, len(blocks), step):
        out[start : start + step] = _dequantize_blocks(blocks[start : start + step], ggml_type)
    return out.reshape(len(data), -1)


def _dequantize_blocks(blocks: Bytes, ggml_type: GGMLType) -> Floats:
    # Scales of a damaged file may be infinite or NaN; the caller sees that in the result.
    with np.errstate(over="ignore", invalid="ignore"):
        if ggml_type in _DIRECT:
            return _DIRECT[ggml_type](blocks)
        codes, scales = CODED[ggml_type](blocks)
        grouped = codes.astype(np.float32).reshape(len(blocks), -1, 16)
        return (grouped * scales[:, :, None]).reshape(len(blocks), -1)
