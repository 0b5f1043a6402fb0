"""A walk over the whole surface of the published client, for whatever store the org has."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from memtrace import (
    AddMemoryRequest,
    AsyncMemtrace,
    ConflictError,
    ContextOptions,
    CreateSessionRequest,
    ListOptions,
    Memtrace,
    MemtraceError,
    NotFoundError,
    RegisterAgentRequest,
    SearchQuery,
)


class Recorder:
    """Calls a client's methods, sync or async alike, and notes which."""

    def __init__(self, client: Memtrace | AsyncMemtrace) -> None:
        self._client = client
        self.called: set[str] = set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            self.called.add(name)
            answer = method(*arguments, **named)
            return await answer if inspect.isawaitable(answer) else answer

        return call


def public_methods(client: type) -> set[str]:
    """Return the names of a client's public methods."""
    return {name for name, _ in inspect.getmembers(client, inspect.isfunction) if not name.startswith("_")}


def request(agent_id: str = "crawler", content: str = "something happened", **fields: Any) -> AddMemoryRequest:
    """Return a memory to add."""
    return AddMemoryRequest(
        **{"agent_id": agent_id, "memory_type": "episodic", "event_type": "general", "content": content, **fields}
    )


async def walk(client: Recorder, org_id: str) -> None:
    """Call every method of a client once or more, and check every answer."""
    agent = await client.register_agent(
        RegisterAgentRequest(name="crawler", description="crawls", config={"depth": 2})
    )
    assert (agent.org_id, agent.name, agent.description, agent.config) == (
        org_id,
        "crawler",
        "crawls",
        {"depth": 2},
    )
    assert [one.id for one in (await client.list_agents()).agents] == [agent.id]
    assert (await client.get_agent(agent.id)).name == "crawler"
    assert (await client.get_agent("crawler")).id == agent.id

    session = await client.create_session(CreateSessionRequest(agent_id="crawler", metadata={"task": "prices"}))
    assert (session.status, session.metadata, session.closed_at) == ("active", {"task": "prices"}, None)
    assert (await client.get_session(session.id)) == session
    assert [one.id for one in (await client.list_sessions()).sessions] == [session.id]
    assert [one.id for one in (await client.list_sessions("crawler")).sessions] == [session.id]
    assert (await client.list_sessions("another")).sessions == []

    remembered = await client.remember("crawler", "Crawled the shop")
    assert (remembered.memory_type, remembered.event_type) == ("episodic", "general")
    assert remembered.org_id == org_id
    assert remembered.time.utcoffset() is not None
    decided = await client.decide("crawler", "Skip pagination", "only 2 pages deep")
    assert (decided.memory_type, decided.metadata) == ("decision", {"reasoning": "only 2 pages deep"})
    full = await client.add_memory(
        request(
            content="Price is 5 €",
            session_id=session.id,
            event_type="price_seen",
            metadata={"nested": {"list": [1, 2.5, None, "é"]}},
            tags=["shop", "price.eur"],
            dedup_key="price/5",
            importance=0.75,
            parent_id="mem_0",
        )
    )
    assert full.metadata == {"nested": {"list": [1, 2.5, None, "é"]}}
    assert (full.tags, full.dedup_key, full.importance) == (["shop", "price.eur"], "price/5", 0.75)
    assert (full.session_id, full.parent_id) == (session.id, "mem_0")
    several = await client.add_memories([request(content="one", session_id=session.id), request(content="two")])
    assert [one.content for one in several] == ["one", "two"]

    newest_first = ["two", "one", "Price is 5 €", "Skip pagination", "Crawled the shop"]
    assert [one.content for one in (await client.recall("crawler")).memories] == newest_first
    listed = await client.list_memories(ListOptions(agent_id="crawler", limit=2, offset=1, order="asc", since="1h"))
    assert [one.content for one in listed.memories] == ["Skip pagination", "Price is 5 €"]
    assert (listed.count, listed.has_more) == (2, True)
    assert (await client.list_memories(ListOptions(tags="shop,price.eur"))).memories == [full]
    found = await client.search_memories(
        SearchQuery(content_contains="PRICE IS", memory_types=["episodic"], tags=["shop"], min_importance=0.5)
    )
    assert (found.results, found.count) == ([full], 1)
    assert [one.content for one in (await client.get_agent_memories("crawler")).memories] == newest_first
    options = ListOptions(agent_id="crawler", limit=1)
    assert [one.content for one in (await client.get_agent_memories("crawler", options)).memories] == ["two"]
    in_session = await client.get_session_memories(session.id)
    assert [one.content for one in in_session.memories] == ["one", "Price is 5 €"]
    options = ListOptions(session_id=session.id, order="asc", limit=1)
    assert (await client.get_session_memories(session.id, options)).memories == [full]

    context = await client.get_session_context(session.id)
    assert context.memory_count == 2
    assert context.context.startswith(f"## Session Context ({session.id})\n\n### Recent Actions (2)\n- [")
    options = ContextOptions(max_tokens=400, include_types=["decision"], since="1h")
    assert (await client.get_session_context(session.id, options)).memory_count == 0

    stats = await client.get_agent_stats("crawler")
    assert (stats.memory_count, stats.memories_24h, stats.errors_24h) == (5, 5, 0)
    assert (stats.session_count, stats.active_sessions) == (1, 1)
    assert stats.memory_types == {"episodic": 4, "decision": 1}
    assert stats.last_active_at == several[1].time
    assert (await client.get_agent("crawler")).last_active_at == several[1].time

    closed = await client.close_session(session.id)
    assert closed.status == "closed"
    assert closed.closed_at is not None
    assert (await client.get_agent_stats("crawler")).active_sessions == 0
    await client.delete_agent("crawler")
    assert (await client.list_agents()).count == 0
    await client.close()


async def fail(client: Any) -> None:
    """Provoke each of the client's errors that a good key can get."""
    await client.register_agent(RegisterAgentRequest(name="twice"))
    with pytest.raises(ConflictError):
        await client.register_agent(RegisterAgentRequest(name="twice"))
    await client.remember("crawler", "the same")
    with pytest.raises(ConflictError, match=r"^duplicate memory$"):
        await client.remember("crawler", "the same")
    with pytest.raises(NotFoundError, match=r"^agent not found$"):
        await client.get_agent("nobody")
    with pytest.raises(NotFoundError, match=r"^agent not found$"):
        await client.delete_agent("nobody")
    with pytest.raises(NotFoundError, match=r"^session not found$"):
        await client.get_session("sess_unknown")
    with pytest.raises(NotFoundError, match=r"^session not found$"):
        await client.close_session("sess_unknown")
    with pytest.raises(MemtraceError, match="limit") as caught:
        await client.list_memories(ListOptions(limit=1001))
    assert caught.value.status_code == 400
