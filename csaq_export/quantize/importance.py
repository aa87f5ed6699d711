"""Importance as callers give it → the weight of each squared error in the searches."""

import torch

# Share of the largest importance in a block that every weight counts at least: keeps scales
# of sub-blocks whose inputs were never active defined, and changes no others.
_FLOOR = 1e-9


def error_weights(blocks: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
    """Weights shaped as `blocks` [n, block_size], the largest of each block 1.

    Blocks without any importance, or None for all of them, weigh evenly.
    """
    if importance is None:
        return torch.ones_like(blocks)
    top = importance.amax(-1, keepdim=True)
    return torch.where(top > 0, importance / top, 1.0).clamp(min=_FLOOR)
