"""Two organizations with the same ids, tags and contents never meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from e2e.processes import Deployment, Server

AGENT, SESSION = "ada", "s1"


@pytest.fixture
def pair(shared: Deployment, server: Server) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Return clients of two fresh organizations of the same name."""
    with server.client(shared.tenant("twin")) as one, server.client(shared.tenant("twin")) as other:
        yield one, other


def fill(api: httpx.Client, number: int) -> list[dict[str, Any]]:
    """Store so many memories, the same for everybody."""
    stored = []
    for index in range(number):
        body = {
            "agent_id": AGENT, "session_id": SESSION, "content": f"step {index}", "tags": ["shared"],
            "dedup_key": f"key {index}", "event_type": "error", "importance": 0.5, "metadata": {"n": index},
        }  # fmt: skip
        response = api.post("/api/v1/memories", json=body)
        assert response.status_code == 201, response.text
        stored.append(response.json())
    return stored


def ids(response: httpx.Response) -> list[str]:
    """Return the memory ids of a page."""
    assert response.status_code == 200, response.text
    answer = response.json()
    return [one["memory_id"] for one in answer.get("memories", answer.get("results"))]


def test_the_same_memories_are_stored_for_both(pair: tuple[httpx.Client, httpx.Client]) -> None:
    """Equal contents and dedup keys are no duplicates across organizations, and every list holds its own only."""
    one, other = pair
    mine, theirs = fill(one, 3), fill(other, 5)
    assert {memory["org_id"] for memory in mine}.isdisjoint(memory["org_id"] for memory in theirs)
    for api, stored in ((one, mine), (other, theirs)):
        expected = [memory["memory_id"] for memory in reversed(stored)]
        window = {"agent_id": AGENT, "session_id": SESSION, "tags": "shared"}
        assert ids(api.get("/api/v1/memories")) == expected
        assert ids(api.get("/api/v1/memories", params=window)) == expected
        assert ids(api.get("/api/v1/memories", params={"offset": "1"})) == expected[1:]
        assert ids(api.post("/api/v1/search", json={"content_contains": "STEP", "min_importance": 0.5})) == expected
        assert ids(api.get(f"/api/v1/agents/{AGENT}/memories")) == expected
        assert ids(api.get(f"/api/v1/sessions/{SESSION}/memories")) == expected
        stats = api.get(f"/api/v1/agents/{AGENT}/stats").json()
        assert stats["memory_count"] == stats["memories_24h"] == stats["errors_24h"] == len(stored)
        assert stats["memory_types"] == {"episodic": len(stored)}
        assert stats["last_active_at"] == stored[-1]["time"]
        assert api.post(f"/api/v1/sessions/{SESSION}/context").json()["memory_count"] == len(stored)
        assert api.get("/api/v1/memories/key 0").json() == stored[0]


def test_a_memory_of_another_org_is_not_found(pair: tuple[httpx.Client, httpx.Client]) -> None:
    """Neither by its id nor by its dedup key, nor as a duplicate, is another organization's memory reached."""
    one, other = pair
    stored = fill(one, 1)[0]
    for reference in (stored["memory_id"], stored["dedup_key"]):
        response = other.get(f"/api/v1/memories/{reference}")
        assert response.status_code == 404
        assert stored["memory_id"] not in response.text.replace(f'"{reference}"', "")
    assert (
        other.post("/api/v1/memories", json={"agent_id": AGENT, "content": "x", "dedup_key": "key 0"}).status_code
        == 201
    )


def test_a_cursor_of_another_org_leads_to_ones_own_memories(pair: tuple[httpx.Client, httpx.Client]) -> None:
    """A cursor is a place in time, and shows the caller's memories only, wherever it came from."""
    one, other = pair
    mine, theirs = [], []
    for index in range(4):
        for api, stored in ((one, mine), (other, theirs)):
            stored.append(
                api.post("/api/v1/memories", json={"agent_id": AGENT, "content": f"{index}"}).json()["memory_id"]
            )
    cursor = one.get("/api/v1/memories", params={"limit": "2"}).json()["next_cursor"]
    assert ids(other.get("/api/v1/memories", params={"cursor": cursor})) == [theirs[1], theirs[0]]
    assert ids(other.post("/api/v1/search", json={"cursor": cursor})) == [theirs[1], theirs[0]]


