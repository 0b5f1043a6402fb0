"""How fast Memtrace is, and how close to what the framework beneath it can do at all.

Run it by hand: `PYTHONPATH=tests python -m benchmarks [--json] [--only NAME,NAME] [--seconds S] [--repeats N]
[--concurrency 1,16,64] [--workers 1,2] [--folder DIR]`. Servers have their default settings: authentication,
dedup and fsync are on, so `--folder` must be on a real disk. Every figure is the median of its repeats, in a closed
loop and warm; what is compared runs in turn, and ratios are of what ran right after each other, since machines are
never quiet. The command ends with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import overheads
from benchmarks.footprint import file_system
from benchmarks.history import history
from benchmarks.machine import machine
from benchmarks.reading import arc_reads, embedded_reads
from benchmarks.report import Findings
from benchmarks.second_node import second_node
from benchmarks.subjects import Effort
from benchmarks.writing import batches, second_worker, single_writes


def scenarios(
    folder: Path, concurrencies: Sequence[int], workers: Sequence[int], effort: Effort
) -> dict[str, Callable[[], Findings]]:
    """Return everything that can be measured, by name."""
    several = any(count > 1 for count in workers)
    return {
        "guard": lambda: overheads.guard(folder, effort),
        "idle": lambda: overheads.idle(folder),
        "cli": lambda: overheads.command_line(folder),
        "writes": lambda: single_writes(folder, concurrencies, effort),
        "batches": lambda: batches(folder, concurrencies, effort),
        "workers": lambda: second_worker(folder, concurrencies, effort) if several else Findings(),
        "nodes": lambda: second_node(folder, concurrencies, effort),
        "reads": lambda: embedded_reads(folder, concurrencies, effort),
        "arc-reads": lambda: arc_reads(folder, concurrencies, effort),
        "history": lambda: history(folder, concurrencies, effort),
    }


def main() -> int:
    """Read the arguments, measure, and print."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--only", help="what to measure, separated by commas; default: everything")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each run counts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--concurrency", default="1,16,64", help="requests under way at a time")
    parser.add_argument("--workers", default="1,2", help="1, or 1,2 to see what a second worker gives")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where databases are made")
    arguments = parser.parse_args()
    if (kind := file_system(arguments.folder)) in ("tmpfs", "ramfs"):
        parser.error(f"{arguments.folder} is in memory ({kind}); name a folder on a disk with --folder")
    effort = Effort(arguments.seconds, min(1.0, arguments.seconds / 4), arguments.repeats)
    known = scenarios(arguments.folder, _numbers(arguments.concurrency), _numbers(arguments.workers), effort)
    wanted = arguments.only.split(",") if arguments.only else list(known)
    if unknown := set(wanted) - set(known):
        parser.error(f"--only knows {', '.join(known)}, not {', '.join(sorted(unknown))}")
    found = Findings(machine=machine(arguments.folder))
    for name in wanted:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        found.add(known[name]())
    print(found.as_json() if arguments.json else found.as_text())
    return 1 if any(verdict.met is False for verdict in found.verdicts) else 0


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
