"""Reads from 100,000 memories, against a floor app that returns the same bytes and the gateway's own answer.

Both take their time in any case: the framework for an answer of that size, and the store for what stands in it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import msgspec
from arc_double import ArcProcess
from benchmarks import requests
from benchmarks.comparison import Measure, compare, mean
from benchmarks.embedded_alone import embedded_alone
from benchmarks.history import HOURS, MEASUREMENT, long_history
from benchmarks.report import Findings, Verdict
from benchmarks.requests import Template
from benchmarks.subjects import Effort, Subject, floor_app, memtrace
from e2e.processes import Deployment, Tenant

from memtrace_core.model import EMBEDDED_URL, ArcInstance
from memtrace_core.query import MemoryQuery

MEMORIES, SESSION = 100_000, 100
PAGE = 50
MOST_OVER_SUM = 1.3
_BATCH = 1_000

Alone = Callable[[int], list[Measure]]
"""From a concurrency to what measures the gateway's own answers, all that one request needs."""


def embedded_reads(folder: Path, concurrencies: Sequence[int], effort: Effort) -> Findings:
    """Read from the embedded store."""
    found = Findings()
    with TemporaryDirectory(dir=folder) as place:
        deployment = Deployment(Path(place))
        tenant = deployment.tenant()
        with memtrace(deployment) as subject:
            _store(subject, tenant)
            session = "session_7"
            # What Memtrace asks for: one more than it shows, to know whether there is more.
            page = MemoryQuery(org_id=tenant.org_id, limit=PAGE + 1)
            whole = MemoryQuery(org_id=tenant.org_id, session_ids=(session,), limit=SESSION + 1)
            for name, template, query in (
                (f"list {PAGE}, embedded", requests.newest(PAGE), page),
                (f"context of {SESSION}, embedded", requests.context(session, SESSION), whole),
            ):
                asked = requests.with_key(template, tenant.key)
                alone = partial(_embedded_alone, deployment, tenant, query, effort)
                _against_sum(found, name, subject, asked, alone, concurrencies, effort)
    return found


def arc_reads(folder: Path, concurrencies: Sequence[int], effort: Effort) -> Findings:
    """Read from Arc's double, where the memories lie in 2,000 hourly files."""
    found = Findings()
    with long_history(folder) as made, memtrace(made.deployment) as subject:
        # One hour in ten is of this session: of the last 24, those that were 5 and 15 hours ago.
        session = f"session_{(HOURS - 5) % 10}"
        for name, template in (
            (f"list {PAGE}, Arc", requests.newest(PAGE)),
            (f"context of {SESSION}, Arc", requests.context(session, SESSION)),
        ):
            asked = requests.with_key(template, made.full.key)
            _answer(subject, asked)
            made.settle(made.full)
            alone = partial(_arc_alone, made.arc, _queries(made.arc, subject, asked), effort)
            _against_sum(found, name, subject, asked, alone, concurrencies, effort)
    return found


def _against_sum(
    found: Findings,
    name: str,
    subject: Subject,
    template: Template,
    alone: Alone,
    concurrencies: Sequence[int],
    effort: Effort,
) -> None:
    with TemporaryDirectory() as answers:
        Path(answers, "answer.json").write_bytes(_answer(subject, template))
        with floor_app(answers=Path(answers)) as floor:
            for concurrency in concurrencies:
                subjects: dict[str, Measure] = {
                    "memtrace": partial(subject.measure, template, concurrency, effort),
                    "floor": partial(floor.measure, template, concurrency, effort),
                }
                gateway = {f"gateway {number}": one for number, one in enumerate(alone(concurrency), 1)}
                ours, *parts = compare(found, name, subjects | gateway, effort)
                value = statistics.median(
                    mean(whole) / sum(map(mean, pieces)) for whole, *pieces in zip(ours, *parts, strict=True)
                )
                found.verdicts.append(
                    Verdict(
                        what=f"{name}, c={concurrency}: time of floor and gateway together",
                        value=value,
                        target=MOST_OVER_SUM,
                        bound="at most",
                    )
                )


def _answer(subject: Subject, template: Template) -> bytes:
    """Return the body of an answer, which must be as long as is said."""
    with subject.client() as api:
        answer = api.request(template.method, template.path, headers=template.headers)
    told = answer.json()
    assert told.get("memory_count", told.get("count")) == template.items, answer.text[:300]
    return answer.content


def _store(subject: Subject, tenant: Tenant) -> None:
    with subject.client(tenant.key) as api:
        for start in range(0, MEMORIES, _BATCH):
            batch = [
                requests.memory(f"session_{number // SESSION}", requests.text(number))
                for number in range(start, start + _BATCH)
            ]
            assert api.post("/api/v1/memories", json={"memories": batch}).status_code == 201


def _embedded_alone(
    deployment: Deployment, tenant: Tenant, query: MemoryQuery, effort: Effort, concurrency: int
) -> list[Measure]:
    moment = datetime.now(UTC)
    instance = ArcInstance(
        id="arc_bench",
        org_id=tenant.org_id,
        url=EMBEDDED_URL,
        database="memory",
        measurement=MEASUREMENT,
        sealed_api_key=None,
        created_at=moment,
        updated_at=moment,
    )
    return [partial(embedded_alone, deployment.data / "journal.db", instance, query, concurrency, effort)]


def _queries(arc: ArcProcess, subject: Subject, template: Template) -> list[Template]:
    """Return what Memtrace asks the Arc for this request, as requests to the Arc itself."""
    before = len(arc.records()["queries"])
    _answer(subject, template)
    asked = arc.records()["queries"][before:]
    return [
        Template(
            method="POST",
            path="/api/v1/query",
            headers={"authorization": f"Bearer {arc.read_token}", "x-arc-database": query["database"]},
            body=msgspec.json.encode({"sql": query["sql"]}).decode(),
            items=template.items,
        )
        for query in asked
    ]


def _arc_alone(arc: ArcProcess, queries: Sequence[Template], effort: Effort, concurrency: int) -> list[Measure]:
    assert arc.process is not None
    double = Subject(int(urlsplit(arc.url).port or 0), arc.process.pid)
    return [partial(double.measure, query, concurrency, effort) for query in queries]
