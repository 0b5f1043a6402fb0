"""Reads while so much is being forgotten that a statement has no room for it: what is left out is left out here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from memtrace_arc.sql import text_value
from memtrace_core.context import ERROR_EVENT
from memtrace_core.forgotten import sieve
from memtrace_core.model import AgentCounts, Memory
from memtrace_core.query import AgentCountQuery, Horizon, MemoryQuery, position_of

ROOM = 3_000  # bytes of a statement that may say what is forgotten
OF_AN_ID, OF_A_SCOPE = 34, 80  # bytes of a condition, beside the names in it
PAGE = 1_000

Ask = Callable[[MemoryQuery], Awaitable[list[Memory]]]


def most_excluded(horizon: Horizon | None) -> bool:
    """Tell whether a statement has no room to say what is forgotten."""
    if horizon is None:
        return False
    needed = sum(
        (OF_AN_ID if one.memory_id else OF_A_SCOPE)
        + sum(len(text_value(text)) for text in (one.agent_id, one.session_id) if text)
        for one in horizon.forgotten
    )
    return needed > ROOM


async def page_by_page(ask: Ask, query: MemoryQuery) -> list[Memory]:
    """Return the memories that match, of pages from which what is forgotten is taken out."""
    horizon = query.horizon
    if horizon is None:
        return await ask(query)
    left = sieve(horizon.forgotten)
    end = query.offset + query.limit
    asked = msgspec.structs.replace(
        query, offset=0, limit=min(end, PAGE), horizon=msgspec.structs.replace(horizon, forgotten=())
    )
    found: list[Memory] = []
    while len(found) < end:
        page = await ask(asked)
        found += filter(left, page)
        if len(page) < asked.limit:
            break
        # Where much is taken out, small pages would be many.
        asked = msgspec.structs.replace(asked.following(position_of(page[-1])), limit=PAGE)
    return found[query.offset : end]


async def count_one_by_one(ask: Ask, query: AgentCountQuery) -> AgentCounts:
    """Count an agent's memories by looking at every one that is not forgotten."""
    total = recent = errors = 0
    types: dict[str, int] = {}
    asked = MemoryQuery(
        org_id=query.org_id,
        agent_ids=(query.agent_id,),
        since=query.since,
        order="asc",
        limit=PAGE,
        horizon=query.horizon,
    )
    while page := await page_by_page(ask, asked):
        for memory in page:
            lately = memory.time >= query.recent_since
            total, recent = total + 1, recent + lately
            errors += lately and memory.event_type == ERROR_EVENT
            types[memory.memory_type] = types.get(memory.memory_type, 0) + 1
        if len(page) < PAGE:
            break
        asked = asked.following(position_of(page[-1]))
    return AgentCounts(total=total, recent=recent, recent_errors=errors, by_type=types)
