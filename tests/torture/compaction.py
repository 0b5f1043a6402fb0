"""Compaction, as Arc has it: without it every query of a long run would open thousands of small files."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from arc_double import engine

MOST_FILES = 30


def files_in(data: Path) -> int:
    """Return how many files a query may have to open."""
    return sum(1 for _ in data.glob("**/*.parquet"))


def compact(data: Path) -> None:
    """Make one file of all files of an hour, where there are many; the double must not run.

    Rows that a resend stored twice remain twice unless they are equal in everything.
    """
    hours: dict[Path, list[Path]] = defaultdict(list)
    for file in data.glob("**/*.parquet"):
        hours[file.parent].append(file)
    for files in hours.values():
        if len(files) > MOST_FILES:
            files.sort()
            together = files[0].with_name("compacted.new")
            engine.copy_to(f"SELECT DISTINCT * FROM {engine.file_list(files)}", together)
            for file in files:
                file.unlink()
            together.rename(files[0])
