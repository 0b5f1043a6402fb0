"""What was measured, line by line in a file, so that a run that is stopped is not lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from benchmarks.sample import Sample


class Run(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    """One call of the benchmark: when it began, in UTC, and where."""

    began: str
    machine: dict[str, object]


class Point(msgspec.Struct, frozen=True, kw_only=True, tag="point"):
    """One turn of one subject: what it held when it began, and how it was.

    `began` is its run's; `size` is what grows along the axis. `memories` and `file_bytes` are the journal's.
    """

    began: str
    axis: str
    size: int
    operation: str
    turn: int
    memories: int
    file_bytes: int
    sample: Sample


_decoder = msgspec.json.Decoder(Run | Point)


def add(file: Path, line: Run | Point) -> None:
    """Append a line."""
    with file.open("ab") as results:
        results.write(msgspec.json.encode(line) + b"\n")


def latest(file: Path) -> dict[str, tuple[Run, list[Point]]]:
    """Return each axis' newest run, and its points."""
    runs: dict[str, Run] = {}
    found: dict[str, tuple[Run, list[Point]]] = {}
    for line in _lines(file):
        if isinstance(line, Run):
            runs[line.began] = line
            continue
        if line.axis not in found or found[line.axis][0].began < line.began:
            found[line.axis] = runs[line.began], []
        if found[line.axis][0].began == line.began:
            found[line.axis][1].append(line)
    return found


def _lines(file: Path) -> Iterator[Run | Point]:
    for line in file.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):  # or it was being written when the run was stopped
            yield _decoder.decode(line)
