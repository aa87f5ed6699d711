"""F32, F16 and BF16: weights ↔ little-endian bytes, rounded to the nearest, ties to even."""

import torch

from csaq_export.quantize.bits import F16_MAX
from csaq_runtime.errors import ModelError
from csaq_runtime.formats import GGMLType

FLOAT_TYPES: dict[GGMLType, torch.dtype] = {
    GGMLType.F32: torch.float32,
    GGMLType.F16: torch.float16,
    GGMLType.BF16: torch.bfloat16,
}


def encode_float(weight: torch.Tensor, ggml_type: GGMLType) -> torch.Tensor:
    """Float32 [n_row, n_col] → bytes uint8 [n_row, n_col · type_size].

    Raises ModelError when F16 cannot hold the largest weight.
    """
    stored = weight.to(FLOAT_TYPES[ggml_type])
    if ggml_type != GGMLType.F32 and not bool(torch.isfinite(stored).all()):
        largest = float(weight.abs().max())
        raise ModelError(
            f"a weight of magnitude {largest:g} does not fit {ggml_type.name}",
            f"F16 ends at {F16_MAX:g}; use BF16, F32 or a quantized type",
        )
    return stored.contiguous().view(torch.uint8)


def decode_float(data: torch.Tensor, ggml_type: GGMLType) -> torch.Tensor:
    """Undo `encode_float`: bytes uint8 [n_row, n] → float32 [n_row, n / type_size]."""
    return data.contiguous().view(FLOAT_TYPES[ggml_type]).to(torch.float32)
