"""Scales of the codebook types: per sub-block from several starts, then `d` and the 4-bit integers.

The search of ggml-quants.c (`quantize_row_iq3_xxs_impl` and its siblings) with the exact
nearest vectors, neighbouring integers tried and `d` refitted by least squares.
"""

from dataclasses import dataclass

import torch

from csaq_export.quantize.block_params import BlockParams
from csaq_export.quantize.grid_format import TOP_SCALE, GridFormat
from csaq_export.quantize.grid_rounding import Vectors, nearest_vectors, vectors
from csaq_export.quantize.half_grid import HalfGrid, half_grid
from csaq_export.quantize.importance import error_weights
from csaq_export.quantize.rounding import inverse_scale

# Where the largest magnitude of a sub-block falls in units of the codebook's largest.
_STARTS = (0.55, 0.67, 0.79, 0.91, 1.03, 1.14, 1.26, 1.38, 1.5)
_SHARES = (1.1, 1.04, 1.0, 0.97, 0.93, 0.88, 0.82, 0.75)
_N_ROUND = 2


def fit_grid(
    blocks: torch.Tensor, grid_format: GridFormat, importance: torch.Tensor | None = None
) -> tuple[BlockParams, Vectors]:
    """Stored parameters for finite float32 `blocks` [n, 256], and the vectors to round with."""
    grid = half_grid(blocks)
    unit = grid.unit[:, None]
    data = vectors(blocks / unit, error_weights(blocks, importance), grid_format)
    found = _search(data, blocks / unit, grid_format)
    d, scales = _integers(data, found, grid_format, grid)
    stored = Vectors(data.weighted * unit[..., None, None], data.weights, data.negative)
    return BlockParams(grid.restore(d), scales.int()), stored


@dataclass(frozen=True)
class _Fitted:
    """Sub-block scales with Σwmg and Σwg² of the vectors they choose, and their cost; [n, n_sub].

    `scale` is a real scale or the stored integer, as float32.
    """

    scale: torch.Tensor
    along: torch.Tensor
    square: torch.Tensor
    cost: torch.Tensor


def _better(best: _Fitted, other: _Fitted) -> _Fitted:
    better = other.cost < best.cost
    return _Fitted(
        torch.where(better, other.scale, best.scale),
        torch.where(better, other.along, best.along),
        torch.where(better, other.square, best.square),
        torch.where(better, other.cost, best.cost),
    )


def _search(data: Vectors, values: torch.Tensor, grid_format: GridFormat) -> _Fitted:
    """Best real scale of each sub-block."""
    peak = values.abs().reshape(values.shape[0], grid_format.n_sub, -1).amax(-1)
    top = float(grid_format.magnitudes(values.device).max())
    best = _Fitted(*[torch.zeros_like(peak)] * 4)
    for start in _STARTS:
        along, square = nearest_vectors(data, peak / (top * start), grid_format)[1:]
        scale = along * inverse_scale(square)
        best = _better(best, _Fitted(scale.clamp(min=0), along, square, -scale * along))
    return best


def _integers(
    data: Vectors, found: _Fitted, grid_format: GridFormat, grid: HalfGrid
) -> tuple[torch.Tensor, torch.Tensor]:
    """`d` [n] on the half grid and integers [n, n_sub]."""
    d, scales = _start(found, grid_format, grid)
    best, best_cost = (d, scales), torch.full_like(d, torch.inf)
    for _ in range(_N_ROUND):
        near = _nearby(data, d, scales, grid_format)
        scales = near.scale
        best, best_cost = _keep(best, best_cost, (d, scales), near.cost.sum(-1))
        level = (0.5 + scales) * grid_format.factor
        curvature = (level * level * near.square).sum(-1)
        d = grid.round((level * near.along).sum(-1) * inverse_scale(curvature))
    total = _evaluate(data, d, scales, grid_format).cost.sum(-1)
    return _keep(best, best_cost, (d, scales), total)[0]


def _keep(
    best: tuple[torch.Tensor, torch.Tensor],
    best_cost: torch.Tensor,
    other: tuple[torch.Tensor, torch.Tensor],
    other_cost: torch.Tensor,
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    better = other_cost < best_cost
    d = torch.where(better, other[0], best[0])
    scales = torch.where(better[:, None], other[1], best[1])
    return (d, scales), torch.where(better, other_cost, best_cost)


def _start(
    found: _Fitted, grid_format: GridFormat, grid: HalfGrid
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `d` whose multiples cost least with the vectors of the real scales."""
    peak = found.scale.amax(-1) / grid_format.factor
    best = (torch.zeros_like(peak), torch.zeros_like(found.scale))
    best_cost = torch.full_like(peak, torch.inf)
    for share in _SHARES:
        d = grid.round(peak / (share * (TOP_SCALE + 0.5)))
        position = found.scale * inverse_scale(d * grid_format.factor)[:, None] - 0.5
        scales = position.round().clamp(0, TOP_SCALE)
        real = grid_format.real_scale(d, scales)
        total = (real * (real * found.square - 2 * found.along)).sum(-1)
        best, best_cost = _keep(best, best_cost, (d, scales), total)
    return best


def _evaluate(
    data: Vectors, d: torch.Tensor, scales: torch.Tensor, grid_format: GridFormat
) -> _Fitted:
    real = grid_format.real_scale(d, scales)
    along, square = nearest_vectors(data, real, grid_format)[1:]
    return _Fitted(scales, along, square, real * (real * square - 2 * along))


def _nearby(
    data: Vectors, d: torch.Tensor, scales: torch.Tensor, grid_format: GridFormat
) -> _Fitted:
    """Best of each integer and its neighbours."""
    best = _evaluate(data, d, scales, grid_format)
    for step in (-1, 1):
        tried = (scales + step).clamp(0, TOP_SCALE)
        best = _better(best, _evaluate(data, d, tried, grid_format))
    return best
