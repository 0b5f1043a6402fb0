"""Which implementations of each port the suites of this folder run over.

To add one, append `(name, factory)` to its list. A factory takes a directory of its own, the clock, and the dedup
policy, and returns an async context manager over what the tests need; it is opened, used and closed within one
event loop.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import runpy
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import postgres_server
from arc_double import RELEASED, ArcDouble
from builders import embedded_instance, instance

from memtrace_arc import ArcGateway as GatewayToArc
from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import Draft
from memtrace_core.identifiers import memory_id
from memtrace_core.model import ArcInstance, Memory
from memtrace_core.ports import ArcGateway, Journal, KeyVault, MetadataRepo
from memtrace_core.testing import (
    InMemoryGateway,
    InMemoryJournal,
    InMemoryMetadataRepo,
    ManualClock,
    TransparentVault,
)
from memtrace_core.timewindow import to_us
from memtrace_postgres import PostgresMetadataRepo
from memtrace_sqlite import EnvelopeVault, MasterKey, SqliteEmbeddedGateway, SqliteJournal, SqliteMetadataRepo

# The example syncs every batch, which is for its users and not for a suite of many.
IN_MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None

Harness = TypeVar("Harness")
Factory = Callable[[Path, ManualClock, DedupPolicy], AbstractAsyncContextManager[Harness]]
Keep = Callable[[ArcInstance, Sequence[tuple[datetime, Draft]]], Awaitable[list[Memory]]]


@dataclass(frozen=True, kw_only=True)
class JournalHarness:
    """A journal, and the gateway that answers for its embedded instances."""

    journal: Journal
    gateway: ArcGateway
    clock: ManualClock


@dataclass(frozen=True, kw_only=True)
class GatewayHarness:
    """A gateway and how memories get into it: `keep` takes them in the order of their times."""

    gateway: ArcGateway
    keep: Keep
    instance_of: Callable[[str], ArcInstance]


@dataclass(frozen=True, kw_only=True)
class WritingHarness(GatewayHarness):
    """A gateway that memories are delivered to, and an instance of an org that does not answer."""

    unreachable: ArcInstance


@dataclass(frozen=True, kw_only=True)
class RepoHarness:
    """A metadata repo."""

    repo: MetadataRepo


@dataclass(frozen=True, kw_only=True)
class VaultHarness:
    """A vault."""

    vault: KeyVault


def keep_by_appending(journal: Journal, clock: ManualClock) -> Keep:
    """Return how memories get into the embedded store: through its journal, at their times."""

    async def keep(one: ArcInstance, timed: Sequence[tuple[datetime, Draft]]) -> list[Memory]:
        kept = []
        for time, draft in timed:
            clock.advance(time - clock.now())
            kept += await journal.append(one, [draft])
        assert [memory.time for memory in kept] == [time for time, _ in timed]
        return kept

    return keep


def keep_by_writing(gateway: ArcGateway, node: str = "fedcba") -> Keep:
    """Return how memories get into any other gateway: they are written there."""

    async def keep(one: ArcInstance, timed: Sequence[tuple[datetime, Draft]]) -> list[Memory]:
        memories = [
            draft.stamped(one.org_id, memory_id(to_us(time), node, f"{number:04x}"), time)
            for number, (time, draft) in enumerate(timed)
        ]
        if memories:
            await gateway.write(one, memories)
        return memories

    return keep


@asynccontextmanager
async def journal_in_memory(_: Path, clock: ManualClock, dedup: DedupPolicy) -> AsyncIterator[JournalHarness]:
    """Open a journal in memory."""
    journal = InMemoryJournal(clock, dedup)
    yield JournalHarness(journal=journal, gateway=InMemoryGateway(journal), clock=clock)


@asynccontextmanager
async def gateway_in_memory(_: Path, clock: ManualClock, dedup: DedupPolicy) -> AsyncIterator[WritingHarness]:
    """Open a gateway in memory that memories are written to."""
    gateway = InMemoryGateway(InMemoryJournal(clock, dedup))
    unreachable = instance("org_cut_off")
    gateway.unreachable.add(unreachable.id)
    yield WritingHarness(
        gateway=gateway, keep=keep_by_writing(gateway), instance_of=instance, unreachable=unreachable
    )


@asynccontextmanager
async def embedded_in_memory(_: Path, clock: ManualClock, dedup: DedupPolicy) -> AsyncIterator[GatewayHarness]:
    """Open the embedded store of a journal in memory."""
    journal = InMemoryJournal(clock, dedup)
    yield GatewayHarness(
        gateway=InMemoryGateway(journal),
        keep=keep_by_appending(journal, clock),
        instance_of=embedded_instance,
    )


@asynccontextmanager
async def repo_in_memory(_: Path, clock: ManualClock, dedup: DedupPolicy) -> AsyncIterator[RepoHarness]:
    """Open a metadata repo in memory."""
    yield RepoHarness(repo=InMemoryMetadataRepo())


@asynccontextmanager
async def transparent_vault(_: Path, clock: ManualClock, dedup: DedupPolicy) -> AsyncIterator[VaultHarness]:
    """Open a vault that hides nothing."""
    yield VaultHarness(vault=TransparentVault())


@asynccontextmanager
async def journal_in_sqlite(folder: Path, clock: ManualClock, dedup: DedupPolicy) -> AsyncIterator[JournalHarness]:
    """Open a journal in a file, and the embedded store in it."""
    journal = SqliteJournal(folder / "journal.db", clock, dedup)
    try:
        yield JournalHarness(journal=journal, gateway=SqliteEmbeddedGateway(journal), clock=clock)
    finally:
        await journal.close()


@asynccontextmanager
async def embedded_in_sqlite(folder: Path, clock: ManualClock, dedup: DedupPolicy) -> AsyncIterator[GatewayHarness]:
    """Open the embedded store of a journal in a file."""
    async with journal_in_sqlite(folder, clock, dedup) as held:
        yield GatewayHarness(
            gateway=held.gateway,
            keep=keep_by_appending(held.journal, clock),
            instance_of=embedded_instance,
        )


@asynccontextmanager
async def repo_in_sqlite(folder: Path, clock: ManualClock, dedup: DedupPolicy) -> AsyncIterator[RepoHarness]:
    """Open a metadata repo in a file."""
    repo = SqliteMetadataRepo(folder / "memtrace.db", EnvelopeVault(MasterKey(bytes(32))))
    try:
        yield RepoHarness(repo=repo)
    finally:
        await repo.close()


@asynccontextmanager
async def repo_in_postgres(_: Path, clock: ManualClock, dedup: DedupPolicy) -> AsyncIterator[RepoHarness]:
    """Open a metadata repo in a schema of its own."""
    server, schema = postgres_server.shared_server(), postgres_server.new_schema()
    repo = PostgresMetadataRepo(server.url, EnvelopeVault(MasterKey(bytes(32))), schema=schema)
    try:
        yield RepoHarness(repo=repo)
    finally:
        await repo.close()


@asynccontextmanager
async def envelope_vault(_: Path, clock: ManualClock, dedup: DedupPolicy) -> AsyncIterator[VaultHarness]:
    """Open a vault that encrypts."""
    yield VaultHarness(vault=EnvelopeVault(MasterKey(bytes(32))))


@functools.cache
def shared_arc(version: str) -> ArcDouble:
    """Return an Arc that flushes at once and lives as long as the process; whoever uses it takes a new database."""
    data = Path(tempfile.mkdtemp(prefix="arc-double-"))
    arc = ArcDouble(version=version, data=data, max_buffer_age_ms=0).start()
    atexit.register(shutil.rmtree, data, ignore_errors=True)
    atexit.register(arc.kill)
    return arc


_databases = map("database_{}".format, itertools.count())


def new_database() -> str:
    """Return the name of a database that nobody has used yet."""
    return next(_databases)


class KnownKeyVault:
    """A vault that opens everything to one key, so that a test may make instances up."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def seal(self, secret: str, context: str) -> bytes:
        """Return anything."""
        return b"sealed"

    def open(self, sealed: bytes, context: str) -> str:
        """Return the one key."""
        return self._secret


