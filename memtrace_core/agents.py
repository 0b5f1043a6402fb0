"""Agents: who writes memories. Registering one is optional; its memories stay when it goes."""

from __future__ import annotations

from datetime import datetime

import msgspec

from memtrace_core import rules
from memtrace_core.errors import NotFound
from memtrace_core.identifiers import new_agent_id
from memtrace_core.memories import Memories
from memtrace_core.model import Agent
from memtrace_core.ports import Clock, Journal, MetadataRepo
from memtrace_core.query import Position


class AgentStats(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An agent in numbers, exact, the newest write included."""

    agent_id: str
    memory_count: int
    memories_24h: int
    errors_24h: int
    session_count: int
    active_sessions: int
    last_active_at: datetime | None = None
    memory_types: dict[str, int]


class Agents:
    """Registers agents and tells about them, for one org at a time."""

    def __init__(self, repo: MetadataRepo, journal: Journal, memories: Memories, clock: Clock) -> None:
        self._repo = repo
        self._journal = journal
        self._memories = memories
        self._clock = clock

    async def register(
        self,
        org_id: str,
        name: str,
        description: str | None = None,
        config: dict[str, object] | None = None,
    ) -> Agent:
        """Register an agent.

        Raises:
            InvalidInput: a value breaks its rule.
            Conflict: the org has an agent of this name.
        """
        if config is not None:
            rules.json_object(config, "config")
        agent = Agent(
            id=new_agent_id(),
            org_id=org_id,
            name=rules.name(name, "name"),
            description=rules.description(description, "description") if description else None,
            config=config or None,
            created_at=self._clock.now(),
        )
        await self._repo.create_agent(agent)
        (agent,) = await self._with_activity(org_id, [agent])
        return agent

    async def get(self, org_id: str, id_or_name: str) -> Agent:
        """Return an agent by its id, else by its name.

        Raises:
            NotFound: the org has no such agent.
        """
        (agent,) = await self._with_activity(org_id, [await self._find(org_id, id_or_name)])
        return agent

    async def page(
        self, org_id: str, limit: int = rules.MAX_LIMIT, after: Position | None = None
    ) -> tuple[list[Agent], Position | None]:
        """Return agents, newest first, and where the next page begins (None on the last)."""
        rules.within(limit, 1, rules.MAX_LIMIT, "limit")
        agents = await self._repo.list_agents(org_id, limit + 1, after)
        page = agents[:limit]
        more = Position(page[-1].created_at, page[-1].id) if len(agents) > limit else None
        return await self._with_activity(org_id, page), more

    async def delete(self, org_id: str, id_or_name: str) -> None:
        """Delete an agent; its memories and sessions stay.

        Raises:
            NotFound: the org has no such agent.
        """
        agent = await self._find(org_id, id_or_name)
        if not await self._repo.delete_agent(org_id, agent.id):
            raise _not_found()

    async def stats(self, org_id: str, agent_id: str) -> AgentStats:
        """Return an agent's numbers; any valid id will do, registered or not.

        Raises:
            NoArcInstance, ArcUnreachable, ArcTimeout: there is no count (never a zero instead).
        """
        rules.identifier(agent_id, "agent_id")
        counts = await self._memories.count(org_id, agent_id)
        sessions, active = await self._repo.count_sessions(org_id, agent_id)
        registered = await self._repo.find_agent(org_id, agent_id)
        names = {agent_id} if registered is None else {agent_id, registered.id, registered.name}
        activity = await self._journal.agent_activity(org_id, names)
        return AgentStats(
            agent_id=agent_id,
            memory_count=counts.total,
            memories_24h=counts.recent,
            errors_24h=counts.recent_errors,
            session_count=sessions,
            active_sessions=active,
            last_active_at=max(activity.values(), default=registered.last_active_at if registered else None),
            memory_types=counts.by_type,
        )

    async def _find(self, org_id: str, id_or_name: str) -> Agent:
        agent = await self._repo.find_agent(org_id, id_or_name)
        if agent is None:
            raise _not_found()
        return agent

    async def _with_activity(self, org_id: str, agents: list[Agent]) -> list[Agent]:
        names = {name for agent in agents for name in (agent.id, agent.name)}
        activity = await self._journal.agent_activity(org_id, names)
        return [
            msgspec.structs.replace(agent, last_active_at=max(times, default=agent.last_active_at))
            for agent in agents
            for times in [[activity[name] for name in (agent.id, agent.name) if name in activity]]
        ]


def _not_found() -> NotFound:
    return NotFound("agent not found", code="agent_not_found")
