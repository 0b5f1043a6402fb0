"""A gateway that tells a meter how long its Arcs take, and how they answer."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Sequence
from typing import TypeVar

from memtrace_core.errors import MemtraceError
from memtrace_core.forgotten import Forgotten
from memtrace_core.meter import Meter, Operation
from memtrace_core.model import AgentCounts, ArcInstance, Memory
from memtrace_core.ports import ArcGateway, Clock
from memtrace_core.query import AgentCountQuery, MemoryQuery, OwnSpan

__all__ = ["MeteredGateway"]

Answer = TypeVar("Answer")


class MeteredGateway:
    """Asks another gateway, and measures it."""

    def __init__(self, gateway: ArcGateway, clock: Clock, meter: Meter) -> None:
        self._gateway = gateway
        self._clock = clock
        self._meter = meter

    async def write(self, instance: ArcInstance, memories: Sequence[Memory]) -> bool:
        """Measure a write."""
        return await self._measured("write", self._gateway.write(instance, memories))

    async def query(self, instance: ArcInstance, query: MemoryQuery) -> list[Memory]:
        """Measure a query."""
        return await self._measured("query", self._gateway.query(instance, query))

    async def count(self, instance: ArcInstance, query: AgentCountQuery) -> AgentCounts:
        """Measure a count."""
        return await self._measured("count", self._gateway.count(instance, query))

    async def own_count(self, instance: ArcInstance, span: OwnSpan) -> int:
        """Measure a look for what was delivered."""
        return await self._measured("confirm", self._gateway.own_count(instance, span))

    async def own_ids(self, instance: ArcInstance, span: OwnSpan) -> set[str]:
        """Measure a look for what was delivered."""
        return await self._measured("confirm", self._gateway.own_ids(instance, span))

    async def covered(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Measure a look for what is to be forgotten."""
        return await self._measured("erase", self._gateway.covered(instance, forgotten))

    async def erase(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Measure a deletion."""
        return await self._measured("erase", self._gateway.erase(instance, forgotten))

    async def known_ids(self, instance: ArcInstance, memory_ids: Collection[str]) -> set[str]:
        """Measure a look for what an import may leave out."""
        return await self._measured("query", self._gateway.known_ids(instance, memory_ids))

    async def ping(self, instance: ArcInstance) -> None:
        """Measure a ping."""
        await self._measured("ping", self._gateway.ping(instance))

    async def server_version(self, instance: ArcInstance) -> str | None:
        """Ask; nobody waits for this."""
        return await self._gateway.server_version(instance)

    async def close(self) -> None:
        """Close the other gateway."""
        await self._gateway.close()

    async def _measured(self, operation: Operation, asked: Awaitable[Answer]) -> Answer:
        started = self._clock.monotonic()
        try:
            answer = await asked
        except MemtraceError as error:
            self._meter.asked_arc(operation, self._clock.monotonic() - started, error.code)
            raise
        self._meter.asked_arc(operation, self._clock.monotonic() - started, "ok")
        return answer