@asynccontextmanager
async def gateway_to_arc(
    version: str, _: Path, clock: ManualClock, dedup: DedupPolicy
) -> AsyncIterator[WritingHarness]:
    """Open a gateway to an Arc of some version, with a database of its own there."""
    arc, database = shared_arc(version), new_database()
    gateway = GatewayToArc(KnownKeyVault(arc.admin_token), clock)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens: a connection is refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        try:
            yield WritingHarness(
                gateway=gateway,
                keep=keep_by_writing(gateway),
                instance_of=lambda org_id: instance(org_id, url=arc.url, database=database),
                unreachable=instance("org_cut_off", url=url),
            )
        finally:
            await gateway.close()


@functools.cache
def gateway_of_the_example() -> Callable[[Path], ArcGateway]:
    """Return the gateway that docs/examples shows to those who write one of their own."""
    file = Path(__file__).parents[2] / "docs" / "examples" / "own_gateway.py"
    gateway: Callable[[Path], ArcGateway] = runpy.run_path(str(file))["FolderGateway"]
    return gateway


@asynccontextmanager
async def gateway_to_a_folder(_: Path, clock: ManualClock, dedup: DedupPolicy) -> AsyncIterator[WritingHarness]:
    """Open the example's gateway; where an organization's folder should be, a file stands in the way."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        unreachable = instance("org_cut_off")
        Path(folder, unreachable.org_id).touch()  # noqa: ASYNC240 - nobody waits meanwhile
        gateway = gateway_of_the_example()(Path(folder))
        yield WritingHarness(
            gateway=gateway, keep=keep_by_writing(gateway), instance_of=instance, unreachable=unreachable
        )


JOURNALS: list[tuple[str, Factory[JournalHarness]]] = [
    ("in memory", journal_in_memory),
    ("sqlite", journal_in_sqlite),
]
WRITING_GATEWAYS: list[tuple[str, Factory[WritingHarness]]] = [
    ("in memory", gateway_in_memory),
    ("example", gateway_to_a_folder),
    *((f"arc {version}", functools.partial(gateway_to_arc, version)) for version in RELEASED),
]
GATEWAYS: list[tuple[str, Factory[GatewayHarness]]] = [
    *WRITING_GATEWAYS,
    ("in memory, embedded", embedded_in_memory),
    ("sqlite, embedded", embedded_in_sqlite),
]
REPOS: list[tuple[str, Factory[RepoHarness]]] = [
    ("in memory", repo_in_memory),
    ("sqlite", repo_in_sqlite),
    ("postgres", repo_in_postgres),
]
SLOW = {"postgres"}
VAULTS: list[tuple[str, Factory[VaultHarness]]] = [("transparent", transparent_vault), ("envelope", envelope_vault)]
