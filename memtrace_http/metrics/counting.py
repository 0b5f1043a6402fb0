"""What is counted as it happens: requests, memories, deliveries, and how long Arcs take.

The library's multiprocess mode sums it over processes, if its variable PROMETHEUS_MULTIPROC_DIR names a folder that
they share when they import it.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from memtrace_core.meter import Operation
from memtrace_http.metrics import figures
from memtrace_http.metrics.figures import Figure

# From what an SQLite commit takes to the longest time limits.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# Whatever else a caller writes in the place of the method is no label.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Counting:
    """A `Meter`, and the observer of requests; `registry` holds what they count, `by_org` what they count by org.

    The children of a family are looked up once: the library takes longer for that than for counting.
    """

    def __init__(self, *, per_org: bool = False) -> None:
        self.registry, self.by_org = CollectorRegistry(), CollectorRegistry()
        self._requests = self._histogram(figures.HTTP_REQUESTS)
        self._request: dict[tuple[str, str, int], Histogram] = {}
        self._arc_requests = self._histogram(figures.ARC_REQUESTS)
        self._memories = self._counter(figures.MEMORIES)
        self._stored = self._memories.labels("stored")
        self._duplicate = self._memories.labels("duplicate")
        self._rejected = self._memories.labels("rejected")
        self._deliveries = self._counter(figures.DELIVERIES)
        self._retries = self._counter(figures.DELIVERY_RETRIES)
        self._delivered = self._counter(figures.DELIVERED)
        self._confirmed = self._counter(figures.CONFIRMED)
        self._resent = self._counter(figures.RESENT)
        self._set_aside = self._counter(figures.SET_ASIDE)
        self._forgotten = self._counter(figures.FORGOTTEN)
        self._org_memories = self._counter(figures.ORG_MEMORIES, self.by_org) if per_org else None
        self._org_memory: dict[tuple[str, str], Counter] = {}

    def answered(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Take note of a request; its route is None where there is none."""
        key = (method, route or "", status)
        try:
            child = self._request[key]
        except KeyError:
            method = method if method in _METHODS else "other"
            child = self._requests.labels(method, route or "none", str(status))
            # What has no route has as many methods as callers think of.
            if route:
                self._request[key] = child
        child.observe(seconds)

    def remembered(self, org_id: str, stored: int, duplicates: int) -> None:
        """Count memories that were stored, and those that had been."""
        if stored:
            self._stored.inc(stored)
        if duplicates:
            self._duplicate.inc(duplicates)
        self._count_of_org(org_id, "stored", stored)
        self._count_of_org(org_id, "duplicate", duplicates)

    def rejected(self, org_id: str, memories: int) -> None:
        """Count memories that were refused."""
        self._rejected.inc(memories)
        self._count_of_org(org_id, "rejected", memories)

    def asked_arc(self, operation: Operation, seconds: float, outcome: str) -> None:
        """Take note of how long an Arc took."""
        self._arc_requests.labels(operation, outcome).observe(seconds)

    def delivered(self, org_id: str, memories: int) -> None:
        """Count a batch, and what is in it."""
        self._deliveries.inc()
        self._delivered.inc(memories)

    def delivery_failed(self, org_id: str) -> None:
        """Count a batch that is sent again."""
        self._retries.inc()

    def set_aside(self, org_id: str, memories: int) -> None:
        """Count memories that an Arc refuses."""
        self._set_aside.inc(memories)

    def confirmed(self, org_id: str, memories: int) -> None:
        """Count memories that were seen in an Arc."""
        self._confirmed.inc(memories)

    def resent(self, org_id: str, memories: int) -> None:
        """Count memories that were not."""
        self._resent.inc(memories)

    def forgotten(self, org_id: str, memories: int) -> None:
        """Count memories that were removed here, and rows that were deleted in an Arc."""
        self._forgotten.inc(memories)

    def _count_of_org(self, org_id: str, outcome: str, memories: int) -> None:
        if self._org_memories is None or not memories:
            return
        try:
            child = self._org_memory[org_id, outcome]
        except KeyError:
            child = self._org_memory[org_id, outcome] = self._org_memories.labels(org_id, outcome)
        child.inc(memories)

    def _counter(self, figure: Figure, registry: CollectorRegistry | None = None) -> Counter:
        return Counter(figure.name, figure.help, figure.labels, registry=registry or self.registry)

    def _histogram(self, figure: Figure) -> Histogram:
        return Histogram(figure.name, figure.help, figure.labels, registry=self.registry, buckets=_BUCKETS)
