"""What a second node before the same Arc does to writes: each has a journal of its own, and shares the machine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from benchmarks import requests
from benchmarks.comparison import compare, cpu, rate, ratio
from benchmarks.report import Findings, Verdict
from benchmarks.requests import Template
from benchmarks.sample import Sample
from benchmarks.subjects import Effort, Subject
from e2e.nodes import two_nodes


def second_node(folder: Path, concurrencies: Sequence[int], effort: Effort) -> Findings:
    """Write to one of two nodes, then to both with as many requests under way in all; one organization at each."""
    found = Findings()
    with (
        TemporaryDirectory(dir=folder) as first,
        TemporaryDirectory(dir=folder) as second,
        two_nodes(Path(first), Path(second), orgs=2) as pair,
    ):
        nodes = [Subject(server.port, server.process.pid) for server in pair.servers]
        asked = [requests.with_key(requests.single(), tenant.key) for tenant in pair.tenants]
        for concurrency in (one for one in concurrencies if one > 1):
            subjects = {
                "one node": partial(nodes[0].measure, asked[0], concurrency, effort),
                "two nodes": partial(_both, nodes, asked, concurrency // 2, effort),
            }
            one, two = compare(found, "second node", subjects, effort)
            named = f"second node, c={concurrency}"
            found.verdicts += [
                Verdict(what=f"{named}: × throughput", value=ratio(two, one, rate)),
                Verdict(what=f"{named}: × CPU a write", value=ratio(two, one, cpu)),
            ]
    return found


def _both(nodes: Sequence[Subject], asked: Sequence[Template], concurrency: int, effort: Effort) -> Sample:
    """Put both under load at once, and return one sample of what they did together."""
    with ThreadPoolExecutor(len(nodes)) as threads:
        samples = list(
            threads.map(lambda node, template: node.measure(template, concurrency, effort), nodes, asked)
        )
    total = sum(sample.requests for sample in samples)

    def average(field: str) -> float:
        return sum(float(getattr(sample, field)) * sample.requests for sample in samples) / total

    return msgspec.structs.replace(
        max(samples, key=lambda sample: sample.p99_ms),  # percentiles are those of the slower one
        concurrency=2 * concurrency,
        requests=total,
        seconds=max(sample.seconds for sample in samples),
        mean_ms=average("mean_ms"),
        cpu_us=average("cpu_us"),
        load_share=max(sample.load_share for sample in samples),
    )
