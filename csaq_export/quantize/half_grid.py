"""Half-precision rounding of scales of blocks that were scaled by powers of two for the search."""

from dataclasses import dataclass

import torch

from csaq_export.quantize.bits import f16_round


@dataclass(frozen=True)
class HalfGrid:
    """Powers of two `unit`, float32 [n], by which the values of n blocks were divided."""

    unit: torch.Tensor

    def round(self, values: torch.Tensor) -> torch.Tensor:
        """`values` [n], in units, as half precision can store them once scaled back."""
        return f16_round(values * self.unit) / self.unit

    def restore(self, values: torch.Tensor) -> torch.Tensor:
        """Values [n] that `round` gave, scaled back to those that are stored."""
        return values * self.unit


def half_grid(blocks: torch.Tensor) -> HalfGrid:
    """Units that bring the largest magnitude of each block, float32 [n, m], into [1, 2)."""
    exponent = torch.frexp(blocks.abs().amax(-1)).exponent
    return HalfGrid(torch.ldexp(torch.ones_like(blocks[:, 0]), exponent.clamp(-100, 128) - 1))
