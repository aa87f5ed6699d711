"""Vectors of weights → nearest codebook vectors under given scales, and back.

The nearest vector under weighted squared error is found among all of the codebook
by one matrix product: Σw(m − s·g)² differs between vectors g by s·Σwg² − 2·Σwmg.
"""

from dataclasses import dataclass

import torch

from csaq_export.quantize.block_params import BlockParams
from csaq_export.quantize.grid_format import GridFormat
from csaq_export.quantize.grid_layout import GridCodes

_SIGN_GROUP = 8
# A wrong sign costs 4·w·|x|·s·g, and the magnitude g grows with |x| less than in proportion.
_PRICE_POWER = 1.5
# Scores held at a time, to stay within a core's cache.
_SCORES = 1 << 19
_FOLD = 16


@dataclass(frozen=True)
class Vectors:
    """Weights of n super-blocks as vectors for a codebook.

    `weighted` = w·m and `weights` = w are float32 [n, n_sub, n_vector, width], with m the
    magnitudes (negative only where `negative` [n, 256] had to disagree with the sign).
    """

    weighted: torch.Tensor
    weights: torch.Tensor
    negative: torch.Tensor


def vectors(blocks: torch.Tensor, weights: torch.Tensor, grid_format: GridFormat) -> Vectors:
    """Split signs off float32 `blocks` [n, 256] with error weights of the same shape."""
    negative = blocks < 0
    if grid_format.even_signs:
        negative = _made_even(negative, weights * blocks.abs() ** _PRICE_POWER)
    magnitude = torch.where(negative, -blocks, blocks)
    width = grid_format.magnitudes(blocks.device).shape[1]
    shape = (blocks.shape[0], grid_format.n_sub, -1, width)
    return Vectors((weights * magnitude).reshape(shape), weights.reshape(shape), negative)


def _made_even(negative: torch.Tensor, price: torch.Tensor) -> torch.Tensor:
    """Flip, in every eight weights with an odd number of minus signs, the cheapest sign."""
    groups = negative.reshape(negative.shape[0], -1, _SIGN_GROUP)
    cheapest = price.reshape(groups.shape).argmin(-1, keepdim=True)
    odd = (groups.sum(-1, keepdim=True) & 1).bool()
    flipped = groups.gather(-1, cheapest) ^ odd
    return groups.scatter(-1, cheapest, flipped).reshape(negative.shape)


def nearest_vectors(
    data: Vectors, scale: torch.Tensor, grid_format: GridFormat
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Indices int64 [n, n_sub, n_vector] for real scales [n, n_sub] > 0; Σwmg, Σwg² [n, n_sub]."""
    table = grid_format.magnitudes(scale.device)
    width = table.shape[1]
    linear, square = data.weighted.reshape(-1, width), data.weights.reshape(-1, width)
    step = scale[:, :, None].expand(data.weights.shape[:3]).reshape(-1, 1)
    factors = torch.cat([linear, square * step], dim=1)
    index = _lowest(factors, torch.cat([-2 * table, table * table], dim=1).T)
    vector = table[index].reshape(data.weights.shape)
    along = (data.weighted * vector).sum((-1, -2))
    square_sum = (data.weights * vector * vector).sum((-1, -2))
    return index.reshape(data.weights.shape[:3]), along, square_sum


def _lowest(factors: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Column of the smallest entry in each row of `factors @ table`, int64 [n]."""
    step = max(1, _SCORES // table.shape[1])
    starts = range(0, factors.shape[0], step)
    return torch.cat([_lowest_column(factors[start : start + step] @ table) for start in starts])


def _lowest_column(score: torch.Tensor) -> torch.Tensor:
    """`score.argmin(-1)` in two steps, as torch vectorises `amin` and not `argmin`."""
    folded = score.reshape(score.shape[0], _FOLD, -1)
    column = folded.amin(1).argmin(-1)
    picked = folded.gather(2, column[:, None, None].expand(-1, _FOLD, 1))
    return picked[:, :, 0].argmin(-1) * folded.shape[2] + column


def round_grid(data: Vectors, params: BlockParams, grid_format: GridFormat) -> GridCodes:
    """Codes of the vectors nearest under stored parameters."""
    scale = grid_format.real_scale(params.d, params.scales)
    index, _, _ = nearest_vectors(data, scale, grid_format)
    return GridCodes(index.reshape(index.shape[0], -1).int(), data.negative.to(torch.uint8))


def dequantize_grid(codes: GridCodes, params: BlockParams, grid_format: GridFormat) -> torch.Tensor:
    """Weights float32 [n, 256], bit for bit as ggml's reference dequantizers give them."""
    scale = grid_format.real_scale(params.d, params.scales)
    table = grid_format.magnitudes(scale.device)
    magnitude = table[codes.index.to(torch.int64)].reshape(*scale.shape, -1)
    weight = (scale[:, :, None] * magnitude).reshape(codes.negative.shape)
    return weight * (1.0 - 2.0 * codes.negative.to(torch.float32))
