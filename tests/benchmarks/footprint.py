"""What a process and a database take up."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def resident_bytes(process: int | None = None) -> int:
    """Return how much memory a process, this one if none is named, holds now."""
    pages = int(Path(f"/proc/{process or 'self'}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def cpu_seconds(process: int) -> float:
    """Return the CPU time that a process and those it has started have used so far."""
    total = 0
    for one in family(process):
        # The name in parentheses may hold anything; the fields behind it are numbers.
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def family(process: int) -> Iterator[int]:
    """Yield a process and all that it has started, and they in turn."""
    yield process
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        yield from family(int(child))


def file_system(folder: Path) -> str:
    """Return the kind of the file system that a folder is on, as the system calls it."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    over = [(Path(place), kind) for _, place, kind, *_ in mounts if folder.resolve().is_relative_to(place)]
    return max(over, key=lambda mount: len(mount[0].parts))[1]


def total_bytes(database: Path) -> int:
    """Return the size of a database with the files beside it."""
    return sum(file.stat().st_size for file in database.parent.glob(database.name + "*"))


def mebibytes(count: int) -> float:
    """Return bytes as MiB."""
    return count / (1 << 20)
