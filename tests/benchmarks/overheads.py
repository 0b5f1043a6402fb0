"""What is there on every request and command: the guard, the idle process, the start of the command line."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from benchmarks.footprint import mebibytes, resident_bytes
from benchmarks.report import Findings, Verdict
from benchmarks.subjects import Effort, memtrace
from e2e.processes import COMMAND, Deployment
from litestar import Request

from memtrace_cli.composition import compose
from memtrace_cli.settings import Auth, Settings
from memtrace_core import Binding, Permission
from memtrace_core.model import EMBEDDED_URL
from memtrace_http.edge import LEAVE
from memtrace_http.guards import Guard
from memtrace_http.routes.memories import remember
from memtrace_sqlite import EnvelopeVault, MasterKey, Mode

_GUARDED = 5_000
_STARTS = 15


def guard(folder: Path, effort: Effort) -> Findings:
    """Time authentication, the look for changes and fair use, as every request has them, in this process."""
    with TemporaryDirectory(dir=folder) as place:
        return asyncio.run(_guard(Path(place), effort))


async def _guard(folder: Path, effort: Effort) -> Findings:
    settings = Settings(auth=Auth(db_path=str(folder / "memtrace.db")))
    services = compose(settings, EnvelopeVault(MasterKey.parse(MasterKey.generate())), Mode.MIGRATE)
    try:
        org = await services.tenants.ensure_default_org()
        await services.tenants.bind(org.id, Binding(url=EMBEDDED_URL, database="memory"))
        _, key = await services.tenants.create_key(org.id, "bench", Permission.ADMIN)
        checks = Guard(services)
        scope: dict[str, Any] = {
            "type": "http",
            "headers": _headers(key),
            "query_string": b"",
            "route_handler": remember,
        }
        request = Request[Any, Any, Any](cast(Any, scope))
        took = []
        for _ in range(effort.repeats + 1):
            started = time.perf_counter()
            for _ in range(_GUARDED):
                await checks(request)
                scope.pop(LEAVE)()
            took.append((time.perf_counter() - started) / _GUARDED)
    finally:
        await services.close()
    # The first round is for warming up.
    each = statistics.median(took[1:]) * 1e6
    return Findings(
        verdicts=[
            Verdict(what="authentication and change check", value=each, unit="µs", target=30, bound="at most")
        ]
    )


def _headers(key: str) -> Sequence[tuple[bytes, bytes]]:
    return [
        (b"host", b"127.0.0.1:9100"),
        (b"x-api-key", key.encode()),
        (b"content-type", b"application/json"),
        (b"content-length", b"300"),
    ]


def idle(folder: Path) -> Findings:
    """Tell how much memory a server holds that has answered once and does nothing."""
    with TemporaryDirectory(dir=folder) as place:
        deployment = Deployment(Path(place))
        tenant = deployment.tenant()
        with memtrace(deployment) as subject, subject.client(tenant.key) as api:
            body = {"agent_id": "a", "content": "one"}
            assert api.post("/api/v1/memories", json=body).status_code == 201
            assert api.get("/api/v1/memories").status_code == 200
            size = resident_bytes(subject.process)
    return Findings(
        verdicts=[
            Verdict(
                what="RSS, idle",
                value=mebibytes(size),
                unit="MiB",
                target=90,
                bound="at most",
            )
        ]
    )


def command_line(folder: Path) -> Findings:
    """Compare `memtrace org list` with a Python that imports what no command can do without."""
    with TemporaryDirectory(dir=folder) as place:
        deployment = Deployment(Path(place))
        deployment.tenant()
        commands = ([*COMMAND, "org", "list"], [sys.executable, "-c", "import cyclopts, apsw"])
        # Installed packages are compiled. Here they may not be, and compiling would be most of what is measured.
        environment = {**deployment.environment, "PYTHONPYCACHEPREFIX": place}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        took: tuple[list[float], list[float]] = ([], [])
        for number in range(_STARTS + 1):
            for command, times in zip(commands, took, strict=True):
                started = time.perf_counter()
                subprocess.run(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, check=True)
                if number:  # the first compiles, and fills the caches of the disk
                    times.append(time.perf_counter() - started)
    ratio = statistics.median(ours / bare for ours, bare in zip(*took, strict=True))
    return Findings(
        verdicts=[
            Verdict(what="memtrace org list", value=statistics.median(took[0]) * 1000, unit="ms"),
            Verdict(what="memtrace org list, of importing its libraries", value=ratio, target=2, bound="at most"),
        ]
    )
