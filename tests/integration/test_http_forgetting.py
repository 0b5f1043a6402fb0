"""Forgetting over HTTP: who may, what is answered, and that no route shows it afterwards."""

import pytest
from integration.asgi import with_client

API = "/api/v1"


async def stored(client):
    """Store three memories, and return their ids: two of ada's, one of them in a session, and one of bob's."""
    made = [
        {"agent_id": "ada", "content": "one", "session_id": "s1"},
        {"agent_id": "ada", "content": "two"},
        {"agent_id": "bob", "content": "three", "session_id": "s1"},
    ]
    answer = await client.request("POST", f"{API}/memories", {"memories": made})
    return [one["memory_id"] for one in answer.json["memories"]]


async def shown(client):
    """Return the contents that lists show."""
    answer = await client.get(f"{API}/memories?order=asc")
    return [one["content"] for one in answer.json["memories"]]


def test_a_memory_is_forgotten_by_its_id():
    """It is gone from every route; the second time it is not found, and its content may be stored again."""

    @with_client()
    async def body(client):
        first, *_ = await stored(client)
        answer = await client.request("DELETE", f"{API}/memories/{first}")
        assert (answer.status, answer.json) == (
            200,
            {"status": "forgotten", "removed": 1, "pending_in_arc": False},
        )
        assert await shown(client) == ["two", "three"]
        assert (await client.get(f"{API}/memories/{first}")).status == 404
        assert (await client.request("POST", f"{API}/search", {"content_contains": "one"})).json["count"] == 0
        assert (await client.get(f"{API}/agents/ada/stats")).json["memory_count"] == 1
        context = await client.request("POST", f"{API}/sessions/s1/context", {})
        assert (context.json["memory_count"], "one" in context.json["context"]) == (1, False)
        again = await client.request("DELETE", f"{API}/memories/{first}")
        assert (again.status, again.json["error"]) == (404, "memory not found")
        assert await client.request("POST", f"{API}/memories", {"agent_id": "ada", "content": "one"})
        assert await shown(client) == ["two", "three", "one"]


@pytest.mark.parametrize(
    ("target", "left", "removed"),
    [("agents/ada", ["three"], 2), ("sessions/s1", ["two"], 2), ("agents/nobody", ["one", "two", "three"], 0)],
)
def test_all_of_an_agent_or_a_session_is_forgotten(target, left, removed):
    """What it is about need not be registered, and nothing to forget is no error."""

    @with_client()
    async def body(client):
        await stored(client)
        answer = await client.request("DELETE", f"{API}/{target}/memories")
        assert (answer.status, answer.json["removed"]) == (200, removed)
        assert await shown(client) == left


@pytest.mark.parametrize("target", ["agents/1", "sessions/a%20b"])
def test_an_id_that_is_none_is_refused(target):
    """The rule for identifiers is the same as everywhere."""

    @with_client()
    async def body(client):
        answer = await client.request("DELETE", f"{API}/{target}/memories")
        assert answer.status == 400
        assert "must" in answer.json["error"]


def test_a_registered_agent_stays():
    """Its memories go, it does not."""

    @with_client()
    async def body(client):
        await client.request("POST", f"{API}/agents", {"name": "ada"})
        await stored(client)
        await client.request("DELETE", f"{API}/agents/ada/memories")
        assert (await client.get(f"{API}/agents/ada")).status == 200
