"""The shapes of requests and answers, as JSON."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from memtrace_core import rules
from memtrace_core.agents import AgentStats
from memtrace_core.context import SessionContext
from memtrace_core.memories import NewMemory
from memtrace_core.model import Agent, Memory, Session

Text = str | None
Count = int | None
Texts = list[str] | None
Object = dict[str, object] | None


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request's body: unknown fields are refused, and null means absent."""


class NewMemories(Body, frozen=True):
    """A batch."""

    memories: Annotated[list[NewMemory], Meta(extra_json_schema={"minItems": 1, "maxItems": rules.MAX_BATCH})]


class SearchBody(Body, frozen=True):
    """A search; absent filters match everything."""

    agent_id: Text = None
    session_id: Text = None
    memory_types: Texts = None
    event_types: Texts = None
    tags: Texts = None
    content_contains: Text = None
    min_importance: float | None = None
    max_importance: float | None = None
    since: Text = None
    until: Text = None
    limit: Count = None
    offset: Count = None
    order: Text = None
    cursor: Text = None


class ContextBody(Body, frozen=True):
    """What a session's context shall hold."""

    since: Text = None
    until: Text = None
    include_types: Texts = None
    exclude_types: Texts = None
    max_tokens: Count = None
    order: Text = None


class NewAgent(Body, frozen=True):
    """An agent to register."""

    name: str
    description: Text = None
    config: Object = None


class NewSession(Body, frozen=True):
    """A session to start."""

    agent_id: str
    metadata: Object = None


class SessionChange(Body, frozen=True):
    """A session's new status, and metadata to merge in."""

    status: Text = None
    metadata: Object = None


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """The query parameters of a route."""


class PageQuery(Query, frozen=True):
    """A page of agents."""

    limit: Count = None
    cursor: Text = None


class SessionsQuery(PageQuery, frozen=True):
    """A page of sessions."""

    agent_id: Text = None


class FilterQuery(Query, frozen=True):
    """Filters and page of any listing of memories."""

    memory_type: Text = None
    event_type: Text = None
    tags: Text = None
    since: Text = None
    until: Text = None
    limit: Count = None
    offset: Count = None
    order: Text = None
    cursor: Text = None


class AgentMemoriesQuery(FilterQuery, frozen=True):
    """Filters and page of an agent's memories."""

    session_id: Text = None


class SessionMemoriesQuery(FilterQuery, frozen=True):
    """Filters and page of a session's memories."""

    agent_id: Text = None


class MemoriesQuery(AgentMemoriesQuery, frozen=True):
    """Filters and page of memories."""

    agent_id: Text = None


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A response's body: what is absent is left out."""


class DuplicateOf(msgspec.Struct, frozen=True):
    """A member of a batch that was stored before, and the memory that is kept."""

    index: int
    memory_id: str


class StoredMemories(msgspec.Struct, frozen=True):
    """What became of a batch."""

    memories: list[Memory]
    count: int
    duplicates: list[DuplicateOf]


class MemoryPage(Answer, frozen=True):
    """A page of memories."""

    memories: list[Memory]
    count: int
    has_more: bool
    next_cursor: Text = None


class SearchPage(Answer, frozen=True):
    """A page of search results."""

    results: list[Memory]
    count: int
    query_time_ms: int
    has_more: bool
    next_cursor: Text = None


class AgentPage(Answer, frozen=True):
    """A page of agents."""

    agents: list[Agent]
    count: int
    has_more: bool
    next_cursor: Text = None


class SessionPage(Answer, frozen=True):
    """A page of sessions."""

    sessions: list[Session]
    count: int
    has_more: bool
    next_cursor: Text = None


class ForgottenAnswer(msgspec.Struct, frozen=True):
    """No read shows it any more. `removed` memories were on this server and are gone; those in Arc are hidden, and
    deleted there as long as `pending_in_arc` is true.
    """

    status: Literal["forgotten"]
    removed: int
    pending_in_arc: bool


class HealthAnswer(msgspec.Struct, frozen=True):
    """The server is up; `arc` tells which orgs' instances were reachable at the last check."""

    status: Literal["ok"]
    service: Literal["memtrace"]
    uptime: str
    arc: dict[str, bool]


class ReadyAnswer(Answer, frozen=True):
    """Whether every configured instance is reachable."""

    status: Literal["ready", "not ready"]
    arc: dict[str, bool] | None = None
    reason: Text = None
    hint: Text = None


__all__ = [
    "Agent",
    "AgentMemoriesQuery",
    "AgentPage",
    "AgentStats",
    "ContextBody",
    "DuplicateOf",
    "ForgottenAnswer",
    "HealthAnswer",
    "MemoriesQuery",
    "Memory",
    "MemoryPage",
    "NewAgent",
    "NewMemories",
    "NewMemory",
    "NewSession",
    "PageQuery",
    "ReadyAnswer",
    "SearchBody",
    "SearchPage",
    "Session",
    "SessionChange",
    "SessionContext",
    "SessionMemoriesQuery",
    "SessionPage",
    "SessionsQuery",
    "StoredMemories",
]
