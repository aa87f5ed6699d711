"""Draw the loss curve: `demo/training.json` → `demo/loss.svg`, written by hand, no library.

python demo/plot.py
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 120, 48, 52
COLORS = {"train": "#8a94a6", "valid": "#1f6feb"}
LABELS = {"train": "training", "valid": "validation"}

Scale = Callable[[float], float]


def scale(low: float, high: float, first: float, last: float) -> Scale:
    """The line that maps [low, high] onto [first, last]."""
    return lambda value: first + (value - low) / ((high - low) or 1) * (last - first)


def text(x: float, y: float, content: str, style: str = "") -> str:
    """One SVG text element."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{content}</text>'


def grid(low: float, high: float, to_y: Scale) -> list[str]:
    """Horizontal lines at every half nat, labelled."""
    parts = []
    for half in range(round(low * 2), round(high * 2) + 1):
        y = to_y(half / 2)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#d8dee9"/>')
        parts.append(text(LEFT - 8, y + 4, f"{half / 2:.1f}", 'text-anchor="end"'))
    return parts


def ticks(n_token: float, to_x: Scale) -> list[str]:
    """Millions of tokens along the bottom: five round steps."""
    step = max(1, round(n_token / 1e6 / 5))
    return [
        text(to_x(million * 1e6), HEIGHT - BOTTOM + 20, f"{million} M", 'text-anchor="middle"')
        for million in range(0, int(n_token / 1e6) + 1, step)
    ]


def curve(history: list[dict[str, float]], key: str, to_x: Scale, to_y: Scale) -> list[str]:
    """One loss over tokens, its last value written at its end."""
    points = " ".join(f"{to_x(h['tokens']):.1f},{to_y(h[key]):.1f}" for h in history)
    last, color = history[-1], COLORS[key]
    line = f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'
    y = to_y(last[key]) + (14 if key == "train" else -6)
    label = f"{LABELS[key]} {last[key]:.2f}"
    return [line, text(to_x(last["tokens"]) + 6, y, label, f'fill="{color}" font-weight="600"')]


def draw(training: dict[str, Any]) -> str:
    """The whole picture; the losses are in nats per token."""
    history = training["history"]
    losses = [h[key] for h in history for key in COLORS]
    low, high = int(min(losses) * 2) / 2, -int(-max(losses) * 2 - 1) / 2
    n_token = history[-1]["tokens"]
    to_x = scale(0, n_token, LEFT, WIDTH - RIGHT)
    to_y = scale(low, high, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#3b4252">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        text(LEFT, 26, "Demo model: cross-entropy (nats per token)", 'font-size="16"'),
        *grid(low, high, to_y),
        *ticks(n_token, to_x),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "training tokens", 'text-anchor="middle"'),
        *(part for key in COLORS for part in curve(history, key, to_x, to_y)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Read the history beside this file and write the picture beside it."""
    training = json.loads((HERE / "training.json").read_text(encoding="utf-8"))
    (HERE / "loss.svg").write_text(draw(training), encoding="utf-8")


if __name__ == "__main__":
    main()
