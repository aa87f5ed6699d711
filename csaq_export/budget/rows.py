"""Bits of every clique of rows: measured costs, exact bytes, greedy upgrades.

`solve` starts every clique at the fewest bits, lifts those that hold protected rows, and then
takes the upgrade that saves most cost per byte until nothing fits. Only steps on the lower
convex hull of a clique's (bytes, cost) are taken, so no step is passed over that a longer one
makes worth while.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Clique:
    """Rows that get the same bits: `n_bytes[i]` and `cost[i]` at the i-th option, rising bits.

    `least` is the index of the lowest option allowed.
    """

    n_bytes: tuple[int, ...]
    cost: tuple[float, ...]
    least: int = 0


def solve(cliques: Sequence[Clique], limit: int) -> list[int] | None:
    """Index of the option of every clique, Σ n_bytes ≤ `limit`; None if the least do not fit.

    Equal inputs give equal answers; of equal gains the earlier clique's is taken first.
    """
    chosen = [clique.least for clique in cliques]
    room = limit - sum(c.n_bytes[i] for c, i in zip(cliques, chosen, strict=True))
    if room < 0:
        return None
    queue: list[tuple[float, int, int]] = []
    for number in range(len(cliques)):
        _offer(queue, cliques[number], number, chosen[number])
    while queue:
        _, number, level = heapq.heappop(queue)
        more = cliques[number].n_bytes[level] - cliques[number].n_bytes[chosen[number]]
        if more > room:
            continue
        room, chosen[number] = room - more, level
        _offer(queue, cliques[number], number, level)
    return chosen


def _offer(queue: list[tuple[float, int, int]], clique: Clique, number: int, at: int) -> None:
    """Put the best step up from option `at` into the queue, if any saves something."""
    best = (0.0, at)
    for level in range(at + 1, len(clique.cost)):
        more = clique.n_bytes[level] - clique.n_bytes[at]
        saved = clique.cost[at] - clique.cost[level]
        if more > 0 and saved / more > best[0]:
            best = (saved / more, level)
    if best[1] != at:
        heapq.heappush(queue, (-best[0], number, best[1]))
