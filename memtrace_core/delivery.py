"""Delivery: from the journal to each org's Arc, in order, in the background."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import timedelta

import msgspec

from memtrace_core.errors import MemtraceError
from memtrace_core.ports import ArcGateway, Clock, Journal, MetadataRepo

_log = logging.getLogger("memtrace.delivery")


class DeliveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a batch goes out, and how long a failed one waits.

    A batch goes out when `batch_size` memories wait or `flush_interval` after the first of them; the first retry
    comes within `first_retry`, later ones at most `longest_retry` apart.
    """

    batch_size: int = 100
    batch_bytes: int = 8 << 20
    flush_interval: timedelta = timedelta(seconds=1)
    first_retry: timedelta = timedelta(seconds=1)
    longest_retry: timedelta = timedelta(seconds=15)

    def retry_after(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row: exponential, with jitter."""
        ceiling: float = self.first_retry.total_seconds() * 2 ** min(failures - 1, 16)
        return min(ceiling, self.longest_retry.total_seconds()) * random.uniform(0.5, 1)  # noqa: S311 - no secret


class Delivery:
    """Hands journaled memories to the gateway, one task per org, so that no org is slowed by another.

    Nothing leaves the journal but by the gateway's word; a failure keeps order and everything.
    """

    def __init__(
        self,
        journal: Journal,
        repo: MetadataRepo,
        gateway: ArcGateway,
        clock: Clock,
        policy: DeliveryPolicy | None = None,
    ) -> None:
        self._journal = journal
        self._repo = repo
        self._gateway = gateway
        self._clock = clock
        self._policy = policy or DeliveryPolicy()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._draining = False

    async def start(self) -> None:
        """Take up what an earlier run left in the journal."""
        for org_id in await self._journal.pending_orgs():
            self.wake(org_id)

    def wake(self, org_id: str) -> None:
        """Say that memories of this org wait. Cheap; called after every append that needs delivery."""
        if org_id not in self._tasks and not self._draining:
            self._begin(org_id)

    async def drain(self, within: timedelta) -> None:
        """Deliver what can be delivered now, and stop. What is left stays in the journal."""
        self._draining = True
        # A task that sleeps, for a batch to fill or for a retry, is replaced by one that tries at once.
        waiting = list(self._tasks.values())
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for org_id in await self._journal.pending_orgs():
            self._begin(org_id)
        if self._tasks:
            _, late = await asyncio.wait(list(self._tasks.values()), timeout=within.total_seconds())
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _begin(self, org_id: str) -> None:
        task = asyncio.get_running_loop().create_task(self._deliver(org_id), name=f"delivery of {org_id}")
        self._tasks[org_id] = task
        task.add_done_callback(lambda done: self._ended(org_id, done))

    def _ended(self, org_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(org_id) is task:
            del self._tasks[org_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("delivery stopped: %s", error, extra={"org": org_id})

    async def _deliver(self, org_id: str) -> None:
        failures = 0
        filled = False
        while True:
            try:
                batch = await self._journal.next_batch(org_id, self._policy.batch_size, self._policy.batch_bytes)
                if batch is None:
                    return
                if len(batch.keys) < self._policy.batch_size and not (filled or self._draining):
                    filled = True
                    await self._clock.sleep(self._policy.flush_interval.total_seconds())
                    continue
                instance = await self._repo.get_instance(org_id, batch.instance_id)
                if instance is None:
                    raise MemtraceError(f"the Arc instance {batch.instance_id} is gone")
                durable = await self._gateway.write(instance, batch.memories)
                await self._journal.mark_delivered(batch, durable=durable)
                if failures:
                    _log.info("delivery works again", extra={"org": org_id, "failures": failures})
                failures, filled = 0, False
            except MemtraceError as error:
                failures += 1
                _log.warning(
                    "delivery failed, will be repeated: %s",
                    error,
                    extra={"org": org_id, "failures": failures},
                )
                if self._draining:
                    return
                await self._clock.sleep(self._policy.retry_after(failures))
