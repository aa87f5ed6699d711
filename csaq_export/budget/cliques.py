"""Bits of every clique of rows: what each width costs, exact bytes, greedy upgrades.

The rule of csaq-quant 0.5.1: every clique starts at the fewest bits, those of the most salient
rows are lifted to 8, what remains of the budget goes where it saves most per byte. What a width
costs is the caller's to say: the divergence it was measured to bring (`methods/csaq`), or salience
times an error that halves with each bit (`hf/clique_budget`).
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

PROTECTED_BITS = 8
# Of all bytes: a clique with more is large beside what a greedy rule has left to spend.
_LARGE = 0.02
# Costs are forecasts: less than a tenth saved is not known to be saved.
_WORTH = 0.9


@dataclass(frozen=True)
class Clique:
    """Rows that get the same bits: `n_bytes[i]` and `cost[i]` at the i-th option, rising bits.

    `least` is the index of the lowest option allowed.
    """

    n_bytes: tuple[int, ...]
    cost: tuple[float, ...]
    least: int = 0


def most_salient(n_row: Sequence[int], salience: Sequence[float], share: float) -> set[int]:
    """Numbers of the cliques of highest `salience` that hold at most `share` of all rows.

    `n_row`: the rows of each clique; `salience`: per weight of it.
    """
    room = share * sum(n_row) + 1e-9
    found: set[int] = set()
    for number in sorted(range(len(n_row)), key=lambda i: -salience[i]):
        room -= n_row[number]
        if room < 0:
            break
        found.add(number)
    return found


def protected_level(widths: Sequence[int]) -> int:
    """Index of the first of `widths` (bits, rising) that protects, else of the last."""
    return next((i for i, bits in enumerate(widths) if bits >= PROTECTED_BITS), len(widths) - 1)


def least_bytes(cliques: Sequence[Clique]) -> int:
    """Bytes where every clique has its lowest option."""
    return sum(clique.n_bytes[clique.least] for clique in cliques)


def solve(cliques: Sequence[Clique], limit: int) -> list[int] | None:
    """Index of the option of every clique, Σ n_bytes ≤ `limit`; None if the least do not fit.

    Of the steps up from where a clique stands the one that saves most per byte is taken, so none
    is passed over that a longer one makes worth while, and at last those that fit into what is
    left. Equal inputs give equal answers; of equal gains the earlier clique's is taken first.
    """
    room = limit - least_bytes(cliques)
    if room < 0:
        return None
    chosen = [clique.least for clique in cliques]
    queue: list[tuple[float, int, int]] = []
    for number, clique in enumerate(cliques):
        _offer(queue, clique, number, chosen[number], room)
    while queue:
        _, number, level = heapq.heappop(queue)
        more = cliques[number].n_bytes[level] - cliques[number].n_bytes[chosen[number]]
        if more <= room:
            room, chosen[number] = room - more, level
        _offer(queue, cliques[number], number, chosen[number], room)
    return chosen


def lift_large(cliques: Sequence[Clique], limit: int) -> list[Clique]:
    """`cliques` with large ones lifted to the option with which `solve` leaves the least cost.

    Small steps that save more per byte leave no room for a large one that saves more than all of
    them. So each option of a large clique is tried, one clique after the other, and taken where it
    saves a tenth at least.
    """
    found, best = list(cliques), _cost_solved(cliques, limit)
    large = _LARGE * least_bytes(cliques)
    for number, clique in enumerate(cliques):
        if clique.n_bytes[clique.least] < large:
            continue
        for level in range(clique.least + 1, len(clique.cost)):
            tried = [*found[:number], replace(clique, least=level), *found[number + 1 :]]
            cost = _cost_solved(tried, limit)
            if cost < _WORTH * best:
                found, best = tried, cost
    return found


def _cost_solved(cliques: Sequence[Clique], limit: int) -> float:
    """What `solve` leaves, infinite where nothing fits."""
    chosen = solve(cliques, limit)
    if chosen is None:
        return float("inf")
    return sum(clique.cost[level] for clique, level in zip(cliques, chosen, strict=True))


def _offer(
    queue: list[tuple[float, int, int]], clique: Clique, number: int, at: int, room: int
) -> None:
    """Put the best step up from option `at` that fits into the queue, if any saves something."""
    best = (0.0, at)
    for level in range(at + 1, len(clique.cost)):
        more = clique.n_bytes[level] - clique.n_bytes[at]
        saved = clique.cost[at] - clique.cost[level]
        if 0 < more <= room and saved / more > best[0]:
            best = (saved / more, level)
    if best[1] != at:
        heapq.heappush(queue, (-best[0], number, best[1]))
