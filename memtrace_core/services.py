"""The bundle of services that an entrance (HTTP, an embedding program) receives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from memtrace_core.access import Access
from memtrace_core.agents import Agents
from memtrace_core.backlog import Backlog
from memtrace_core.claims import ClaimLoading
from memtrace_core.clock import SystemClock
from memtrace_core.confirmation import Confirmation, ConfirmationPolicy
from memtrace_core.dedup import DedupPolicy
from memtrace_core.delivery import Delivery, DeliveryPolicy
from memtrace_core.directory import Directory
from memtrace_core.duty import Duty, SoleOwner
from memtrace_core.erasing import Erasing, ErasingPolicy
from memtrace_core.errors import MemtraceError
from memtrace_core.exporting import Exporting
from memtrace_core.forgetting import Forgetting
from memtrace_core.health import Health
from memtrace_core.importing import Importing
from memtrace_core.limits import FairUse, Limits
from memtrace_core.memories import Memories
from memtrace_core.meter import SILENT, Meter
from memtrace_core.ports import ArcGateway, Clock, FormerKeys, Journal, KeyVault, MetadataRepo, Ownership
from memtrace_core.resealing import Resealing
from memtrace_core.retention import Retention
from memtrace_core.sessions import Sessions
from memtrace_core.tenants import Tenants

USES_EVERY = timedelta(seconds=60)
LOOK_EVERY = timedelta(seconds=5)
DRAIN_WITHIN = timedelta(seconds=10)

_log = logging.getLogger("memtrace.services")


@dataclass(frozen=True, kw_only=True)
class Services:
    """Everything Memtrace does, wired; `start` and `stop` run its background work."""

    memories: Memories
    forgetting: Forgetting
    agents: Agents
    sessions: Sessions
    tenants: Tenants
    access: Access
    limits: Limits
    health: Health
    backlog: Backlog
    exporting: Exporting
    importing: Importing
    resealing: Resealing
    delivery: Delivery
    confirmation: Confirmation
    erasing: Erasing
    duty: Duty
    claim_loading: ClaimLoading
    clock: Clock
    journal: Journal
    repo: MetadataRepo
    gateway: ArcGateway
    ownership: Ownership
    _tasks: list[asyncio.Task[None]]
    _started_at: float

    @property
    def uptime(self) -> timedelta:
        """How long ago the services were made."""
        return timedelta(seconds=self.clock.monotonic() - self._started_at)

    async def start(self) -> None:
        """Take up deliveries, unless another process does, and begin the periodic work. Needs a running loop."""
        await self.duty.start()
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self.health.run()))
        self._tasks.append(loop.create_task(self._every(USES_EVERY, self.access.flush_uses)))
        self._tasks.append(loop.create_task(self.duty.run()))
        self._tasks.append(loop.create_task(self._every(LOOK_EVERY, self.duty.take_up)))

    async def stop(self, drain_within: timedelta = DRAIN_WITHIN) -> None:
        """Deliver what can be delivered, write down what is only in memory, and release everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.health.stop()
        try:
            await self.claim_loading.stop()
            await self.duty.end(drain_within)
            await self.access.flush_uses()
        except MemtraceError as error:
            _log.error("could not finish before stopping: %s", error)
        finally:
            await self.close()

    async def close(self) -> None:
        """Release everything, for who never called `start`."""
        await self.gateway.close()
        await self.journal.close()
        await self.repo.close()
        self.ownership.release()

    async def _every(self, interval: timedelta, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self.clock.sleep(interval.total_seconds())
            try:
                await work()
            except MemtraceError as error:
                _log.warning("background work failed, will be repeated: %s", error)
            except Exception:  # a defect; but nobody would begin this again
                _log.exception("background work failed, will be repeated")


def build_services(
    *,
    repo: MetadataRepo,
    journal: Journal,
    gateway: ArcGateway,
    vault: KeyVault,
    clock: Clock | None = None,
    dedup: DedupPolicy | None = None,
    delivery: DeliveryPolicy | None = None,
    confirmation: ConfirmationPolicy | None = None,
    fair_use: FairUse | None = None,
    ownership: Ownership | None = None,
    former_keys: FormerKeys | None = None,
    authenticate: bool = True,
    meter: Meter = SILENT,
) -> Services:
    """Wire the services over adapters of your choice.

    Args:
        repo: orgs, bindings, keys, agents and sessions.
        journal: the durable queue.
        gateway: where memories live, for every kind of instance in use.
        vault: seals Arc API keys.
        clock: the machine's if not given.
        dedup: must be the policy that `journal` enforces.
        delivery: batching and retries.
        confirmation: when delivered memories are looked for in Arc.
        fair_use: how much a key and an org may ask at once; anything if not given.
        ownership: which of several processes over one journal delivers; this one if not given.
        former_keys: knows keys from before Memtrace, if there are any.
        authenticate: False lets anybody act for the default org.
        meter: is told what happens; see also `memtrace_core.metering`, which measures a gateway.
    """
    clock = clock or SystemClock()
    directory = Directory(repo)
    policy = dedup or DedupPolicy()
    health = Health(directory, gateway, clock)
    deliveries = Delivery(
        journal,
        repo,
        gateway,
        clock,
        delivery,
        on_delivered=lambda org_id: confirming.wake(org_id),
        on_answer=health.note_delivery,
        meter=meter,
    )
    confirming = Confirmation(journal, repo, gateway, clock, confirmation, on_resent=deliveries.wake, meter=meter)
    ownership = ownership or SoleOwner()
    settle = (confirmation or ConfirmationPolicy()).settle
    erasing = Erasing(
        journal,
        repo,
        gateway,
        clock,
        ErasingPolicy(settle=settle, window=policy.window),
        deliveries.carries_since,
        meter,
    )
    duty = Duty(
        ownership, journal, deliveries, confirming, erasing, Retention(repo, journal, clock, erasing.wake), clock
    )
    loading = ClaimLoading(directory, journal, gateway, clock, policy)
    memories = Memories(
        directory,
        journal,
        gateway,
        clock,
        policy,
        on_pending=duty.wake,
        on_use=loading.used,
        meter=meter,
    )
    agents, sessions = Agents(repo, journal, memories, clock), Sessions(repo, clock)
    tenants = Tenants(repo, journal, vault, clock)
    settle = (confirmation or ConfirmationPolicy()).settle
    return Services(
        memories=memories,
        forgetting=Forgetting(directory, journal, gateway, clock, memories, on_order=duty.wake_eraser, meter=meter),
        agents=agents,
        sessions=sessions,
        tenants=tenants,
        access=Access(directory, journal, clock, enabled=authenticate, former_keys=former_keys),
        limits=Limits(clock, fair_use or FairUse()),
        health=health,
        backlog=Backlog(repo, journal),
        exporting=Exporting(repo, tenants, memories, agents, sessions, clock),
        importing=Importing(repo, tenants, journal, gateway, ownership, clock, settle),
        resealing=Resealing(repo, vault),
        delivery=deliveries,
        confirmation=confirming,
        erasing=erasing,
        duty=duty,
        claim_loading=loading,
        clock=clock,
        journal=journal,
        repo=repo,
        gateway=gateway,
        ownership=ownership,
        _tasks=[],
        _started_at=clock.monotonic(),
    )
