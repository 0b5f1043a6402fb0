"""What the benchmark tells: figures, and how they stand to their targets; as tables or as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
from benchmarks.footprint import mebibytes
from benchmarks.sample import Sample

BUSY_LOAD = 0.9


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one subject in one scenario, each the median of its repeats."""

    scenario: str
    subject: str
    sample: Sample

    def cells(self) -> list[str]:
        """Return it as a row of the table."""
        sample = self.sample
        # Then it was the generator that was measured.
        doubt = " (load at its limit)" if sample.load_share > BUSY_LOAD else ""
        return [
            self.scenario + doubt,
            self.subject,
            str(sample.concurrency),
            f"{sample.per_second:,.0f}",
            f"{sample.items_per_second:,.0f}",
            f"{sample.p50_ms:.2f}",
            f"{sample.p95_ms:.2f}",
            f"{sample.p99_ms:.2f}",
            f"{sample.cpu_us:,.0f}",
            f"{mebibytes(sample.resident):.0f}",
        ]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One figure and its target: at least or at most so much; no target for what is only told."""

    what: str
    value: float
    target: float | None = None
    bound: Literal["at least", "at most"] = "at least"
    unit: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it holds; None without a target."""
        if self.target is None:
            return None
        return self.value >= self.target if self.bound == "at least" else self.value <= self.target

    def cells(self) -> list[str]:
        """Return it as a row of the table."""
        target = "" if self.target is None else f"{self.bound} {_number(self.target)}"
        met = {True: "met", False: "MISSED", None: ""}[self.met]
        return [self.what, f"{_number(self.value)} {self.unit}".rstrip(), target, met]


class Findings(msgspec.Struct):
    """What has been found so far; `notes` say what was left out, and why."""

    machine: dict[str, object] = {}
    lines: list[Line] = []
    verdicts: list[Verdict] = []
    notes: list[str] = []

    def add(self, other: Findings) -> None:
        """Take over what others hold."""
        self.lines += other.lines
        self.verdicts += other.verdicts
        self.notes += other.notes

    def as_json(self) -> str:
        """Return everything as JSON, the verdicts with whether they are met."""
        verdicts = [{**msgspec.to_builtins(one), "met": one.met} for one in self.verdicts]
        lines = [{**msgspec.to_builtins(one), "per_second": one.sample.per_second} for one in self.lines]
        told = {"machine": self.machine, "lines": lines, "verdicts": verdicts, "notes": self.notes}
        return msgspec.json.format(msgspec.json.encode(told)).decode()

    def as_text(self) -> str:
        """Return everything as tables."""
        parts = ["  ".join(f"{name}: {value}" for name, value in self.machine.items())]
        if self.lines:
            heads = ("what", "who", "conc.", "req/s", "memories/s", "p50 ms", "p95 ms", "p99 ms")
            parts.append("\n".join(_table((*heads, "CPU µs/req", "RSS MiB"), [one.cells() for one in self.lines])))
        if self.verdicts:
            parts.append("\n".join(_table(("figure", "is", "target", ""), [one.cells() for one in self.verdicts])))
        return "\n\n".join([*parts, *self.notes])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        first, *others = zip(row, widths, strict=True)
        yield "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 100 else f"{value:.2f}"
