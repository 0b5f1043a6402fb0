"""What is on its way to the orgs' Arcs, for the operator: look at it, send again what was refused, give it up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

from memtrace_core.entries import EntryState, JournalEntry, OrgBacklog
from memtrace_core.errors import NotFound
from memtrace_core.model import Org
from memtrace_core.ports import Journal, MetadataRepo
from memtrace_core.query import MemoryQuery

PORTION = 1_000


class Backlog:
    """The journal as an operator sees it, org by org."""

    def __init__(self, repo: MetadataRepo, journal: Journal) -> None:
        self._repo = repo
        self._journal = journal

    async def status(self) -> list[tuple[Org, OrgBacklog | None]]:
        """Return every org, oldest first, with how far its delivery is; None for one that waits for nothing."""
        backlogs = {one.org_id: one for one in await self._journal.backlogs()}
        return [(org, backlogs.get(org.id)) for org in await self._repo.list_orgs()]

    async def entries(self, org_id: str, states: Collection[EntryState]) -> AsyncIterator[JournalEntry]:
        """Yield an org's memories in the journal that are in one of these states, oldest first.

        Raises:
            NotFound: there is no such org.
        """
        await self._check(org_id)
        after = 0
        while portion := await self._journal.entries(org_id, states, PORTION, after):
            for entry in portion:
                yield entry
            after = portion[-1].key

    async def retry(self, org_id: str, memory_ids: Collection[str] = ()) -> int:
        """Send memories again that are set aside, all of them if none is named; return how many.

        A server that runs takes them up within seconds.

        Raises:
            NotFound: there is no such org, or one of the memories is not set aside; then none is sent.
        """
        await self._check(org_id)
        await self._check_there(org_id, memory_ids, {EntryState.SET_ASIDE}, "set aside in the journal")
        return await self._journal.retry(org_id, memory_ids or None)

    async def drop(self, org_id: str, memory_ids: Collection[str] = (), states: Collection[EntryState] = ()) -> int:
        """Give memories up for good: those named, and all in these states that are there now; return how many.

        What Arc has stored of them already stays there.

        Raises:
            NotFound: there is no such org, or one of the memories is not in the journal; then none is dropped.
        """
        await self._check(org_id)
        await self._check_there(org_id, memory_ids, set(EntryState), "in the journal")
        newest = (await self._journal.view(MemoryQuery(org_id=org_id, limit=1))).memories
        dropped = await self._journal.drop(org_id, memory_ids)
        after = 0
        while newest and (portion := await self._journal.entries(org_id, states, PORTION, after)):
            after = portion[-1].key
            there = [entry.memory.memory_id for entry in portion if entry.memory.time <= newest[0].time]
            if not there:
                break
            dropped += await self._journal.drop(org_id, there)
        return dropped

    async def _check(self, org_id: str) -> None:
        if await self._repo.get_org(org_id) is None:
            raise NotFound(f"no organization {org_id!r}", code="org_not_found", hint="see `memtrace org list`")

    async def _check_there(
        self, org_id: str, memory_ids: Collection[str], states: Collection[EntryState], place: str
    ) -> None:
        missing = set(memory_ids)
        if missing:
            async for entry in self.entries(org_id, states):
                missing.discard(entry.memory.memory_id)
        if missing:
            raise NotFound(f"not {place} of this organization: {', '.join(sorted(missing))}")
