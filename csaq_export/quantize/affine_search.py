"""The real-valued scale and offset of each sub-block that minimise its weighted rounding error.

For types with levels from zero up: x ≈ scale·q − offset. Starts lay the range of the
sub-block over more or fewer levels and shift its low end off the lowest level; scale and
offset then follow by weighted least squares and the best start is refitted in turn with
its codes (after `make_qkx3_quants` in ggml-quants.c, which never shifts and stops at the
first fit).
"""

import torch

from csaq_export.quantize.code_format import CodeFormat
from csaq_export.quantize.moments import Moments, SubBlocks, cost, moments
from csaq_export.quantize.rounding import inverse_scale, nearest_levels

Affine = tuple[torch.Tensor, torch.Tensor]

# Codes one level higher and an offset one step larger are the same weights: of such ties the
# first stays, whatever the last digit of their costs.
TIE = 1e-7
_N_REFIT = 2
_N_STRETCH = 12
# Positions of the smallest weight, and how far that of the largest is tried inside and
# beyond the top level; all in levels.
_SHIFTS = (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6)
_INSIDE, _BEYOND = (1.1, 0.1), (1.25, 0.05)


def search_affine(data: SubBlocks, code_format: CodeFormat, signed: bool) -> Affine:
    """Best scale ≥ 0 and offset found, float32 [n, n_sub] each; offsets ≥ 0 unless `signed`."""
    low, high = data.values.amin(-1), data.values.amax(-1)
    if not signed:
        low = low.clamp(max=0)
    best = ((high - low) / code_format.levels[-1], -low)
    best_cost = _rounded_cost(data, best, code_format)
    for bottom, top in _ends(code_format):
        scale = (high - low) / (top - bottom)
        start = (scale, scale * bottom - low)
        fitted, fitted_cost = _refit(data, start, code_format, signed)
        best, best_cost = _keep_better(best, best_cost, fitted, fitted_cost)
    for _ in range(_N_REFIT):
        fitted, fitted_cost = _refit(data, best, code_format, signed)
        best, best_cost = _keep_better(best, best_cost, fitted, fitted_cost)
    return best


def _ends(code_format: CodeFormat) -> list[tuple[float, float]]:
    """Positions, in levels, on which the smallest and the largest weight are laid."""
    top = code_format.levels[-1]
    first = top - _INSIDE[0] - _INSIDE[1] * top
    last = top + _BEYOND[0] + _BEYOND[1] * top
    tops = torch.linspace(first, last, _N_STRETCH, device="cpu").tolist()
    return [(bottom, end) for bottom in _SHIFTS for end in tops]


def _keep_better(
    best: Affine, best_cost: torch.Tensor, other: Affine, other_cost: torch.Tensor
) -> tuple[Affine, torch.Tensor]:
    better = other_cost < best_cost - TIE * best_cost.abs()
    scale, offset = (torch.where(better, new, old) for new, old in zip(other, best, strict=True))
    return (scale, offset), torch.where(better, other_cost, best_cost)


def _round(data: SubBlocks, affine: Affine, code_format: CodeFormat) -> Moments:
    scale, offset = (part[..., None] for part in affine)
    return moments(data, nearest_levels((data.values + offset) * inverse_scale(scale), code_format))


def _rounded_cost(data: SubBlocks, affine: Affine, code_format: CodeFormat) -> torch.Tensor:
    return cost(data, _round(data, affine, code_format), *affine)


def _refit(
    data: SubBlocks, start: Affine, code_format: CodeFormat, signed: bool
) -> tuple[Affine, torch.Tensor]:
    """Least-squares scale and offset for the codes that `start` gives, and their cost."""
    sums = _round(data, start, code_format)
    fitted = _solve(data, sums, signed)
    return fitted, cost(data, sums, *fitted)


def _solve(data: SubBlocks, sums: Moments, signed: bool) -> Affine:
    inverse = inverse_scale(data.sum_w * sums.qq - sums.q * sums.q)
    scale = (data.sum_w * sums.xq - data.sum_x * sums.q) * inverse
    offset = (sums.q * sums.xq - sums.qq * data.sum_x) * inverse
    flat = inverse <= 0
    if not signed:
        flat = flat | (offset < 0)
    scale = torch.where(flat, sums.xq * inverse_scale(sums.qq), scale)
    return scale, torch.where(flat, 0.0, offset)
