"""The tools of `memtrace mcp`: what each asks of the HTTP API, and how it tells the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from memtrace_cli.mcp.api import Api, Conflict, Duplicate, ToolFailure
from memtrace_cli.mcp.arguments import (
    Arguments,
    CreateSession,
    Decide,
    ReadContext,
    Recall,
    RegisterAgent,
    Remember,
    Search,
)
from memtrace_core.context import SessionContext
from memtrace_core.model import Agent, Memory, Session
from memtrace_http.schemas import Answer, MemoryPage, SearchPage


class Remembered(Answer, frozen=True):
    """What became of a memory: the stored one, or of a duplicate the id of the one that is kept."""

    memory_id: str
    duplicate: bool
    time: datetime | None = None
    org_id: str | None = None
    agent_id: str | None = None
    session_id: str | None = None
    memory_type: str | None = None
    event_type: str | None = None
    content: str | None = None
    metadata: dict[str, object] | None = None
    tags: tuple[str, ...] | None = None
    dedup_key: str | None = None
    importance: float | None = None
    parent_id: str | None = None


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool. `text` says an answer to a model that only reads text; `writes` if it changes anything."""

    name: str
    title: str
    arguments: type[Arguments]
    answer: type[msgspec.Struct]
    call: Callable[[Api, Any], Awaitable[msgspec.Struct]]
    text: Callable[[Any], str]
    writes: bool = False
    idempotent: bool = True


async def _remember(api: Api, given: Remember) -> Remembered:
    return await _stored(api, _given(given))


async def _decide(api: Api, given: Decide) -> Remembered:
    fields = _given(given)
    reasoning = {"reasoning": fields.pop("reasoning")}
    content = fields.pop("decision")
    return await _stored(
        api,
        {**fields, "content": content, "metadata": reasoning, "memory_type": "decision", "event_type": "decision"},
    )


async def _stored(api: Api, body: dict[str, object]) -> Remembered:
    try:
        memory = await api.post("/api/v1/memories", body, Memory, writes=True)
    except Duplicate as duplicate:
        return Remembered(memory_id=duplicate.memory_id, duplicate=True)
    return Remembered(duplicate=False, **msgspec.structs.asdict(memory))


async def _recall(api: Api, given: Recall) -> MemoryPage:
    query = {**_given(given), "tags": ",".join(given.tags) if given.tags else None}
    return await api.get("/api/v1/memories", query, MemoryPage)


async def _search(api: Api, given: Search) -> SearchPage:
    return await api.post("/api/v1/search", _given(given), SearchPage, writes=False)


async def _create_session(api: Api, given: CreateSession) -> Session:
    return await api.post("/api/v1/sessions", _given(given), Session, writes=True)


async def _read_context(api: Api, given: ReadContext) -> SessionContext:
    fields = _given(given)
    session = quote(str(fields.pop("session_id")), safe="")
    return await api.post(f"/api/v1/sessions/{session}/context", fields, SessionContext, writes=False)


async def _register_agent(api: Api, given: RegisterAgent) -> Agent:
    try:
        return await api.post("/api/v1/agents", _given(given), Agent, writes=True)
    except Conflict:
        raise ToolFailure(
            f"an agent named {given.name!r} is registered already. There is no need to register it again: "
            "use this name as agent_id, or register another name."
        ) from None


def _given(arguments: Arguments) -> dict[str, Any]:
    return msgspec.structs.asdict(arguments)


def _remembered(answer: Remembered) -> str:
    if answer.duplicate:
        return f"Stored before as {answer.memory_id}; nothing was added."
    return f"Stored as {answer.memory_id}."


def _session(answer: Session) -> str:
    return f"Session {answer.id} has begun; use this as session_id."


def _context(answer: SessionContext) -> str:
    if answer.memory_count:
        return answer.context
    return (
        f"Session {answer.session_id} has no memories in this time: it is new, or they are older than `since` "
        "(24h unless given), or this is not the id that memtrace_session_create gave."
    )


def _json(answer: msgspec.Struct) -> str:
    return msgspec.json.encode(answer).decode()


TOOLS = (
    Tool(
        name="memtrace_remember",
        title="Remember",
        arguments=Remember,
        answer=Remembered,
        call=_remember,
        text=_remembered,
        writes=True,
    ),
    Tool(
        name="memtrace_recall",
        title="Recall recent memories",
        arguments=Recall,
        answer=MemoryPage,
        call=_recall,
        text=_json,
    ),
    Tool(
        name="memtrace_search",
        title="Search memories",
        arguments=Search,
        answer=SearchPage,
        call=_search,
        text=_json,
    ),
    Tool(
        name="memtrace_decide",
        title="Remember a decision",
        arguments=Decide,
        answer=Remembered,
        call=_decide,
        text=_remembered,
        writes=True,
    ),
    Tool(
        name="memtrace_session_create",
        title="Start a session",
        arguments=CreateSession,
        answer=Session,
        call=_create_session,
        text=_session,
        writes=True,
        idempotent=False,
    ),
    Tool(
        name="memtrace_session_context",
        title="Read a session's context",
        arguments=ReadContext,
        answer=SessionContext,
        call=_read_context,
        text=_context,
    ),
    Tool(
        name="memtrace_agent_register",
        title="Register an agent",
        arguments=RegisterAgent,
        answer=Agent,
        call=_register_agent,
        text=_json,
        writes=True,
        idempotent=False,
    ),
)
