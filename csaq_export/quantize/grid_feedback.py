"""Error feedback for the codebook types: eight weights are rounded together, then passed on.

As in `feedback`, with columns in groups of eight: a codebook vector or two and the
signs they share. What a group loses reaches later columns through the block of the
inverse's Cholesky factor (GPTQ with vectors, as GPTVQ, arXiv 2402.15319).
"""

from dataclasses import replace

import torch
from torch import Tensor

from csaq_export.quantize.block_params import BlockParams
from csaq_export.quantize.exempt import Exempt, to_fit
from csaq_export.quantize.feedback import compensation
from csaq_export.quantize.grid_fit import fit_grid
from csaq_export.quantize.grid_format import GRID_FORMATS, GridFormat
from csaq_export.quantize.grid_layout import GridCodes
from csaq_export.quantize.grid_rounding import dequantize_grid, nearest_vectors, vectors
from csaq_runtime.formats import LAYOUTS, GGMLType

GROUP = 8


def encode_grid_with_feedback(weight: Tensor, ggml_type: GGMLType, curvature: Tensor) -> Tensor:
    """Bytes, uint8 [n_row, row_bytes], that keep Δw·H·Δwᵀ small; H float32 [n_col, n_col]."""
    return encode_grid_around(weight, ggml_type, compensation(curvature), None)[0]


def encode_grid_around(
    weight: Tensor, ggml_type: GGMLType, upper: Tensor, exempt: Exempt | None
) -> tuple[Tensor, Tensor]:
    """The same bytes and the weights as feedback left them, float32 [n_row, n_col].

    `upper` and `exempt` are those of `feedback.round_around`.
    """
    grid_format = GRID_FORMATS[ggml_type]
    size = LAYOUTS[ggml_type].block_size
    importance = torch.diagonal(upper).square().reciprocal()
    rest = weight.clone()
    packed = []
    for start in range(0, weight.shape[1], size):
        here = slice(start, start + size)
        block, kept = rest[:, here], None if exempt is None else exempt.columns(here)
        values, wide = to_fit(block, importance[here], kept)
        params, _ = fit_grid(values, grid_format, wide)
        codes, errors = _round_block(block, params, wide, grid_format, upper[here, here], kept)
        rest[:, here.stop :] -= errors @ upper[here, here.stop :]
        packed.append(grid_format.pack(codes, params))
    return torch.cat(packed, 1), rest


def _round_block(
    block: Tensor,
    params: BlockParams,
    importance: Tensor,
    grid_format: GridFormat,
    upper: Tensor,
    exempt: Exempt | None,
) -> tuple[GridCodes, Tensor]:
    """Codes of one super-block per row, and errors in units of U; `block` changes on the way."""
    errors = torch.empty_like(block)
    parts = []
    for start in range(0, block.shape[1], GROUP):
        here = slice(start, start + GROUP)
        part, value = _round_group(block[:, here], params, importance[:, here], grid_format, start)
        lost = block[:, here] - value
        if exempt is not None:
            lost.masked_fill_(exempt.any()[:, here], 0.0)
        errors[:, here] = torch.linalg.solve_triangular(
            upper[here, here], lost, upper=True, left=False
        )
        block[:, here.stop :] -= errors[:, here] @ upper[here, here.stop :]
        parts.append(part)
    index, negative = (torch.cat([getattr(p, n) for p in parts], 1) for n in ("index", "negative"))
    return GridCodes(index, negative), errors


def _round_group(
    group: Tensor, params: BlockParams, importance: Tensor, grid_format: GridFormat, start: int
) -> tuple[GridCodes, Tensor]:
    """Codes and values of eight columns under the scale of the sub-block they lie in."""
    sub_block = start * grid_format.n_sub // 256
    scales = params.scales[:, sub_block : sub_block + 1]
    narrow = replace(grid_format, n_sub=1)
    data = vectors(group, importance, narrow)
    index, _, _ = nearest_vectors(data, grid_format.real_scale(params.d, scales), narrow)
    codes = GridCodes(index.reshape(len(group), -1).int(), data.negative.to(torch.uint8))
    return codes, dequantize_grid(codes, BlockParams(params.d, scales), narrow)
