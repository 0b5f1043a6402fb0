"""Writes at a steady rate for long: does delivery keep up with them, and does the server stay as small as it was?

Run it by hand: `PYTHONPATH=tests python -m benchmarks.sustained [--seconds 600] [--share 0.8] [--folder DIR]`. The
org's Arc takes 5 ms for each batch. First it is measured how many single writes a second one worker takes at most
with 16 under way; then a share of that is sent for so long, while the backlog and the memory of the server are
looked at. The command ends with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw
from arc_double import ArcProcess
from benchmarks import requests
from benchmarks.footprint import mebibytes, resident_bytes
from benchmarks.report import Findings, Line, Verdict
from benchmarks.subjects import Effort, Subject, memtrace
from e2e.processes import Deployment, Tenant, eventually

AT_ONCE = 16
ARC_SECONDS = 0.005
LOOKS = 200
MOST_WAITING_SECONDS = 2  # the default write_flush_interval_ms, twice, and what is on its way
MOST_GROWN = 1.05


@dataclass(frozen=True)
class Look:
    """The server at one moment: how many memories waited for delivery, and its resident bytes."""

    waiting: int
    resident: int


class Watch(threading.Thread):
    """Looks at a server time and again, until it is told to end."""

    def __init__(self, journal: Path, process: int, every: float) -> None:
        super().__init__(name="watch")
        self._journal, self._process, self._every = journal, process, every
        self._over = threading.Event()
        self.looks: list[Look] = []

    def run(self) -> None:
        """Look."""
        connection = apsw.Connection(str(self._journal), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            while not self._over.wait(self._every):
                ((waiting,),) = connection.execute("SELECT count(*) FROM journal WHERE state = 0")
                self.looks.append(Look(int(str(waiting)), resident_bytes(self._process)))
        finally:
            connection.close()

    def end(self) -> None:
        """Look no more."""
        self._over.set()
        self.join()


def sustained(folder: Path, seconds: float, share: float) -> Findings:
    """Measure the most that is possible, then send a share of it."""
    found = Findings()
    with tempfile.TemporaryDirectory(dir=folder) as place, ArcProcess(data=Path(place, "arc")) as arc:
        deployment = Deployment(Path(place))
        tenant = deployment.tenant("steady", bound=False)
        deployment.done(
            "org", "add-arc", tenant.org_id, "--url", arc.url, "--api-key", arc.write_token, "--database", "steady"
        )
        arc.control("faults", {"write_latency": ARC_SECONDS})
        with memtrace(deployment) as subject:
            _measure(found, deployment, subject, tenant, seconds, share)
    return found


def _measure(
    found: Findings, deployment: Deployment, subject: Subject, tenant: Tenant, seconds: float, share: float
) -> None:
    journal = deployment.data / "journal.db"
    template = requests.with_key(requests.single(), tenant.key)
    most = subject.measure(template, AT_ONCE, Effort(seconds=5, warm_seconds=1, repeats=1))
    eventually(lambda: _waiting(journal) == 0, within=120, what="what the first run left is delivered")
    rate = most.per_second * share
    watch = Watch(journal, subject.process, every=seconds / LOOKS)
    watch.start()
    started = time.perf_counter()
    try:
        steady = subject.measure(template, AT_ONCE, Effort(seconds, warm_seconds=1, repeats=1), rate)
    finally:
        watch.end()
    found.lines += [
        Line(scenario="single writes, Arc", subject="at most", sample=most),
        Line(scenario="single writes, Arc", subject="steady", sample=steady),
    ]
    found.notes.append(f"steady for {time.perf_counter() - started:,.0f} s")
    quarters = _quarters(watch.looks)
    waiting = [statistics.median(look.waiting for look in quarter) / rate for quarter in quarters]
    resident = [max(look.resident for look in quarter) for quarter in quarters]
    found.verdicts += [
        Verdict(what="rate that was kept up, of the one wanted", value=steady.per_second / rate, target=0.98),
        *(
            Verdict(
                what=f"waits for delivery, quarter {number}",
                value=value,
                unit="s of writes",
                target=MOST_WAITING_SECONDS,
                bound="at most",
            )
            for number, value in enumerate(waiting, 1)
        ),
        *(
            Verdict(what=f"RSS, quarter {number}", value=mebibytes(value), unit="MiB")
            for number, value in enumerate(resident, 1)
        ),
        Verdict(
            what="RSS, last quarter against the first",
            value=resident[-1] / resident[0],
            target=MOST_GROWN,
            bound="at most",
        ),
    ]


def _waiting(journal: Path) -> int:
    connection = apsw.Connection(str(journal), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return int(str(connection.execute("SELECT count(*) FROM journal WHERE state = 0").fetchone()[0]))
    finally:
        connection.close()


def _quarters(looks: Sequence[Look]) -> list[Sequence[Look]]:
    size = max(1, len(looks) // 4)
    return [looks[start : start + size] for start in range(0, size * 4, size)]


def main() -> int:
    """Read the arguments, measure, and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.sustained", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--share", type=float, default=0.8, help="of what is possible at most")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where databases are made")
    arguments = parser.parse_args()
    found = sustained(arguments.folder, arguments.seconds, arguments.share)
    print(found.as_text())
    return 1 if any(verdict.met is False for verdict in found.verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
