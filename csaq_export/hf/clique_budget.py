"""Salience and cliques of a model's layers → bits of every clique, and what that adds up to.

The solver is that of `csaq convert --method csaq`; the objective is csaq-quant's: an error halves
with each bit and counts as much as the rows' salience. Bytes are those of ggml's blocks with their
scales, and four per row for its place.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from csaq_export.budget.cliques import (
    Clique,
    least_bytes,
    most_salient,
    protected_level,
    solve,
)
from csaq_export.cliques import Cliques, rows_together
from csaq_export.hf.config import CSAQConfig
from csaq_export.hf.profiler import Salience
from csaq_export.hf.tier import tier_type
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import row_bytes

# Bytes that tell a stored row's place in the matrix.
INDEX_BYTES = 4


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


# Bits of every clique of a layer, by module name.
Budget = dict[str, tuple[CliqueBits, ...]]


def solve_clique_budget(
    salience: Mapping[str, Salience], cliques: Mapping[str, Cliques], config: CSAQConfig
) -> tuple[Budget, dict[str, int], float]:
    """What `CausalProfiler.profile` gives → budget, weights per tier, bits per weight.

    The bits count packed rows, their scales and the row index; they are `config.target_bits` or
    a little less. Raises UsageError with the arithmetic where the target is too low.
    """
    matrices = {
        name: rows_to_budget(cliques[name].labels, each.rows, each.n_col)
        for name, each in salience.items()
    }
    n_weight = sum(matrix.n_row * matrix.n_col for matrix in matrices.values())
    limit = int(config.target_bits * n_weight / 8)
    budget = solve_cliques(matrices, config.bit_options, limit, config.protection_floor)
    columns = {name: each.n_col for name, each in salience.items()}
    n_bytes = sum(
        _n_bytes(clique, clique.bits, columns[name])
        for name, found in budget.items()
        for clique in found
    )
    return budget, tier_stats(budget, columns), 8 * n_bytes / n_weight


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
) -> Budget:
    """The cliques of every matrix with their bits, one of `options`, in at most `limit` bytes.

    The most salient rows (per weight), `protection_floor` of all, have 8 bits at least, with the
    cliques they are in. Raises UsageError with the arithmetic where that does not fit.
    """
    units = [
        (name, matrix.n_col, clique)
        for name, matrix in sorted(matrices.items())
        for clique in matrix.cliques
    ]
    lifted = most_salient(
        [len(clique.rows) for _, _, clique in units],
        [clique.salience / (len(clique.rows) * n_col) for _, n_col, clique in units],
        protection_floor,
    )
    widths = [_widths(options, n_col) for _, n_col, _ in units]
    cliques = [
        _priced(clique, n_col, widths[i], protected_level(widths[i]) if i in lifted else 0)
        for i, (_, n_col, clique) in enumerate(units)
    ]
    levels = solve(cliques, limit)
    if levels is None:
        fewest = min(own[0] for own in widths)
        raise _too_small(matrices, fewest, least_bytes(cliques), limit, protection_floor)
    found: dict[str, list[CliqueBits]] = {name: [] for name in sorted(matrices)}
    for (name, _, clique), own, level in zip(units, widths, levels, strict=True):
        found[name].append(replace(clique, bits=own[level]))
    return {name: tuple(own) for name, own in found.items()}


def _priced(clique: CliqueBits, n_col: int, widths: Sequence[int], least: int) -> Clique:
    """`clique` for the solver; errors halve with each bit."""
    n_bytes = tuple(_n_bytes(clique, bits, n_col) for bits in widths)
    return Clique(n_bytes, tuple(clique.salience * 2.0**-bits for bits in widths), least)


def _n_bytes(clique: CliqueBits, bits: int, n_col: int) -> int:
    """Packed rows and their index."""
    return len(clique.rows) * (row_bytes(tier_type(bits, n_col), n_col) + INDEX_BYTES)


def _widths(options: Iterable[int], n_col: int) -> tuple[int, ...]:
    """The options that make a difference for rows of this length, fewest bits first."""
    by_type: dict[int, int] = {}
    for bits in sorted(set(options)):
        by_type[row_bytes(tier_type(bits, n_col), n_col)] = bits
    return tuple(by_type[size] for size in sorted(by_type))


def tier_stats(budget: Budget, columns: Mapping[str, int]) -> dict[str, int]:
    """How many weights have each width: `{"int4": …, "fp16": …}`."""
    counts: dict[int, int] = {}
    for name, cliques in budget.items():
        for clique in cliques:
            counts[clique.bits] = counts.get(clique.bits, 0) + len(clique.rows) * columns[name]
    return {"fp16" if bits == 16 else f"int{bits}": counts[bits] for bits in sorted(counts)}


def _too_small(
    matrices: Mapping[str, RowsToBudget],
    bits: int,
    used: int,
    limit: int,
    floor: float,
) -> UsageError:
    n_weight = sum(matrix.n_row * matrix.n_col for matrix in matrices.values())
    index = 8 * INDEX_BYTES * sum(matrix.n_row for matrix in matrices.values()) / n_weight
    return UsageError(
        f"{8 * limit / n_weight:.3f} bits per weight is too little: {bits}-bit rows with "
        f"their scales, {100 * floor:g} % of the rows at 8 bits and {index:.3f} bits for their "
        f"places take {8 * used / n_weight:.3f}",
        "allow fewer bits, protect fewer rows or give more bits per weight",
    )
