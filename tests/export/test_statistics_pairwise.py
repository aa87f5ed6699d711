"""Sums come out the same whoever adds which terms, and hold few partial sums."""

from dataclasses import fields

import pytest
import torch

from csaq_export.statistics.linear import LinearStatistics
from csaq_export.statistics.pairwise import PairwiseSum


def term(number):
    generator = torch.Generator().manual_seed(number)
    values = torch.randn(5, generator=generator) * 10.0 ** torch.arange(5)
    return {"": LinearStatistics(**{field.name: values for field in fields(LinearStatistics)})}


def total(found):
    (sums,) = found.nodes.values()
    return sums[""].curvature


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16, 19])
@pytest.mark.parametrize("n_rank", [2, 3, 5])
def test_ranks_add_up_to_the_same_bits_as_one(n, n_rank):
    alone = PairwiseSum(n)
    for number in range(n):
        alone.add(number, term(number))
    together = PairwiseSum(n)
    for rank in reversed(range(n_rank)):
        own = PairwiseSum(n)
        for number in range(rank * n // n_rank, (rank + 1) * n // n_rank):
            own.add(number, term(number))
        for node, sums in own.nodes.items():
            together.insert(node, sums)
    assert torch.equal(total(alone), total(together))


def test_few_partial_sums_exist_at_a_time():
    found = PairwiseSum(16)
    most = 0
    for number in range(16):
        found.add(number, term(number))
        most = max(most, len(found.nodes))
    assert most == 4
