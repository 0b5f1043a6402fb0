"""What a process and a database take up."""

from __future__ import annotations

import resource
from pathlib import Path


def resident_bytes() -> int:
    """Return how much memory this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def total_bytes(database: Path) -> int:
    """Return the size of a database with the files beside it."""
    return sum(file.stat().st_size for file in database.parent.glob(database.name + "*"))


def mebibytes(count: int) -> float:
    """Return bytes as MiB."""
    return count / (1 << 20)
