"""Agents: register, look up, count, delete."""

from __future__ import annotations

import msgspec
from litestar import delete, get, post

from memtrace_core import rules
from memtrace_core.agents import AgentStats
from memtrace_core.model import Agent, Permission
from memtrace_http import filters
from memtrace_http.edge import path_text
from memtrace_http.endpoints import Endpoint, declare
from memtrace_http.requests import HttpRequest, decode, query_of, read_body, services_of
from memtrace_http.routes.memories import memory_page
from memtrace_http.schemas import AgentMemoriesQuery, AgentPage, MemoryPage, NewAgent, PageQuery

DEFAULT_SINCE = "24h"

_NEW = msgspec.json.Decoder(NewAgent)


@post(
    "/api/v1/agents",
    opt=declare(
        Endpoint(
            summary="Register an agent",
            permission=Permission.WRITE,
            body=(NewAgent,),
            answers={201: (Agent,)},
            problems=(400, 408, 409, 413, 503),
        )
    ),
)
async def register_agent(request: HttpRequest) -> Agent:
    """Register an agent."""
    new = decode(await read_body(request), _NEW)
    return await services_of(request).agents.register(request.user.org_id, new.name, new.description, new.config)


@get(
    "/api/v1/agents",
    opt=declare(
        Endpoint(
            summary="List agents, newest first",
            permission=Permission.READ,
            query=PageQuery,
            answers={200: (AgentPage,)},
            problems=(400, 503),
        )
    ),
)
async def list_agents(request: HttpRequest) -> AgentPage:
    """List agents, newest first."""
    query = query_of(request, PageQuery)
    agents, following = await services_of(request).agents.page(
        request.user.org_id,
        rules.MAX_LIMIT if query.limit is None else query.limit,
        filters.after(query.cursor, "desc"),
    )
    return AgentPage(
        agents=agents,
        count=len(agents),
        has_more=following is not None,
        next_cursor=filters.cursor_of(following, "desc"),
    )


@get(
    "/api/v1/agents/{agent:str}",
    opt=declare(
        Endpoint(
            summary="Get an agent by id or by name",
            permission=Permission.READ,
            answers={200: (Agent,)},
            problems=(404, 503),
        )
    ),
)
async def get_agent(request: HttpRequest) -> Agent:
    """Return one agent."""
    return await services_of(request).agents.get(request.user.org_id, _id_or_name(request))


@delete(
    "/api/v1/agents/{agent:str}",
    status_code=204,
    opt=declare(
        Endpoint(
            summary="Delete an agent; its memories and sessions stay",
            permission=Permission.WRITE,
            answers={204: ()},
            problems=(404, 503),
        )
    ),
)
async def delete_agent(request: HttpRequest) -> None:
    """Delete an agent."""
    await services_of(request).agents.delete(request.user.org_id, _id_or_name(request))


@get(
    "/api/v1/agents/{agent_id:str}/memories",
    opt=declare(
        Endpoint(
            summary="List an agent's memories, of the last 24 hours unless asked otherwise",
            permission=Permission.READ,
            query=AgentMemoriesQuery,
            answers={200: (MemoryPage,)},
            problems=(400, 503, 504),
        )
    ),
)
async def list_agent_memories(request: HttpRequest) -> MemoryPage:
    """List what an agent stored."""
    given = query_of(request, AgentMemoriesQuery)
    query = filters.listing(
        request.user.org_id,
        given,
        services_of(request).clock.now(),
        agent_id=_agent_id(request),
        session_id=given.session_id,
        default_since=DEFAULT_SINCE,
    )
    return await memory_page(request, query)


@get(
    "/api/v1/agents/{agent_id:str}/stats",
    opt=declare(
        Endpoint(
            summary="Count an agent's memories and sessions",
            permission=Permission.READ,
            answers={200: (AgentStats,)},
            problems=(400, 503, 504),
        )
    ),
)
async def get_agent_stats(request: HttpRequest) -> AgentStats:
    """Return an agent in numbers."""
    return await services_of(request).agents.stats(request.user.org_id, _agent_id(request))


def _agent_id(request: HttpRequest) -> str:
    return path_text(str(request.path_params["agent_id"]))


def _id_or_name(request: HttpRequest) -> str:
    return path_text(str(request.path_params["agent"]))


HANDLERS = [register_agent, list_agents, get_agent, delete_agent, list_agent_memories, get_agent_stats]
