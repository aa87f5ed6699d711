"""What `quantize` found → a report for people (HTML) and programs (JSON)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from csaq_export.report.page import render_page, render_rows, write_page


def generate_csaq_report(
    info: Mapping[str, Any], save_path: str | Path = "./CSAQ_Report.json"
) -> dict[str, Any]:
    """Write the figures to `save_path` (.json) and a page beside it (.html); returns the figures.

    Raises UsageError or ResourceError where they cannot be written.
    """
    figures = report_figures(info)
    write_page(Path(save_path).with_suffix(".html"), report_page(figures), figures)
    return figures


def report_figures(info: Mapping[str, Any]) -> dict[str, Any]:
    """Totals, shares of the tiers in percent, and rows per width of every layer."""
    n_weight = sum(info["tier_stats"].values())
    shares = {tier: round(100 * n / n_weight, 2) for tier, n in info["tier_stats"].items()}
    kept = ("actual_bits", "target_bits", "model_bits", "cliques_count", "clique_sizes",
            "tier_stats", "n_window", "calibration_domain", "elapsed_s")  # fmt: skip
    layers = {name: _row_counts(cliques) for name, cliques in info["budget"].items()}
    return {**{key: info[key] for key in kept}, "tier_percent": shares, "rows": layers}


def _row_counts(cliques: Any) -> dict[str, int]:
    counts: dict[int, int] = {}
    for clique in cliques:
        counts[clique.bits] = counts.get(clique.bits, 0) + len(clique.rows)
    return {str(bits): counts[bits] for bits in sorted(counts, reverse=True)}


def report_page(figures: Mapping[str, Any]) -> str:
    """One HTML page of the figures."""
    totals = [
        ("bits per weight of the layers", f"{figures['actual_bits']:.4f}"),
        ("asked for", f"{figures['target_bits']:g}"),
        ("bits per parameter of the model", f"{figures['model_bits']:.4f}"),
        ("calibration windows", str(figures["n_window"])),
        ("calibration domain", str(figures["calibration_domain"])),
        ("seconds", f"{figures['elapsed_s']:.1f}"),
    ]
    tiers = [(tier, f"{share:.2f}") for tier, share in figures["tier_percent"].items()]
    sizes = [(str(size), str(n)) for size, n in figures["clique_sizes"].items()]
    widths = ("16", "8", "4", "2")
    rows = [
        (name, *(str(counts.get(width, 0)) for width in widths))
        for name, counts in figures["rows"].items()
    ]
    sections = [
        ("Totals", render_rows(("", "value"), totals)),
        ("Weights per tier", render_rows(("tier", "percent"), tiers)),
        ("Cliques", render_rows(("rows", "cliques"), sizes)),
        ("Rows per layer", render_rows(("layer", *(f"{w} bits" for w in widths)), rows)),
    ]
    return render_page("CSAQ", sections)
