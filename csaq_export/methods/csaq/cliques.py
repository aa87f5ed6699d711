"""Kept-back text → cliques of rows, their salience, and which of them are protected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from csaq_export.budget.cliques import most_salient
from csaq_export.cliques import SINGLETON, Cliques, rows_together
from csaq_export.coactivation import cliques_of, held_coactivation
from csaq_export.methods.csaq.options import CsaqRequest
from csaq_export.methods.session import Session
from csaq_export.sensitivity import Sensitivities, linear_places


@dataclass(frozen=True)
class Unit:
    """Rows of one matrix that share their bits, int64 [n], and their mean salience."""

    name: str
    rows: Tensor
    salience: float


def find_labels(session: Session, request: CsaqRequest) -> dict[str, Tensor]:
    """Clique of every row of every matrix, in the file's order; all alone outside the layers."""
    guidance = session.guidance
    labels = {
        name: guidance.model.to_gguf(name, cliques_of(counts, request.similarity).labels)
        for name, counts in held_coactivation(guidance).items()
    }
    for name in guidance.sensitivities:
        if name not in labels:
            n_row = guidance.model.weights[name].n_row
            labels[name] = torch.full((n_row,), SINGLETON)
    return {name: labels[name] for name in session.matrices() if name in labels}


def find_units(session: Session, labels: Mapping[str, Tensor]) -> list[Unit]:
    """Every clique and every single row of layers, and other matrices whole, in file order."""
    found: list[Unit] = []
    for name, label in labels.items():
        if not name.startswith("blk."):
            # Rows of tokens that the text lacks would seem to cost nothing.
            found.append(Unit(name, torch.arange(len(label)), 0.0))
            continue
        salience = _salience(session, name)
        for rows in rows_together(label):
            members = torch.tensor(rows)
            found.append(Unit(name, members, float(salience[members].mean())))
    return found


def _salience(session: Session, name: str) -> Tensor:
    """|g·W| per weight of each row."""
    guidance = session.guidance
    assert isinstance(guidance.sensitivities, Sensitivities)
    statistics = guidance.sensitivities.statistics
    place = linear_places(guidance.model, statistics)[name]
    rows = statistics.of_one(*place).salience_rows
    return guidance.model.to_gguf(name, rows) / guidance.model.weights[name].n_col


def protected(units: Sequence[Unit], share: float) -> set[int]:
    """Numbers of the most salient units that hold at most `share` of the rows in layers."""
    inside = [number for number, unit in enumerate(units) if unit.name.startswith("blk.")]
    n_row = [len(units[number].rows) for number in inside]
    salience = [units[number].salience for number in inside]
    return {inside[place] for place in most_salient(n_row, salience, share)}


def histogram(labels: Mapping[str, Tensor]) -> dict[int, int]:
    """How many cliques of each size there are in all matrices of layers, single rows included."""
    counts: dict[int, int] = {}
    for name, label in labels.items():
        if name.startswith("blk."):
            for size, n in Cliques(label, 0.0).histogram().items():
                counts[size] = counts.get(size, 0) + n
    return dict(sorted(counts.items()))
