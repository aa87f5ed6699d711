"""Integer sub-block scales (and mins) and the super-block's `d` (and `dmin`), chosen together.

`d` is tried at several positions of the largest sub-scale on the integer grid; then the
integers (against their neighbours, with codes rounded anew) and the half-precision factors
(by least squares) are refitted in turn, keeping the best choice seen per block.
"""

from dataclasses import dataclass

import torch

from csaq_export.quantize.block_params import BlockParams
from csaq_export.quantize.code_format import CodeFormat
from csaq_export.quantize.half_grid import HalfGrid
from csaq_export.quantize.moments import Moments, SubBlocks, cost, moments
from csaq_export.quantize.rounding import inverse_scale, nearest_levels

_N_ROUND = 3
# Where the largest sub-scale falls on the integer grid, as a share of the grid's end:
# beyond it that sub-block is clipped and the others gain resolution.
_SHARES = (1.15, 1.08, 1.0, 0.97, 0.94, 0.91, 0.88, 0.84, 0.8, 0.75, 0.7, 0.65, 0.6)
_REACH = 2


@dataclass(frozen=True)
class _Choice:
    """Candidate parameters of n blocks; integers kept as float32 [n, n_sub]."""

    d: torch.Tensor
    scales: torch.Tensor
    dmin: torch.Tensor
    mins: torch.Tensor

    def scale(self) -> torch.Tensor:
        return self.d[:, None] * self.scales

    def offset(self) -> torch.Tensor:
        return self.dmin[:, None] * self.mins

    def params(self, code_format: CodeFormat, grid: HalfGrid) -> BlockParams:
        d, scales = grid.restore(self.d), self.scales.int()
        if code_format.min_range is None:
            return BlockParams(d, scales)
        return BlockParams(d, scales, grid.restore(self.dmin), self.mins.int())


def choose_sub_scales(
    data: SubBlocks,
    scale: torch.Tensor,
    offset: torch.Tensor,
    code_format: CodeFormat,
    grid: HalfGrid,
) -> BlockParams:
    """Stored parameters for the real scales and offsets (zero for types without), [n, n_sub]."""
    choice = _start(data, scale, offset, code_format, grid)
    best, best_cost = choice, torch.full_like(choice.d, torch.inf)
    for _ in range(_N_ROUND):
        choice, sums, total = _nearby(data, choice, code_format)
        best, best_cost = _keep_better(best, best_cost, choice, total)
        choice = _refit_factors(data, sums, choice, grid)
    _, total = _evaluate(data, choice, code_format)
    return _keep_better(best, best_cost, choice, total.sum(-1))[0].params(code_format, grid)


def _evaluate(
    data: SubBlocks, choice: _Choice, code_format: CodeFormat
) -> tuple[Moments, torch.Tensor]:
    """Sums and cost [n, n_sub] of a choice, with codes rounded for it."""
    scale, offset = choice.scale(), choice.offset()
    sums = _round(data, scale, offset, code_format)
    return sums, cost(data, sums, scale, offset)


def _round(
    data: SubBlocks, scale: torch.Tensor, offset: torch.Tensor, code_format: CodeFormat
) -> Moments:
    values = data.values
    if code_format.min_range is not None:
        values = values + offset[..., None]
    return moments(data, nearest_levels(values * inverse_scale(scale)[..., None], code_format))


def _start(
    data: SubBlocks,
    scale: torch.Tensor,
    offset: torch.Tensor,
    code_format: CodeFormat,
    grid: HalfGrid,
) -> _Choice:
    """Factors and integers that cost least while the codes stay those of the real scales."""
    sums = _round(data, scale, offset, code_format)
    d, scales = _best_factor(data, sums, scale, code_format, grid)
    if code_format.min_range is None:
        return _Choice(d, scales, torch.zeros_like(d), torch.zeros_like(scales))
    ideal = _ideal_offset(data, sums, d[:, None] * scales).clamp(min=0)
    top = code_format.min_range[1]
    dmin = grid.round(ideal.amax(-1) / top)
    mins = (ideal * inverse_scale(dmin)[:, None]).round().clamp(0, top)
    return _Choice(d, scales, dmin, mins)


