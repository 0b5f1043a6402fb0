"""What one run of load against one subject gave."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One run in a closed loop: so many requests under way at any time, for so many seconds.

    `items` is how many memories a request carries. `mean_ms` and its neighbours are latencies. `cpu_us` is the
    subject's CPU time a request, all its processes together; `resident` the bytes of its largest process.
    `load_share` is how much of one core the load generator used: near 1, it was the one that could do no more.
    """

    concurrency: int
    items: int
    requests: int
    seconds: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_us: float
    resident: int
    load_share: float

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def items_per_second(self) -> float:
        """Memories a second."""
        return self.per_second * self.items


def sample_of(
    latencies_ns: Sequence[int],
    *,
    concurrency: int,
    items: int,
    seconds: float,
    cpu: float,
    resident: int,
    load_share: float,
) -> Sample:
    """Return the sample that latencies make; `cpu` is the subject's CPU time in seconds."""
    in_order = sorted(latencies_ns)

    def share(part: float) -> float:
        return in_order[min(len(in_order) - 1, int(len(in_order) * part))] / 1e6

    return Sample(
        concurrency=concurrency,
        items=items,
        requests=len(in_order),
        seconds=seconds,
        mean_ms=statistics.fmean(in_order) / 1e6,
        p50_ms=share(0.50),
        p95_ms=share(0.95),
        p99_ms=share(0.99),
        cpu_us=cpu / len(in_order) * 1e6,
        resident=resident,
        load_share=load_share,
    )


def middle(samples: Sequence[Sample]) -> Sample:
    """Return the median of each figure over repeats."""
    changes = {
        name: statistics.median(getattr(sample, name) for sample in samples)
        for name in ("mean_ms", "p50_ms", "p95_ms", "p99_ms", "cpu_us", "load_share", "seconds")
    }
    counts = {
        name: statistics.median_low(getattr(one, name) for one in samples) for name in ("requests", "resident")
    }
    # So that the rate is the median rate, and not one of a median count over a median time.
    rate = statistics.median(sample.per_second for sample in samples)
    changes["seconds"] = counts["requests"] / rate
    return msgspec.structs.replace(samples[0], **changes, **counts)
