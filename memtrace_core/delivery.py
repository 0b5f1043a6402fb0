"""Delivery: from the journal to each org's Arc, in order, in the background."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Protocol

import msgspec

from memtrace_core.entries import PendingBatch
from memtrace_core.errors import REFUSES_KEY, ArcFailed, ArcRejected, ArcUnreachable, MemtraceError
from memtrace_core.meter import SILENT, Meter
from memtrace_core.model import ArcInstance
from memtrace_core.ports import ArcGateway, Clock, Journal, MetadataRepo
from memtrace_core.workers import OrgWorkers, Pause, Step

_log = logging.getLogger("memtrace.delivery")


class DeliveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a batch goes out, and how long a failed one waits.

    A batch goes out when `batch_size` memories wait or `flush_interval` after the first of them. One that is late
    may be `most_rows` long, and is bounded by `batch_bytes`; so many batches as `most_batches` are in memory at
    once, of all orgs together, and `probe_bytes` of each org whose Arc is away. The first retry comes within
    `first_retry`, later ones at most `longest_retry` apart.

    A batch that Arc fails `suspect_after` times in a row, and answers otherwise, is suspected of holding a bad
    memory; one that waits alone, after `condemn_after` times. Of a batch in which nothing passes, `most_suspects`
    are tried one by one before Arc itself is held to be at fault; twice as many the next time.
    """

    batch_size: int = 100
    batch_bytes: int = 4 << 20
    probe_bytes: int = 64 << 10
    most_rows: int = 5000
    most_batches: int = 32
    flush_interval: timedelta = timedelta(seconds=1)
    first_retry: timedelta = timedelta(seconds=1)
    longest_retry: timedelta = timedelta(seconds=15)
    suspect_after: int = 3
    condemn_after: int = 10
    most_suspects: int = 16

    def retry_after(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row: exponential, with jitter."""
        ceiling: float = self.first_retry.total_seconds() * 2 ** min(failures - 1, 16)
        return min(ceiling, self.longest_retry.total_seconds()) * random.uniform(0.5, 1)  # noqa: S311 - no secret


class AnswerListener(Protocol):
    """Is told how an instance answers."""

    def __call__(self, instance: ArcInstance, *, refused: bool) -> None:
        """Take note."""
        ...


class Delivery:
    """Hands journaled memories to the gateway, one task per org, so that no org is slowed by another.

    Nothing leaves the journal but by the gateway's word; a failure keeps order and everything. `on_delivered` is
    called with an org when memories of it wait to be confirmed, `on_answer` with an instance when it takes a
    batch or refuses our key.
    """

    def __init__(
        self,
        journal: Journal,
        repo: MetadataRepo,
        gateway: ArcGateway,
        clock: Clock,
        policy: DeliveryPolicy | None = None,
        on_delivered: Callable[[str], None] | None = None,
        on_answer: AnswerListener | None = None,
        meter: Meter = SILENT,
    ) -> None:
        self.journal = journal
        self.repo = repo
        self.gateway = gateway
        self.clock = clock
        self.policy = policy or DeliveryPolicy()
        self.on_delivered = on_delivered
        self.on_answer = on_answer
        self.meter = meter
        self.draining = False
        self.under_way: dict[str, float] = {}
        self._places = asyncio.Semaphore(self.policy.most_batches)
        self._workers = OrgWorkers(clock, self._begin)

    async def start(self) -> None:
        """Take up what an earlier run left in the journal."""
        for org_id in await self.journal.pending_orgs():
            self.wake(org_id)

    async def look(self) -> None:
        """Take up what another process may have put into the journal; who rests after a failure is left to rest."""
        for org_id in await self.journal.pending_orgs():
            if not self.draining:
                self._workers.rouse(org_id)

    def wake(self, org_id: str) -> None:
        """Say that memories of this org wait. Cheap; called after every append that needs delivery."""
        if not self.draining:
            self._workers.wake(org_id)

    async def drain(self, within: timedelta) -> None:
        """Deliver what can be delivered now, and stop. What is left stays in the journal."""
        for org_id in await self.journal.pending_orgs():
            self.wake(org_id)
        self.draining = True
        await self._workers.finish(within)

    def carries_since(self, org_id: str) -> float | None:
        """Return when the batch of an org was read that is on its way now, on the clock's `monotonic`."""
        return self.under_way.get(org_id)

    @asynccontextmanager
    async def place(self, failures: int) -> AsyncIterator[int]:
        """Wait for room in memory for a batch, and give its size in bytes.

        An org whose Arc is away takes no place from the others: it tries with little.
        """
        if failures:
            yield self.policy.probe_bytes
        else:
            async with self._places:
                yield self.policy.batch_bytes

    def _begin(self, org_id: str) -> Step:
        return _Sender(self, org_id).step


class _Trouble(msgspec.Struct):
    """How an instance has failed of late: how often in a row, until when it rests, how often it blamed nothing."""

    failures: int = 0
    rests_until: float = 0.0
    suspicions: int = 0


class _Sender:
    """What one org's delivery remembers between steps.

    An org may have memories for a former instance, too; one that fails does not hold up the other.
    """

    def __init__(self, delivery: Delivery, org_id: str) -> None:
        self._delivery = delivery
        self._org_id = org_id
        self._troubles: dict[str, _Trouble] = {}
        self._flush_at: float | None = None
        self._last_tries = False

    async def step(self) -> Pause | None:
        now = self._delivery.clock.monotonic()
        if self._delivery.draining and not self._last_tries:
            # Whoever rests is tried once more before the end.
            self._last_tries = True
            for trouble in self._troubles.values():
                trouble.rests_until = now
        resting = {one: trouble.rests_until for one, trouble in self._troubles.items() if trouble.rests_until > now}
        async with self._delivery.place(len(self._troubles)) as size:
            self._delivery.under_way[self._org_id] = self._delivery.clock.monotonic()
            try:
                return await self._deliver(resting, size)
            finally:
                del self._delivery.under_way[self._org_id]

    async def _deliver(self, resting: Mapping[str, float], size: int) -> Pause | None:
        policy, now = self._delivery.policy, self._delivery.clock.monotonic()
        try:
            most = policy.batch_size if self._troubles else policy.most_rows
            batch = await self._delivery.journal.next_batch(self._org_id, most, size, resting)
        except MemtraceError as error:
            return self._stopped(error)
        if batch is None:
            return Pause(min(resting.values()) - now) if resting and not self._delivery.draining else None
        if wait := self._until_flush(batch):
            return Pause(wait)
        self._flush_at = None
        try:
            await self._send(batch)
        except MemtraceError as error:
            self._failed(batch.instance_id, error)
        else:
            self._succeeded(batch.instance_id)
        return Pause(0)

    def _until_flush(self, batch: PendingBatch) -> float:
        """Return how long a batch may still wait to fill, in seconds."""
        full = batch.more or len(batch.keys) >= self._delivery.policy.batch_size
        if full or batch.instance_id in self._troubles or self._delivery.draining:
            return 0
        now = self._delivery.clock.monotonic()
        if self._flush_at is None:
            self._flush_at = now + self._delivery.policy.flush_interval.total_seconds()
        return max(0.0, self._flush_at - now)

    async def _send(self, batch: PendingBatch) -> None:
        instance = await self._delivery.repo.get_instance(self._org_id, batch.instance_id)
        if instance is None:
            raise MemtraceError(f"the Arc instance {batch.instance_id} is gone")
        try:
            await self._hand_over_or_part(instance, batch)
        except ArcFailed as error:
            policy = self._delivery.policy
            trouble = self._troubles.setdefault(instance.id, _Trouble())
            trouble.suspicions += 1
            lone = len(batch.keys) == 1
            if trouble.suspicions < (policy.condemn_after if lone else policy.suspect_after):
                raise
            # It fails again and again; if it can be talked to otherwise, the batch itself may be the reason.
            await self._delivery.gateway.ping(instance)
            if lone:
                await self._set_aside(batch, error)
            else:
                rounds = min(trouble.suspicions - policy.suspect_after, 16)
                await self._search(instance, batch, policy.most_suspects << rounds)

    async def _hand_over_or_part(self, instance: ArcInstance, batch: PendingBatch) -> None:
        try:
            await self._hand_over(instance, batch)
        except ArcRejected as error:
            await self._delivery.gateway.ping(instance)
            # A part may fail without being rejected; then the batch is as suspect as if it had failed itself.
            await self._part(instance, batch, error)

    async def _hand_over(self, instance: ArcInstance, batch: PendingBatch) -> None:
        try:
            durable = await self._delivery.gateway.write(instance, batch.memories)
        except ArcUnreachable as error:
            if error.code == REFUSES_KEY:
                self._answered(instance, refused=True)
            raise
        self._answered(instance, refused=False)
        await self._delivery.journal.mark_delivered(batch, durable=durable)
        self._delivery.meter.delivered(self._org_id, len(batch.keys))
        self._told()

    def _told(self) -> None:
        if self._delivery.on_delivered is not None:
            self._delivery.on_delivered(self._org_id)

    def _answered(self, instance: ArcInstance, *, refused: bool) -> None:
        if self._delivery.on_answer is not None:
            self._delivery.on_answer(instance, refused=refused)

    async def _part(self, instance: ArcInstance, batch: PendingBatch, error: ArcRejected) -> None:
        """Halve a batch that Arc rejects, until the bad memory is alone."""
        if len(batch.keys) == 1:
            await self._set_aside(batch, error)
            return
        for half in batch.halves():
            try:
                await self._hand_over(instance, half)
            except ArcRejected as again:
                await self._part(instance, half, again)

    async def _search(self, instance: ArcInstance, batch: PendingBatch, most: int) -> None:
        """Look for memories that fail while their neighbours pass.

        An Arc that fails everything has a fault of its own: then nothing is set aside.

        Raises:
            ArcFailed: not one memory passed; what was rejected alone is set aside all the same.
        """
        passed = False
        failed: list[PendingBatch] = []
        parts = list(batch.halves())
        while parts:
            part = parts.pop(0)
            try:
                await self._hand_over(instance, part)
                passed = True
            except (ArcFailed, ArcRejected) as error:
                if len(part.keys) > 1:
                    parts[:0] = part.halves()
                    continue
                if isinstance(error, ArcRejected):
                    # That Arc judges this one says nothing of those that it fails: its disk may be full.
                    await self._set_aside(part, error)
                    continue
                failed.append(part)
                if not passed and len(failed) >= most:
                    break
        if not passed:
            raise ArcFailed("not one memory of the batch was taken")
        # Arc may have recovered on the way: only what fails again beside neighbours that pass is to blame.
        for part in failed:
            try:
                await self._hand_over(instance, part)
            except (ArcFailed, ArcRejected) as error:
                await self._set_aside(part, error)

    async def _set_aside(self, batch: PendingBatch, error: MemtraceError) -> None:
        await self._delivery.journal.set_aside(batch, str(error))
        self._delivery.meter.set_aside(self._org_id, len(batch.keys))
        _log.error("memory set aside, arc refuses it: %s", error, extra={"org": self._org_id})
        # Younger neighbours may be delivered already: now it is their turn to be confirmed.
        self._told()

    def _failed(self, instance_id: str, error: MemtraceError) -> None:
        trouble = self._troubles.setdefault(instance_id, _Trouble())
        trouble.failures += 1
        self._delivery.meter.delivery_failed(self._org_id)
        # An outage is told once, not every few seconds for days.
        level = logging.WARNING if trouble.failures == 1 else logging.DEBUG
        if error.code == REFUSES_KEY:
            level = logging.ERROR  # nothing but an operator can mend this
        details = {"org": self._org_id, "failures": trouble.failures}
        _log.log(level, "delivery failed, will be repeated: %s", error, extra=details)
        wait = math.inf if self._delivery.draining else self._delivery.policy.retry_after(trouble.failures)
        trouble.rests_until = self._delivery.clock.monotonic() + wait

    def _stopped(self, error: MemtraceError) -> Pause | None:
        _log.warning("the journal cannot be read for delivery: %s", error, extra={"org": self._org_id})
        longest = self._delivery.policy.longest_retry.total_seconds()
        return None if self._delivery.draining else Pause(longest, wakeable=False)

    def _succeeded(self, instance_id: str) -> None:
        trouble = self._troubles.pop(instance_id, None)
        if trouble is not None and trouble.failures:
            _log.info("delivery works again", extra={"org": self._org_id, "failures": trouble.failures})
