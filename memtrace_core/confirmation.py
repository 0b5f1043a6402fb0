"""Confirmation: delivered memories leave the journal when they were seen in Arc.

Arc's acknowledgement means "in my memory". So some time after it (the settle time) the memories are read back, in
the form in which readers are shown them, and what is missing is sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from memtrace_core.entries import DeliveredRun
from memtrace_core.errors import MemtraceError
from memtrace_core.meter import SILENT, Meter
from memtrace_core.model import ArcInstance
from memtrace_core.ports import ArcGateway, Clock, Journal, MetadataRepo
from memtrace_core.workers import OrgWorkers, Pause, Step

_log = logging.getLogger("memtrace.confirmation")


class ConfirmationPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long after delivery memories are looked for, how many at once, and how long a failed look waits."""

    settle: timedelta = timedelta(seconds=120)
    most_rows: int = 5000
    retry: timedelta = timedelta(seconds=15)


class Confirmation:
    """Confirms delivered memories, one task per org, always beginning with the org's oldest.

    So the memories of an org that are still in the journal are all those from one time on, and readers know which
    ones Arc answers for. `on_resent` is called with an org when memories of it must be delivered again.
    """

    def __init__(
        self,
        journal: Journal,
        repo: MetadataRepo,
        gateway: ArcGateway,
        clock: Clock,
        policy: ConfirmationPolicy | None = None,
        on_resent: Callable[[str], None] | None = None,
        meter: Meter = SILENT,
    ) -> None:
        self._journal = journal
        self._repo = repo
        self._gateway = gateway
        self._clock = clock
        self._policy = policy or ConfirmationPolicy()
        self._on_resent = on_resent
        self._meter = meter
        self._workers = OrgWorkers(clock, self._begin)

    async def start(self) -> None:
        """Take up what an earlier run left unconfirmed."""
        for org_id in await self._journal.unconfirmed_orgs():
            self.wake(org_id)

    def wake(self, org_id: str) -> None:
        """Say that memories of an org were delivered."""
        self._workers.wake(org_id)

    async def stop(self) -> None:
        """End; what is not confirmed stays in the journal."""
        await self._workers.cancel()

    def _begin(self, org_id: str) -> Step:
        async def step() -> Pause | None:
            try:
                return await self._step(org_id)
            except MemtraceError as error:
                _log.debug("confirmation failed, will be repeated: %s", error, extra={"org": org_id})
                return Pause(self._policy.retry.total_seconds(), wakeable=False)

        return step

    async def _step(self, org_id: str) -> Pause | None:
        run = await self._journal.next_delivered(org_id, self._policy.settle, self._policy.most_rows)
        if run is None:
            return None
        if isinstance(run, datetime):
            # Nothing that is delivered meanwhile can be due earlier.
            return Pause((run - self._clock.now()).total_seconds(), wakeable=False)
        instance = await self._repo.get_instance(org_id, run.instance_id)
        if instance is None:
            raise MemtraceError(f"the Arc instance {run.instance_id} is gone")
        missing = await self._missing(instance, run)
        seen = run.keys[: run.keys.index(missing[0])] if missing else run.keys
        if seen:
            await self._journal.confirm(run, seen)
            self._meter.confirmed(org_id, len(seen))
        if missing:
            _log.warning(
                "%d acknowledged memories are not in arc, sending them again", len(missing), extra={"org": org_id}
            )
            await self._journal.resend(run, missing)
            self._meter.resent(org_id, len(missing))
            if self._on_resent is not None:
                self._on_resent(org_id)
        return Pause(0)

    async def _missing(self, instance: ArcInstance, run: DeliveredRun) -> list[int]:
        """Return the keys of the memories that are not seen; the ids are only asked for when the count is off."""
        # A forgotten memory that is still there could make up for one that is missing.
        if run.whole and await self._gateway.own_count(instance, run.span) == len(run.keys):
            return []
        present = await self._gateway.own_ids(instance, run.span)
        return [key for key, memory_id in zip(run.keys, run.memory_ids, strict=True) if memory_id not in present]
