"""Weights → codes under given scales, and codes → weights; shapes broadcast as in NumPy.

The second stage of every encoder, and the step that error feedback takes column by
column: `scale` and `offset` are `BlockParams.scale()`/`.offset()` entries of the
sub-block a weight belongs to.
"""

from functools import cache

import torch

from csaq_export.quantize.block_params import BlockParams
from csaq_export.quantize.code_format import CodeFormat

# Borders between levels are multiples of ½ as levels are integers.
_STEPS_PER_UNIT = 2


@cache
def _code_table(levels: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Code of the nearest level for each half-unit cell from levels[0] to levels[-1], uint8."""
    table = torch.tensor(levels, dtype=torch.float32, device=device)
    n_cell = _STEPS_PER_UNIT * (levels[-1] - levels[0])
    centres = levels[0] + (torch.arange(n_cell, device=device) + 0.5) / _STEPS_PER_UNIT
    return torch.bucketize(centres, (table[1:] + table[:-1]) / 2).to(torch.uint8)


@cache
def _level_table(levels: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(levels, dtype=torch.float32, device=device)


def inverse_scale(scale: torch.Tensor) -> torch.Tensor:
    """1 / scale, and 0 where that is not finite."""
    return torch.where(scale == 0, 0.0, 1.0 / scale).nan_to_num(0.0, 0.0, 0.0)


def _table_codes(position: torch.Tensor, levels: tuple[int, ...]) -> torch.Tensor:
    table = _code_table(levels, position.device)
    cell = ((position - levels[0]) * _STEPS_PER_UNIT).clamp_(0, table.numel() - 1)
    return table.index_select(0, cell.to(torch.int32).reshape(-1)).reshape(position.shape)


def nearest_levels(position: torch.Tensor, code_format: CodeFormat) -> torch.Tensor:
    """Level (float32) nearest to each `position`, a weight in units of its scale."""
    levels = code_format.levels
    if code_format.is_uniform:
        return position.round().clamp_(levels[0], levels[-1])
    return code_values(_table_codes(position, levels), code_format)


def nearest_codes(
    weight: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor | None,
    code_format: CodeFormat,
) -> torch.Tensor:
    """Codes (uint8) of the levels nearest to float32 `weight`; a scale of 0 gives a fixed code."""
    position = (weight if offset is None else weight + offset) * inverse_scale(scale)
    levels = code_format.levels
    if code_format.is_uniform:
        return (position.round_().clamp_(levels[0], levels[-1]) - levels[0]).to(torch.uint8)
    return _table_codes(position, levels)


def code_values(codes: torch.Tensor, code_format: CodeFormat) -> torch.Tensor:
    """Level of each code, float32."""
    levels = code_format.levels
    if code_format.is_uniform:
        return codes.to(torch.float32) + levels[0]
    table = _level_table(levels, codes.device)
    return table.index_select(0, codes.to(torch.int32).reshape(-1)).reshape(codes.shape)


def round_codes(weight: torch.Tensor, params: BlockParams, code_format: CodeFormat) -> torch.Tensor:
    """Codes uint8 [n, block_size] of blocks of weights float32 [n, block_size]."""
    offset = params.offset()
    grouped = weight.reshape(weight.shape[0], code_format.n_sub, -1)
    columns = None if offset is None else offset[:, :, None]
    codes = nearest_codes(grouped, params.scale()[:, :, None], columns, code_format)
    return codes.reshape(weight.shape)


def dequantize_codes(
    codes: torch.Tensor, params: BlockParams, code_format: CodeFormat
) -> torch.Tensor:
    """Weights float32 [n, block_size], bit for bit as ggml's reference dequantizers give them."""
    values = code_values(codes, code_format).reshape(codes.shape[0], code_format.n_sub, -1)
    weight = params.scale()[:, :, None] * values
    offset = params.offset()
    if offset is not None:
        weight = weight - offset[:, :, None]
    return weight.reshape(codes.shape)
