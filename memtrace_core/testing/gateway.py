"""A gateway in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from memtrace_core import identifiers
from memtrace_core.errors import ArcUnreachable
from memtrace_core.forgotten import Forgotten, sieve
from memtrace_core.model import AgentCounts, ArcInstance, Memory
from memtrace_core.query import AgentCountQuery, MemoryQuery, OwnSpan
from memtrace_core.testing.journal import InMemoryJournal
from memtrace_core.testing.shelves import Shelf, counted, shelf_of


class InMemoryGateway:
    """A gateway in a dict, for embedded instances of `journal` and for all others.

    `unreachable` holds the ids of instances that do not answer; `written` is every batch as it came; `forget` loses
    memories that were taken.
    """

    def __init__(self, journal: InMemoryJournal, *, durable: bool = True) -> None:
        self.unreachable: set[str] = set()
        self.written: list[list[Memory]] = []
        self._durable = durable
        self._journal = journal
        self._stored: dict[Shelf, dict[str, Memory]] = defaultdict(dict)

    async def write(self, instance: ArcInstance, memories: Sequence[Memory]) -> bool:
        """Keep memories, one per id."""
        await self.ping(instance)
        self.written.append(list(memories))
        self._stored[shelf_of(instance)].update({memory.memory_id: memory for memory in memories})
        return self._durable

    def forget(self, instance: ArcInstance, memory_ids: Iterable[str]) -> None:
        """Lose memories, as an Arc does that is killed before it has flushed them."""
        for memory_id in memory_ids:
            del self._stored[shelf_of(instance)][memory_id]

    async def query(self, instance: ArcInstance, query: MemoryQuery) -> list[Memory]:
        """Return what matches."""
        await self.ping(instance)
        return query.page(self._memories(instance))

    async def count(self, instance: ArcInstance, query: AgentCountQuery) -> AgentCounts:
        """Count what matches."""
        await self.ping(instance)
        return counted(self._memories(instance), query)

    async def own_count(self, instance: ArcInstance, span: OwnSpan) -> int:
        """Count what is stored of a span."""
        return len(await self.own_ids(instance, span))

    async def own_ids(self, instance: ArcInstance, span: OwnSpan) -> set[str]:
        """Return what is stored of a span."""
        await self.ping(instance)
        return {
            memory.memory_id
            for memory in self._memories(instance)
            if span.first <= memory.time <= span.last
            and (identifiers.parse_memory_id(memory.memory_id) or (0, ""))[1] == span.node
        }

    async def covered(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Count what is to be forgotten; the journal itself removes what is in the embedded store."""
        await self.ping(instance)
        left = sieve(forgotten)
        return sum(not left(memory) for memory in self._stored[shelf_of(instance)].values())

    async def erase(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Delete it."""
        await self.ping(instance)
        left, stored = sieve(forgotten), self._stored[shelf_of(instance)]
        gone = [memory_id for memory_id, memory in stored.items() if not left(memory)]
        self.forget(instance, gone)
        return len(gone)

    async def known_ids(self, instance: ArcInstance, memory_ids: Collection[str]) -> set[str]:
        """Return which of these memories are stored."""
        await self.ping(instance)
        return {memory.memory_id for memory in self._memories(instance)} & set(memory_ids)

    async def ping(self, instance: ArcInstance) -> None:
        """Raise ArcUnreachable for an instance that is marked so."""
        if instance.id in self.unreachable:
            raise ArcUnreachable(f"{instance.id} does not answer")

    async def server_version(self, instance: ArcInstance) -> str | None:
        """Return that there is no server."""
        return None

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _memories(self, instance: ArcInstance) -> list[Memory]:
        if instance.embedded:
            return self._journal.embedded[shelf_of(instance)]
        return list(self._stored[shelf_of(instance)].values())
