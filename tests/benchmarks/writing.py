"""Writes against the floor app: single memories, batches, and what a second worker gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from benchmarks import requests
from benchmarks.comparison import compare, cpu, rate, ratio, tail
from benchmarks.report import Findings, Verdict
from benchmarks.sample import middle
from benchmarks.subjects import Effort, Subject, can_have_workers, ceiling, floor_app, memtrace
from e2e.processes import Deployment

BATCH = 100


def single_writes(folder: Path, concurrencies: Sequence[int], effort: Effort) -> Findings:
    """Store one memory a request, on disk when it is answered."""
    found = Findings()
    template = requests.single()
    with _pair(folder) as (subject, floor, key), ceiling() as limit:
        for concurrency in concurrencies:
            subjects = {
                "memtrace": partial(subject.measure, requests.with_key(template, key), concurrency, effort),
                "floor": partial(floor.measure, template, concurrency, effort),
                "the load's ceiling": partial(limit.measure, template, concurrency, effort),
            }
            ours, bare, _ = compare(found, "single writes", subjects, effort)
            named = f"single writes, c={concurrency}"
            found.verdicts += [
                Verdict(
                    what=f"{named}: throughput of the floor's",
                    value=ratio(ours, bare, rate),
                    target=0.70 if concurrency >= 16 else None,
                ),
                Verdict(
                    what=f"{named}: p99 of the floor's",
                    value=ratio(ours, bare, tail),
                    bound="at most",
                    target=3 if concurrency == 16 else None,
                ),
                Verdict(what=f"{named}: CPU of the floor's", value=ratio(ours, bare, cpu)),
            ]
    return found


def batches(folder: Path, concurrencies: Sequence[int], effort: Effort) -> Findings:
    """Store 100 memories a request."""
    found = Findings()
    template = requests.batch(BATCH)
    to_floor = msgspec.structs.replace(template, path="/api/v1/batches")
    with _pair(folder) as (subject, floor, key):
        for concurrency in concurrencies:
            subjects = {
                "memtrace": partial(subject.measure, requests.with_key(template, key), concurrency, effort),
                "floor": partial(floor.measure, to_floor, concurrency, effort),
            }
            ours, bare = compare(found, f"batches of {BATCH}", subjects, effort)
            named = f"batches of {BATCH}, c={concurrency}"
            found.verdicts += [
                Verdict(what=f"{named}: memories/s", value=middle(ours).items_per_second, target=40_000),
                Verdict(what=f"{named}: throughput of the floor's", value=ratio(ours, bare, rate), target=0.5),
            ]
    return found


def second_worker(folder: Path, concurrencies: Sequence[int], effort: Effort) -> Findings:
    """Tell what a second worker gives to Memtrace, and what to the floor app."""
    found = Findings()
    if not can_have_workers():
        found.notes.append("Two workers are left out: this version of Memtrace has no setting server.workers.")
        return found
    template = requests.single()
    with (
        _pair(folder) as (one, floor, key),
        _pair(folder, workers=2) as (two, floors, other_key),
    ):
        for concurrency in concurrencies:
            subjects = {
                "memtrace": partial(one.measure, requests.with_key(template, key), concurrency, effort),
                "memtrace, 2": partial(two.measure, requests.with_key(template, other_key), concurrency, effort),
                "floor": partial(floor.measure, template, concurrency, effort),
                "floor, 2": partial(floors.measure, template, concurrency, effort),
            }
            ours, ours_2, bare, bare_2 = compare(found, "second worker", subjects, effort)
            gained, floor_gained = ratio(ours_2, ours, rate), ratio(bare_2, bare, rate)
            found.verdicts += [
                Verdict(what=f"second worker, c={concurrency}: × throughput", value=gained),
                Verdict(what=f"second worker, c={concurrency}: × throughput of the floor", value=floor_gained),
                Verdict(
                    what=f"second worker, c={concurrency}: gain of the floor's",
                    value=gained / floor_gained,
                    target=0.85 if concurrency >= 16 else None,
                ),
            ]
    return found


@contextmanager
def _pair(folder: Path, workers: int = 1) -> Iterator[tuple[Subject, Subject, str]]:
    """Serve Memtrace over the embedded store and the floor app, and give a key for the former."""
    with TemporaryDirectory(dir=folder) as place:
        deployment = Deployment(Path(place))
        tenant = deployment.tenant()
        with memtrace(deployment, workers) as subject, floor_app(workers) as floor:
            yield subject, floor, tenant.key
