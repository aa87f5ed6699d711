"""Weights + sensitivity → packed blocks: scale search, error feedback, coordinate descent."""

import torch
from torch import Tensor

from csaq_export.quantize.descent import descend
from csaq_export.quantize.encode import check_input, encode
from csaq_export.quantize.feedback import round_with_feedback
from csaq_export.quantize.float_bytes import FLOAT_TYPES
from csaq_export.quantize.grid_feedback import encode_grid_with_feedback
from csaq_export.quantize.grid_format import GRID_FORMATS
from csaq_export.sensitivity import Sensitivity
from csaq_runtime.formats import GGMLType, row_bytes

# Weights in work at a time, 256 MiB of float32: only embeddings are larger.
CHUNK_WEIGHTS = 1 << 26


def encode_guided(
    weight: Tensor, ggml_type: GGMLType, sensitivity: Sensitivity, n_sweep: int
) -> Tensor:
    """Bytes, uint8 [n_row, row_bytes], for float32 `weight` [n_row, n_col] on any device.

    `n_sweep` is the number of descent sweeps after the feedback pass. Float types are
    stored as they are; the codebook types have no descent. Raises what `encode` raises.
    """
    if ggml_type in FLOAT_TYPES:
        return encode(weight, ggml_type)
    check_input(weight, ggml_type, None)
    n_row, n_col = weight.shape
    n_byte = row_bytes(ggml_type, n_col)
    packed = torch.empty(n_row, n_byte, dtype=torch.uint8, device=weight.device)
    for rows, curvature in sensitivity.groups():
        curvature = regular(curvature.to(weight))
        for part in rows.split(max(1, CHUNK_WEIGHTS // n_col)):  # type: ignore[no-untyped-call]
            packed[part] = _encode_rows(weight[part], ggml_type, curvature, n_sweep)
    return packed


def _encode_rows(weight: Tensor, ggml_type: GGMLType, curvature: Tensor, n_sweep: int) -> Tensor:
    if ggml_type in GRID_FORMATS:
        return encode_grid_with_feedback(weight, ggml_type, curvature)
    coded = round_with_feedback(weight, ggml_type, curvature)
    return descend(weight, coded, curvature, n_sweep).packed()


def regular(curvature: Tensor) -> Tensor:
    """`curvature` scaled to a mean diagonal of 1; the identity where nothing was observed."""
    mean = torch.diagonal(curvature).mean()
    if not bool(mean > 0):
        return torch.eye(curvature.shape[0], dtype=curvature.dtype, device=curvature.device)
    return curvature / mean
