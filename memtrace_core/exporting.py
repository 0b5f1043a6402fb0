"""Exporting: everything an org has, in portions, as of the moment at which it began."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from functools import partial

import msgspec

from memtrace_core.agents import Agents
from memtrace_core.errors import NoArcInstance, NotFound
from memtrace_core.export_lines import FORMAT, End, Head, Line
from memtrace_core.memories import Memories
from memtrace_core.model import Agent, ArcInstance, Memory, Session
from memtrace_core.patience import OnFailure, Patience
from memtrace_core.ports import Clock, MetadataRepo
from memtrace_core.query import MemoryQuery, Position
from memtrace_core.sessions import Sessions
from memtrace_core.tenants import Tenants

LEAST_PAGE, MOST_PAGE = 50, 1_000
PAGE_BYTES = 8 << 20  # about; a page is as long as the contents of the last one allow

_MICROSECOND = timedelta(microseconds=1)


class Behind(msgspec.Struct, frozen=True):
    """Where an export goes on: behind a memory, after so many of them."""

    head: Head
    memories: int
    last: Position | None


class Exporting:
    """Reads an org through the same union of journal and gateway as its readers do.

    Memories come in the order of time. Those that are stored meanwhile are younger than the moment at which the
    export began, so that it ends; each of the others is in it exactly once.
    """

    def __init__(
        self,
        repo: MetadataRepo,
        tenants: Tenants,
        memories: Memories,
        agents: Agents,
        sessions: Sessions,
        clock: Clock,
    ) -> None:
        self._repo = repo
        self._tenants = tenants
        self._memories = memories
        self._agents = agents
        self._sessions = sessions
        self._clock = clock

    async def export(
        self,
        org_id: str,
        *,
        instance_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        behind: Behind | None = None,
        on_failure: OnFailure | None = None,
    ) -> AsyncIterator[list[Line]]:
        """Yield the lines of an export in portions, the first of which is its head alone.

        Args:
            org_id: the org.
            instance_id: one of its former Arc instances, to read that instead of the present one.
            since: the oldest time, inclusive; None for the beginning.
            until: exclusive; None, or a time to come, for now.
            behind: where an earlier export was left, to go on there; then there is no head.
            on_failure: is told why an Arc is being asked again.

        Raises:
            NotFound: there is no such org, or it never had that instance.
            NoArcInstance: the org has none, and none was named.
            ArcUnreachable, ArcTimeout: its Arc has failed for too long.
        """
        org = await self._tenants.get_org(org_id)
        instance = await self._instance(org_id, instance_id)
        patience = Patience(clock=self._clock, on_failure=on_failure)
        began = self._clock.now()
        end = await patience.with_(lambda: self._end(instance, began))
        end = min(end, until) if until else end
        if behind is None:
            head = Head(memtrace_export=FORMAT, org_id=org_id, org_name=org.name, began_at=began, since=since)
            behind = Behind(head, 0, None)
            yield [head]
        count = behind.memories
        asked: MemoryQuery | None = MemoryQuery(
            org_id=org_id, order="asc", since=behind.head.since, until=end, after=behind.last, limit=LEAST_PAGE
        )
        while asked is not None:
            page = await patience.with_(partial(self._memories.find_in, instance, asked))
            count += len(page.memories)
            yield list(page.memories)
            asked = asked.following(page.next) if page.next else None
            if asked is not None:
                asked = msgspec.structs.replace(asked, limit=_fitting(page.memories))
        agents = sessions = 0
        async for some in self._all_agents(org_id):
            agents += len(some)
            yield list(some)
        async for others in self._all_sessions(org_id):
            sessions += len(others)
            yield list(others)
        yield [End(memories=count, agents=agents, sessions=sessions, until=end)]

    async def _instance(self, org_id: str, instance_id: str | None) -> ArcInstance:
        if instance_id is None:
            instance = await self._repo.instance_of(org_id)
            if instance is None:
                raise NoArcInstance(org_id)
            return instance
        instance = await self._repo.get_instance(org_id, instance_id)
        if instance is None:
            raise NotFound(f"{org_id} never had an Arc instance {instance_id!r}", code="instance_not_found")
        return instance

    async def _end(self, instance: ArcInstance, now: datetime) -> datetime:
        """Return a time that everything stored so far is older than, and nothing that will be."""
        newest = await self._memories.find_in(instance, MemoryQuery(org_id=instance.org_id, limit=1))
        # The journal's clock may be ahead of the machine's, if that was set back.
        return max([now, *(memory.time + _MICROSECOND for memory in newest.memories)])

    async def _all_agents(self, org_id: str) -> AsyncIterator[list[Agent]]:
        agents, after = await self._agents.page(org_id)
        yield agents
        while after is not None:
            agents, after = await self._agents.page(org_id, after=after)
            yield agents

    async def _all_sessions(self, org_id: str) -> AsyncIterator[list[Session]]:
        sessions, after = await self._sessions.page(org_id)
        yield sessions
        while after is not None:
            sessions, after = await self._sessions.page(org_id, after=after)
            yield sessions


def _fitting(memories: list[Memory]) -> int:
    """Return how many memories like these make a page."""
    size = sum(len(memory.content) for memory in memories) // len(memories) + 1
    return max(LEAST_PAGE, min(MOST_PAGE, PAGE_BYTES // size))
