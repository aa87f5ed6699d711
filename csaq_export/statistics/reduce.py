"""Sums over data-parallel ranks (`torchrun`): every rank sees its share of the batches."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_count() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) outside torchrun."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def sum_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all ranks."""
    if rank_and_count()[1] > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def highest_over_ranks(value: int) -> int:
    """The largest `value` of any rank."""
    if rank_and_count()[1] == 1:
        return value
    largest = torch.tensor(value)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def wait_for_ranks() -> None:
    """Go on when every rank is here."""
    if rank_and_count()[1] > 1:
        dist.barrier()
