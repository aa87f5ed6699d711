"""Sections of text, tables and pictures → one self-contained HTML file, written atomically."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from csaq_export.write_gguf import new_file

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .2rem .8rem; text-align: left }
th { border-bottom: 1px solid #888 }
td.number { text-align: right; font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto }
"""


def render_page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """The whole page; `sections` are headings (plain text) and their HTML."""
    body = "\n".join(f"<h2>{escape(heading)}</h2>\n{html}" for heading, html in sections)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style>\n<h1>{escape(title)}</h1>\n{body}\n</html>\n"
    )


def render_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of plain text; cells that begin with a digit are set right."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = ["<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows]
    return f"<table><tr>{head}</tr>\n" + "\n".join(lines) + "</table>"


def _cell(text: str) -> str:
    kind = ' class="number"' if text[:1].isdigit() else ""
    return f"<td{kind}>{escape(text)}</td>"


def write_page(path: Path, page: str, figures: dict[str, Any], force: bool = True) -> Path:
    """Write `page` to `path` and `figures` as JSON beside it; returns the latter's path.

    Raises UsageError or ResourceError as `new_file` does.
    """
    beside = path.with_suffix(".json")
    texts = {path: page, beside: json.dumps(figures, ensure_ascii=False, indent=1) + "\n"}
    for place, text in texts.items():
        data = text.encode()
        with new_file(place, len(data), force) as file:
            file.write(data)
    return beside
