"""Co-activation counts → cliques: groups of rows of a matrix that are large at the same tokens.

The grouping of csaq-quant 0.5.1: Jaccard similarity of the rows' firing tokens, joined
greedily around leaders. Uses: groups with a curvature of their own (`statistics`), units
of the rows layout, and a description of the model.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

SINGLETON = -1
# Leaders compared with all rows at a time: bounds the similarity matrix in memory.
_BLOCK = 1024


@dataclass(frozen=True)
class Cliques:
    """`labels`: int64 [n_row], the clique of each row or SINGLETON; cliques count from 0."""

    labels: Tensor
    threshold: float

    @property
    def n_clique(self) -> int:
        """Cliques of two rows and more."""
        return int(self.labels.max()) + 1 if len(self.labels) else 0

    def histogram(self) -> dict[int, int]:
        """How many cliques of each size there are, singletons included, by size."""
        members = self.labels[self.labels != SINGLETON]
        counts = Counter(torch.bincount(members).tolist())
        n_single = int((self.labels == SINGLETON).sum())
        if n_single:
            counts[1] += n_single
        return dict(sorted(counts.items()))


def rows_together(labels: Tensor) -> list[list[int]]:
    """The rows of every clique of `labels` and every single row, by their first rows."""
    groups: dict[int, list[int]] = {}
    for row, label in enumerate(labels.tolist()):
        groups.setdefault(label if label != SINGLETON else -2 - row, []).append(row)
    return list(groups.values())


def jaccard(coactivation: Tensor, rows: slice) -> Tensor:
    """|i ∧ j| / |i ∨ j| over tokens for `rows` against all, float32 [n, n_row].

    `coactivation` [n_row, n_row] counts tokens; its diagonal counts each row's own.
    """
    fires = torch.diagonal(coactivation)
    both = coactivation[rows]
    either = fires[rows, None] + fires[None, :] - both
    return torch.where(either > 0, both / either.clamp(min=1), 0.0)


def find_cliques(coactivation: Tensor, threshold: float) -> Cliques:
    """Join all free rows of similarity ≥ `threshold` to each leader, the most active first."""
    n_row = coactivation.shape[0]
    order = torch.diagonal(coactivation).argsort(descending=True, stable=True)
    ranked = coactivation[order][:, order]
    labels = torch.full((n_row,), SINGLETON)
    free = torch.ones(n_row, dtype=torch.bool)
    n_clique = 0
    for start in range(0, n_row, _BLOCK):
        similar = jaccard(ranked, slice(start, start + _BLOCK)) >= threshold
        for leader, close in enumerate(similar.cpu(), start):
            if not free[leader]:
                continue
            free[leader] = False
            members = close & free
            if bool(members.any()):
                members[leader] = True
                labels[order[members]] = n_clique
                free &= ~members
                n_clique += 1
    return Cliques(labels, threshold)


def cliques_by_count(coactivation: Tensor, n_group: int) -> Cliques:
    """The cliques at the highest threshold that leaves at most `n_group` groups, singletons too."""
    low, high = 0.0, 1.0
    best = find_cliques(coactivation, low)
    for _ in range(20):
        middle = (low + high) / 2
        found = find_cliques(coactivation, middle)
        if sum(found.histogram().values()) <= n_group:
            best, low = found, middle
        else:
            high = middle
    return best
