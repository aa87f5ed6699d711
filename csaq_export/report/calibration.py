"""A calibrated model → its report: where salience sits and how its rows form cliques."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from csaq_export.cliques import Cliques, find_cliques
from csaq_export.guidance import Guidance
from csaq_export.report.grid import Cell, draw_grid
from csaq_export.report.page import render_page, render_rows
from csaq_export.sensitivity import linear_statistics
from csaq_export.statistics import Statistics

# csaq-quant's defaults are 0.1 and 0.85, at which nearly every row stays alone.
FIRING_SHARE = 0.1
THRESHOLDS = (0.85, 0.5, 0.3)


def mean_salience(guidance: Guidance) -> dict[str, float]:
    """Mean |g·W| per weight and batch of every layer's matrices, by GGUF name."""
    n_layer = int(guidance.model.model.config.num_hidden_layers)
    statistics = Statistics(guidance.work, guidance.fingerprint, n_layer)
    return {
        name: float(linear.salience_rows.sum() / linear.n_batch)
        / guidance.model.parameter(name).numel()
        for name, linear in linear_statistics(guidance.model, statistics).items()
    }


@torch.no_grad()
def held_coactivation(guidance: Guidance) -> dict[str, Tensor]:
    """Coactivation counts float32 [n_row, n_row] of every layer's matrices on the held windows."""
    model = guidance.model.model
    counts: dict[str, Tensor] = {}

    def follow(name: str) -> Any:
        def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            fires = _fires(output.flatten(0, -2))
            counts[name] = counts.get(name, 0) + fires.T @ fires

        return count

    sources = {slot.source: name for name, slot in guidance.model.slots.items()}
    hooks = [
        module.register_forward_hook(follow(sources[f"{path}.weight"]))
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and sources.get(f"{path}.weight", "").startswith("blk.")
    ]
    try:
        for window in guidance.held.tokens.split(1):  # type: ignore[no-untyped-call]
            model(window)
    finally:
        for hook in hooks:
            hook.remove()
    return counts


def _fires(outputs: Tensor) -> Tensor:
    n_top = max(1, round(FIRING_SHARE * outputs.shape[1]))
    return torch.zeros_like(outputs).scatter_(1, outputs.abs().topk(n_top, 1).indices, 1.0)


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