def test_agents_of_one_name_are_two(pair: tuple[httpx.Client, httpx.Client]) -> None:
    """Both organizations have an agent of the name, and neither sees, counts or deletes the other's."""
    one, other = pair
    mine = one.post("/api/v1/agents", json={"name": AGENT, "description": "mine"}).json()
    theirs = other.post("/api/v1/agents", json={"name": AGENT, "description": "theirs"}).json()
    fill(one, 1)
    assert one.get(f"/api/v1/agents/{AGENT}").json()["description"] == "mine"
    assert other.get(f"/api/v1/agents/{AGENT}").json() == theirs
    assert [agent["id"] for agent in other.get("/api/v1/agents").json()["agents"]] == [theirs["id"]]
    for response in (other.get(f"/api/v1/agents/{mine['id']}"), other.delete(f"/api/v1/agents/{mine['id']}")):
        assert response.status_code == 404
    assert other.get(f"/api/v1/agents/{mine['id']}/stats").json()["memory_count"] == 0
    assert "last_active_at" not in other.get(f"/api/v1/agents/{mine['id']}/stats").json()
    assert other.delete(f"/api/v1/agents/{AGENT}").status_code == 204
    assert one.get(f"/api/v1/agents/{mine['id']}").json()["name"] == AGENT


def test_sessions_of_another_org_are_not_found(pair: tuple[httpx.Client, httpx.Client]) -> None:
    """A session is seen, listed, counted and changed by its own organization only."""
    one, other = pair
    mine = one.post("/api/v1/sessions", json={"agent_id": AGENT, "metadata": {"secret": 1}}).json()
    theirs = other.post("/api/v1/sessions", json={"agent_id": AGENT}).json()
    path = f"/api/v1/sessions/{mine['id']}"
    for response in (other.get(path), other.put(path, json={"status": "closed", "metadata": {"x": 1}})):
        assert response.status_code == 404
    assert one.get(path).json() == mine
    assert other.get("/api/v1/sessions", params={"agent_id": AGENT}).json()["sessions"] == [theirs]
    assert other.get(f"/api/v1/agents/{AGENT}/stats").json()["session_count"] == 1
    assert (
        one.post("/api/v1/memories", json={"agent_id": AGENT, "session_id": mine["id"], "content": "x"}).status_code
        == 201
    )
    assert ids(other.get(f"{path}/memories")) == []
    assert other.post(f"{path}/context").json()["memory_count"] == 0


def test_listing_agents_pages_within_the_org(pair: tuple[httpx.Client, httpx.Client]) -> None:
    """A cursor of another organization's agents or sessions shows one's own ones only."""
    one, other = pair
    for path, body in (("agents", lambda n: {"name": f"a{n}"}), ("sessions", lambda n: {"agent_id": AGENT})):
        theirs = []
        for number in range(3):
            one.post(f"/api/v1/{path}", json=body(number))
            theirs.append(other.post(f"/api/v1/{path}", json=body(number)).json()["id"])
        cursor = one.get(f"/api/v1/{path}", params={"limit": "1"}).json()["next_cursor"]
        seen = [one_["id"] for one_ in other.get(f"/api/v1/{path}", params={"cursor": cursor}).json()[path]]
        assert seen == theirs[1::-1]


@pytest.mark.parametrize("header", ["x-org-id", "x-memtrace-org", "org_id"])
def test_no_header_names_another_org(pair: tuple[httpx.Client, httpx.Client], header: str) -> None:
    """The key alone decides whose memories a request is about."""
    one, other = pair
    mine = fill(one, 1)[0]
    assert ids(other.get("/api/v1/memories", headers={header: mine["org_id"]})) == []
