"""Memtrace and the Arc double as processes over folders that outlive them, and the orgs that live there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import apsw
from arc_double.process import ArcProcess
from e2e.crew import workers_of
from e2e.processes import Deployment, Server, Tenant

from memtrace_sqlite.database import snapshot
from torture.claims import unclaimed
from torture.compaction import compact
from torture.history import Fields

SETTINGS = {
    "MEMTRACE_ARC_WRITE_FLUSH_INTERVAL_MS": "10",
    "MEMTRACE_ARC_QUERY_TIMEOUT": "2",
    "MEMTRACE_ARC_CONNECT_TIMEOUT": "1",
}
# Where orgs live in Arc: each in a place of its own or two in one; None is the embedded store.
PLACES = {
    "anna": ("alpha", "events"),
    "bert": ("beta", "events"),
    "cleo": ("alpha", "events"),
    "dora": ("alpha", "others"),
    "emil": None,
    "fred": None,
}
SET_ASIDE = 2


@dataclass(frozen=True)
class Inhabitant:
    """An org by name, with its key, and its place in Arc."""

    name: str
    tenant: Tenant
    place: tuple[str, str] | None

    @property
    def org(self) -> str:
        """The org's id."""
        return self.tenant.org_id


class World:
    """All processes, files and orgs of a run.

    Args:
        folder: where everything lies.
        rng: draws the settings with which processes are started, and who is killed.
        workers: how many processes the server has.
    """

    def __init__(self, folder: Path, rng: Random, workers: int = 1) -> None:
        self.deployment = Deployment(folder, **SETTINGS, MEMTRACE_SERVER_WORKERS=str(workers))
        self.workers = workers
        self.arc = ArcProcess(data=folder / "arc", max_buffer_age_ms=20)
        self.server: Server | None = None
        self.orgs: list[Inhabitant] = []
        self._rng = rng
        self._log: Path | None = None
        self._orphans: set[int] = set()

    @contextmanager
    def living(self) -> Iterator[None]:
        """Create the orgs; on leaving, end whatever runs."""
        try:
            self.start_arc()
            self.orgs = [self._settle(name, place) for name, place in PLACES.items()]
            yield
        finally:
            self.kill_server()
            _kill(self._orphans)
            self.arc.kill()

    def _settle(self, name: str, place: tuple[str, str] | None) -> Inhabitant:
        tenant = self.deployment.tenant(name, bound=place is None)
        if place is not None:
            database, measurement = place
            self.deployment.done(
                "org", "add-arc", tenant.org_id, "--url", self.arc.url, "--api-key", "-",
                "--database", database, "--measurement", measurement, stdin=self.arc.admin_token + "\n",
            )  # fmt: skip
        return Inhabitant(name, tenant, place)

    @property
    def url(self) -> str:
        """The server's."""
        assert self.server is not None
        return self.server.url

    def start(self, *, settle_seconds: int) -> None:
        """Start whatever does not run, both at the same time, and wait until both answer."""
        variables = {"MEMTRACE_JOURNAL_SETTLE_SECONDS": str(settle_seconds)}
        fresh = self.server is None
        if fresh and self._log is not None:
            # Workers of the former server may still be writing into that one.
            self._log.unlink()
        self.server = self.server or self.deployment.start(variables=variables)
        if self.arc.process is None:
            self.start_arc()
        if fresh:
            self.server.wait_until_listening()

    def start_arc(self) -> None:
        """Start the double, with a buffer that is flushed at once, soon, or later."""
        compact(self.arc.data)
        self.arc.options["max_buffer_age_ms"] = self._rng.choice((0, 50, 250))
        self.arc.start()

    def kill_server(self) -> bool:
        """End the server as kill -9 does; false if it had ended by itself.

        Of a server with workers sometimes only the parent: they end beside the next server, in good order.
        """
        server, self.server = self.server, None
        if server is None:
            return True
        running = server.process.poll() is None
        workers = workers_of(server)
        server.kill()
        if workers and self._rng.random() < 0.5:
            self._orphans.update(workers)
        else:
            _kill(workers)
        self._log = server.err_file
        return running

    def kill_a_worker(self) -> None:
        """End one worker of the server, if it has any."""
        if self.server is not None and (workers := workers_of(self.server)):
            _kill([self._rng.choice(workers)])

    def complaints(self) -> list[str]:
        """Return the errors that the server logged last, memories set aside apart: those are Arc's."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines() if self._log else []
        return [line for line in lines if '"level":"error"' in line and "memory set aside" not in line]

    def set_faults(self, **faults: object) -> None:
        """Replace the double's faults."""
        self.arc.set_faults(clear=True, **faults)

    def waiting(self) -> int:
        """Return how many memories are in the journal, those set aside apart."""
        return int(self._journal(f"SELECT count(*) FROM journal WHERE state <> {SET_ASIDE}")[0][0])

    def orders(self) -> int:
        """Return how many orders to forget are not done."""
        return int(self._journal("SELECT count(*) FROM forget_orders WHERE done_at IS NULL")[0][0])

    def set_aside(self) -> set[str]:
        """Return the ids of all memories that are set aside."""
        rows = self._journal(f"SELECT memory_id FROM journal WHERE state = {SET_ASIDE}")
        return {str(memory_id) for (memory_id,) in rows}

    def unclaimed(self) -> list[tuple[str, str]]:
        """Return the orgs and ids of memories of the embedded store that do not hold the claim of their key."""
        connection = self._open_journal()
        try:
            with snapshot(connection):
                return unclaimed(connection)
        finally:
            connection.close()

    def rows(self) -> dict[tuple[str, str], list[Fields]]:
        """Return what lies in Arc, by place."""
        places = sorted({one.place for one in self.orgs if one.place})
        return {place: self.arc.rows(*place) for place in places}

    def _journal(self, sql: str) -> list[tuple[Any, ...]]:
        connection = self._open_journal()
        try:
            return list(connection.execute(sql))
        finally:
            connection.close()

    def _open_journal(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.deployment.data / "journal.db"), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(5000)
        return connection


def _kill(workers: Iterable[int]) -> None:
    for pid in workers:
        with suppress(OSError):  # it has ended, and its number may be another one's
            if b"memtrace_cli.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
