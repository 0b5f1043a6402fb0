"""A server whose journal is full, as its clients see it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from arc_double import ArcDouble
from e2e.processes import Deployment, Tenant, eventually
from e2e.test_arc import HASTY, bound_to

ROUNDS = 8
CONTENT = "x" * 600_000  # two of them fill the journal


@pytest.fixture
def arcs() -> Iterator[tuple[ArcDouble, ArcDouble]]:
    """Return two Arcs: one to go away, and one that stays."""
    with ArcDouble(max_buffer_age_ms=0) as leaving, ArcDouble(max_buffer_age_ms=0) as staying:
        yield leaving, staying


def post(api: httpx.Client, content: str) -> httpx.Response:
    """Store a memory."""
    return api.post("/api/v1/memories", json={"agent_id": "a", "content": content})


def contents(api: httpx.Client) -> list[str]:
    """Return how the contents of all memories begin, oldest first."""
    answer = api.get("/api/v1/memories", params={"order": "asc", "limit": 1000})
    assert answer.status_code == 200, answer.text
    return [memory["content"].partition(" ")[0] for memory in answer.json()["memories"]]


def rows_of(arc: ArcDouble, tenant: Tenant) -> list[dict[str, Any]]:
    """Return the rows that an Arc has of an org."""
    found = [row for path in arc.data.iterdir() for row in arc.rows(path.name, "events")]
    return [row for row in found if row["org_id"] == tenant.org_id]


def test_a_journal_that_is_full_survives_kill_9_and_costs_no_other_org_a_write(
    arcs: tuple[ArcDouble, ArcDouble], deployment: Deployment
) -> None:
    """Killed at the limit, a server starts at the limit: the org whose Arc is away gets 503 with Retry-After, the
    others go on, and when Arc is back everything that was acknowledged goes there once, with nobody asking.
    """
    leaving, staying = arcs
    deployment.environment.update(HASTY, MEMTRACE_JOURNAL_MAX_BYTES="1048576")
    cut_off, lucky = bound_to(leaving, deployment), bound_to(staying, deployment)
    local = deployment.tenant("local")
    leaving.faults.down = True
    with deployment.serve() as server, server.client(cut_off) as api:
        answers = [post(api, f"{number} {CONTENT}").status_code for number in range(4)]
        assert answers == [201, 201, 503, 503]
        server.kill()
    with deployment.serve() as server, server.client(cut_off) as api:
        for number in range(ROUNDS):
            refused = post(api, f"late{number} {CONTENT}")
            assert (refused.status_code, refused.json()["code"]) == (503, "journal_full")
            assert int(refused.headers["retry-after"]) > 0
            for tenant in (lucky, local):
                with server.client(tenant) as other:
                    assert post(other, f"number{number} beside").status_code == 201
        for tenant in (lucky, local):
            with server.client(tenant) as other:
                assert contents(other) == [f"number{number}" for number in range(ROUNDS)]
        leaving.faults.down = False
        rows = eventually(lambda: len(found := rows_of(leaving, cut_off)) >= 2 and found, what="two rows in Arc")
        assert sorted(row["content"][0] for row in rows) == ["0", "1"]
        assert post(api, f"2 {CONTENT}").status_code == 201
        assert contents(api) == ["0", "1", "2"]
