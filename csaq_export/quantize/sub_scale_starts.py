"""Where the search of sub-block integers starts: factors `d` and `dmin` for given real scales.

`d` is tried at several positions of the largest sub-scale on the integer grid, at the cost
that follows while codes stay those of the real scales. As codes do change, types with
offsets also start from factors around the best pair.
"""

import torch

from csaq_export.quantize.candidate import Candidate, rounded
from csaq_export.quantize.code_format import CodeFormat
from csaq_export.quantize.half_grid import HalfGrid
from csaq_export.quantize.moments import Moments, SubBlocks, cost
from csaq_export.quantize.rounding import inverse_scale

# Where the largest sub-scale falls, as a share of the grid's end: beyond it that sub-block
# is clipped and the others gain resolution.
_SHARES = (1.15, 1.08, 1.0, 0.97, 0.94, 0.91, 0.88, 0.84, 0.8, 0.75, 0.7, 0.65, 0.6)
# Multiples of the best d and dmin to start from as well.
_PAIRS = (
    (1.0, 1.0),
    (0.75, 1.0),
    (0.87, 1.0),
    (1.15, 1.0),
    (1.3, 1.0),
    (1.0, 0.85),
    (1.2, 0.85),
    (0.8, 0.85),
)


def starts(
    data: SubBlocks,
    scale: torch.Tensor,
    offset: torch.Tensor,
    code_format: CodeFormat,
    grid: HalfGrid,
) -> list[Candidate]:
    """Candidates for real scales and offsets [n, n_sub]; offsets are zero for types without."""
    sums = rounded(data, scale, offset, code_format)
    d = _best_factor(data, sums, scale, code_format, grid)
    if code_format.min_range is None:
        scales = _integers(scale, d, code_format.scale_range)
        return [Candidate(d, scales, torch.zeros_like(d), torch.zeros_like(scales))]
    ideal = _ideal_offset(data, sums, d[:, None] * _integers(scale, d, code_format.scale_range))
    dmin = grid.round(ideal.amax(-1) / code_format.min_range[1])
    return [
        _with_offset(data, sums, scale, grid.round(d * a), grid.round(dmin * b), code_format)
        for a, b in _PAIRS
    ]


def _integers(real: torch.Tensor, factor: torch.Tensor, span: tuple[int, int]) -> torch.Tensor:
    return (real * inverse_scale(factor)[:, None]).round().clamp(*span)


def _ideal_offset(data: SubBlocks, sums: Moments, scale: torch.Tensor) -> torch.Tensor:
    """Offset ≥ 0 that costs least under a scale and given codes."""
    return ((scale * sums.q - data.sum_x) * inverse_scale(data.sum_w)).clamp(min=0)


def _with_offset(
    data: SubBlocks,
    sums: Moments,
    scale: torch.Tensor,
    d: torch.Tensor,
    dmin: torch.Tensor,
    code_format: CodeFormat,
) -> Candidate:
    scales = _integers(scale, d, code_format.scale_range)
    ideal = _ideal_offset(data, sums, d[:, None] * scales)
    return Candidate(d, scales, dmin, _integers(ideal, dmin, code_format.min_range or (0, 0)))


def _best_factor(
    data: SubBlocks, sums: Moments, scale: torch.Tensor, code_format: CodeFormat, grid: HalfGrid
) -> torch.Tensor:
    peak = scale.gather(-1, scale.abs().argmax(-1, keepdim=True))[:, 0]
    best, best_cost = torch.zeros_like(peak), torch.full_like(peak, torch.inf)
    for target in [share * end for end in code_format.scale_range if end for share in _SHARES]:
        d = grid.round(peak / target)
        stored = d[:, None] * _integers(scale, d, code_format.scale_range)
        offset = torch.zeros_like(stored)
        if code_format.min_range is not None:
            offset = _ideal_offset(data, sums, stored)
        total = cost(data, sums, stored, offset).sum(-1)
        best = torch.where(total < best_cost, d, best)
        best_cost = torch.minimum(total, best_cost)
    return best
