"""Points (x, y) by maker → an SVG chart with a logarithmic y axis; text only, no library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 180, 20, 50
# Distinguishable without color vision (Okabe and Ito), each with a shape of its own.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#666666")


@dataclass(frozen=True)
class Point:
    """A labelled point; `error` is half the height of its bar, in units of y."""

    x: float
    y: float
    label: str
    error: float = 0.0


@dataclass(frozen=True)
class Series:
    """Points of one kind, joined by a line from left to right."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class _Scale:
    """Maps values to pixels."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        """Pixels from the left."""
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top, by powers of ten."""
        share = math.log(max(value, self.y_low) / self.y_low) / math.log(self.y_high / self.y_low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def draw_chart(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """The SVG of `series`; points with y ≤ 0 have no place on a logarithmic axis and are left out.

    A note takes the picture's place where nothing is left.
    """
    shown = [Series(s.name, tuple(p for p in s.points if p.y > 0)) for s in series]
    points = [point for s in shown for point in s.points]
    if not points:
        return "<p>No points to draw.</p>"
    scale = _scale(points)
    parts = [*_axes(scale, x_label, y_label)]
    for index, one in enumerate(shown):
        parts += _drawn(one, scale, COLORS[index % len(COLORS)], index)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="11">\n' + "\n".join(parts) + "\n</svg>"
    )


def _scale(points: Sequence[Point]) -> _Scale:
    xs, ys = [p.x for p in points], [p.y for p in points]
    margin = 0.06 * (max(xs) - min(xs)) or max(abs(xs[0]) * 0.1, 1.0)
    return _Scale(min(xs) - margin, max(xs) + margin, min(ys) / 1.5, max(ys) * 1.5)


def _axes(scale: _Scale, x_label: str, y_label: str) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#888"/>']
    for value in _steps(scale.x_low, scale.x_high):
        at = scale.x(value)
        parts.append(_text(at, bottom + 16, f"{value:g}", "middle"))
    for value in _decades(scale.y_low, scale.y_high):
        at = scale.y(value)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{right}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 6, at + 4, f"{value:g}", "end"))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 12, x_label, "middle"))
    middle = (TOP + bottom) / 2
    turned = f'transform="rotate(-90 16 {middle})"'
    parts.append(_text(16, middle, y_label, "middle", turned))
    return parts


def _steps(low: float, high: float) -> list[float]:
    """Four to ten round numbers between `low` and `high`."""
    unit = 10 ** math.floor(math.log10(high - low))
    step = next(unit * f for f in (0.1, 0.2, 0.5, 1.0) if (high - low) / (unit * f) <= 10)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between `low` and `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    return [value for value in every if low <= value <= high]


def _drawn(series: Series, scale: _Scale, color: str, index: int) -> list[str]:
    points = sorted(series.points, key=lambda point: point.x)
    line = "L".join(f"{scale.x(p.x):.1f} {scale.y(p.y):.1f}" for p in points)
    parts = [f'<path d="M{line}" fill="none" stroke="{color}" stroke-opacity=".5"/>'] * bool(line)
    for point in points:
        x, y = scale.x(point.x), scale.y(point.y)
        top, low = scale.y(point.y + point.error), scale.y(point.y - point.error)
        parts.append(f'<path d="M{x:.1f} {top:.1f}V{low:.1f}" stroke="{color}"/>')
        parts.append(_mark(x, y, color, index))
        parts.append(_text(x + 6, y - 5, point.label, "start", f'fill="{color}"'))
    at = TOP + 18 * index + 8
    parts.append(_mark(WIDTH - RIGHT + 16, at, color, index))
    parts.append(_text(WIDTH - RIGHT + 26, at + 4, series.name, "start"))
    return parts


def _mark(x: float, y: float, color: str, index: int) -> str:
    if index % 2 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>'
    return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{color}"/>'


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'
