"""Forgetting: a memory, or all of an agent, of a session or before a time, at once for every reader.

An order is taken in the journal. What is here goes with it; what Arc has is hidden from then on, and deleted in the
background (`memtrace_core.erasing`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

import msgspec

from memtrace_core import rules
from memtrace_core.directory import Directory
from memtrace_core.errors import ArcTimeout, ArcUnreachable, InvalidInput, NoArcInstance, NotFound
from memtrace_core.forgotten import ForgetOrder, Forgotten
from memtrace_core.memories import Memories
from memtrace_core.meter import SILENT, Meter
from memtrace_core.model import ArcInstance
from memtrace_core.ports import ArcGateway, Clock, Journal
from memtrace_core.query import MemoryQuery

_log = logging.getLogger("memtrace.forgetting")


class Reach(msgspec.Struct, frozen=True):
    """How much an order would cover: memories here, and rows in Arc, None if it does not answer.

    A memory that Arc has taken a moment ago is in both.
    """

    here: int
    in_arc: int | None


class Forgetting:
    """Takes orders to forget, for one org at a time."""

    def __init__(
        self,
        directory: Directory,
        journal: Journal,
        gateway: ArcGateway,
        clock: Clock,
        memories: Memories,
        *,
        on_order: Callable[[str], None],
        meter: Meter = SILENT,
    ) -> None:
        self._directory = directory
        self._journal = journal
        self._gateway = gateway
        self._clock = clock
        self._memories = memories
        self._on_order = on_order
        self._meter = meter

    async def memory(self, org_id: str, memory_id: str) -> ForgetOrder:
        """Forget one memory.

        While Arc is away, the order is taken on trust.

        Raises:
            NotFound: there is none in this org.
            NoArcInstance: the org is bound to nothing.
        """
        instance = await self._bound(org_id)
        what = Forgotten.one(memory_id)
        if what is None or not await self._is_there(org_id, memory_id):
            raise NotFound("memory not found", code="memory_not_found")
        return await self._take(org_id, what, instance)

    async def agent(self, org_id: str, agent_id: str) -> ForgetOrder:
        """Forget everything that an agent has stored so far; any valid id will do, registered or not.

        Raises:
            InvalidInput: the id breaks its rule.
            NoArcInstance: the org is bound to nothing.
        """
        rules.identifier(agent_id, "agent_id")
        what = Forgotten(agent_id=agent_id, before=self._clock.now())
        return await self._take(org_id, self._until_now(what), await self._bound(org_id))

    async def session(self, org_id: str, session_id: str) -> ForgetOrder:
        """Forget everything that was stored in a session so far; any valid id will do.

        Raises:
            InvalidInput: the id breaks its rule.
            NoArcInstance: the org is bound to nothing.
        """
        rules.identifier(session_id, "session_id")
        what = Forgotten(session_id=session_id, before=self._clock.now())
        return await self._take(org_id, self._until_now(what), await self._bound(org_id))

    async def order(
        self,
        org_id: str,
        *,
        agent_id: str | None = None,
        session_id: str | None = None,
        before: datetime | None = None,
    ) -> ForgetOrder:
        """Forget what an agent has stored, in a session, before a time: whatever of these is given, together.

        It is taken also for an org that is bound to nothing just now.

        Raises:
            InvalidInput: none is given, or one breaks its rule.
        """
        what = self.scope(agent_id=agent_id, session_id=session_id, before=before)
        return await self._take(org_id, what, await self._directory.instance(org_id))

    def scope(
        self, *, agent_id: str | None = None, session_id: str | None = None, before: datetime | None = None
    ) -> Forgotten:
        """Return what an order covers.

        Raises:
            InvalidInput: nothing is given, or one breaks its rule.
        """
        if agent_id is None and session_id is None and before is None:
            raise InvalidInput("an agent, a session or a time must be given")
        if agent_id is not None:
            rules.identifier(agent_id, "agent_id")
        if session_id is not None:
            rules.identifier(session_id, "session_id")
        what = Forgotten(agent_id=agent_id, session_id=session_id, before=before or self._clock.now())
        return what if before else self._until_now(what)

    async def reach(self, org_id: str, what: Forgotten) -> Reach:
        """Count what an order would cover."""
        here = await self._journal.covered(org_id, what)
        instance = await self._directory.instance(org_id)
        try:
            in_arc = 0 if instance is None else await self._gateway.covered(instance, [what])
        except (ArcUnreachable, ArcTimeout):
            in_arc = None
        return Reach(here, in_arc)

    async def orders(self, org_id: str) -> list[ForgetOrder]:
        """Return an org's orders, oldest first, those that are done included, at most 1,000."""
        return await self._journal.orders(org_id)

    async def waiting(self) -> list[ForgetOrder]:
        """Return what orders are not done, of all orgs, at most 1,000 of each."""
        found = [
            await self._journal.orders(org_id, waiting=True) for org_id in await self._journal.forgetting_orgs()
        ]
        return [order for orders in found for order in orders]

    async def _take(self, org_id: str, what: Forgotten, instance: ArcInstance | None) -> ForgetOrder:
        order = await self._journal.forget(org_id, what, in_arc=instance is None or not instance.embedded)
        self._on_order(org_id)
        # Hidden it is; what is much is removed in portions, so that others' writes get their turn.
        while not order.swept and await self._journal.sweep(org_id):
            pass
        if not order.swept:
            now = await self._journal.orders(org_id, limit=1, after=order.key - 1)
            # One that is replaced meanwhile was carried out here no less than what replaced it.
            order = next((one for one in now if one.key == order.key), order)
        self._meter.forgotten(org_id, order.removed)
        _log.info("%d memories forgotten here", order.removed, extra={"org": org_id})
        return order

    @staticmethod
    def _until_now(what: Forgotten) -> Forgotten:
        # The journal's times may be ahead of the clock, and it bounds every order by the moment of its own.
        return msgspec.structs.replace(what, before=datetime.max.replace(tzinfo=what.before.tzinfo))

    async def _is_there(self, org_id: str, memory_id: str) -> bool:
        try:
            page = await self._memories.find(MemoryQuery(org_id=org_id, memory_id=memory_id, limit=1))
        except (ArcUnreachable, ArcTimeout):
            return True
        return bool(page.memories)

    async def _bound(self, org_id: str) -> ArcInstance:
        instance = await self._directory.instance(org_id)
        if instance is None:
            raise NoArcInstance(org_id)
        return instance
