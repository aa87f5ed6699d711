"""Sums by a fixed binary tree over numbered terms: the same bits whoever adds what.

A float sum depends on the order of its terms. Here the order follows from the terms'
numbers alone, so it does not matter how they are divided among ranks, and at most
log₂(n) + 1 partial sums exist at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from csaq_export.ranks import from_all_ranks, rank_and_count, receive, send_to_first
from csaq_export.statistics.linear import LinearStatistics, from_tensors

# Statistics of some linear layers by name.
Sums = Mapping[str, LinearStatistics]
# Level and position: the sum of terms position · 2^level … (position + 1) · 2^level - 1.
Node = tuple[int, int]


@dataclass
class PairwiseSum:
    """The sum of `n` terms as far as it is known: `nodes` of the tree that await their sibling."""

    n: int
    nodes: dict[Node, Sums] = field(default_factory=dict)

    def add(self, number: int, term: Sums) -> None:
        """Add the term of that number."""
        self.insert((0, number), term)

    def insert(self, node: Node, sums: Sums) -> None:
        """Add the sum of all terms under `node`."""
        level, position = node
        while 1 << level < self.n:
            sibling = (level, position ^ 1)
            if sibling[1] << level < self.n:
                if sibling not in self.nodes:
                    break
                sums = _added(self.nodes.pop(sibling), sums)
            level, position = level + 1, position >> 1
        self.nodes[level, position] = sums


def _added(one: Sums, other: Sums) -> Sums:
    return {name: one[name] + other[name] for name in one}


def total_at_first(own: PairwiseSum) -> Sums | None:
    """The sum over all ranks' terms on the first rank, None on the others.

    The first rank must have a term.
    """
    rank, count = rank_and_count()
    everyones = from_all_ranks(sorted(own.nodes))
    if rank > 0:
        for node in sorted(own.nodes):
            send_to_first(_flat(own.nodes[node]))
        return None
    pattern = next(iter(own.nodes.values()))
    for sender in range(1, count):
        for node in everyones[sender]:
            received = iter(receive(sender, _flat(pattern)))
            own.insert(node, _unflat(pattern, received))
    (total,) = own.nodes.values()
    return total


def _flat(sums: Sums) -> list[Tensor]:
    return [tensor for name in sorted(sums) for tensor in sums[name].tensors().values()]


def _unflat(pattern: Sums, tensors: Iterator[Tensor]) -> Sums:
    return {
        name: from_tensors({key: next(tensors) for key in pattern[name].tensors()})
        for name in sorted(pattern)
    }
