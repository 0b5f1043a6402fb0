"""How things stand when somebody asks: the journal, the Arcs, the vault.

It is read from the databases, so it is the same for all processes that share them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TypeVar

import msgspec
from prometheus_client.core import GaugeMetricFamily, Metric

from memtrace_core import Services
from memtrace_core.entries import OrgBacklog
from memtrace_core.errors import MemtraceError
from memtrace_core.forgotten import ForgetOrder
from memtrace_core.resealing import SealedUnder
from memtrace_http.metrics import figures
from memtrace_http.metrics.figures import Figure

Labels = TypeVar("Labels", bound=tuple[str, ...])

FRESH_SECONDS = 1.0
# A deep journal takes time to count: at most a twentieth of it goes into counting.
REST = 20

_log = logging.getLogger("memtrace.metrics")


class Standing(msgspec.Struct, frozen=True):
    """What was read; None for a part that could not be."""

    at: datetime
    backlogs: list[OrgBacklog] | None
    reachable: dict[str, bool | None] | None
    refusing: frozenset[str]
    sealed: list[SealedUnder] | None
    orders: list[ForgetOrder] | None = None


class StandingReader:
    """Reads how things stand, not more often than is reasonable."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._last: Standing | None = None
        self._fresh_until = 0.0
        self._sealed: tuple[int, list[SealedUnder]] | None = None
        self._reading = asyncio.Lock()

    async def read(self) -> Standing:
        """Return how things stand, or stood a moment ago."""
        async with self._reading:
            clock = self._services.clock
            started = clock.monotonic()
            if self._last is None or started >= self._fresh_until:
                self._last = await self._read()
                ended = clock.monotonic()
                self._fresh_until = ended + max(FRESH_SECONDS, REST * (ended - started))
            return self._last

    async def _read(self) -> Standing:
        services = self._services
        backlogs = reachable = sealed = orders = None
        try:
            backlogs = await services.journal.backlogs()
            orders = await services.forgetting.waiting()
        except MemtraceError as error:
            _log.warning("the journal cannot be read for metrics: %s", error)
        try:
            reachable = await services.health.seen()
        except MemtraceError as error:
            _log.warning("bindings cannot be read for metrics: %s", error)
        try:
            sealed = await self._seals()
        except MemtraceError as error:
            _log.warning("the vault cannot be read for metrics: %s", error)
        return Standing(services.clock.now(), backlogs, reachable, services.health.refusing(), sealed, orders)

    async def _seals(self) -> list[SealedUnder]:
        version = self._services.repo.version()
        if self._sealed is None or self._sealed[0] != version:
            self._sealed = (version, await self._services.resealing.status())
        return self._sealed[1]


def families(standing: Standing, *, per_org: bool) -> Iterator[Metric]:
    """Yield the figures of how things stand."""
    if standing.backlogs is not None:
        yield from _journal(standing.backlogs, standing.at)
        if per_org:
            yield from _journal_by_org(standing.backlogs, standing.at)
    if standing.orders is not None:
        stuck = sum(order.trouble is not None for order in standing.orders)
        yield _gauge(figures.FORGET_ORDERS, {("waiting",): len(standing.orders) - stuck, ("in_trouble",): stuck})
    if standing.reachable is not None:
        states = Counter({True: "up", False: "down", None: "unknown"}[one] for one in standing.reachable.values())
        yield _gauge(figures.ARC_INSTANCES, {(state,): states[state] for state in ("up", "down", "unknown")})
        if per_org:
            known = {(org,): int(up) for org, up in standing.reachable.items() if up is not None}
            yield _gauge(figures.ORG_ARC_UP, known)
    yield _gauge(figures.ARC_REFUSED_KEYS, {(): len(standing.refusing)})
    if per_org:
        yield _gauge(figures.ORG_ARC_REFUSES_KEY, {(org,): 1 for org in standing.refusing})
    if standing.sealed is not None:
        yield _gauge(figures.VAULT_SECRETS, {(one.key_id, one.standing): one.secrets for one in standing.sealed})
    parts = {"journal": standing.backlogs, "arc": standing.reachable, "vault": standing.sealed}
    yield _gauge(figures.READABLE, {(part,): int(found is not None) for part, found in parts.items()})


def _journal(backlogs: list[OrgBacklog], at: datetime) -> Iterator[Metric]:
    states = {
        ("pending",): sum(one.pending for one in backlogs),
        ("delivered",): sum(one.delivered for one in backlogs),
        ("set_aside",): sum(one.set_aside for one in backlogs),
    }
    yield _gauge(figures.JOURNAL_MEMORIES, states)
    oldest = max((_age(one.oldest, at) for one in backlogs), default=0.0)
    yield _gauge(figures.JOURNAL_OLDEST, {(): oldest})
    pending = max((_age(one.oldest_pending, at) for one in backlogs), default=0.0)
    yield _gauge(figures.JOURNAL_OLDEST_PENDING, {(): pending})
    yield _gauge(figures.JOURNAL_PENDING_BYTES, {(): sum(one.pending_bytes for one in backlogs)})


def _journal_by_org(backlogs: list[OrgBacklog], at: datetime) -> Iterator[Metric]:
    states = {
        (one.org_id, state): count
        for one in backlogs
        for state, count in (("pending", one.pending), ("delivered", one.delivered), ("set_aside", one.set_aside))
    }
    yield _gauge(figures.ORG_JOURNAL_MEMORIES, states)
    yield _gauge(figures.ORG_JOURNAL_OLDEST, {(one.org_id,): _age(one.oldest, at) for one in backlogs})
    pending = {(one.org_id,): _age(one.oldest_pending, at) for one in backlogs}
    yield _gauge(figures.ORG_JOURNAL_OLDEST_PENDING, pending)
    yield _gauge(figures.ORG_JOURNAL_PENDING_BYTES, {(one.org_id,): one.pending_bytes for one in backlogs})


def _age(moment: datetime | None, at: datetime) -> float:
    return 0.0 if moment is None else max(0.0, (at - moment).total_seconds())


def _gauge(figure: Figure, values: Mapping[Labels, float]) -> Metric:
    family = GaugeMetricFamily(figure.name, figure.help, labels=figure.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
