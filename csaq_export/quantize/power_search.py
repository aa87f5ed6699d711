"""The power of two that minimises a block's weighted rounding error: the scale of MXFP4."""

import torch

from csaq_export.quantize.code_format import CodeFormat
from csaq_export.quantize.moments import SubBlocks, cost, moments
from csaq_export.quantize.rounding import nearest_levels

# Tried where the largest weight is in [1, 2), which is level 1 … 2 or 32 … 64, beyond the highest.
_EXPONENTS = (0, -1, -2, -3, -4, -5)


def search_power(data: SubBlocks, code_format: CodeFormat) -> torch.Tensor:
    """Best scale of blocks without sub-blocks, float32 [n]."""
    best = torch.zeros_like(data.sum_w[:, 0])
    best_cost = torch.full_like(best, torch.inf)
    for exponent in _EXPONENTS:
        scale = torch.full_like(data.sum_w, 2.0**exponent)
        sums = moments(data, nearest_levels(data.values / scale[..., None], code_format))
        found = cost(data, sums, scale, torch.zeros_like(scale))[:, 0]
        best = torch.where(found < best_cost, scale[:, 0], best)
        best_cost = torch.minimum(found, best_cost)
    return best
