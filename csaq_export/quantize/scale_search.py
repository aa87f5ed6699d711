"""The real-valued scale of each sub-block that minimises its weighted rounding error.

For types with levels around zero. Each start maps the weight of largest magnitude to a
position near the lowest or highest level; the least-squares scale for the codes that
follow is kept if best so far (`make_qx_quants` in ggml-quants.c has the same idea with
one sign and a narrower range). Then codes and scale are refitted in turn.
"""

import torch

from csaq_export.quantize.code_format import CodeFormat
from csaq_export.quantize.moments import SubBlocks, moments
from csaq_export.quantize.rounding import inverse_scale, nearest_levels

_N_START = 20
_N_REFIT = 2
# Reach of the starts inside and beyond the outermost level, in levels but at most a share
# of the range: inside it some range is wasted on purpose, beyond it the largest is clipped.
_REACH = 4.0
_SHARE_INSIDE, _SHARE_BEYOND = 0.45, 0.6


def search_scale(data: SubBlocks, code_format: CodeFormat) -> torch.Tensor:
    """Best scale found, float32 [n, n_sub]; negative where the largest weight is positive."""
    peak = data.values.gather(-1, data.values.abs().argmax(-1, keepdim=True))
    inverse_peak = inverse_scale(peak)
    best_gain = torch.zeros_like(peak[..., 0])
    best_scale = torch.zeros_like(best_gain)
    for target in _targets(code_format):
        scale, gain = _least_squares(data, inverse_peak * target, code_format)
        better = gain > best_gain
        best_gain = torch.where(better, gain, best_gain)
        best_scale = torch.where(better, scale, best_scale)
    for _ in range(_N_REFIT):
        best_scale, _ = _least_squares(data, inverse_scale(best_scale)[..., None], code_format)
    return best_scale


def _targets(code_format: CodeFormat) -> list[float]:
    """Positions to which the largest weight is mapped, on both sides of zero."""
    levels = code_format.levels
    share = 2 * _REACH / len(levels)
    first, last = 1 - min(share, _SHARE_INSIDE), 1 + min(share, _SHARE_BEYOND)
    return [
        start * end
        for end in (levels[0], levels[-1])
        for start in torch.linspace(first, last, _N_START, device="cpu").tolist()
    ]


def _least_squares(
    data: SubBlocks, inverse: torch.Tensor, code_format: CodeFormat
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale [n, n_sub] that best fits the codes of `inverse` [n, n_sub, 1]; the error it saves."""
    sums = moments(data, nearest_levels(data.values * inverse, code_format))
    scale = sums.xq * inverse_scale(sums.qq)
    return scale, scale * sums.xq
