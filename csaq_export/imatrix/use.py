"""An imatrix file and a model → the importance of each weight's column, and what the GGUF says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from csaq_export.imatrix.read import read_imatrix
from csaq_export.metadata import Metadata, text, u32
from csaq_export.model import Model
from csaq_export.type_choice import Shape, is_quantizable
from csaq_runtime.errors import ModelError


@dataclass(frozen=True)
class Importance:
    """`columns`: float32 [n_col] by tensor name; `metadata`: the keys llama-quantize writes."""

    columns: Mapping[str, Tensor]
    metadata: Metadata
    notes: tuple[str, ...] = ()


NOTHING = Importance({}, {})


def read_importance(path: Path | None, model: Model) -> Importance:
    """Importance of `model`'s matrices from the imatrix at `path`; none without a path.

    Raises ModelError where it was made for another model.
    """
    if path is None:
        return NOTHING
    imatrix = read_imatrix(path)
    matrices = {w.name: w for w in model.weights if is_quantizable(Shape(w.name, w.shape))}
    columns = {
        name: torch.from_numpy(entry.means())
        for name, entry in imatrix.entries.items()
        if name in matrices
    }
    for name, values in columns.items():
        if len(values) != matrices[name].n_col:
            raise ModelError(
                f"{path}: {name}: {len(values)} values for rows of {matrices[name].n_col} weights",
                "the file was made for another model",
            )
    if not columns:
        raise ModelError(f"{path}: no entry fits this model", "it was made for another model")
    metadata = {
        "quantize.imatrix.file": text(path.name),
        "quantize.imatrix.entries_count": u32(len(columns)),
        "quantize.imatrix.chunks_count": u32(imatrix.chunk_count),
    }
    if imatrix.datasets:
        metadata["quantize.imatrix.dataset"] = text(Path(imatrix.datasets[0]).name)
    return Importance(columns, metadata, tuple(_notes(matrices.keys() - columns.keys())))


def _notes(missing: set[str]) -> list[str]:
    """llama-imatrix leaves embedding and output out; more than these is worth telling."""
    unexpected = sorted(missing - {"token_embd.weight", "output.weight"})
    if not unexpected:
        return []
    return [f"the imatrix has no entry for {len(unexpected)} matrices: {unexpected[0]} …"]
