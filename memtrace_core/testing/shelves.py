"""What the in-memory journal and gateway have in common."""

from __future__ import annotations

from collections.abc import Iterable

from memtrace_core.context import ERROR_EVENT
from memtrace_core.model import AgentCounts, ArcInstance, Memory
from memtrace_core.query import AgentCountQuery, MemoryQuery

Shelf = tuple[str, str, str]


def shelf_of(instance: ArcInstance) -> Shelf:
    """Return where an instance's memories are kept."""
    return instance.org_id, instance.database, instance.measurement


def counted(memories: Iterable[Memory], query: AgentCountQuery) -> AgentCounts:
    """Count one agent's memories."""
    whole = MemoryQuery(org_id=query.org_id, agent_ids=(query.agent_id,), since=query.since, horizon=query.horizon)
    counts = AgentCounts()
    for memory in filter(whole.matches, memories):
        recent = memory.time >= query.recent_since
        counts += AgentCounts(
            total=1,
            recent=int(recent),
            recent_errors=int(recent and memory.event_type == ERROR_EVENT),
            by_type={memory.memory_type: 1},
        )
    return counts
