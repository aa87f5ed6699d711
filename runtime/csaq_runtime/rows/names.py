"""How a rows file is told from a stock one, and what its tensors are called.

A matrix `blk.3.ffn_up` is `blk.3.ffn_up.weight` or tiers `blk.3.ffn_up.weight.b16`, `….b8`, … with
`blk.3.ffn_up.rows`; `….outlier_{values,columns,offsets}` (and `….outlier8_…`) and `….lowrank`,
`….lowrank_columns` may stand beside both.
"""

import re
from collections.abc import Iterable

PREFIX = "csaq-"
"""What `general.architecture` begins with, so that other readers refuse the file."""

ROWS = "rows"
OUTLIERS = ("outlier_values", "outlier_columns", "outlier_offsets")
OUTLIERS8 = ("outlier8_values", "outlier8_columns", "outlier8_offsets")
OUTLIER_SETS = (OUTLIERS, OUTLIERS8)
"""A matrix may have two sets, the second of coarser values; a weight is in one of them."""

LOWRANK = ("lowrank", "lowrank_columns")
BESIDE = (ROWS, *OUTLIERS, *OUTLIERS8, *LOWRANK)
"""Last parts of the names of tensors beside a matrix."""

CLIQUE = "csaq.clique."
"""What the keys begin with that name each row's clique, before the name of the matrix."""

_TIER = re.compile(r"(.+)\.weight\.b([1-9]|[12][0-9]|3[0-2])")


def base_architecture(architecture: str) -> str:
    """The architecture whose graph is computed: `llama` for `csaq-llama`."""
    return architecture.removeprefix(PREFIX)


def is_rows(architecture: str) -> bool:
    """Whether a file of this `general.architecture` has the rows layout."""
    return architecture.startswith(PREFIX)


def tier_name(base: str, n_bit: int) -> str:
    """Name of the tensor with the rows of about `n_bit` bits."""
    return f"{base}.weight.b{n_bit}"


def tier_names(names: Iterable[str]) -> dict[str, list[str]]:
    """Matrix → the names of its tiers, most bits first."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        match = _TIER.fullmatch(name)
        if match is not None:
            found.setdefault(match[1], []).append((-int(match[2]), name))
    return {base: [name for _, name in sorted(tiers)] for base, tiers in found.items()}


def matrix_of(name: str) -> str | None:
    """The matrix that a tensor is part of or stands beside, None for any other tensor."""
    match = _TIER.fullmatch(name)
    if match is not None:
        return match[1]
    base, _, last = name.rpartition(".")
    return base if base and last in (*BESIDE, "weight") else None
