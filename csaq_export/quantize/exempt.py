"""Weights that are stored beside a matrix's base: their errors do not count in rounding it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Exempt:
    """Both bool [n_row, n_col]: `exact` weights are kept in full, `near` ones nearly so.

    What near ones add is coarse and relative to the base, which is therefore fitted to
    them as to the rest; exact ones do not widen its scales.
    """

    exact: Tensor
    near: Tensor

    def columns(self, here: slice) -> "Exempt":
        """The same for a range of columns."""
        return Exempt(self.exact[:, here], self.near[:, here])

    def any(self) -> Tensor:
        """Weights of either kind."""
        return self.exact | self.near


def to_fit(block: Tensor, importance: Tensor, exempt: Exempt | None) -> tuple[Tensor, Tensor]:
    """Weights and importance that scales are fitted to, both [n_row, n].

    Exact weights do not count and stand at the mean of their row's others, as in TaCQ
    (arXiv 2504.07389).
    """
    wide = importance.expand(block.shape)
    if exempt is None:
        return block, wide
    n_other = (~exempt.exact).sum(1, keepdim=True).clamp(min=1)
    mean = block.masked_fill(exempt.exact, 0.0).sum(1, keepdim=True) / n_other
    return torch.where(exempt.exact, mean, block), wide.masked_fill(exempt.exact, 0.0)
