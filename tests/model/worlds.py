"""A server without HTTP, over either journal: it can be stopped, started again, and dropped where it stands."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from memtrace_core.confirmation import ConfirmationPolicy
from memtrace_core.dedup import DedupPolicy
from memtrace_core.delivery import DeliveryPolicy
from memtrace_core.routing import GatewayByURL
from memtrace_core.services import Services, build_services
from memtrace_core.testing import (
    InMemoryGateway,
    InMemoryJournal,
    InMemoryMetadataRepo,
    ManualClock,
    TransparentVault,
)
from memtrace_sqlite import SqliteEmbeddedGateway, SqliteJournal, SqliteMetadataRepo
from model.hostile_arc import HostileArc

DEDUP = DedupPolicy()
# Small, so that a handful of memories makes batches, halves of batches, and runs.
DELIVERY = DeliveryPolicy(
    batch_size=3, most_rows=5, most_batches=2, suspect_after=2, condemn_after=3, most_suspects=2
)
CONFIRMATION = ConfirmationPolicy(settle=timedelta(minutes=2), most_rows=4)

QUIET_TURNS = 20
MOST_TURNS = 50_000


class Calls:
    """How many calls were made to what is behind threads, and how many are under way."""

    def __init__(self) -> None:
        self.made = 0
        self.under_way = 0


class Watched:
    """Anything with asynchronous methods, and word of whether one of them is under way."""

    def __init__(self, target: object, calls: Calls) -> None:
        self._target = target
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def watched(*values: Any, **named: Any) -> Any:
            self._calls.made += 1
            self._calls.under_way += 1
            try:
                return await method(*values, **named)
            finally:
                self._calls.under_way -= 1

        return watched


class World(Protocol):
    """A server, a clock and an Arc. `restarts` tells whether it has files to be opened again."""

    services: Services
    clock: ManualClock
    arc: HostileArc
    calls: Calls
    restarts: bool

    async def open(self) -> None:
        """Start the server."""
        ...

    async def restart(self) -> None:
        """Stop the server in order, and start it again."""
        ...

    async def crash(self) -> None:
        """Drop the server where it stands, and start it again."""
        ...

    async def close(self) -> None:
        """Stop the server for good."""
        ...


class InMemoryWorld:
    """Over the journal in memory, which outlives the services."""

    restarts = False

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.arc = HostileArc(self.clock)
        self.calls = Calls()
        self._journal = InMemoryJournal(self.clock, DEDUP)
        self._embedded = InMemoryGateway(self._journal)
        self._repo = InMemoryMetadataRepo()

    async def open(self) -> None:
        """Start the services."""
        self.services = _services(self, self._journal, self._repo, self._embedded)
        await self.services.start()

    async def restart(self) -> None:
        """Do what can be done without files."""
        await self.crash()

    async def crash(self) -> None:
        """Drop the services, and build others over the same journal."""
        await drop_tasks()
        await self.open()

    async def close(self) -> None:
        """End everything."""
        await drop_tasks()
        await self.services.close()


class SqliteWorld:
    """Over files, the journal's and the metadata's."""

    restarts = True

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.arc = HostileArc(self.clock)
        self.calls = Calls()
        # Nobody cuts the power here, so the many fsyncs may go to memory.
        memory = Path("/dev/shm")
        self._folder = Path(tempfile.mkdtemp(prefix="memtrace-model-", dir=memory if memory.is_dir() else None))

    async def open(self) -> None:
        """Open the files, and start the services."""
        journal = SqliteJournal(self._folder / "journal.db", self.clock, DEDUP)
        repo = SqliteMetadataRepo(self._folder / "memtrace.db", TransparentVault())
        self.services = _services(self, journal, repo, SqliteEmbeddedGateway(journal))
        await self.services.start()

    async def restart(self) -> None:
        """Stop as a server does, which delivers what it can, and start again."""
        await self.services.stop(timedelta(seconds=5))
        await self.open()

    async def crash(self) -> None:
        """Start a successor on files that nobody has closed; what no answer was given to may be there or not."""
        former = self.services
        await drop_tasks()
        await self.open()
        await former.close()

    async def close(self) -> None:
        """End everything, and remove the files."""
        await drop_tasks()
        await self.services.close()
        shutil.rmtree(self._folder)


def _services(world: World, journal: object, repo: object, embedded: object) -> Services:
    arc = world.arc
    kept = Watched(embedded, world.calls)
    gateway: Any = GatewayByURL(embedded=kept, http=lambda: arc)
    watched: Any = Watched(journal, world.calls)
    watched_repo: Any = Watched(repo, world.calls)
    return build_services(
        repo=watched_repo,
        journal=watched,
        gateway=gateway,
        vault=TransparentVault(),
        clock=world.clock,
        dedup=DEDUP,
        delivery=DELIVERY,
        confirmation=CONFIRMATION,
    )


async def drop_tasks() -> None:
    """Cancel everything that is under way in this loop, wherever it stands."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def come_to_rest(calls: Calls) -> None:
    """Let all background work go on until it waits for the clock, and nothing else."""
    quiet, made = 0, calls.made
    for _ in range(MOST_TURNS):
        await asyncio.sleep(0.0002 if calls.under_way else 0)
        quiet = 0 if calls.under_way or calls.made != made else quiet + 1
        made = calls.made
        if quiet == QUIET_TURNS:
            return
    raise AssertionError("the background work never comes to rest")
