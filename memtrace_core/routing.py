"""The choice between the two kinds of store, by the URL of an instance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from memtrace_core.forgotten import Forgotten
from memtrace_core.model import AgentCounts, ArcInstance, Memory
from memtrace_core.ports import ArcGateway
from memtrace_core.query import AgentCountQuery, MemoryQuery, OwnSpan

__all__ = ["GatewayByURL"]


class GatewayByURL:
    """One gateway for embedded instances, another for those behind `http://` or `https://`.

    The latter is made when it is first needed: the libraries behind it may be costly to import.
    """

    def __init__(self, *, embedded: ArcGateway, http: Callable[[], ArcGateway]) -> None:
        self._embedded = embedded
        self._make_http = http
        self._http: ArcGateway | None = None

    async def write(self, instance: ArcInstance, memories: Sequence[Memory]) -> bool:
        """Hand memories to the instance's gateway."""
        return await self._for(instance).write(instance, memories)

    async def query(self, instance: ArcInstance, query: MemoryQuery) -> list[Memory]:
        """Ask the instance's gateway."""
        return await self._for(instance).query(instance, query)

    async def count(self, instance: ArcInstance, query: AgentCountQuery) -> AgentCounts:
        """Ask the instance's gateway."""
        return await self._for(instance).count(instance, query)

    async def own_count(self, instance: ArcInstance, span: OwnSpan) -> int:
        """Ask the instance's gateway."""
        return await self._for(instance).own_count(instance, span)

    async def own_ids(self, instance: ArcInstance, span: OwnSpan) -> set[str]:
        """Ask the instance's gateway."""
        return await self._for(instance).own_ids(instance, span)

    async def covered(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Ask the instance's gateway."""
        return await self._for(instance).covered(instance, forgotten)

    async def erase(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Delete through the instance's gateway."""
        return await self._for(instance).erase(instance, forgotten)

    async def known_ids(self, instance: ArcInstance, memory_ids: Collection[str]) -> set[str]:
        """Ask the instance's gateway."""
        return await self._for(instance).known_ids(instance, memory_ids)

    async def ping(self, instance: ArcInstance) -> None:
        """Ask the instance's gateway."""
        await self._for(instance).ping(instance)

    async def server_version(self, instance: ArcInstance) -> str | None:
        """Ask the instance's gateway."""
        return await self._for(instance).server_version(instance)

    async def close(self) -> None:
        """Close both."""
        try:
            await self._embedded.close()
        finally:
            if self._http is not None:
                await self._http.close()

    def _for(self, instance: ArcInstance) -> ArcGateway:
        if instance.embedded:
            return self._embedded
        if self._http is None:
            self._http = self._make_http()
        return self._http
