"""An Arc with a long history beside one of a few hours: does Memtrace become slower with what it stored before?

Of the last two hours both have as much, in as many files: they are what is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
from arc_double import ArcProcess
from benchmarks import requests
from benchmarks.comparison import compare, mean, rate, ratio
from benchmarks.report import Findings, Verdict
from benchmarks.sample import Sample
from benchmarks.subjects import Effort, Subject, memtrace
from e2e.processes import Deployment, Tenant, eventually

HOURS = 2_000
LAST_HOURS = 3
ROWS_PER_HOUR = 50
MEASUREMENT = "events"
_RECENT = 500


@dataclass(frozen=True)
class History:
    """Two tenants on one Arc, which is a process of its own: one has a long history, the other a short one."""

    deployment: Deployment
    arc: ArcProcess
    full: Tenant
    short: Tenant

    def settle(self, *used: Tenant) -> None:
        """Wait until nothing goes on in the background for tenants that were used already."""
        eventually(lambda: self._settled(used), within=120, what="everything is delivered, all claims are loaded")

    def _settled(self, used: Sequence[Tenant]) -> bool:
        journal = apsw.Connection(str(self.deployment.data / "journal.db"), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            loaded = {org_id for (org_id,) in journal.execute("SELECT org_id FROM loaded_claims")}
            waiting = journal.execute("SELECT 1 FROM journal WHERE state = 0 LIMIT 1").fetchone()
            return waiting is None and loaded.issuperset(tenant.org_id for tenant in used)
        finally:
            journal.close()


@contextmanager
def long_history(folder: Path) -> Iterator[History]:
    """Make both: the long one has 100,000 memories in 2,000 hourly files."""
    with (
        TemporaryDirectory(dir=folder) as place,
        ArcProcess(data=Path(place, "arc")) as arc,
    ):
        deployment = Deployment(Path(place))
        tenants = []
        for name, hours in (("full", HOURS), ("short", LAST_HOURS)):
            tenants.append(_tenant(deployment, arc, name))
            arc.control(
                "fill",
                {
                    "database": name,
                    "measurement": MEASUREMENT,
                    "hours": hours,
                    "rows_per_hour": ROWS_PER_HOUR,
                    "org_id": tenants[-1].org_id,
                },
            )
        yield History(deployment, arc, *tenants)


def _tenant(deployment: Deployment, arc: ArcProcess, name: str) -> Tenant:
    tenant = deployment.tenant(name, bound=False)
    deployment.done(
        "org", "add-arc", tenant.org_id, "--url", arc.url, "--api-key", arc.write_token, "--database", name
    )
    return tenant


def history(folder: Path, concurrencies: Sequence[int], effort: Effort) -> Findings:
    """Compare reads of the last two hours, then writes."""
    found = Findings()
    with long_history(folder) as made, memtrace(made.deployment) as subject:
        tenants = {"long history": made.full, "short history": made.short}
        for tenant in tenants.values():
            _write_some(subject, tenant)
        made.settle(*tenants.values())
        newest = requests.newest(50, since="2h")
        for concurrency in concurrencies:
            subjects = {
                name: partial(subject.measure, requests.with_key(newest, tenant.key), concurrency, effort)
                for name, tenant in tenants.items()
            }
            full, short = compare(found, "newest 50 of 2 hours, Arc", subjects, effort)
            found.verdicts.append(
                Verdict(
                    what=f"newest 50 of 2 hours, c={concurrency}: time of that with 3 hours",
                    value=ratio(full, short, mean),
                    target=1.5,
                    bound="at most",
                )
            )
        single = requests.single()
        for concurrency in concurrencies:

            def measure(tenant: Tenant, concurrency: int = concurrency) -> Sample:
                sample = subject.measure(requests.with_key(single, tenant.key), concurrency, effort)
                # What one leaves to be delivered must not be in the other's way.
                made.settle()
                return sample

            subjects = {name: partial(measure, tenant) for name, tenant in tenants.items()}
            full, short = compare(found, "single writes, Arc", subjects, effort)
            found.verdicts.append(
                Verdict(
                    what=f"single writes to Arc, c={concurrency}: throughput of that with 3 hours",
                    value=ratio(full, short, rate),
                    target=0.95,
                )
            )
    return found


def _write_some(subject: Subject, tenant: Tenant) -> None:
    body = {"memories": [requests.memory(content=f"recent {number}") for number in range(_RECENT)]}
    with subject.client(tenant.key) as api:
        assert api.post("/api/v1/memories", json=body).status_code == 201
