"""Weighted sums over sub-blocks, from which errors and least-squares scales follow."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SubBlocks:
    """n blocks of n_sub sub-blocks of k weights: `values` x, `weights` w, float32 [n, n_sub, k].

    Kept with them is what every evaluation needs: `weighted` = w·x and the sums over k,
    float32 [n, n_sub]: `sum_w`, `sum_x`.
    """

    values: torch.Tensor
    weights: torch.Tensor
    weighted: torch.Tensor
    sum_w: torch.Tensor
    sum_x: torch.Tensor


def sub_blocks(values: torch.Tensor, weights: torch.Tensor) -> SubBlocks:
    """Collect what depends on the weights alone."""
    weighted = values * weights
    return SubBlocks(values, weights, weighted, weights.sum(-1), weighted.sum(-1))


@dataclass(frozen=True)
class Moments:
    """Sums over each sub-block for levels q: `xq` = Σwxq, `qq` = Σwq², `q` = Σwq, [n, n_sub]."""

    xq: torch.Tensor
    qq: torch.Tensor
    q: torch.Tensor


def moments(data: SubBlocks, levels: torch.Tensor) -> Moments:
    """Sums for `levels` [n, n_sub, k], the level that each weight is rounded to."""
    weighted = data.weights * levels
    q = weighted.sum(-1)
    qq = weighted.mul_(levels).sum(-1)
    return Moments((data.weighted * levels).sum(-1), qq, q)


def cost(data: SubBlocks, sums: Moments, scale: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Σw(x − scale·q + offset)² − Σwx² per sub-block: what changes with the choice of scales."""
    square = scale * (scale * sums.qq - 2 * (sums.xq + offset * sums.q))
    return square + offset * (offset * data.sum_w + 2 * data.sum_x)