def _ideal_offset(data: SubBlocks, sums: Moments, scale: torch.Tensor) -> torch.Tensor:
    return (scale * sums.q - data.sum_x) * inverse_scale(data.sum_w)


def _best_factor(
    data: SubBlocks, sums: Moments, scale: torch.Tensor, code_format: CodeFormat, grid: HalfGrid
) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = code_format.scale_range
    peak = scale.gather(-1, scale.abs().argmax(-1, keepdim=True))[:, 0]
    best = (torch.zeros_like(peak), torch.zeros_like(scale))
    best_cost = torch.full_like(peak, torch.inf)
    for target in [share * end for end in (low, high) if end for share in _SHARES]:
        d = grid.round(peak / target)
        scales = (scale * inverse_scale(d)[:, None]).round().clamp(low, high)
        rounded = d[:, None] * scales
        offset = torch.zeros_like(rounded)
        if code_format.min_range is not None:
            offset = _ideal_offset(data, sums, rounded).clamp(min=0)
        total = cost(data, sums, rounded, offset).sum(-1)
        better = total < best_cost
        best = (torch.where(better, d, best[0]), torch.where(better[:, None], scales, best[1]))
        best_cost = torch.where(better, total, best_cost)
    return best


def _nearby(
    data: SubBlocks, choice: _Choice, code_format: CodeFormat
) -> tuple[_Choice, Moments, torch.Tensor]:
    """Best integers around `choice`, with their sums and the cost of each block [n]."""
    best = choice
    best_sums, best_cost = _evaluate(data, choice, code_format)
    for tried in _neighbours(choice, code_format):
        sums, tried_cost = _evaluate(data, tried, code_format)
        better = tried_cost < best_cost
        best_cost = torch.where(better, tried_cost, best_cost)
        scales = torch.where(better, tried.scales, best.scales)
        mins = torch.where(better, tried.mins, best.mins)
        best = _Choice(choice.d, scales, choice.dmin, mins)
        best_sums = Moments(
            torch.where(better, sums.xq, best_sums.xq),
            torch.where(better, sums.qq, best_sums.qq),
            torch.where(better, sums.q, best_sums.q),
        )
    return best, best_sums, best_cost.sum(-1)


def _neighbours(choice: _Choice, code_format: CodeFormat) -> list[_Choice]:
    steps = range(-_REACH, _REACH + 1)
    low, high = code_format.scale_range
    if code_format.min_range is None:
        pairs = [(step, 0) for step in steps]
    else:
        pairs = [(step, shift) for step in (-1, 0, 1) for shift in (-1, 0, 1)]
    top = 0 if code_format.min_range is None else code_format.min_range[1]
    return [
        _Choice(
            choice.d,
            (choice.scales + step).clamp(low, high),
            choice.dmin,
            (choice.mins + shift).clamp(0, top),
        )
        for step, shift in pairs
        if step or shift
    ]


def _refit_factors(data: SubBlocks, sums: Moments, choice: _Choice, grid: HalfGrid) -> _Choice:
    """Least-squares `d` and `dmin` for given integers and codes."""
    scales, mins = choice.scales, choice.mins
    dd, dm = (scales * scales * sums.qq).sum(-1), (scales * mins * sums.q).sum(-1)
    mm = (mins * mins * data.sum_w).sum(-1)
    d_side, m_side = (scales * sums.xq).sum(-1), -(mins * data.sum_x).sum(-1)
    inverse = inverse_scale(dd * mm - dm * dm).clamp(min=0)
    d = torch.where(inverse > 0, (d_side * mm + m_side * dm) * inverse, d_side * inverse_scale(dd))
    d = grid.round(d)
    dmin = grid.round((m_side + d * dm) * inverse_scale(mm))
    return _Choice(d, scales, dmin, mins)


def _keep_better(
    best: _Choice, best_cost: torch.Tensor, other: _Choice, other_cost: torch.Tensor
) -> tuple[_Choice, torch.Tensor]:
    better = other_cost < best_cost
    wide = better[:, None]
    kept = _Choice(
        torch.where(better, other.d, best.d),
        torch.where(wide, other.scales, best.scales),
        torch.where(better, other.dmin, best.dmin),
        torch.where(wide, other.mins, best.mins),
    )
    return kept, torch.where(better, other_cost, best_cost)
