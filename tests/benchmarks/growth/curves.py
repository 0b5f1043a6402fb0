"""Curves as SVG: the same text for the same figures, and at home on a light page as well as on a dark one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as Xml

WIDTH, HEIGHT = 960, 300
TOP, BOTTOM, LEFT, GAP = 78, 44, 50, 62
LOGARITHMIC_FROM = 6.0  # the largest value by the smallest

# Three colours that differ for the colour-blind, too, each with a mark of its own.
_LOOKS = (("#0072b2", "circle"), ("#d55e00", "square"), ("#009e73", "diamond"))
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #333 }
.title { font-weight: 600; font-size: 14px }
.line { fill: none; stroke-width: 2 }
.grid { stroke: #8884; stroke-width: 1 }
@media (prefers-color-scheme: dark) { text { fill: #ccc } }
"""

Curve = Mapping[float, float]


@dataclass(frozen=True)
class Panel:
    """One figure of several subjects: from each of their names to its curve. All have points at the same places."""

    title: str
    curves: Mapping[str, Curve]


@dataclass(frozen=True)
class _Scale:
    """From a value to a place between two ends, by logarithms or not."""

    low: float
    high: float
    ends: tuple[float, float]
    logarithmic: bool

    def place(self, value: float) -> float:
        """Return where a value is."""
        low, high = self.ends
        return low + (high - low) * (self._part(value) - self._part(self.low)) / (
            self._part(self.high) - self._part(self.low)
        )

    def _part(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def draw(title: str, along: str, panels: Sequence[Panel], label: Callable[[float], str]) -> str:
    """Return panels beside each other; `along` is what grows to the right, `label` writes it at its ticks."""
    svg = Xml.Element(
        "svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img"}
    )
    Xml.SubElement(svg, "title").text = title
    Xml.SubElement(svg, "style").text = _STYLE
    _write(svg, LEFT, 20, title, {"class": "title"})
    for number, name in enumerate(panels[0].curves):
        _mark(svg, LEFT + 6 + 150 * number, 37, number)
        _write(svg, LEFT + 16 + 150 * number, 41, name)
    width = (WIDTH - LEFT - GAP * (len(panels) - 1) - 20) / len(panels)
    for number, panel in enumerate(panels):
        left = LEFT + number * (width + GAP)
        _panel(svg, panel, (left, left + width), label)
        _write(svg, left + width / 2, HEIGHT - 8, along, {"text-anchor": "middle"})
    Xml.indent(svg)
    return Xml.tostring(svg, encoding="unicode") + "\n"


def _panel(svg: Xml.Element, panel: Panel, ends: tuple[float, float], label: Callable[[float], str]) -> None:
    sizes = sorted({size for curve in panel.curves.values() for size in curve})
    values = [value for curve in panel.curves.values() for value in curve.values()]
    inset = (ends[0] + 14, ends[1] - 14)
    across = _Scale(sizes[0], sizes[-1], inset, logarithmic=sizes[0] > 0)
    ticks, logarithmic = _ticks(min(values), max(values))
    up = _Scale(ticks[0], ticks[-1], (HEIGHT - BOTTOM, TOP), logarithmic)
    _write(svg, ends[0], TOP - 14, panel.title)
    for tick in ticks:
        y = up.place(tick)
        _line(svg, (ends[0], y), (ends[1], y))
        _write(svg, ends[0] - 6, y + 4, f"{tick:g}", {"text-anchor": "end"})
    for size in sizes:
        x = across.place(size)
        _line(svg, (x, TOP), (x, HEIGHT - BOTTOM))
        _write(svg, x, HEIGHT - BOTTOM + 16, label(size), {"text-anchor": "middle"})
    for number, curve in enumerate(panel.curves.values()):
        places = [(across.place(size), up.place(curve[size])) for size in sorted(curve)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        Xml.SubElement(svg, "polyline", {"class": "line", "stroke": _LOOKS[number][0], "points": points})
        for x, y in places:
            _mark(svg, x, y, number)


def _ticks(low: float, high: float) -> tuple[list[float], bool]:
    """Return round values from below the lowest to above the highest, and whether they go by logarithms."""
    if low > 0 and high / low > LOGARITHMIC_FROM:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if len(decades) <= 3 else (1,)
        every = [step * 10.0**decade for decade in decades for step in steps]
        below = max(one for one in every if one <= low)
        above = min((one for one in every if one >= high), default=every[-1])
        return [one for one in every if below <= one <= above], True
    most = max(high, 1.0)
    step = next(one * 10.0**power for power in range(-2, 9) for one in (1, 2, 5) if most <= 5 * one * 10.0**power)
    return [round(step * number, 6) for number in range(math.ceil(most / step) + 1)], False


def _mark(svg: Xml.Element, x: float, y: float, number: int) -> None:
    colour, shape = _LOOKS[number]
    if shape == "circle":
        Xml.SubElement(svg, "circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "4", "fill": colour})
        return
    reach = 4 if shape == "square" else 5
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1)) if shape == "square" else ((0, -1), (1, 0), (0, 1), (-1, 0))
    points = " ".join(f"{x + reach * right:.1f},{y + reach * down:.1f}" for right, down in corners)
    Xml.SubElement(svg, "polygon", {"points": points, "fill": colour})


def _line(svg: Xml.Element, start: tuple[float, float], end: tuple[float, float]) -> None:
    names = ("x1", "y1", "x2", "y2")
    places = dict(zip(names, (f"{one:.1f}" for one in (*start, *end)), strict=True))
    Xml.SubElement(svg, "line", {"class": "grid", **places})


def _write(svg: Xml.Element, x: float, y: float, text: str, looks: Mapping[str, str] | None = None) -> None:
    Xml.SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", **(looks or {})}).text = text
