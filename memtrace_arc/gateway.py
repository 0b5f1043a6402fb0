"""The gateway for `http://` and `https://` instances."""

from __future__ import annotations

from collections.abc import Sequence

from memtrace_core.errors import ArcUnreachable
from memtrace_core.model import AgentCounts, ArcInstance, Memory
from memtrace_core.query import AgentCountQuery, MemoryQuery, OwnSpan


class UnsupportedArcGateway:
    """Says of every instance that it cannot be reached, so that nothing is lost or pretended."""

    async def write(self, instance: ArcInstance, memories: Sequence[Memory]) -> bool:
        """Refuse."""
        raise _unsupported(instance)

    async def query(self, instance: ArcInstance, query: MemoryQuery) -> list[Memory]:
        """Refuse."""
        raise _unsupported(instance)

    async def count(self, instance: ArcInstance, query: AgentCountQuery) -> AgentCounts:
        """Refuse."""
        raise _unsupported(instance)

    async def own_count(self, instance: ArcInstance, span: OwnSpan) -> int:
        """Refuse."""
        raise _unsupported(instance)

    async def own_ids(self, instance: ArcInstance, span: OwnSpan) -> set[str]:
        """Refuse."""
        raise _unsupported(instance)

    async def ping(self, instance: ArcInstance) -> None:
        """Refuse."""
        raise _unsupported(instance)

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _unsupported(instance: ArcInstance) -> ArcUnreachable:
    return ArcUnreachable(f"this version of Memtrace cannot reach {instance.url} yet")
