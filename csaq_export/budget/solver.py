"""Options per tensor + a limit in bytes → the cheapest combination that fits.

A multiple-choice knapsack, solved exactly by dynamic programming over units of the
tensors' sizes; where those are too fine for a table, sizes are rounded up to coarser
units and what remains is spent one upgrade at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

MAX_UNITS = 1 << 15


@dataclass(frozen=True)
class Option:
    """One way to store a tensor: bytes in the file (padding included) and expected loss."""

    n_bytes: int
    cost: float


def solve(tensors: Sequence[Sequence[Option]], limit: int) -> list[int] | None:
    """Index of the chosen option per tensor: Σ n_bytes ≤ limit, Σ cost minimal; None if none fit.

    Equal inputs give equal answers; among equal costs the earlier option wins.
    """
    if sum(min(option.n_bytes for option in options) for options in tensors) > limit:
        return None
    unit = gcd(*(option.n_bytes for options in tensors for option in options))
    unit = max(unit, -(-limit // MAX_UNITS))
    sizes = [[-(-option.n_bytes // unit) for option in options] for options in tensors]
    n_unit = max(limit // unit, sum(min(row) for row in sizes))
    chosen = _table_choice(tensors, sizes, n_unit)
    return _spend_rest(tensors, _made_to_fit(tensors, chosen, limit), limit)


def _table_choice(
    tensors: Sequence[Sequence[Option]], sizes: list[list[int]], n_unit: int
) -> list[int]:
    """best[u]: least cost of the tensors so far within u units; walked back from the end."""
    best: NDArray[np.float64] = np.zeros(n_unit + 1)
    picks = []
    for options, row in zip(tensors, sizes, strict=True):
        costs = np.full((len(options), n_unit + 1), np.inf)
        for index, (option, size) in enumerate(zip(options, row, strict=True)):
            if size <= n_unit:
                costs[index, size:] = best[: n_unit + 1 - size] + option.cost
        picks.append(costs.argmin(0).astype(np.int16))
        best = costs.min(0)
    chosen = []
    for row, pick in zip(reversed(sizes), reversed(picks), strict=True):
        chosen.append(int(pick[n_unit]))
        n_unit -= row[chosen[-1]]
    return chosen[::-1]


def total_bytes(tensors: Sequence[Sequence[Option]], chosen: Sequence[int]) -> int:
    """Bytes of a choice."""
    return sum(options[index].n_bytes for options, index in zip(tensors, chosen, strict=True))


def _made_to_fit(tensors: Sequence[Sequence[Option]], chosen: list[int], limit: int) -> list[int]:
    """Coarse units can leave the smallest choice over the limit: give way where it costs least."""
    while total_bytes(tensors, chosen) > limit:
        moves = [
            ((option.cost - options[now].cost) / (options[now].n_bytes - option.n_bytes), i, j)
            for i, (options, now) in enumerate(zip(tensors, chosen, strict=True))
            for j, option in enumerate(options)
            if option.n_bytes < options[now].n_bytes
        ]
        _, i, j = min(moves)
        chosen[i] = j
    return chosen


def _spend_rest(tensors: Sequence[Sequence[Option]], chosen: list[int], limit: int) -> list[int]:
    """The upgrade that saves most among those that still fit, until none does."""
    while True:
        rest = limit - total_bytes(tensors, chosen)
        moves = [
            (options[now].cost - option.cost, -i, -j)
            for i, (options, now) in enumerate(zip(tensors, chosen, strict=True))
            for j, option in enumerate(options)
            if option.n_bytes - options[now].n_bytes <= rest and option.cost < options[now].cost
        ]
        if not moves:
            return chosen
        _, i, j = max(moves)
        chosen[-i] = -j
