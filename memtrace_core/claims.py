"""Claims from elsewhere: when a journal is new for an instance, it learns the dedup keys that are stored there.

A moved server or a fresh disk has no claims. They are read from the instance in the background when it is first
used. No write waits for that, so until it is done a memory that was stored before may be stored once more.
"""

from __future__ import annotations

import logging

from memtrace_core.dedup import DedupPolicy
from memtrace_core.directory import Directory
from memtrace_core.errors import MemtraceError
from memtrace_core.model import ArcInstance
from memtrace_core.ports import ArcGateway, Clock, Journal
from memtrace_core.query import MemoryQuery, position_of
from memtrace_core.workers import OrgWorkers, Pause, Step

PAGE = 100
RETRY_SECONDS = 15.0

_log = logging.getLogger("memtrace.claims")


class ClaimLoading:
    """Loads claims, one task per org, a page at a time."""

    def __init__(
        self, directory: Directory, journal: Journal, gateway: ArcGateway, clock: Clock, dedup: DedupPolicy
    ) -> None:
        self._directory = directory
        self._journal = journal
        self._gateway = gateway
        self._clock = clock
        self._dedup = dedup
        self._known: set[str] = set()
        self._workers = OrgWorkers(clock, self._begin)

    def used(self, instance: ArcInstance) -> None:
        """Say that an instance is used. Cheap; only the first time has a consequence."""
        if self._dedup.enabled and not instance.embedded and instance.id not in self._known:
            self._known.add(instance.id)
            self._workers.wake(instance.org_id)

    async def stop(self) -> None:
        """End; what is not loaded is loaded another time."""
        await self._workers.cancel()

    def _begin(self, org_id: str) -> Step:
        reading: tuple[str, MemoryQuery] | None = None

        async def step() -> Pause | None:
            nonlocal reading
            try:
                instance = await self._directory.instance(org_id)
                if instance is None or instance.embedded or await self._journal.claims_loaded(instance):
                    return None
                # The org may be bound to another instance since the last page: that one is read from its beginning.
                if reading is None or reading[0] != instance.id:
                    reading = (instance.id, self._first_page(org_id))
                page = await self._gateway.query(instance, reading[1])
                await self._journal.load_claims(instance, page)
                if len(page) < PAGE:
                    await self._journal.mark_claims_loaded(instance)
                    return None
                reading = (instance.id, reading[1].following(position_of(page[-1])))
                return Pause(0)
            except MemtraceError as error:
                _log.debug("claims are not loaded yet: %s", error, extra={"org": org_id})
                return Pause(RETRY_SECONDS, wakeable=False)

        return step

    def _first_page(self, org_id: str) -> MemoryQuery:
        since = self._clock.now() - self._dedup.window
        return MemoryQuery(org_id=org_id, since=since, order="asc", limit=PAGE)
