"""Numbers per matrix → an SVG grid: layers downwards, kinds of matrix across, shaded by value."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

CELL_WIDTH, CELL_HEIGHT = 86, 22
LEFT, TOP = 60, 40
# Order of the forward pass; other kinds follow by name.
KINDS = ("token_embd", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up",
         "ffn_down", "output")  # fmt: skip
LIGHT, DARK = (247, 251, 255), (8, 69, 148)


@dataclass(frozen=True)
class Cell:
    """`value` decides the shade, `label` is what is written."""

    value: float
    label: str


def draw_grid(cells: Mapping[str, Cell]) -> str:
    """The SVG for matrices by GGUF name (`blk.3.attn_q.weight`); a note if there are none."""
    if not cells:
        return "<p>No matrices.</p>"
    places = {name: _place(name) for name in cells}
    kinds = sorted({kind for _, kind in places.values()}, key=_kind_order)
    layers = sorted({layer for layer, _ in places.values()})
    low = min(cell.value for cell in cells.values())
    span = max(cell.value for cell in cells.values()) - low or 1.0
    parts = [_text(LEFT + (i + 0.5) * CELL_WIDTH, 28, kind) for i, kind in enumerate(kinds)]
    parts += [_text(30, _top(i) + 15, _layer_name(layer)) for i, layer in enumerate(layers)]
    for name, (layer, kind) in places.items():
        cell = cells[name]
        share = (cell.value - low) / span
        parts += _drawn(kinds.index(kind), layers.index(layer), share, cell.label)
    width, height = LEFT + len(kinds) * CELL_WIDTH + 10, _top(len(layers)) + 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="sans-serif" font-size="11">\n' + "\n".join(parts) + "\n</svg>"
    )


def _place(name: str) -> tuple[int, str]:
    """Layer and kind; what belongs to no layer is drawn above the first."""
    found = re.fullmatch(r"blk\.(\d+)\.(.+)\.weight", name)
    return (int(found[1]), found[2]) if found else (-1, name.removesuffix(".weight"))


def _layer_name(layer: int) -> str:
    return "" if layer < 0 else f"layer {layer}"


def _kind_order(kind: str) -> tuple[int, str]:
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)


def _top(row: int) -> int:
    return TOP + row * CELL_HEIGHT


def _drawn(column: int, row: int, share: float, label: str) -> list[str]:
    x, y = LEFT + column * CELL_WIDTH, _top(row)
    shade = ",".join(str(round(a + share * (b - a))) for a, b in zip(LIGHT, DARK, strict=True))
    size = f'width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}"'
    ink = "#fff" if share > 0.5 else "#222"
    box = f'<rect x="{x}" y="{y}" {size} fill="rgb({shade})"/>'
    return [box, _text(x + CELL_WIDTH / 2, y + 15, label, ink)]


def _text(x: float, y: float, text: str, ink: str = "#222") -> str:
    return f'<text x="{x:.0f}" y="{y}" text-anchor="middle" fill="{ink}">{escape(text)}</text>'
