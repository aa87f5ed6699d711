"""The first stage of encoding: blocks of weights and their importance → stored scales."""

from dataclasses import replace

import torch

from csaq_export.quantize.affine_search import search_affine
from csaq_export.quantize.block_params import BlockParams
from csaq_export.quantize.code_format import CodeFormat
from csaq_export.quantize.half_grid import HalfGrid, half_grid
from csaq_export.quantize.importance import error_weights
from csaq_export.quantize.moments import SubBlocks, sub_blocks
from csaq_export.quantize.power_search import search_power
from csaq_export.quantize.scale_search import search_scale
from csaq_export.quantize.sub_scales import choose_sub_scales


def fit(
    blocks: torch.Tensor, code_format: CodeFormat, importance: torch.Tensor | None = None
) -> BlockParams:
    """Scales that minimise Σ importance·error² of finite float32 `blocks` [n, block_size].

    `importance` has the same shape and is ≥ 0; None or all zeros in a block weighs evenly.
    """
    grid = half_grid(blocks)
    shape = (blocks.shape[0], code_format.n_sub, code_format.sub_size)
    values = (blocks / grid.unit[:, None]).reshape(shape)
    weights = error_weights(blocks, importance).reshape(shape)
    if code_format.min_range == (1, 1):
        return _fit_offset_block(values, weights, code_format, grid)
    data = sub_blocks(values, weights)
    if code_format.power_of_two:
        return BlockParams(grid.restore(search_power(data, code_format)), _ones(blocks))
    if code_format.scale_range == (1, 1):
        d = grid.restore(grid.round(search_scale(data, code_format)[:, 0]))
        return BlockParams(d, _ones(blocks))
    if code_format.min_range is None:
        scale = search_scale(data, code_format)
        return choose_sub_scales(data, scale, torch.zeros_like(scale), code_format, grid)
    scale, offset = search_affine(data, code_format, signed=False)
    return choose_sub_scales(data, scale, offset, code_format, grid)


def _ones(blocks: torch.Tensor) -> torch.Tensor:
    return torch.ones(blocks.shape[0], 1, dtype=torch.int32, device=blocks.device)


def _fit_offset_block(
    values: torch.Tensor, weights: torch.Tensor, code_format: CodeFormat, grid: HalfGrid
) -> BlockParams:
    """Q4_1 and Q5_1: searched above the block's minimum, as a far offset would drown the rest."""
    low = values.amin(-1)
    data: SubBlocks = sub_blocks(values - low[..., None], weights)
    scale, offset = search_affine(data, code_format, signed=True)
    d = grid.restore(grid.round(scale[:, 0]))
    dmin = grid.restore(grid.round((offset - low)[:, 0]))
    ones = torch.ones_like(scale, dtype=torch.int32)
    return BlockParams(d, ones, dmin, ones)


def single(params: BlockParams) -> BlockParams:
    """Factors found in float64 as float32: they have half-precision values.

    Candidates save energies that are alike to seven digits; in float64 the order in which a
    curvature was summed no longer decides between them.
    """
    dmin = None if params.dmin is None else params.dmin.float()
    return replace(params, d=params.d.float(), dmin=dmin)
