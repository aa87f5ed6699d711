"""Plain-text tables and sizes, for terminals and for files."""

from collections.abc import Sequence


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; numbers (a digit first) to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [_line(row, widths) for row in rows]
    return "\n".join([_line(header, widths), "  ".join("─" * width for width in widths), *lines])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (
        cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)
        for cell, width in zip(row, widths, strict=True)
    )
    return "  ".join(cells).rstrip()


def one_line(value: object) -> str:
    """`value` as text without line breaks or terminal control codes: files are not trusted."""
    text = str(value)
    return text if text.isprintable() else repr(text)[1:-1]


def size_text(n_bytes: float) -> str:
    """Bytes in binary units as people read them: 1536 → '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024 or unit == "GiB":
            break
        n_bytes /= 1024
    return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
