"""Sessions: start, look up, close, and their context for a prompt."""

from __future__ import annotations

from typing import cast

import msgspec
from litestar import get, post, put

from memtrace_core import rules
from memtrace_core.context import SessionContext
from memtrace_core.errors import InvalidInput
from memtrace_core.model import Permission, Session, SessionStatus
from memtrace_http import filters
from memtrace_http.edge import path_text
from memtrace_http.endpoints import Endpoint, declare
from memtrace_http.requests import HttpRequest, decode, query_of, read_body, services_of
from memtrace_http.routes.memories import memory_page
from memtrace_http.schemas import (
    ContextBody,
    MemoryPage,
    NewSession,
    SessionChange,
    SessionMemoriesQuery,
    SessionPage,
    SessionsQuery,
)

DEFAULT_SINCE = "24h"

_NEW = msgspec.json.Decoder(NewSession)
_CHANGE = msgspec.json.Decoder(SessionChange)
_CONTEXT = msgspec.json.Decoder(ContextBody)


@post(
    "/api/v1/sessions",
    opt=declare(
        Endpoint(
            summary="Start a session",
            permission=Permission.WRITE,
            body=(NewSession,),
            answers={201: (Session,)},
            problems=(400, 408, 413, 503),
        )
    ),
)
async def create_session(request: HttpRequest) -> Session:
    """Start a session."""
    new = decode(await read_body(request), _NEW)
    return await services_of(request).sessions.create(request.user.org_id, new.agent_id, new.metadata)


@get(
    "/api/v1/sessions",
    opt=declare(
        Endpoint(
            summary="List sessions, newest first",
            permission=Permission.READ,
            query=SessionsQuery,
            answers={200: (SessionPage,)},
            problems=(400, 503),
        )
    ),
)
async def list_sessions(request: HttpRequest) -> SessionPage:
    """List sessions, newest first."""
    query = query_of(request, SessionsQuery)
    sessions, following = await services_of(request).sessions.page(
        request.user.org_id,
        query.agent_id,
        rules.MAX_LIMIT if query.limit is None else query.limit,
        filters.after(query.cursor, "desc"),
    )
    return SessionPage(
        sessions=sessions,
        count=len(sessions),
        has_more=following is not None,
        next_cursor=filters.cursor_of(following, "desc"),
    )


@get(
    "/api/v1/sessions/{session_id:str}",
    opt=declare(
        Endpoint(
            summary="Get a session", permission=Permission.READ, answers={200: (Session,)}, problems=(404, 503)
        )
    ),
)
async def get_session(request: HttpRequest) -> Session:
    """Return one session."""
    return await services_of(request).sessions.get(request.user.org_id, _session_id(request))


@put(
    "/api/v1/sessions/{session_id:str}",
    opt=declare(
        Endpoint(
            summary="Close or reopen a session, and merge metadata key by key",
            permission=Permission.WRITE,
            body=(SessionChange,),
            answers={200: (Session,)},
            problems=(400, 404, 408, 413, 503),
        )
    ),
)
async def update_session(request: HttpRequest) -> Session:
    """Change a session."""
    change = decode(await read_body(request), _CHANGE)
    if change.status not in (None, "active", "closed"):
        raise InvalidInput("status must be active or closed")
    return await services_of(request).sessions.update(
        request.user.org_id,
        _session_id(request),
        status=cast(SessionStatus | None, change.status),
        metadata=change.metadata,
    )


@get(
    "/api/v1/sessions/{session_id:str}/memories",
    opt=declare(
        Endpoint(
            summary="List a session's memories",
            permission=Permission.READ,
            query=SessionMemoriesQuery,
            answers={200: (MemoryPage,)},
            problems=(400, 503, 504),
        )
    ),
)
async def list_session_memories(request: HttpRequest) -> MemoryPage:
    """List what was stored in a session."""
    given = query_of(request, SessionMemoriesQuery)
    query = filters.listing(
        request.user.org_id,
        given,
        services_of(request).clock.now(),
        agent_id=given.agent_id,
        session_id=_session_id(request),
    )
    return await memory_page(request, query)


@post(
    "/api/v1/sessions/{session_id:str}/context",
    status_code=200,
    opt=declare(
        Endpoint(
            summary="Write a session's memories as Markdown for a prompt",
            permission=Permission.READ,
            body=(ContextBody,),
            optional_body=True,
            answers={200: (SessionContext,)},
            problems=(400, 408, 413, 503, 504),
        )
    ),
)
async def get_session_context(request: HttpRequest) -> SessionContext:
    """Return a session's context."""
    services = services_of(request)
    raw = await read_body(request)
    body = decode(raw, _CONTEXT) if raw else ContextBody()
    now = services.clock.now()
    return await services.memories.context(
        request.user.org_id,
        _session_id(request),
        since=filters.bound(DEFAULT_SINCE if body.since is None else body.since, "since", now),
        until=filters.bound(body.until, "until", now),
        include_types=body.include_types or (),
        exclude_types=body.exclude_types or (),
        max_tokens=body.max_tokens,
        order=filters.order_of(body.order),
    )


def _session_id(request: HttpRequest) -> str:
    return path_text(str(request.path_params["session_id"]))


HANDLERS = [
    create_session,
    list_sessions,
    get_session,
    update_session,
    list_session_memories,
    get_session_context,
]
