"""Cliques of rows + a target → bits of every clique, in exact bytes.

The rule of csaq-quant 0.5.1: every clique starts at the fewest bits, the most salient rows are
lifted to 8, what remains of the budget goes to the upgrades worth most. Bytes are those of ggml's
blocks with their scales, and four per row for its place.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from csaq_export.cliques import rows_together
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import LAYOUTS, GGMLType, row_bytes

# Bytes that tell a stored row's place in the matrix.
INDEX_BYTES = 4
PROTECTED_BITS = 8
TIER_TYPES: dict[int, tuple[GGMLType, ...]] = {
    16: (GGMLType.F16,),
    8: (GGMLType.Q8_0, GGMLType.F16),
    4: (GGMLType.Q4_K, GGMLType.Q4_0, GGMLType.F16),
    2: (GGMLType.Q2_K, GGMLType.Q4_0, GGMLType.F16),
}


def tier_type(bits: int, n_col: int) -> GGMLType:
    """The ggml type of rows of `n_col` weights at `bits`: the first whose blocks divide them."""
    return next(t for t in TIER_TYPES[bits] if n_col % LAYOUTS[t].block_size == 0)


@dataclass(frozen=True)
class CliqueBits:
    """`rows` of one matrix that stay together, and the `bits` they get; `salience` is their sum."""

    rows: tuple[int, ...]
    salience: float
    bits: int = 0


@dataclass(frozen=True)
class RowsToBudget:
    """A matrix of rows of `n_col` weights: its cliques, bits not yet decided."""

    n_col: int
    cliques: tuple[CliqueBits, ...]

    @property
    def n_row(self) -> int:
        """Rows in all cliques."""
        return sum(len(clique.rows) for clique in self.cliques)


def rows_to_budget(labels: Tensor, salience: Tensor, n_col: int) -> RowsToBudget:
    """The cliques of `labels` int64 [n_row] (−1: alone) with `salience` float32 [n_row]."""
    values = salience.double()
    cliques = (
        CliqueBits(tuple(rows), float(values[torch.tensor(rows)].sum()))
        for rows in rows_together(labels)
    )
    return RowsToBudget(n_col, tuple(cliques))


def solve_cliques(
    matrices: Mapping[str, RowsToBudget],
    options: Sequence[int],
    limit: int,
    protection_floor: float,
) -> dict[str, tuple[CliqueBits, ...]]:
    """The cliques of every matrix with their bits, one of `options`, in at most `limit` bytes.

    The most salient rows (per weight), `protection_floor` of all, have 8 bits at least, with the
    cliques they are in. Raises UsageError with the arithmetic where that does not fit.
    """
    units = [
        _Unit(name, number, matrix.n_col, clique, _widths(options, matrix.n_col))
        for name, matrix in sorted(matrices.items())
        for number, clique in enumerate(matrix.cliques)
    ]
    levels = [0] * len(units)
    for place in _protected(units, protection_floor):
        levels[place] = units[place].level_of(PROTECTED_BITS)
    used = sum(unit.n_bytes(level) for unit, level in zip(units, levels, strict=True))
    if used > limit:
        raise _too_small(units, used, limit, protection_floor)
    _upgrade(units, levels, limit - used)
    found: dict[str, list[CliqueBits]] = {name: [] for name in sorted(matrices)}
    for unit, level in zip(units, levels, strict=True):
        found[unit.name].append(replace(unit.clique, bits=unit.widths[level]))
    return {name: tuple(cliques) for name, cliques in found.items()}


def _widths(options: Iterable[int], n_col: int) -> tuple[int, ...]:
    """The options that make a difference for rows of this length, fewest bits first."""
    by_type: dict[int, int] = {}
    for bits in sorted(set(options)):
        by_type[row_bytes(tier_type(bits, n_col), n_col)] = bits
    return tuple(by_type[size] for size in sorted(by_type))


@dataclass(frozen=True)
class _Unit:
    """A clique of one matrix and the widths it may have."""

    name: str
    number: int
    n_col: int
    clique: CliqueBits
    widths: tuple[int, ...]

    @property
    def density(self) -> float:
        """Salience per weight."""
        return self.clique.salience / (len(self.clique.rows) * self.n_col)

    def n_bytes(self, level: int) -> int:
        """Packed rows and their index."""
        each = row_bytes(tier_type(self.widths[level], self.n_col), self.n_col) + INDEX_BYTES
        return len(self.clique.rows) * each

    def level_of(self, bits: int) -> int:
        """The fewest bits from `bits` on, or the most there are."""
        return next((i for i, w in enumerate(self.widths) if w >= bits), len(self.widths) - 1)

    def worth(self, level: int) -> float:
        """Salience saved per byte by the step to the next level; errors halve with each bit."""
        gain = 2.0 ** -self.widths[level] - 2.0 ** -self.widths[level + 1]
        return self.clique.salience * gain / (self.n_bytes(level + 1) - self.n_bytes(level))


def _protected(units: Sequence[_Unit], share: float) -> list[int]:
    """Places of the units that hold the most salient `share` of rows."""
    wanted = share * sum(len(unit.clique.rows) for unit in units)
    order = sorted(range(len(units)), key=lambda place: -units[place].density)
    found, n_row = [], 0
    for place in order:
        n_row += len(units[place].clique.rows)
        if n_row > wanted + 1e-9:
            break
        found.append(place)
    return found


def _upgrade(units: Sequence[_Unit], levels: list[int], room: int) -> None:
    """Spend `room` bytes on the steps worth most, as far as each fits."""
    queue = [
        (-unit.worth(levels[place]), place)
        for place, unit in enumerate(units)
        if levels[place] + 1 < len(unit.widths)
    ]
    heapq.heapify(queue)
    while queue:
        _, place = heapq.heappop(queue)
        unit, level = units[place], levels[place]
        cost = unit.n_bytes(level + 1) - unit.n_bytes(level)
        if cost > room:
            continue
        room -= cost
        levels[place] = level + 1
        if level + 2 < len(unit.widths):
            heapq.heappush(queue, (-unit.worth(level + 1), place))


def _too_small(units: Sequence[_Unit], used: int, limit: int, floor: float) -> UsageError:
    n_weight = sum(len(unit.clique.rows) * unit.n_col for unit in units)
    least = min(unit.widths[0] for unit in units)
    n_row = sum(len(unit.clique.rows) for unit in units)
    index = 8 * INDEX_BYTES * n_row / n_weight
    return UsageError(
        f"{8 * limit / n_weight:.3f} bits per weight is too little: {least}-bit rows with their "
        f"scales, {100 * floor:g} % of the rows at 8 bits and {index:.3f} bits for their places "
        f"take {8 * used / n_weight:.3f}",
        "allow fewer bits, protect fewer rows or give more bits per weight",
    )
