"""A gateway of your own: memories live where you want them, and Memtrace delivers them there.

`FolderGateway` keeps each organization's memories as lines of JSON in a folder. It has everything that the port
`memtrace_core.ports.ArcGateway` asks for; the journal in front of it brings the rest: acknowledged writes that
survive a crash, retries, order, exactly one copy for readers.

`MemoryQuery.page` and `MemoryQuery.matches` say what an answer must be, for any store: a database would turn the
query into its own language instead, and be held against them by the suite in `tests/contracts`, as this one is.

    MEMTRACE_MASTER_KEY=$(memtrace keygen master) python own_gateway.py FOLDER
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import msgspec

from memtrace_core import (
    AgentCounts,
    ArcInstance,
    ArcUnreachable,
    Binding,
    DeliveryPolicy,
    Memory,
    MemoryQuery,
    NewMemory,
    build_services,
)
from memtrace_core.clock import SystemClock
from memtrace_core.forgotten import Forgotten, sieve
from memtrace_core.identifiers import parse_memory_id
from memtrace_core.query import AgentCountQuery, OwnSpan
from memtrace_sqlite import EnvelopeVault, MasterKey, Mode, SqliteJournal, SqliteMetadataRepo


class FolderGateway:
    """Keeps memories in a file for each database and measurement, in a folder for each organization."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def write(self, instance: ArcInstance, memories: Sequence[Memory]) -> bool:
        """Append memories, and sync: they are durable on return, so the journal need not look for them later."""
        await asyncio.to_thread(self._append, instance, memories)
        return True

    async def query(self, instance: ArcInstance, query: MemoryQuery) -> list[Memory]:
        """Return what matches, as the query itself understands it."""
        return query.page(await asyncio.to_thread(self._read, instance))

    async def count(self, instance: ArcInstance, query: AgentCountQuery) -> AgentCounts:
        """Count one agent's memories."""
        wanted = MemoryQuery(
            org_id=query.org_id, agent_ids=(query.agent_id,), since=query.since, horizon=query.horizon
        )
        found = [memory for memory in await asyncio.to_thread(self._read, instance) if wanted.matches(memory)]
        recent = [memory for memory in found if memory.time >= query.recent_since]
        types = [memory.memory_type for memory in found]
        return AgentCounts(
            total=len(found),
            recent=len(recent),
            recent_errors=sum(memory.event_type == "error" for memory in recent),
            by_type={name: types.count(name) for name in set(types)},
        )

    async def own_count(self, instance: ArcInstance, span: OwnSpan) -> int:
        """Count what readers would be shown of a span; asked only of stores that were not durable at once."""
        return len(await self.own_ids(instance, span))

    async def own_ids(self, instance: ArcInstance, span: OwnSpan) -> set[str]:
        """Return the ids of what readers would be shown of a span."""
        return {
            memory.memory_id
            for memory in await asyncio.to_thread(self._read, instance)
            if memory.org_id == span.org_id
            and span.first <= memory.time <= span.last
            and (parse_memory_id(memory.memory_id) or (0, ""))[1] == span.node
        }

    async def covered(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Count the copies of what is to be forgotten."""
        left = sieve(forgotten)
        return sum(not left(memory) for memory in await asyncio.to_thread(lambda: list(self._lines(instance))))

    async def erase(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Write the file anew without what is to be forgotten, and return how many copies that were."""
        return await asyncio.to_thread(self._rewrite, instance, sieve(forgotten))

    async def known_ids(self, instance: ArcInstance, memory_ids: Collection[str]) -> set[str]:
        """Return which of these memories are here; asked by `memtrace org import`."""
        return {memory.memory_id for memory in await asyncio.to_thread(self._read, instance)} & set(memory_ids)

    async def ping(self, instance: ArcInstance) -> None:
        """Return if the organization's folder is there, or can be made."""
        await asyncio.to_thread(self._file, instance)

    async def server_version(self, instance: ArcInstance) -> str | None:
        """Return None: there is no server."""
        return None

    async def close(self) -> None:
        """Do nothing: files are open only while they are used."""

    def _append(self, instance: ArcInstance, memories: Sequence[Memory]) -> None:
        file = self._file(instance)
        try:
            with self._alone(file), file.open("ab") as stream:
                # A crash may have left half a line; it must not swallow the next one.
                stream.write(b"\n" + b"".join(msgspec.json.encode(memory) + b"\n" for memory in memories))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:  # any error but ArcRejected is tried again
            raise ArcUnreachable(f"{file}: {error.strerror}") from error

    def _rewrite(self, instance: ArcInstance, left: Callable[[Memory], bool]) -> int:
        file = self._file(instance)
        try:
            with self._alone(file):
                memories = list(self._lines(instance))
                kept = [memory for memory in memories if left(memory)]
                if len(kept) < len(memories):
                    fresh = file.with_suffix(".new")
                    with fresh.open("wb") as stream:
                        stream.write(b"".join(msgspec.json.encode(memory) + b"\n" for memory in kept))
                        stream.flush()
                        os.fsync(stream.fileno())
                    fresh.replace(file)
        except OSError as error:
            raise ArcUnreachable(f"{file}: {error.strerror}") from error
        return len(memories) - len(kept)

    @staticmethod
    @contextmanager
    def _alone(file: Path) -> Iterator[None]:
        # A file of its own is locked: the one with the memories is replaced when some of them are forgotten.
        with file.with_suffix(".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self, instance: ArcInstance) -> list[Memory]:
        # A batch whose answer was lost is written again: one memory for each id.
        return list({memory.memory_id: memory for memory in self._lines(instance)}.values())

    def _lines(self, instance: ArcInstance) -> Iterator[Memory]:
        file = self._file(instance)
        try:
            lines = file.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:  # an empty answer would say that there are no memories
            raise ArcUnreachable(f"{file}: {error.strerror}") from error
        for line in filter(None, lines):
            try:
                yield msgspec.json.decode(line, type=Memory)
            except msgspec.DecodeError:
                continue  # the half line of a crash, which was never acknowledged

    def _file(self, instance: ArcInstance) -> Path:
        # A missing top folder is not made: it may be a disk that is not mounted just now.
        place = self._folder / instance.org_id
        try:
            place.mkdir(exist_ok=True)
        except OSError as error:
            raise ArcUnreachable(f"{place}: {error.strerror}") from error
        # Organization ids are made by Memtrace; names that an operator has typed must not lead out of the folder.
        return place / f"{instance.database.encode().hex()}.{instance.measurement.encode().hex()}.jsonl"


async def main(folder: Path, master_key: str) -> None:
    """Store a memory, wait until it was delivered, and look for it in the folder."""
    clock = SystemClock()
    vault = EnvelopeVault(MasterKey.parse(master_key))
    journal = SqliteJournal(folder / "journal.db", clock, mode=Mode.MIGRATE)
    services = build_services(
        repo=SqliteMetadataRepo(folder / "memtrace.db", vault, mode=Mode.MIGRATE),
        journal=journal,
        gateway=FolderGateway(folder),
        vault=vault,
        clock=clock,
        delivery=DeliveryPolicy(flush_interval=timedelta(milliseconds=10)),
    )
    org = await services.tenants.create_org("acme")
    # The URL only says that this is not the embedded store; a gateway may make of it what it likes.
    binding = Binding(url="https://folder.invalid", api_key="unused", database="memory")
    arc = await services.tenants.bind(org.id, binding)
    await services.start()
    await services.memories.remember(org.id, [NewMemory(agent_id="crawler", content="Crawled example.com")])
    await services.stop()  # delivers what waits, as far as that is possible

    stored = await FolderGateway(folder).query(arc, MemoryQuery(org_id=org.id))
    for memory in stored:
        print(f"{org.id}: {memory.content}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not os.environ.get("MEMTRACE_MASTER_KEY"):
        print("usage: MEMTRACE_MASTER_KEY=... own_gateway.py FOLDER", file=sys.stderr)
        sys.exit(2)
    asyncio.run(main(Path(sys.argv[1]), os.environ["MEMTRACE_MASTER_KEY"]))
