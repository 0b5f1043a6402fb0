"""A month without Arc: ten million memories in one journal. Is it as quick and as small as an empty one?

Run it by hand: `PYTHONPATH=tests python tests/benchmarks/month_without_arc.py [--rows N] [--folder DIR]`, with at
least a million rows; a million take about 0.4 GB of disk. Time is simulated: the rows are spread over 30 days, so
that dedup claims come and go, and the delivery of the same process fails all the while. Speed is told as a ratio to
an empty journal, written to in turn with the full one, for machines differ and are never quiet.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from benchmarks.absent_gateway import AbsentGateway
from benchmarks.footprint import mebibytes, resident_bytes, total_bytes
from builders import bound, draft, instance

from memtrace_core.dedup import generated_key
from memtrace_core.entries import Draft
from memtrace_core.model import ArcInstance
from memtrace_core.query import AgentCountQuery, MemoryQuery, position_of
from memtrace_core.services import Services, build_services
from memtrace_core.testing import InMemoryMetadataRepo, ManualClock, TransparentVault
from memtrace_sqlite import SqliteJournal

MONTH = timedelta(days=30)
AT_ONCE, DRAFTS, ORGS = 8, 250, 4  # appends under way together, memories in each, and orgs that they are for
ROUND = AT_ONCE * DRAFTS
WINDOWS, TURNS = 20, 25  # lines of the table, and rounds in turn with the other journals for each
MOST_SLOWER, MOST_GROWN = 1.3, 1.1
SAMPLES, PATIENCE = 9, 5.0  # how often a read is timed, and the seconds after which once is enough
TEXT = "The agent looked at the page, found what it was asked for, and wrote down where it had been. "


class World:
    """A journal in a file, and the services over it, whose Arc is away."""

    def __init__(self, path: Path, clock: ManualClock) -> None:
        self.path = path
        self.clock = clock
        self.journal = SqliteJournal(path, self.clock, max_bytes=1 << 50)
        self.instances = [instance(f"org_{number}") for number in range(ORGS)]
        self.rows = 0
        self._services: Services | None = None

    async def open(self) -> None:
        """Begin the background work."""
        self._services = build_services(
            repo=InMemoryMetadataRepo(),
            journal=self.journal,
            gateway=AbsentGateway(),
            vault=TransparentVault(),
            clock=self.clock,
        )
        await bound(self._services, *self.instances)
        await self._services.start()

    async def close(self) -> None:
        """End it, and remove the file."""
        assert self._services is not None
        await self._services.stop()
        for file in self.path.parent.glob(self.path.name + "*"):
            file.unlink()

    async def append_round(self) -> float:
        """Append one round of memories; return the seconds that the appends took."""
        assert self._services is not None
        requests = [self._request(number) for number in range(AT_ONCE)]
        started = time.perf_counter()
        answers = await asyncio.gather(*(self.journal.append(one, drafts) for one, drafts in requests))
        took = time.perf_counter() - started
        for one, _ in requests:
            self._services.delivery.wake(one.org_id)
        self.rows += sum(map(len, answers))
        return took

    def _request(self, number: int) -> tuple[ArcInstance, Sequence[Draft]]:
        first = self.rows + number * DRAFTS
        return self.instances[number % ORGS], [_draft(one) for one in range(first, first + DRAFTS)]


def _draft(number: int) -> Draft:
    agent_id, content = f"agent_{number % 7}", f"{TEXT}{number}"
    return draft(
        content,
        agent_id=agent_id,
        session_id=f"session_{number // ROUND % 5000}",
        tags=("crawl", "page"),
        dedup_key=generated_key(agent_id, "general", content),
    )


@dataclass(frozen=True)
class Line:
    """One line of the table: what holds at a depth."""

    rows: int
    per_second: float
    slower_than_empty: float
    resident: int
    file: int

    def show(self) -> None:
        """Print it."""
        print(
            f"{self.rows:>12,} {self.per_second:>10,.0f} "
            f"{self.slower_than_empty:>8.2f} "
            f"{mebibytes(self.resident):>9.1f} {mebibytes(self.file):>10,.0f}",
            flush=True,
        )


async def fill(deep: World, rows: int) -> list[Line]:
    """Append all the rows, and tell how it went in each part of them."""
    rounds = max(WINDOWS * TURNS, rows // ROUND)
    pause = MONTH / rounds
    print(f"{'rows':>12} {'rows/s':>10} {'× empty':>8} {'RSS MiB':>9} {'file MiB':>10}", flush=True)
    lines = []
    for window in range(WINDOWS):
        count = rounds * (window + 1) // WINDOWS - rounds * window // WINDOWS
        took = []
        for _ in range(count - TURNS):
            deep.clock.advance(pause)
            took.append(await deep.append_round())
        beside, than_empty = await _against_an_empty_one(deep, pause)
        took += beside
        speed = ROUND * len(took) / sum(took)
        lines.append(Line(deep.rows, speed, than_empty, resident_bytes(), total_bytes(deep.path)))
        lines[-1].show()
    return lines


async def _against_an_empty_one(deep: World, pause: timedelta) -> tuple[list[float], float]:
    """Return the times of some rounds, and their ratio to those of an empty journal, written to in turn."""
    empty = World(deep.path.with_name("empty.db"), deep.clock)
    await empty.open()
    took: list[float] = []
    took_empty: list[float] = []
    for _ in range(TURNS):
        deep.clock.advance(pause)
        took.append(await deep.append_round())
        took_empty.append(await empty.append_round())
    await empty.close()
    return took, statistics.median(took) / statistics.median(took_empty)


Read = Callable[[World], Awaitable[object]]


def reads() -> dict[str, Read]:
    """Return what is asked of a journal, by name."""
    org_id = "org_0"

    def view(**filters: object) -> Read:
        return lambda world: world.journal.view(MemoryQuery(org_id=org_id, **filters))  # type: ignore[arg-type]

    async def page_by_cursor(world: World) -> object:
        first = await world.journal.view(MemoryQuery(org_id=org_id, limit=50))
        after = position_of(first.memories[-1])
        return await world.journal.view(MemoryQuery(org_id=org_id, limit=50, after=after))

    async def start_up(world: World) -> object:
        return await SqliteJournal(world.path, world.clock).close()

    async def count(world: World) -> object:
        query = AgentCountQuery(org_id=org_id, agent_id="agent_1", recent_since=world.clock.now())
        return await world.journal.count(query)

    async def last_session(world: World) -> object:
        newest = await world.journal.view(MemoryQuery(org_id=org_id, limit=1))
        session = newest.memories[0].session_id or ""
        return await world.journal.view(MemoryQuery(org_id=org_id, session_ids=(session,), limit=1000))

    return {
        "newest 50": view(limit=50),
        "page by cursor": page_by_cursor,
        "context of the newest session": last_session,
        "context of an old session": view(session_ids=("session_1",), limit=1000),
        "search that finds nothing": view(content_contains="not there", limit=50),
        "by dedup key, not there": view(dedup_key="not there", limit=1),
        "count by agent": count,
        "holdings": lambda world: world.journal.holdings(org_id),
        "start-up": start_up,
        "pending_orgs": lambda world: world.journal.pending_orgs(),
        "next_batch of 100": lambda world: world.journal.next_batch(org_id, 100, 64 << 10),
        "next_delivered": lambda world: world.journal.next_delivered(org_id, timedelta(minutes=2), 5000),
    }


async def ask(deep: World) -> None:
    """Time every read of the full journal and of a young one in turn, and print the medians."""
    young = World(deep.path.with_name("young.db"), deep.clock)
    await young.open()
    await young.append_round()
    print(f"\n{'read':<30} {'ms':>10} {f'ms of {young.rows:,}':>12} {'ratio':>8}")
    for name, read in reads().items():
        took: list[tuple[float, float]] = []
        while len(took) < SAMPLES and sum(old for old, _ in took) < PATIENCE:
            took.append((await _timed(read, deep), await _timed(read, young)))
        old, new = (statistics.median(column) * 1000 for column in zip(*took, strict=True))
        print(f"{name:<30} {old:>10.2f} {new:>12.2f} {old / new:>8.1f}", flush=True)
    await young.close()


async def _timed(read: Read, world: World) -> float:
    started = time.perf_counter()
    await read(world)
    return time.perf_counter() - started


async def measure(rows: int, folder: Path) -> bool:
    """Measure, print, and tell whether the journal was quick and small to the end."""
    deep = World(folder / "deep.db", ManualClock())
    await deep.open()
    lines = await fill(deep, rows)
    await ask(deep)
    await deep.close()
    # Speed in the last quarter; memory there against the end of the first, by when everything is in use.
    last = lines[-WINDOWS // 4 :]
    slower = statistics.median(line.slower_than_empty for line in last)
    grown = max(line.resident for line in last) / lines[WINDOWS // 4 - 1].resident
    quick, flat = slower <= MOST_SLOWER, grown <= MOST_GROWN
    found = {"slower_than_empty": slower, "memory_grown": grown}
    print(json.dumps({"rows": deep.rows, **found, "quick": quick, "flat": flat}))
    return quick and flat


def main() -> int:
    """Read the arguments, and measure in a folder that goes away."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where there is room; default: the machine's temporary folder")
    arguments = parser.parse_args()
    logging.disable()  # that deliveries fail is the point
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        return 0 if asyncio.run(measure(arguments.rows, Path(folder))) else 1


if __name__ == "__main__":
    sys.exit(main())
