"""Retention: memories of an org that is told to keep them only for a time are forgotten when they are older.

Readers are never shown what is older than that, to the microsecond (`memtrace_core.memories`); it is removed, here
and in Arc, by orders that are taken from time to time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from memtrace_core.forgotten import ForgetOrder, Forgotten
from memtrace_core.model import Org
from memtrace_core.ports import Clock, Journal, MetadataRepo

MOST_OFTEN, LEAST_OFTEN = timedelta(minutes=1), timedelta(hours=1)
SHARE = 24  # of the time that memories are kept goes by between two orders, at most

_log = logging.getLogger("memtrace.retention")


class Retention:
    """Takes orders for what is past its time, in the process that delivers. `on_order` is called with the org."""

    def __init__(self, repo: MetadataRepo, journal: Journal, clock: Clock, on_order: Callable[[str], None]) -> None:
        self._repo = repo
        self._journal = journal
        self._clock = clock
        self._on_order = on_order
        self._version: int | None = None
        self._orgs: Sequence[Org] = ()
        self._due: dict[tuple[str, timedelta], float] = {}

    async def enforce(self) -> None:
        """Take the orders that are due. Cheap while there are none."""
        version = self._repo.version()
        if version != self._version:
            self._orgs = [org for org in await self._repo.list_orgs() if org.retention is not None]
            kept = {(org.id, org.retention) for org in self._orgs}
            self._due = {key: due for key, due in self._due.items() if key in kept}
            self._version = version
        now = self._clock.monotonic()
        for org in self._orgs:
            if org.retention is not None and self._due.get((org.id, org.retention), now) <= now:
                await self._order(org, org.retention)
                pause = min(max(org.retention / SHARE, MOST_OFTEN), LEAST_OFTEN)
                self._due[org.id, org.retention] = now + pause.total_seconds()

    async def _order(self, org: Org, retention: timedelta) -> None:
        order = await forget_older(self._repo, self._journal, org.id, self._clock.now() - retention)
        if order.removed:
            _log.info("%d memories past their time removed here", order.removed, extra={"org": org.id})
        self._on_order(org.id)


async def forget_older(repo: MetadataRepo, journal: Journal, org_id: str, before: datetime) -> ForgetOrder:
    """Take the order for what an org has from before a time, because it is past its time."""
    instance = await repo.instance_of(org_id)
    in_arc = instance is None or not instance.embedded
    return await journal.forget(org_id, Forgotten(before=before), in_arc=in_arc, reason="retention")
