"""Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 without importance: the bytes that gguf-py and llama.cpp write.

The extremes of a block set its scale, and codes are rounded with the scale before
it becomes half precision (`quantize_row_q4_0_ref` and its siblings in ggml-quants.c).
"""

import torch

from csaq_export.quantize.block_params import BlockParams
from csaq_export.quantize.code_format import CODE_FORMATS
from csaq_runtime.formats import GGMLType

PLAIN_TYPES = (GGMLType.Q4_0, GGMLType.Q4_1, GGMLType.Q5_0, GGMLType.Q5_1, GGMLType.Q8_0)


def _inverse(d: torch.Tensor) -> torch.Tensor:
    # A subnormal d overflows here; its half-precision value is 0, so any finite code will do.
    return torch.where(d == 0, 0.0, 1.0 / d).nan_to_num(0.0, 0.0, 0.0)


def _truncated(position: torch.Tensor, top: int) -> torch.Tensor:
    return position.trunc().clamp(0, top).to(torch.uint8)


def _symmetric(weight: torch.Tensor, n_level: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Map the weight of largest magnitude, with its sign, to the lowest level."""
    largest = weight.gather(1, weight.abs().argmax(dim=1, keepdim=True))
    d = largest / -(n_level // 2)
    return d, _truncated(weight * _inverse(d) + (n_level // 2 + 0.5), n_level - 1)


def _affine(weight: torch.Tensor, n_level: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Map the smallest weight to the lowest level and the largest to the highest."""
    low, high = weight.amin(dim=1, keepdim=True), weight.amax(dim=1, keepdim=True)
    d = (high - low) / (n_level - 1)
    return d, low, _truncated((weight - low) * _inverse(d) + 0.5, n_level - 1)


def _eight_bit(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric over −127…127, halves rounded away from zero as C's roundf does."""
    d = weight.abs().amax(dim=1, keepdim=True) / 127
    position = weight * _inverse(d)
    magnitude = position.abs()
    whole = magnitude.floor()
    rounded = whole + (2 * (magnitude - whole)).floor()
    return d, ((position.sign() * rounded).clamp(-127, 127) + 128).to(torch.uint8)


def encode_plain(weight: torch.Tensor, ggml_type: GGMLType) -> torch.Tensor:
    """Blocks uint8 [n, type_size] of float32 weights [n, 32] for one of `PLAIN_TYPES`."""
    code_format = CODE_FORMATS[ggml_type]
    ones = torch.ones(weight.shape[0], 1, dtype=torch.int32, device=weight.device)
    if ggml_type == GGMLType.Q8_0:
        d, codes = _eight_bit(weight)
        return code_format.pack(codes, BlockParams(d[:, 0], ones))
    if code_format.min_range is None:
        d, codes = _symmetric(weight, len(code_format.levels))
        return code_format.pack(codes, BlockParams(d[:, 0], ones))
    d, low, codes = _affine(weight, len(code_format.levels))
    return code_format.pack(codes, BlockParams(d[:, 0], ones, -low[:, 0], ones))
