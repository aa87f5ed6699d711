"""Coordinate descent: codes one column at a time, then scales, each the best given all others.

Starts from any rounding and never raises Δw·H·Δwᵀ. Source of the idea: CDQuant
(arXiv 2406.17542); the scale step is least squares inside a super-block's own factors.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from csaq_export.quantize.code_format import CodeFormat
from csaq_export.quantize.coded import Coded
from csaq_export.quantize.rounding import code_values, inverse_scale, nearest_codes

# Columns swept before what they changed is passed on: keeps the inner steps in a core's cache.
GROUP = 64


def descend(weight: Tensor, coded: Coded, curvature: Tensor, n_sweep: int) -> Coded:
    """`coded` improved by `n_sweep` sweeps over codes and scale factors.

    `weight` float32 [n_row, n_col], `curvature` H float32 [n_col, n_col], symmetric.
    """
    for _ in range(n_sweep):
        coded = _sweep_codes(weight, coded, curvature)
        if not coded.format.power_of_two:
            coded = _refit_factors(weight, coded, curvature)
    return coded


def _sweep_codes(weight: Tensor, coded: Coded, curvature: Tensor) -> Coded:
    """Each column rounded again to where the others' errors want it; columns kept as rows.

    A change reaches the columns after it: at once within GROUP columns, as one product beyond.
    """
    scale, offset = coded.column_grid()
    value = coded.weight().T.contiguous()
    pull = curvature @ (value - weight.T)
    codes = torch.empty_like(coded.codes.T)
    for start in range(0, value.shape[0], GROUP):
        here = slice(start, start + GROUP)
        shift = None if offset is None else offset[here]
        square, grid = curvature[here, here], (scale[here], shift)
        codes[here], change = _sweep_group(value[here], pull[here], square, grid, coded.format)
        pull[here.stop :] += curvature[here.stop :, here] @ change
    return replace(coded, codes=codes.T.contiguous())


def _sweep_group(
    value: Tensor,
    pull: Tensor,
    square: Tensor,
    grid: tuple[Tensor, Tensor | None],
    code_format: CodeFormat,
) -> tuple[Tensor, Tensor]:
    """Codes and changes of neighbouring columns [n, n_row]; `pull` changes on the way."""
    (scale, offset), step = grid, inverse_scale(torch.diagonal(square))
    codes, change = torch.empty_like(value, dtype=torch.uint8), torch.empty_like(value)
    for j in range(value.shape[0]):
        shift = None if offset is None else offset[j]
        codes[j] = nearest_codes(value[j] - step[j] * pull[j], scale[j], shift, code_format)
        moved = scale[j] * code_values(codes[j], code_format)
        change[j] = (moved if shift is None else moved - shift) - value[j]
        pull[j + 1 :] += square[j + 1 :, j, None] * change[j]
    return codes, change


def _refit_factors(weight: Tensor, coded: Coded, curvature: Tensor) -> Coded:
    """Newton step on `d` (and `dmin`) of every super-block, kept in half precision if it helps."""
    size, n_block = coded.format.block_size, coded.n_block
    params = coded.params
    factors: dict[str, Any] = {"d": params.d, "dmin": params.dmin}
    directions = _directions(coded)
    shape = (coded.codes.shape[0], n_block)
    change = coded.weight() - weight
    for index in range(n_block):
        here = slice(index * size, (index + 1) * size)
        square, pull = curvature[here, here], change @ curvature[:, here]
        for name, direction in directions.items():
            factor = factors[name]
            assert factor is not None
            along = direction[:, here]
            bent = along @ square
            steepness, curve = (along * pull).sum(1), (along * bent).sum(1)
            old = factor.view(shape)[:, index]
            new = (old - steepness * inverse_scale(curve)).half().float()
            moved = new - old
            gain = moved * (2 * steepness + moved * curve)
            moved = torch.where((gain < 0) & torch.isfinite(new), moved, 0.0)
            change[:, here] += moved[:, None] * along
            pull = pull + moved[:, None] * bent
            factor = factor.clone()
            factor.view(shape)[:, index] = old + moved
            factors[name] = factor
    return replace(coded, params=replace(params, **factors))


def _directions(coded: Coded) -> dict[str, Tensor]:
    """How every weight changes with `d` and with `dmin`, float32 [n_row, n_col]."""

    def spread(values: Tensor) -> Tensor:
        wide = values.float().repeat_interleave(coded.format.sub_size, 1)
        return wide.reshape(coded.codes.shape)

    directions = {"d": spread(coded.params.scales) * coded.levels()}
    if coded.params.mins is not None:
        directions["dmin"] = -spread(coded.params.mins)
    return directions
