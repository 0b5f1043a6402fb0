"""What one org's hanging Arc costs another org, whose memories live on the same Arc server.

Run it by hand: `PYTHONPATH=tests python tests/benchmarks/beside_a_hanging_arc.py`. Rounds in which the first org's
database hangs, with readers waiting for it and memories to deliver to it, alternate with rounds in which nothing
hangs. Each figure is the ratio of the other org's medians, hanging to not.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from arc_double import ArcDouble
from e2e.processes import Deployment, Server, Tenant

ROUNDS = 8
REQUESTS = 40
READERS = 24


def main() -> int:
    """Measure, and print the ratios."""
    with ArcDouble(max_buffer_age_ms=0) as arc, tempfile.TemporaryDirectory() as folder:
        deployment = Deployment(Path(folder), MEMTRACE_ARC_QUERY_TIMEOUT="5")
        slow, quick = (_tenant(deployment, arc, name) for name in ("slow", "quick"))
        arc.faults.hang_database = "slow"
        took: dict[tuple[str, bool], list[float]] = {}
        with deployment.serve() as server, server.client(quick) as api, server.client(slow) as other:

            def write(note: int) -> None:
                assert api.post("/api/v1/memories", json={"agent_id": "a", "content": f"{note}"}).is_success

            def read(_: int) -> None:
                assert api.get("/api/v1/memories?limit=50").is_success

            for one in range(REQUESTS):
                write(-one - 1)
                read(one)
            for number in range(ROUNDS * 2):
                hanging = number % 2 == 0
                assert other.post("/api/v1/memories", json={"agent_id": "a", "content": f"n{number}"}).is_success
                with _Readers(server, slow, waiting=hanging):
                    arc.faults.hang = hanging
                    time.sleep(0.5)  # until the readers wait
                    for one in range(REQUESTS):
                        took.setdefault(("write", hanging), []).append(_timed(write, number * REQUESTS + one))
                        took.setdefault(("read", hanging), []).append(_timed(read, one))
                    arc.faults.hang = False
    for what in ("write", "read"):
        beside, alone = (statistics.median(took[what, hanging]) * 1000 for hanging in (True, False))
        print(json.dumps({"what": what, "beside_ms": round(beside, 2), "ratio": round(beside / alone, 3)}))
    return 0


class _Readers:
    """Clients that each wait for an answer, if there is something to wait for."""

    def __init__(self, server: Server, tenant: Tenant, *, waiting: bool) -> None:
        self._server, self._tenant = server, tenant
        self._threads = [threading.Thread(target=self._read) for _ in range(READERS if waiting else 0)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *exception: object) -> None:
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        with self._server.client(self._tenant) as api:
            try:
                api.get("/api/v1/memories")
            except httpx.HTTPError as error:
                print(f"a reader of the hanging org: {error!r}", file=sys.stderr)


def _tenant(deployment: Deployment, arc: ArcDouble, name: str) -> Tenant:
    tenant = deployment.tenant(name, bound=False)
    deployment.done(
        "org", "add-arc", tenant.org_id, "--url", arc.url, "--api-key", arc.write_token, "--database", name
    )
    return tenant


def _timed(work: Callable[[int], None], argument: int) -> float:
    started = time.perf_counter()
    work(argument)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
