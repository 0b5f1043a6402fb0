"""From what callers send to the core's queries."""

from __future__ import annotations

from datetime import datetime

from memtrace_core import rules
from memtrace_core.errors import InvalidInput
from memtrace_core.query import MemoryQuery, Order, Position, decode_cursor, encode_cursor
from memtrace_core.timewindow import parse_bound
from memtrace_http.schemas import FilterQuery, SearchBody

DEFAULT_LIMIT = 100


def listing(
    org_id: str,
    filters: FilterQuery,
    now: datetime,
    *,
    agent_id: str | None = None,
    session_id: str | None = None,
    default_since: str | None = None,
) -> MemoryQuery:
    """Return the query for a listing; `agent_id` and `session_id` are what the path or the filters name."""
    order = order_of(filters.order)
    # A query has several of each; whoever is told of a mistake gave one.
    if filters.memory_type is not None:
        rules.memory_type(filters.memory_type, "memory_type")
    if filters.event_type is not None:
        rules.event_type(filters.event_type, "event_type")
    return MemoryQuery(
        org_id=org_id,
        agent_ids=_one(agent_id),
        session_ids=_one(session_id),
        memory_types=_one(filters.memory_type),
        event_types=_one(filters.event_type),
        tags=tuple(filters.tags.split(",")) if filters.tags else (),
        since=bound(filters.since or default_since, "since", now),
        until=bound(filters.until, "until", now),
        order=order,
        after=after(filters.cursor, order),
        offset=filters.offset or 0,
        limit=DEFAULT_LIMIT if filters.limit is None else filters.limit,
    )


def search(org_id: str, body: SearchBody, now: datetime) -> MemoryQuery:
    """Return the query for a search."""
    order = order_of(body.order)
    return MemoryQuery(
        org_id=org_id,
        agent_ids=_one(body.agent_id),
        session_ids=_one(body.session_id),
        memory_types=tuple(body.memory_types or ()),
        event_types=tuple(body.event_types or ()),
        tags=tuple(body.tags or ()),
        content_contains=body.content_contains,
        min_importance=body.min_importance,
        max_importance=body.max_importance,
        since=bound(body.since, "since", now),
        until=bound(body.until, "until", now),
        order=order,
        after=after(body.cursor, order),
        offset=body.offset or 0,
        limit=DEFAULT_LIMIT if body.limit is None else body.limit,
    )


def bound(text: str | None, field: str, now: datetime) -> datetime | None:
    """Read an optional `since` or `until`."""
    return None if text is None else parse_bound(text, field=field, now=now)


def order_of(text: str | None) -> Order:
    """Read an optional order; newest first if there is none."""
    if text is None or text == "desc":
        return "desc"
    if text == "asc":
        return "asc"
    raise InvalidInput("order must be desc or asc")


def after(cursor: str | None, order: Order) -> Position | None:
    """Read an optional cursor."""
    return None if cursor is None else decode_cursor(cursor, order)


def cursor_of(following: Position | None, order: Order) -> str | None:
    """Return the cursor of the page that begins after a position, None on the last page."""
    return None if following is None else encode_cursor(following, order)


def _one(value: str | None) -> tuple[str, ...]:
    return () if value is None else (value,)
