"""A gateway whose every Arc is away."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NoReturn

from memtrace_core.errors import ArcUnreachable
from memtrace_core.forgotten import Forgotten
from memtrace_core.model import ArcInstance, Memory
from memtrace_core.query import AgentCountQuery, MemoryQuery, OwnSpan


class AbsentGateway:
    """Answers nothing."""

    async def write(self, instance: ArcInstance, memories: Sequence[Memory]) -> NoReturn:
        """Fail."""
        raise ArcUnreachable(f"{instance.id} is away")

    async def query(self, instance: ArcInstance, query: MemoryQuery) -> NoReturn:
        """Fail."""
        raise ArcUnreachable(f"{instance.id} is away")

    async def count(self, instance: ArcInstance, query: AgentCountQuery) -> NoReturn:
        """Fail."""
        raise ArcUnreachable(f"{instance.id} is away")

    async def own_count(self, instance: ArcInstance, span: OwnSpan) -> NoReturn:
        """Fail."""
        raise ArcUnreachable(f"{instance.id} is away")

    async def own_ids(self, instance: ArcInstance, span: OwnSpan) -> NoReturn:
        """Fail."""
        raise ArcUnreachable(f"{instance.id} is away")

    async def covered(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> NoReturn:
        """Fail."""
        raise ArcUnreachable(f"{instance.id} is away")

    async def erase(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> NoReturn:
        """Fail."""
        raise ArcUnreachable(f"{instance.id} is away")

    async def known_ids(self, instance: ArcInstance, memory_ids: Collection[str]) -> NoReturn:
        """Fail."""
        raise ArcUnreachable(f"{instance.id} is away")

    async def ping(self, instance: ArcInstance) -> NoReturn:
        """Fail."""
        raise ArcUnreachable(f"{instance.id} is away")

    async def server_version(self, instance: ArcInstance) -> None:
        """Return that there is no server."""

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""
