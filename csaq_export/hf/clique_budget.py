"""Salience and cliques of a model's layers → bits of every clique, and what that adds up to."""

from collections.abc import Mapping, Sequence

from csaq_export.budget.cliques import (
    INDEX_BYTES,
    CliqueBits,
    rows_to_budget,
    solve_cliques,
    tier_type,
)
from csaq_export.cliques import Cliques
from csaq_export.hf.config import CSAQConfig
from csaq_export.hf.profiler import Salience
from csaq_runtime.formats import row_bytes

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
    n_bytes = sum(_n_bytes(found, columns[name]) for name, found in budget.items())
    return budget, tier_stats(budget, columns), 8 * n_bytes / n_weight


def tier_stats(budget: Budget, columns: Mapping[str, int]) -> dict[str, int]:
    """How many weights have each width: `{"int4": …, "fp16": …}`."""
    counts: dict[int, int] = {}
    for name, cliques in budget.items():
        for clique in cliques:
            counts[clique.bits] = counts.get(clique.bits, 0) + len(clique.rows) * columns[name]
    return {"fp16" if bits == 16 else f"int{bits}": counts[bits] for bits in sorted(counts)}


def _n_bytes(cliques: Sequence[CliqueBits], n_col: int) -> int:
    return sum(
        len(clique.rows) * (row_bytes(tier_type(clique.bits, n_col), n_col) + INDEX_BYTES)
        for clique in cliques
    )
