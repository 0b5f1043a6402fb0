"""Tables and plots in docs/ of what `benchmarks.growth` has measured: of each axis its newest run.

Run it by hand: `PYTHONPATH=tests python -m benchmarks.growth.page [--results FILE] [--docs DIR]`. It writes
`performance/growth-….svg`, and in `performance.md` what stands between the marks of each axis.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.comparison import Figure, cpu, rate, tail
from benchmarks.footprint import mebibytes
from benchmarks.growth.curves import Panel, draw
from benchmarks.growth.record import Point, Run, latest

DOCS = Path(__file__).parents[3] / "docs"
RESULTS = DOCS / "performance" / "growth.jsonl"

OPERATIONS = ("single write", "newest 50", "context of 100")
FIGURES: dict[str, Figure] = {"requests/s": rate, "p99 ms": tail, "CPU µs": cpu}


def _count(size: float) -> str:
    for unit, name in ((10**6, " M"), (10**3, " k")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return f"{size:g}"


def _bytes(size: float) -> str:
    return _count(size).replace(" k", " KB").replace(" M", " MB") + ("" if size >= 1_000 else " B")


AXES: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "depth": ("Memories that wait in the journal", "memories waiting", _count),
    "orgs": ("Organizations that share 500,000 memories", "organizations", _count),
    "store": ("Memories in the embedded store", "memories stored", _count),
    "tags": ("Tags of each memory", "tags", _count),
    "content": ("Content of each memory", "content", _bytes),
}
"""By axis, its title, what grows, and how its sizes are written."""


def main() -> int:
    """Read the arguments, and write."""
    parser = argparse.ArgumentParser(prog="benchmarks.growth.page", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS, help="where performance.md is")
    arguments = parser.parse_args()
    for file, content in contents(arguments.results, arguments.docs).items():
        file.write_text(content, encoding="utf-8")
    return 0


def contents(results: Path, docs: Path) -> dict[Path, str]:
    """Return what files of a folder of documentation should hold, the page among them."""
    page = docs / "performance.md"
    text = page.read_text(encoding="utf-8")
    files = {}
    for axis, (run, points) in latest(results).items():
        plot = f"performance/growth-{axis}.svg"
        files[docs / plot] = plotted(axis, points)
        text = _between(text, axis, f"![{AXES[axis][0]}]({plot})\n\n{tabulated(axis, points)}\n\n{_told(run)}")
    return {**files, page: text}


def plotted(axis: str, points: Sequence[Point]) -> str:
    """Return the plot of an axis."""
    title, along, label = AXES[axis]
    panels = [
        Panel(f"{name}, × smallest", {operation: ratios(points, operation, figure) for operation in OPERATIONS})
        for name, figure in FIGURES.items()
    ]
    return draw(title, along, panels, label)


def tabulated(axis: str, points: Sequence[Point]) -> str:
    """Return the table of an axis: figures, and in parentheses their ratios to the smallest size."""
    _, along, label = AXES[axis]
    rows = [["request", along, *FIGURES, "RSS, MiB", "file, MiB"], ["---", *["---:"] * (len(FIGURES) + 3)]]
    for operation in OPERATIONS:
        of_operation = [point for point in points if point.operation == operation]
        for size in sorted({point.size for point in of_operation}):
            those = [point for point in of_operation if point.size == size]
            cells = [operation, label(size)]
            for figure in FIGURES.values():
                value = statistics.median(figure(point.sample) for point in those)
                shown = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
                cells.append(f"{shown} ({ratios(points, operation, figure)[size]:.2f})")
            resident = max(point.sample.resident for point in those)
            file = max(point.file_bytes for point in those)
            rows.append([*cells, f"{mebibytes(resident):,.0f}", f"{mebibytes(file):,.0f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def ratios(points: Sequence[Point], operation: str, figure: Figure) -> dict[float, float]:
    """Return, by size, the median over the turns of a figure divided by the smallest size's in the same turn."""
    values = {(point.size, point.turn): figure(point.sample) for point in points if point.operation == operation}
    smallest = min((size for size, _ in values), default=0)
    found: dict[float, list[float]] = {}
    for (size, turn), value in values.items():  # the smallest comes first in every turn
        found.setdefault(size, []).append(value / values[smallest, turn])
    return {size: statistics.median(each) for size, each in found.items()}


def _told(run: Run) -> str:
    where = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    return f"Measured {run.began.replace('T', ' ').removesuffix('+00:00')} UTC ({where})."


def _between(text: str, axis: str, content: str) -> str:
    begin, end = f"<!-- growth: {axis} -->\n", f"\n<!-- end of {axis} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"the page has no marks for {axis}")
    return pattern.sub(lambda _: begin + content + end, text)


if __name__ == "__main__":
    sys.exit(main())
