"""How fast Memtrace stays as what it holds grows: the journal, the orgs, the embedded store, the memories.

Run it by hand: `PYTHONPATH=tests python -m benchmarks.growth --folder DIR [--only NAME,NAME] [--most N]
[--seconds S] [--repeats N] [--results FILE] [--fill-only]`. What is filled in stays in the folder, which must be on
a real disk, and is used again: everything takes 25 GB. Results are appended to a file, each as it comes;
`python -m benchmarks.growth.page` makes tables and plots of them. The largest sizes need as much memory as the file
of ten million memories for the system's cache, or they measure the disk.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.footprint import file_system
from benchmarks.growth.axes import AXES, fill, measure
from benchmarks.growth.page import RESULTS
from benchmarks.growth.record import Run, add
from benchmarks.machine import machine
from benchmarks.subjects import Effort


def main() -> int:
    """Read the arguments, fill what is to be measured, measure it, and note each result."""
    parser = argparse.ArgumentParser(prog="benchmarks.growth", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where databases are kept for the next run")
    parser.add_argument("--only", help=f"what grows, separated by commas: {', '.join(AXES)}; default: everything")
    parser.add_argument("--most", type=int, help="leave larger sizes out")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each turn counts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file to append to")
    parser.add_argument("--fill-only", action="store_true", help="make what is missing, and measure nothing")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else list(AXES)
    if unknown := set(wanted) - set(AXES):
        parser.error(f"--only knows {', '.join(AXES)}, not {', '.join(sorted(unknown))}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if (kind := file_system(arguments.folder)) in ("tmpfs", "ramfs"):
        parser.error(f"{arguments.folder} is in memory ({kind}); name a folder on a disk with --folder")
    subjects = {axis: fill(arguments.folder, axis, arguments.most) for axis in wanted}
    if arguments.fill_only:
        return 0
    effort = Effort(arguments.seconds, min(1.0, arguments.seconds / 4), arguments.repeats)
    run = Run(began=datetime.now(UTC).isoformat(timespec="seconds"), machine=machine(arguments.folder))
    add(arguments.results, run)
    for axis, sizes in subjects.items():
        for point in measure(sizes, axis, run.began, effort):
            add(arguments.results, point)
            told = f"{point.sample.per_second:>10,.0f} a second, p99 {point.sample.p99_ms:,.1f} ms"
            print(f"{axis:>8} {point.size:>12,}  {point.operation:<15} {told}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
