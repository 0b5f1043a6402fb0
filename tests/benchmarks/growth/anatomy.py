"""What bends the curves: the B-trees of a filled journal, and the pages that a write changes.

Run it by hand, on folders that `benchmarks.growth` has filled and nobody serves:
`PYTHONPATH=tests python -m benchmarks.growth.anatomy --folder DIR [--only NAME,NAME] [--most N]`. Each write goes
through the journal in this process; what it adds to the write-ahead log is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw
from benchmarks.footprint import mebibytes
from benchmarks.growth.axes import fill
from benchmarks.growth.filled import Filled, journal_of, services_of, session_drafts

TRANSACTIONS = 100
_FRAME_BYTES = 24 + 4096
_UNUSED = 10**9  # numbers of sessions from here on were never filled in


def main() -> int:
    """Read the arguments, and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.growth.anatomy", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", default="depth,orgs,store", help="what grows, separated by commas")
    parser.add_argument("--most", type=int, help="leave larger sizes out")
    arguments = parser.parse_args()
    for axis in arguments.only.split(","):
        for size, subject in fill(arguments.folder, axis, arguments.most).items():
            print(f"\n{axis} {size:,}: {subject.memories():,} memories")
            for line in (*_trees(subject), *asyncio.run(_writes(subject))):
                print(line, flush=True)
    return 0


def _trees(subject: Filled) -> Iterator[str]:
    """Yield a line for each B-tree that is not next to nothing."""
    connection = apsw.Connection(str(subject.journal), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        found = connection.execute(
            """
            SELECT iif(name GLOB 'claims_[0-9]*', 'claims, all tables', name), sum(pgsize),
                max(length(path) - length(replace(path, '/', ''))), sum(payload) * 100 / sum(pgsize)
            FROM dbstat GROUP BY 1 HAVING count(*) > 4 ORDER BY 2 DESC
            """
        )
        for name, size, levels, used in found:
            yield f"  {name:<28} {mebibytes(size):>8,.1f} MiB  {levels} levels  {used:>3} % payload"
    finally:
        connection.close()


async def _writes(subject: Filled) -> Sequence[str]:
    """Return a line for transactions of one write, and one for those of 16, spread over the orgs."""
    lines = []
    services = services_of(subject.folder, subject.master_key)
    try:
        journal = journal_of(services)
        journal._connection.wal_autocheckpoint(0)
        every = await services.repo.list_instances()
        instances = itertools.cycle(random.Random(len(every)).sample(every, len(every)))
        wal = subject.journal.with_name("journal.db-wal")
        sessions = itertools.count(_UNUSED + int(time.time()))
        for together in (1, 16):
            pages, took = [], []
            for _ in range(TRANSACTIONS):
                drafts = session_drafts(subject.plan, next(sessions))[:together]
                writes = [(next(instances), [draft]) for draft in drafts]
                before, started = wal.stat().st_size, time.perf_counter()
                await journal._writer.run(lambda ledger, writes=writes: [ledger.append(*one) for one in writes])
                took.append((time.perf_counter() - started) * 1000)
                pages.append((wal.stat().st_size - before) / _FRAME_BYTES)
            lines.append(
                f"  {together:>2} writes in one transaction: {statistics.fmean(pages):.1f} pages, "
                f"median {statistics.median(took):.2f} ms"
            )
    finally:
        await services.close()
    return lines


if __name__ == "__main__":
    sys.exit(main())
