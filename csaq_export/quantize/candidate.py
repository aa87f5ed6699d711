"""Candidate parameters of blocks during the search of sub-block scales, and what they cost."""

from dataclasses import dataclass

import torch

from csaq_export.quantize.block_params import BlockParams
from csaq_export.quantize.code_format import CodeFormat
from csaq_export.quantize.half_grid import HalfGrid
from csaq_export.quantize.moments import Moments, SubBlocks, cost, moments
from csaq_export.quantize.rounding import inverse_scale, nearest_levels


@dataclass(frozen=True)
class Candidate:
    """As `BlockParams`, in units of the search, with integers kept as float32 [n, n_sub].

    Types without an offset have zeros in `dmin` and `mins`.
    """

    d: torch.Tensor
    scales: torch.Tensor
    dmin: torch.Tensor
    mins: torch.Tensor

    def scale(self) -> torch.Tensor:
        """Step between levels, float32 [n, n_sub]."""
        return self.d[:, None] * self.scales

    def offset(self) -> torch.Tensor:
        """What is subtracted, float32 [n, n_sub]."""
        return self.dmin[:, None] * self.mins

    def params(self, code_format: CodeFormat, grid: HalfGrid) -> BlockParams:
        """The parameters as stored."""
        d, scales = grid.restore(self.d), self.scales.int()
        if code_format.min_range is None:
            return BlockParams(d, scales)
        return BlockParams(d, scales, grid.restore(self.dmin), self.mins.int())


def rounded(
    data: SubBlocks, scale: torch.Tensor, offset: torch.Tensor, code_format: CodeFormat
) -> Moments:
    """Sums of the levels nearest under `scale` and `offset` [n, n_sub]."""
    values = data.values
    if code_format.min_range is not None:
        values = values + offset[..., None]
    return moments(data, nearest_levels(values * inverse_scale(scale)[..., None], code_format))


def evaluate(
    data: SubBlocks, candidate: Candidate, code_format: CodeFormat
) -> tuple[Moments, torch.Tensor]:
    """Sums and cost [n, n_sub] of a candidate, with codes rounded for it."""
    scale, offset = candidate.scale(), candidate.offset()
    sums = rounded(data, scale, offset, code_format)
    return sums, cost(data, sums, scale, offset)


def keep_better(
    best: Candidate, best_cost: torch.Tensor, other: Candidate, other_cost: torch.Tensor
) -> tuple[Candidate, torch.Tensor]:
    """Per block the candidate of lower cost [n], and that cost."""
    better = other_cost < best_cost
    wide = better[:, None]
    kept = Candidate(
        torch.where(better, other.d, best.d),
        torch.where(wide, other.scales, best.scales),
        torch.where(better, other.dmin, best.dmin),
        torch.where(wide, other.mins, best.mins),
    )
    return kept, torch.where(better, other_cost, best_cost)
