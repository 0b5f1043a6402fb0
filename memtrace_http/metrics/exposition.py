"""`/metrics` as Prometheus reads it: all figures together, those of orgs only for who may see them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container, Iterable, Iterator
from copy import copy
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from memtrace_core import Services
from memtrace_http.metrics import figures
from memtrace_http.metrics.counting import Counting
from memtrace_http.metrics.figures import ORG_PREFIX
from memtrace_http.metrics.standing import FRESH_SECONDS, REST, Standing, StandingReader, families


class Everybody:
    """Contains every org."""

    def __contains__(self, org_id: object) -> bool:
        """Return True."""
        return True


class Metrics:
    """The figures of one process, or of all that share a folder.

    Give `counting` to `build_services` as its meter, and this to `create_app`.

    Args:
        per_org: whether there are figures by org, for who may see them.
        token: who brings it may see those of all orgs.
        journal_limit: the most bytes that may wait for delivery, to be told beside how many do.
        shared: the folder in which processes share what they count, as PROMETHEUS_MULTIPROC_DIR names it.
    """

    def __init__(
        self,
        *,
        per_org: bool = False,
        token: str | None = None,
        journal_limit: int | None = None,
        shared: Path | None = None,
    ) -> None:
        self.per_org = per_org
        self.token = token
        self.counting = Counting(per_org=per_org)
        self._journal_limit = journal_limit
        self._reader: StandingReader | None = None
        self._sum = SharedSum(shared) if shared is not None else None
        self._process = CollectorRegistry()
        if shared is None:
            ProcessCollector(registry=self._process)
            PlatformCollector(registry=self._process)
            GCCollector(registry=self._process)

    async def exposition(self, services: Services, accept: str, orgs: Container[str]) -> tuple[bytes, str]:
        """Return all figures, and their media type; by org only those of `orgs`.

        Args:
            services: are asked how things stand.
            accept: the media types that the caller reads.
            orgs: whose figures the caller may see; empty for nobody's, which are not even put together then.
        """
        if self._reader is None:
            self._reader = StandingReader(services)
        standing = await self._reader.read()
        counted = await self._sum.read() if self._sum is not None else self._counted(by_org=bool(orgs))
        encode, media_type = choose_encoder(accept)
        return encode(_Shown(self._families(standing, counted, by_org=bool(orgs)), orgs)), media_type

    def _families(self, standing: Standing, counted: Iterable[Metric], *, by_org: bool) -> Iterator[Metric]:
        yield from counted
        yield from families(standing, per_org=self.per_org and by_org)
        if self._journal_limit is not None:
            limit = figures.JOURNAL_LIMIT_BYTES
            yield GaugeMetricFamily(limit.name, limit.help, self._journal_limit)
        build = GaugeMetricFamily(figures.BUILD.name, figures.BUILD.help, labels=figures.BUILD.labels)
        build.add_metric([_version()], 1)
        yield build
        yield from self._process.collect()

    def _counted(self, *, by_org: bool) -> Iterator[Metric]:
        yield from self.counting.registry.collect()
        if by_org:
            yield from self.counting.by_org.collect()


class SharedSum:
    """What processes that share a folder have counted together; read anew not more often than is reasonable.

    With thousands of orgs the library takes long to add up the files: that happens beside the event loop.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: list[Metric] = []
        self._fresh_until = float("-inf")
        self._reading = asyncio.Lock()

    async def read(self) -> Iterator[Metric]:
        """Return the figures as they are, or were a moment ago."""
        async with self._reading:
            started = time.monotonic()
            if started >= self._fresh_until:
                self._last = await asyncio.to_thread(self._add_up)
                ended = time.monotonic()
                self._fresh_until = ended + max(FRESH_SECONDS, REST * (ended - started))
            return map(copy, self._last)  # the samples of a family are cut down for who may not see all

    def _add_up(self) -> list[Metric]:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self._folder))  # type: ignore[no-untyped-call]  # the library's gap
        return list(registry.collect())


class _Shown:
    """What `prometheus_client` encodes: families, without the samples of orgs that are not to be seen."""

    def __init__(self, found: Iterable[Metric], orgs: Container[str]) -> None:
        self._found = found
        self._orgs = orgs

    def collect(self) -> Iterator[Metric]:
        for family in self._found:
            # When a family was first seen is a figure of the library's own, beside each.
            family.samples = [one for one in family.samples if not one.name.endswith("_created")]
            if family.name.startswith(ORG_PREFIX):
                family.samples = [one for one in family.samples if one.labels["org"] in self._orgs]
                if not family.samples:
                    continue
            yield family


def _version() -> str:
    try:
        return version("memtrace")
    except PackageNotFoundError:
        return "0"
