"""A calibrated model → its report: where salience sits and how its rows form cliques."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from csaq_export.cliques import Cliques, find_cliques
from csaq_export.guidance import Guidance
from csaq_export.report.grid import Cell, draw_grid
from csaq_export.report.page import render_page, render_rows
from csaq_export.sensitivity import linear_places
from csaq_export.statistics import Statistics

# csaq-quant's default is 0.85, at which nearly every row stays alone.
THRESHOLDS = (0.85, 0.5, 0.3)


def mean_salience(guidance: Guidance) -> dict[str, float]:
    """Mean |g·W| per weight and batch of every layer's matrices, by GGUF name."""
    n_layer = int(guidance.model.model.config.num_hidden_layers)
    statistics = Statistics(guidance.work, guidance.fingerprint, n_layer)
    found = {}
    for name, place in linear_places(guidance.model, statistics).items():
        linear = statistics.of_one(*place)
        mean = float(linear.salience_rows.sum() / linear.n_batch)
        found[name] = mean / guidance.model.parameter(name).numel()
    return found


def calibration_page(title: str, salience: Mapping[str, float], cliques: "CliqueTable") -> str:
    """One HTML page: the salience of every matrix, and clique sizes per kind and threshold."""
    cells = {
        name: Cell(math.log10(max(value, 1e-30)), f"{value:.2g}")
        for name, value in salience.items()
    }
    note = "<p>Mean |g·W| per weight; darker means a change costs more. Shades are logarithmic.</p>"
    header = ("matrix", "rows", *(f"threshold {threshold:g}" for threshold in THRESHOLDS))
    rows = [
        (name, f"{len(found[0].labels)}", *(_sizes(each) for each in found))
        for name, found in cliques.items()
    ]
    told = "<p>Number of cliques × rows in each; the rest of the rows are alone.</p>"
    sections = [
        ("Salience", draw_grid(cells) + note),
        ("Cliques", told + render_rows(header, rows)),
    ]
    return render_page(title, sections)


CliqueTable = dict[str, tuple[Cliques, ...]]


def clique_table(counts: Mapping[str, Tensor]) -> CliqueTable:
    """Cliques of every matrix at each of the `THRESHOLDS`."""
    return {
        name: tuple(find_cliques(each, threshold) for threshold in THRESHOLDS)
        for name, each in counts.items()
    }


def _sizes(cliques: Cliques) -> str:
    sizes = [(n, size) for size, n in cliques.histogram().items() if size > 1]
    return ", ".join(f"{n}×{size}" for n, size in sizes) or "none"


def calibration_figures(salience: Mapping[str, float], cliques: CliqueTable) -> dict[str, Any]:
    """The same for programs: histograms of clique sizes by threshold."""
    histograms = {
        name: {f"{each.threshold:g}": each.histogram() for each in found}
        for name, found in cliques.items()
    }
    return {"salience": dict(salience), "clique_sizes": histograms}
