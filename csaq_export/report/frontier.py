"""Measured files → rows of a table, the HTML page with its picture, and the figures for JSON."""

from collections.abc import Sequence
from typing import Any

from csaq_export.frontier import Made
from csaq_export.report.chart import Point, Series, draw_chart
from csaq_export.report.page import render_page, render_rows

HEADER = ("made by", "size of", "bytes", "KL divergence", "99 %", "same top token", "perplexity")
MEBIBYTE = 2**20


def frontier_rows(made: Sequence[Made]) -> list[tuple[str, ...]]:
    """A row of text per file, smallest first, under `HEADER`."""
    return [_row(file) for file in sorted(made, key=lambda file: file.n_bytes)]


def frontier_page(title: str, made: Sequence[Made]) -> str:
    """One HTML page: the picture and the table."""
    makers = list(dict.fromkeys(file.maker for file in made))
    series = [Series(maker, _points(made, maker)) for maker in makers]
    chart = draw_chart(series, "file size in MiB", "mean KL divergence from F16, nats per token")
    note = "<p>Lower and further left is better. Bars are two standard errors.</p>"
    table = render_rows(HEADER, frontier_rows(made))
    return render_page(title, [("Divergence by size", chart + note), ("Files", table)])


def frontier_figures(made: Sequence[Made]) -> list[dict[str, Any]]:
    """The same for programs; bytes, and nats per token."""
    return [_figures(file) for file in made]


def _points(made: Sequence[Made], maker: str) -> tuple[Point, ...]:
    found = []
    for file in made:
        divergence = file.evaluation.divergence
        if file.maker == maker and divergence is not None:
            mean = divergence.mean
            size = file.n_bytes / MEBIBYTE
            found.append(Point(size, mean.value, file.preset, 2 * mean.error))
    return tuple(found)


def _row(file: Made) -> tuple[str, ...]:
    figures = _figures(file)
    return (
        file.maker,
        file.preset,
        f"{file.n_bytes:,}",
        f"{figures['divergence']:.6f} ± {figures['divergence_error']:.6f}",
        f"{figures['divergence_p99']:.6f}",
        f"{100 * figures['same_top']:.2f} %",
        f"{figures['perplexity']:.4f}",
    )


def _figures(file: Made) -> dict[str, Any]:
    divergence = file.evaluation.divergence
    assert divergence is not None
    return {
        "maker": file.maker,
        "preset": file.preset,
        "file_bytes": file.n_bytes,
        "n_token": file.evaluation.n_token,
        "perplexity": file.evaluation.perplexity.value,
        "divergence": divergence.mean.value,
        "divergence_error": divergence.mean.error,
        "divergence_median": divergence.median,
        "divergence_p99": divergence.p99,
        "divergence_maximum": divergence.maximum,
        "same_top": divergence.same_top.value,
    }
