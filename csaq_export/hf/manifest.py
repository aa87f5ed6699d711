"""`csaq_manifest.json` of a packed folder: what `quantize` found, and the cliques read back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csaq_export.cliques import SINGLETON
from csaq_export.config import read_json
from csaq_runtime.errors import ModelError

MANIFEST = "csaq_manifest.json"


def manifest(info: Mapping[str, Any]) -> dict[str, Any]:
    """`info` as JSON values; cliques as `{"rows": […], "bits": …, "salience": …}`."""
    budget = {
        layer: [{"rows": c.rows, "bits": c.bits, "salience": c.salience} for c in cliques]
        for layer, cliques in info["budget"].items()
    }
    return {**info, "version": 1, "budget": budget}


def read_labels(folder: Path, row_bits: Mapping[str, NDArray[np.int64]]) -> dict[str, Tensor]:
    """The clique of every row, int64 [n_row] (−1: alone), by layer; nothing without a manifest.

    `row_bits`: the width of every row of these layers. Raises ModelError where the manifest does
    not describe them.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    budget = read_json(path).get("budget")
    if not isinstance(budget, dict):
        raise ModelError(f"{path}: budget: not an object")
    return {
        name: _labels(budget.get(name), bits, f"{path}: budget: {name}")
        for name, bits in row_bits.items()
    }


def _labels(cliques: Any, row_bits: NDArray[np.int64], where: str) -> Tensor:
    seen = np.zeros(len(row_bits), np.int64)
    labels, n_clique = torch.full((len(row_bits),), SINGLETON), 0
    for clique in cliques if isinstance(cliques, list) else []:
        rows = _rows(clique, row_bits, where)
        seen[rows] += 1
        if len(rows) > 1:
            labels[torch.from_numpy(rows)] = n_clique
            n_clique += 1
    if (seen != 1).any():
        raise ModelError(f"{where}: not every row of the matrix once")
    return labels


def _rows(clique: Any, row_bits: NDArray[np.int64], where: str) -> NDArray[np.int64]:
    """The rows of one clique, all there and of the bits it names."""
    rows = clique.get("rows") if isinstance(clique, dict) else None
    if not isinstance(rows, list) or not all(
        type(row) is int and 0 <= row < len(row_bits) for row in rows
    ):
        raise ModelError(f"{where}: not a list of cliques of its {len(row_bits)} rows")
    found = np.array(rows, np.int64)
    if (row_bits[found] != clique.get("bits")).any():
        raise ModelError(f"{where}: a clique of {clique.get('bits')!r} bits has rows of others")
    return found
