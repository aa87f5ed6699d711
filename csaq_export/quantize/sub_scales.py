"""Integer sub-block scales (and mins) and the super-block's `d` (and `dmin`), chosen together.

From each start the integers (against their neighbours, with codes rounded anew) and the
half-precision factors (by least squares) are refitted in turn, keeping the best candidate
seen per block.
"""

import torch

from csaq_export.quantize.block_params import BlockParams
from csaq_export.quantize.candidate import Candidate, evaluate, keep_better
from csaq_export.quantize.code_format import CodeFormat
from csaq_export.quantize.half_grid import HalfGrid
from csaq_export.quantize.moments import Moments, SubBlocks
from csaq_export.quantize.rounding import inverse_scale
from csaq_export.quantize.sub_scale_starts import starts

_N_ROUND = 2
_ALONE = [(step, 0) for step in (-2, -1, 1, 2)]
_PAIRED = [(step, shift) for step in (-1, 0, 1) for shift in (-1, 0, 1) if step or shift]


def choose_sub_scales(
    data: SubBlocks,
    scale: torch.Tensor,
    offset: torch.Tensor,
    code_format: CodeFormat,
    grid: HalfGrid,
) -> BlockParams:
    """Stored parameters for the real scales and offsets (zero for types without), [n, n_sub]."""
    candidates = starts(data, scale, offset, code_format, grid)
    best, best_cost = candidates[0], torch.full_like(candidates[0].d, torch.inf)
    for candidate in candidates:
        for _ in range(_N_ROUND):
            candidate, sums, total = _nearby(data, candidate, code_format)
            best, best_cost = keep_better(best, best_cost, candidate, total)
            candidate = _refit_factors(data, sums, candidate, grid)
        total = evaluate(data, candidate, code_format)[1].sum(-1)
        best, best_cost = keep_better(best, best_cost, candidate, total)
    return best.params(code_format, grid)


def _nearby(
    data: SubBlocks, candidate: Candidate, code_format: CodeFormat
) -> tuple[Candidate, Moments, torch.Tensor]:
    """Best integers around `candidate`, with their sums and the cost of each block [n]."""
    best = candidate
    best_sums, best_cost = evaluate(data, candidate, code_format)
    for tried in _neighbours(candidate, code_format):
        sums, tried_cost = evaluate(data, tried, code_format)
        better = tried_cost < best_cost
        best_cost = torch.where(better, tried_cost, best_cost)
        scales = torch.where(better, tried.scales, best.scales)
        mins = torch.where(better, tried.mins, best.mins)
        best = Candidate(candidate.d, scales, candidate.dmin, mins)
        best_sums = Moments(
            torch.where(better, sums.xq, best_sums.xq),
            torch.where(better, sums.qq, best_sums.qq),
            torch.where(better, sums.q, best_sums.q),
        )
    return best, best_sums, best_cost.sum(-1)


def _neighbours(candidate: Candidate, code_format: CodeFormat) -> list[Candidate]:
    return [
        Candidate(
            candidate.d,
            (candidate.scales + step).clamp(*code_format.scale_range),
            candidate.dmin,
            (candidate.mins + shift).clamp(*(code_format.min_range or (0, 0))),
        )
        for step, shift in (_ALONE if code_format.min_range is None else _PAIRED)
    ]


def _refit_factors(
    data: SubBlocks, sums: Moments, candidate: Candidate, grid: HalfGrid
) -> Candidate:
    """Least-squares `d` and `dmin` for given integers and codes."""
    scales, mins = candidate.scales, candidate.mins
    dd, dm = (scales * scales * sums.qq).sum(-1), (scales * mins * sums.q).sum(-1)
    mm = (mins * mins * data.sum_w).sum(-1)
    d_side, m_side = (scales * sums.xq).sum(-1), -(mins * data.sum_x).sum(-1)
    inverse = inverse_scale(dd * mm - dm * dm).clamp(min=0)
    d = torch.where(inverse > 0, (d_side * mm + m_side * dm) * inverse, d_side * inverse_scale(dd))
    d = grid.round(d)
    dmin = grid.round((m_side + d * dm) * inverse_scale(mm))
    return Candidate(d, scales, dmin, mins)
