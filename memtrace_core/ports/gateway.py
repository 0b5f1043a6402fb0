"""A store of memories for many organizations."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from memtrace_core.forgotten import Forgotten
from memtrace_core.model import AgentCounts, ArcInstance, Memory
from memtrace_core.query import AgentCountQuery, MemoryQuery, OwnSpan


class ArcGateway(Protocol):
    """A store of memories for many orgs, each behind its own Arc instance."""

    async def write(self, instance: ArcInstance, memories: Sequence[Memory]) -> bool:
        """Hand memories over, and tell whether they are durable there on return.

        False means: accepted, not yet confirmed. Any error but `ArcRejected` leaves it open whether the memories
        arrived.

        Raises:
            ArcUnreachable: no answer, or the instance does not let us in.
            ArcFailed: it failed, and does not say whether the data are to blame.
            ArcRejected: the instance will never take this batch.
        """
        ...

    async def query(self, instance: ArcInstance, query: MemoryQuery) -> list[Memory]:
        """Return the memories that match, in the query's order, one per `memory_id`.

        Raises:
            ArcUnreachable, ArcTimeout: there is no answer; an empty list always means "none".
        """
        ...

    async def count(self, instance: ArcInstance, query: AgentCountQuery) -> AgentCounts:
        """Count one agent's memories, each `memory_id` once."""
        ...

    async def own_count(self, instance: ArcInstance, span: OwnSpan) -> int:
        """Count the distinct memories of a span that readers would be shown."""
        ...

    async def own_ids(self, instance: ArcInstance, span: OwnSpan) -> set[str]:
        """Return the ids of the memories of a span that readers would be shown."""
        ...

    async def covered(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Count what is stored of the org's memories that are to be forgotten, every copy.

        Args:
            instance: of the org.
            forgotten: one of them, or several single memories.
        """
        ...

    async def erase(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Delete some or all of what `covered` counts and nothing else, and return how many copies it were.

        To be repeated until nothing is left; 0 need not mean that.

        Raises:
            ArcUnreachable: no answer, or we may not delete there.
            ErasureRefused: it cannot be made sure that nothing else would go; nothing was deleted.
        """
        ...

    async def known_ids(self, instance: ArcInstance, memory_ids: Collection[str]) -> set[str]:
        """Return those of these memories, whoever wrote them, that readers would be shown; up to 10,000 of them.

        Raises:
            ArcUnreachable, ArcTimeout: there is no answer.
        """
        ...

    async def ping(self, instance: ArcInstance) -> None:
        """Return if the instance can be used now.

        Raises:
            ArcUnreachable: with the reason.
        """
        ...

    async def server_version(self, instance: ArcInstance) -> str | None:
        """Return the version of the instance's server, if it tells."""
        ...

    async def close(self) -> None:
        """Release connections and files."""
        ...
