"""Agents and sessions over HTTP."""

from __future__ import annotations

import re
from datetime import datetime
from urllib.parse import quote

import httpx
import pytest

NAMES = [
    "web crawler",
    "a/b",
    "/",
    "100%",
    "ключ?#",
    "..",
    "a+b;c",
    "🙂",
    "'; DROP TABLE agents; --",
    "stats",
    "a//b/",
]


def raw(api: httpx.Client, method: str, path: str) -> httpx.Response:
    """Send a path as it is written: httpx would clean it up."""
    return api.request(method, httpx.URL(api.base_url, raw_path=path.encode()))


def test_an_agent_is_answered_as_registered(api: httpx.Client) -> None:
    """The 201 has an id, the org and the time; optional members are left out when absent."""
    response = api.post("/api/v1/agents", json={"name": "ada"})
    assert response.status_code == 201
    agent = response.json()
    assert agent.keys() == {"id", "org_id", "name", "created_at"}
    assert re.fullmatch(r"agent_[0-9a-f]{24}", agent["id"])
    assert agent["created_at"].endswith("Z")
    assert api.get(f"/api/v1/agents/{agent['id']}").json() == agent
    assert api.get("/api/v1/agents").json() == {"agents": [agent], "count": 1, "has_more": False}


@pytest.mark.parametrize("name", NAMES)
def test_an_agent_is_found_by_any_name(api: httpx.Client, name: str) -> None:
    """A name in a path, percent-encoded, names its agent, slashes and dots included; so does a deletion."""
    decoy = api.post("/api/v1/agents", json={"name": "decoy"}).json()
    agent = api.post("/api/v1/agents", json={"name": name}).json()
    path = "/api/v1/agents/" + quote(name, safe="").replace(".", "%2E")
    assert raw(api, "GET", path).json() == agent
    assert raw(api, "DELETE", path).status_code == 204
    assert raw(api, "GET", path).status_code == 404
    assert api.get("/api/v1/agents").json()["agents"] == [decoy]


def test_a_deleted_agent_leaves_its_memories_and_sessions(api: httpx.Client) -> None:
    """Deleting an agent takes the registration only; a second deletion is a 404."""
    agent = api.post("/api/v1/agents", json={"name": "ada"}).json()["id"]
    session = api.post("/api/v1/sessions", json={"agent_id": "ada"}).json()
    memory = api.post("/api/v1/memories", json={"agent_id": "ada", "content": "x"}).json()
    gone = api.delete(f"/api/v1/agents/{agent}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert api.delete(f"/api/v1/agents/{agent}").json()["error"] == "agent not found"
    assert api.get("/api/v1/agents/ada/memories").json()["memories"] == [memory]
    assert api.get("/api/v1/sessions").json()["sessions"] == [session]
    assert api.post("/api/v1/agents", json={"name": "ada"}).status_code == 201


def test_an_agent_is_active_under_its_id_and_its_name(api: httpx.Client) -> None:
    """`last_active_at` follows the newest write under either, in the agent and in its counts."""
    agent = api.post("/api/v1/agents", json={"name": "ada"}).json()["id"]
    for agent_id in ("ada", agent, "ada"):
        time = api.post(
            "/api/v1/memories", json={"agent_id": agent_id, "content": "x", "dedup_key": "k" + agent_id[:2]}
        )
        if time.status_code == 201:
            newest = time.json()["time"]
        assert api.get("/api/v1/agents/ada").json()["last_active_at"] == newest
        assert api.get("/api/v1/agents").json()["agents"][0]["last_active_at"] == newest
        assert api.get(f"/api/v1/agents/{agent}/stats").json()["last_active_at"] == newest


def test_a_session_is_closed_and_reopened(api: httpx.Client) -> None:
    """Closing stamps the session, reopening takes the stamp away, and metadata is merged key by key."""
    response = api.post("/api/v1/sessions", json={"agent_id": "ada", "metadata": {"a": 1, "b": {"c": 2}}})
    assert response.status_code == 201
    session = response.json()
    assert session.keys() == {"id", "org_id", "agent_id", "status", "metadata", "created_at", "updated_at"}
    assert re.fullmatch(r"sess_[0-9a-f]{24}", session["id"])
    path = f"/api/v1/sessions/{session['id']}"

    closed = api.put(path, json={"status": "closed", "metadata": {"b": {"d": 3}, "e": None}}).json()
    assert closed["status"] == "closed"
    assert closed["metadata"] == {"a": 1, "b": {"d": 3}, "e": None}
    assert closed["created_at"] == session["created_at"]
    assert datetime.fromisoformat(closed["closed_at"]) > datetime.fromisoformat(session["updated_at"])
    assert closed["updated_at"] == closed["closed_at"]
    assert api.get(path).json() == closed

    reopened = api.put(path, json={"status": "active"}).json()
    assert reopened["status"] == "active"
    assert "closed_at" not in reopened
    assert reopened["metadata"] == closed["metadata"]


def test_closing_twice_keeps_the_first_time(api: httpx.Client) -> None:
    """A session that is closed already keeps the time at which it was."""
    session = api.post("/api/v1/sessions", json={"agent_id": "ada"}).json()["id"]
    first = api.put(f"/api/v1/sessions/{session}", json={"status": "closed"}).json()
    second = api.put(f"/api/v1/sessions/{session}", json={"status": "closed"}).json()
    assert second["closed_at"] == first["closed_at"]


def test_sessions_are_listed_by_agent(api: httpx.Client) -> None:
    """The list is newest first, and can be of one agent."""
    made = [api.post("/api/v1/sessions", json={"agent_id": agent}).json() for agent in ("ada", "bob", "ada")]
    assert api.get("/api/v1/sessions").json() == {"sessions": made[::-1], "count": 3, "has_more": False}
    assert api.get("/api/v1/sessions", params={"agent_id": "ada"}).json()["sessions"] == [made[2], made[0]]
    assert api.get("/api/v1/sessions", params={"agent_id": "eve"}).json()["count"] == 0


def test_an_unknown_session_is_a_404(api: httpx.Client) -> None:
    """Reading and changing a session that does not exist say so."""
    for response in (
        api.get("/api/v1/sessions/sess_unknown"),
        api.put("/api/v1/sessions/sess_unknown", json={"status": "closed"}),
    ):
        assert response.status_code == 404
        assert response.json()["error"] == "session not found"


def test_counts_are_exact(api: httpx.Client) -> None:
    """Counts tell one agent's memories by type, its errors and its sessions, and no other agent's."""
    for memory_type, event_type, number in (
        ("episodic", "general", 3),
        ("decision", "error", 2),
        ("entity", "seen", 1),
    ):
        for index in range(number):
            body = {"agent_id": "ada", "memory_type": memory_type, "event_type": event_type, "content": f"{index}"}
            assert api.post("/api/v1/memories", json=body).status_code == 201
    newest = api.post("/api/v1/memories", json={"agent_id": "ada", "content": "newest"}).json()
    api.post("/api/v1/memories", json={"agent_id": "bob", "content": "another's"})
    session = api.post("/api/v1/sessions", json={"agent_id": "ada"}).json()["id"]
    api.post("/api/v1/sessions", json={"agent_id": "ada"})
    api.put(f"/api/v1/sessions/{session}", json={"status": "closed"})
    assert api.get("/api/v1/agents/ada/stats").json() == {
        "agent_id": "ada",
        "memory_count": 7,
        "memories_24h": 7,
        "errors_24h": 2,
        "session_count": 2,
        "active_sessions": 1,
        "last_active_at": newest["time"],
        "memory_types": {"episodic": 4, "decision": 2, "entity": 1},
    }
