"""What a page of an org's memories costs through Memtrace, as a ratio to the same SQL sent to Arc directly.

Run it by hand: `PYTHONPATH=tests python tests/benchmarks/page_over_arc.py`. Both are asked in turn, one request at
a time, over 10,000 memories in the Arc double.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from arc_double import ArcDouble
from e2e.processes import Deployment, eventually

MEMORIES = 10_000
ROUNDS = 200


def main() -> int:
    """Measure, and print the medians and their ratio."""
    with ArcDouble(max_buffer_age_ms=0) as arc, tempfile.TemporaryDirectory() as folder:
        deployment = Deployment(
            Path(folder), MEMTRACE_JOURNAL_SETTLE_SECONDS="0", MEMTRACE_ARC_WRITE_FLUSH_INTERVAL_MS="0"
        )
        org_id = deployment.org(bound=False)
        deployment.done(
            "org", "add-arc", org_id, "--url", arc.url, "--api-key", arc.write_token, "--database", "bench"
        )
        tenant = deployment.key(org_id)
        with deployment.serve() as server, server.client(tenant) as api, httpx.Client() as direct:
            for start in range(0, MEMORIES, 1000):
                batch = [{"agent_id": "a", "content": f"memory {start + one}"} for one in range(1000)]
                assert api.post("/api/v1/memories", json={"memories": batch}).status_code == 201
            eventually(lambda: len(arc.rows("bench", "events")) == MEMORIES, within=60)
            page = "/api/v1/memories?limit=50"
            eventually(lambda: api.get(page).status_code == 200 and _confirmed(deployment), within=60)
            arc.clear_records()
            api.get(page)
            sql = arc.queries[-1].sql
            headers = {"authorization": f"Bearer {arc.write_token}", "x-arc-database": "bench"}

            def through() -> None:
                assert len(api.get(page).json()["memories"]) == 50

            def straight() -> None:
                answer = direct.post(f"{arc.url}/api/v1/query", json={"sql": sql}, headers=headers)
                assert len(answer.json()["data"]) == 51

            pairs = [(_timed(through), _timed(straight)) for _ in range(ROUNDS)]
    medians = [statistics.median(column) * 1000 for column in zip(*pairs, strict=True)]
    print(
        json.dumps(
            {
                "through_memtrace_ms": round(medians[0], 2),
                "straight_to_arc_ms": round(medians[1], 2),
                "ratio": round(medians[0] / medians[1], 3),
            }
        )
    )
    return 0


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _confirmed(deployment: Deployment) -> bool:
    import apsw  # only to look into the journal

    connection = apsw.Connection(str(deployment.data / "journal.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return connection.execute("SELECT count(*) FROM journal").fetchone() == (0,)
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
