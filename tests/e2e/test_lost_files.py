"""A database file that disappears under a running server."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from e2e.processes import Deployment


def attempts(api: httpx.Client) -> list[Callable[[], httpx.Response]]:
    """Return a write, and reads of every kind."""
    return [
        lambda: api.post("/api/v1/memories", json={"agent_id": "ada", "content": "while it is gone"}),
        lambda: api.get("/api/v1/memories"),
        lambda: api.post("/api/v1/search", json={"content_contains": "x"}),
        lambda: api.get("/api/v1/agents/ada/stats"),
    ]


@pytest.mark.parametrize(
    "how",
    [pytest.param("moved", marks=pytest.mark.slow), "deleted", pytest.param("replaced", marks=pytest.mark.slow)],
)
def test_without_its_journal_a_server_acknowledges_and_shows_nothing(deployment: Deployment, how: str) -> None:
    """Writes and reads are 503 `storage_unavailable` without a path in them, and `/health` still answers."""
    tenant = deployment.tenant()
    journal, away = deployment.data / "journal.db", deployment.folder / "away"
    with deployment.serve() as server, server.client(tenant) as api:
        assert api.post("/api/v1/memories", json={"agent_id": "ada", "content": "before"}).status_code == 201
        if how == "moved":
            journal.rename(away)
        elif how == "deleted":
            journal.unlink()
        else:
            away.write_bytes(journal.read_bytes())
            away.rename(journal)
        for attempt in attempts(api):
            answer = attempt()
            assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable"), answer.text
            assert str(deployment.folder) not in answer.text
        assert api.get("/health").status_code == 200
        assert "journal.db was deleted, moved or replaced" in server.err


def test_a_journal_that_comes_back_serves_again(deployment: Deployment) -> None:
    """The very same file under its name again: nothing acknowledged is missing, nothing refused is there."""
    tenant = deployment.tenant()
    journal, away = deployment.data / "journal.db", deployment.folder / "away"
    with deployment.serve() as server, server.client(tenant) as api:
        before = api.post("/api/v1/memories", json={"agent_id": "ada", "content": "before"}).json()
        journal.rename(away)
        for attempt in attempts(api):
            assert attempt().status_code == 503
        away.rename(journal)
        after = api.post("/api/v1/memories", json={"agent_id": "ada", "content": "after"}).json()
        found = api.get("/api/v1/memories", params={"order": "asc"}).json()["memories"]
        assert found == [before, after]
        assert server.stop() == 0
    with deployment.serve() as server, server.client(tenant) as api:
        assert api.get("/api/v1/memories", params={"order": "asc"}).json()["memories"] == [before, after]
