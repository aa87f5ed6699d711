"""What a file says of rows: its index and keys → rows by type, cliques by size."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from csaq_runtime.errors import GGUFError
from csaq_runtime.gguf import GGUFFile, TensorInfo
from csaq_runtime.rows.names import CLIQUE, tier_names

SHOWN_SIZES = 8


@dataclass(frozen=True)
class TierShare:
    """Rows of one type. `tier`: K of the tensors `….weight.bK`, 0 for matrices of one type."""

    tier: int
    type: str
    n_matrix: int
    n_row: int
    n_weight: int
    n_bytes: int


def tier_shares(tensors: Mapping[str, TensorInfo]) -> list[TierShare]:
    """The matrices of a rows file by tier and type, most bits first."""
    found: dict[tuple[int, str], list[TensorInfo]] = {}
    tiers = tier_names(tensors)
    for names in tiers.values():
        for name in names:
            key = (int(name.rpartition(".b")[2]), tensors[name].type.name)
            found.setdefault(key, []).append(tensors[name])
    for info in _plain(tensors.values()):
        found.setdefault((0, info.type.name), []).append(info)
    return [_share(tier, kind, found[tier, kind]) for tier, kind in sorted(found, reverse=True)]


def _plain(tensors: Iterable[TensorInfo]) -> list[TensorInfo]:
    """Matrices that are one tensor."""
    return [info for info in tensors if info.name.endswith(".weight") and len(info.shape) == 2]


def _share(tier: int, kind: str, group: list[TensorInfo]) -> TierShare:
    n_weight = sum(info.n_row * info.n_col for info in group)
    n_row, n_bytes = sum(info.n_row for info in group), sum(info.n_bytes for info in group)
    return TierShare(tier, kind, len(group), n_row, n_weight, n_bytes)


def clique_sizes(file: GGUFFile) -> dict[int, int]:
    """How many cliques of each size the layers' matrices have; 1 are rows that are alone.

    Empty for a file that names no cliques. Raises GGUFError for a key that is not what it says.
    """
    named = {key for key in file.metadata if key.startswith(CLIQUE)}
    if not named and file.text("csaq.method", "") != "csaq":
        return {}
    counts: dict[int, int] = {}
    for key in named:
        labels = file.metadata[key]
        if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
            raise GGUFError(file.path, f"key {key}", "not an array of whole numbers")
        for label, size in zip(*np.unique(labels, return_counts=True), strict=True):
            size, n = (1, int(size)) if label < 0 else (int(size), 1)
            counts[size] = counts.get(size, 0) + n
    alone = sum(n for name, n in _layer_rows(file).items() if f"{CLIQUE}{name}" not in named)
    counts[1] = counts.get(1, 0) + alone
    return {size: counts[size] for size in sorted(counts) if counts[size]}


def _layer_rows(file: GGUFFile) -> dict[str, int]:
    """Rows of every matrix in layers, by the name it has in a stock file."""
    rows = {info.name: info.n_row for info in _plain(file.tensors.values())}
    for base, names in tier_names(file.tensors).items():
        rows[f"{base}.weight"] = sum(file.tensors[name].n_row for name in names)
    return {name: n for name, n in rows.items() if name.startswith("blk.")}


def sizes_text(sizes: Mapping[int, int]) -> str:
    """In words: rows that are alone, then cliques by size, the last ones of many left out."""
    parts = [f"{n:,} rows alone" if size == 1 else f"{n:,} of {size}" for size, n in sizes.items()]
    rest = len(parts) - SHOWN_SIZES
    more = [f"{rest} more sizes up to {max(sizes):,}"] if rest > 0 else []
    return ", ".join([*parts[:SHOWN_SIZES], *more])
