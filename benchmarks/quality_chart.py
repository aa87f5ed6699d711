"""The figures of benchmarks/quality.py → the picture in the README.

    python -m benchmarks.quality_chart quality.json --text valid.txt docs/frontier.svg

One text at a time; every maker is a line, every preset a point at its file's size.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from csaq_export.report.chart import Point, Series, draw_chart

MEBIBYTE = 2**20


def chart(records: list[dict[str, Any]], text: str) -> str:
    """The SVG of the records about `text`; bars are 95 % intervals where an error is known."""
    shown = [r for r in records if r["text"] == text]
    makers = dict.fromkeys(r["maker"] for r in shown)
    series = [Series(m, tuple(_point(r) for r in shown if r["maker"] == m)) for m in makers]
    svg = draw_chart(series, "file size in MiB", "mean KL divergence from the original, nats")
    # Pages may be dark, and a picture of their own has no ground.
    return svg.replace(">\n", '>\n<rect width="100%" height="100%" fill="#fff"/>\n', 1)


def _point(r: dict[str, Any]) -> Point:
    return Point(r["bytes"] / MEBIBYTE, r["kl"], r["preset"], 1.96 * r.get("kl_error", 0.0))


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("records", type=Path)
    parser.add_argument("--text", required=True)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    args.picture.write_text(chart(json.loads(args.records.read_text()), args.text) + "\n")


if __name__ == "__main__":
    main()
