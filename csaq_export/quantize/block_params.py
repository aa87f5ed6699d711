"""Scales of blocks as a format stores them: what fitting gives and packing takes."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class BlockParams:
    """Scales of n blocks of n_sub sub-blocks; weight ≈ d·scales·level − dmin·mins.

    `d` and `dmin` are float32 [n] with half-precision values; `scales` and `mins`
    are int32 [n, n_sub] within the format's range. Types without sub-blocks have
    n_sub = 1 and scales (and mins) of one; `dmin` and `mins` are None for types
    without an offset.
    """

    d: torch.Tensor
    scales: torch.Tensor
    dmin: torch.Tensor | None = None
    mins: torch.Tensor | None = None

    def scale(self) -> torch.Tensor:
        """Step between levels per sub-block, float32 [n, n_sub]."""
        return self.d[:, None] * self.scales.to(torch.float32)

    def offset(self) -> torch.Tensor | None:
        """What is subtracted per sub-block, float32 [n, n_sub], or None."""
        if self.dmin is None or self.mins is None:
            return None
        return self.dmin[:, None] * self.mins.to(torch.float32)
