"""What a drawing is made of: elements as text, scales, and colours for light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Final

__all__ = ["STYLE", "Drawing", "LogScale", "short"]

STYLE: Final = """
text { font: 13px system-ui, "DejaVu Sans", sans-serif; fill: #1c1d1f; }
.paper { fill: #ffffff; } .band { fill: #f5f6f4; }
.title { font-size: 17px; font-weight: 600; } .head { font-weight: 600; }
.muted { fill: #686b6f; font-size: 12px; } .value { font-size: 11.5px; }
.grid { stroke: #dfe1dd; } .axis { stroke: #8d918a; fill: #8d918a; }
.ours { fill: #0a66c2; stroke: #0a66c2; } .peer { fill: #c2570c; stroke: #c2570c; }
text.ours, text.peer { stroke: none; }
.hollow { fill: #ffffff; stroke-width: 1.8; } .link { stroke-width: 2.2; opacity: .55; }
path.trend { fill: none; stroke-width: 1.4; stroke-dasharray: 5 4; opacity: .75; }
@media (prefers-color-scheme: dark) {
text { fill: #e9e7e3; } .paper { fill: #15171a; } .band { fill: #1b1e22; }
.muted { fill: #a0a29e; } .grid { stroke: #2b2f34; } .axis { stroke: #7b8085; fill: #7b8085; }
.ours { fill: #62aeff; stroke: #62aeff; } .peer { fill: #ffa45c; stroke: #ffa45c; }
.hollow { fill: #15171a; }
}
"""
"""Text and shapes by class; none of what some renderers do not know, such as variables."""

UNITS: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(value: float) -> str:
    """A number in about three digits: 0.05, 1.5, 26, 1.9k."""
    for size, unit in UNITS:
        if value >= size * 0.9995:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if value >= 1 or not value else f"{value:.2g}"


@dataclass(frozen=True)
class LogScale:
    """From `low` to `high`, powers of ten, at `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float) -> LogScale:
        """One that has room for all positive ones of `values`."""
        logs = [math.log10(value) for value in values if value > 0] or [0.0]
        low, high = math.floor(min(logs) - 0.03), math.ceil(max(logs) + 0.03)
        return cls(10.0**low, 10.0 ** max(high, low + 1), start, end)

    def __call__(self, value: float) -> float:
        """Where it is; what is too small is at the edge."""
        part = math.log10(max(value, self.low) / self.low) / math.log10(self.high / self.low)
        return self.start + part * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """The powers of ten."""
        low, high = round(math.log10(self.low)), round(math.log10(self.high))
        return [10.0**power for power in range(low, high + 1)]


class Drawing:
    """An SVG of so many pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height = width, height
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            f' width="{width}" height="{height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
        ]
        self.rect(0, 0, width, height, "paper")

    def rect(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """A filled rectangle."""
        self._parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}"'
            f' height="{height:.1f}"/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self._parts.append(
            f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
        )

    def path(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        steps = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._parts.append(f'<path class="{kind}" d="M{steps}"/>')

    def dot(self, x: float, y: float, radius: float, kind: str, told: str = "") -> None:
        """A circle; a browser shows what is `told` of it."""
        title = f"<title>{escape(told)}</title>" if told else ""
        self._parts.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{title}</circle>'
        )

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """A line of text, whose baseline is at `y`."""
        self._parts.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def __str__(self) -> str:
        return "\n".join([*self._parts, "</svg>"]) + "\n"
