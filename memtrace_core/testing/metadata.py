"""A metadata repository in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

from memtrace_core import rules
from memtrace_core.errors import Conflict, NotFound
from memtrace_core.model import Agent, APIKey, ArcInstance, Org, SealedSecret, Session, SessionStatus
from memtrace_core.query import Position

Listed = TypeVar("Listed", Agent, Session)


class InMemoryMetadataRepo:
    """Orgs, instances, keys, agents and sessions in dicts."""

    def __init__(self) -> None:
        self._version = 0
        self._orgs: dict[str, Org] = {}
        self._bound: dict[str, ArcInstance] = {}
        self._retired: dict[str, ArcInstance] = {}
        self._keys: dict[str, APIKey] = {}
        self._agents: dict[str, Agent] = {}
        self._sessions: dict[str, Session] = {}

    def version(self) -> int:
        """Return how often orgs, instances or keys changed."""
        return self._version

    async def create_org(self, org: Org) -> None:
        """Store an org."""
        if org.id in self._orgs:
            raise Conflict(f"organization {org.id} exists already", code="org_exists")
        self._orgs[org.id] = org
        self._version += 1

    async def get_org(self, org_id: str) -> Org | None:
        """Return an org."""
        return self._orgs.get(org_id)

    async def list_orgs(self) -> list[Org]:
        """Return all orgs, oldest first."""
        return sorted(self._orgs.values(), key=lambda org: (org.created_at, org.id))

    async def set_retention(self, org_id: str, retention: timedelta | None) -> bool:
        """Change an org."""
        org = self._orgs.get(org_id)
        if org is None:
            return False
        self._orgs[org_id] = msgspec.structs.replace(org, retention=retention)
        self._version += 1
        return True

    async def delete_org(self, org_id: str) -> bool:
        """Delete an org and what is its own."""
        if self._orgs.pop(org_id, None) is None:
            return False
        self._version += 1
        self._bound.pop(org_id, None)
        self._retired = {key: one for key, one in self._retired.items() if one.org_id != org_id}
        self._keys = {key: one for key, one in self._keys.items() if one.org_id != org_id}
        self._agents = {key: one for key, one in self._agents.items() if one.org_id != org_id}
        self._sessions = {key: one for key, one in self._sessions.items() if one.org_id != org_id}
        return True

    async def bind_instance(self, instance: ArcInstance) -> None:
        """Bind an unbound org."""
        self._need_org(instance.org_id)
        if instance.org_id in self._bound:
            raise Conflict(f"{instance.org_id} has an Arc instance already", code="instance_exists")
        await self.rebind_instance(instance)

    async def rebind_instance(self, instance: ArcInstance) -> None:
        """Replace an org's instance."""
        former = self._bound.get(instance.org_id)
        if former is not None and former.id != instance.id:
            self._retired[former.id] = former
        self._bound[instance.org_id] = instance
        self._version += 1

    async def unbind_instance(self, org_id: str) -> bool:
        """Take an org's instance away."""
        former = self._bound.pop(org_id, None)
        if former is None:
            return False
        self._retired[former.id] = former
        self._version += 1
        return True

    async def instance_of(self, org_id: str) -> ArcInstance | None:
        """Return an org's instance."""
        return self._bound.get(org_id)

    async def get_instance(self, org_id: str, instance_id: str) -> ArcInstance | None:
        """Return an instance, retired or not."""
        bound = self._bound.get(org_id)
        found = bound if bound is not None and bound.id == instance_id else self._retired.get(instance_id)
        return found if found is not None and found.org_id == org_id else None

    async def list_instances(self) -> list[ArcInstance]:
        """Return every bound instance."""
        return list(self._bound.values())

    async def knows_instances(self) -> bool:
        """Tell whether there is an instance, retired or not."""
        return bool(self._bound or self._retired)

    async def create_key(self, key: APIKey) -> None:
        """Store a key."""
        self._need_org(key.org_id)
        mine = (one for one in self._keys.values() if one.org_id == key.org_id)
        if any(one.name == key.name and one.state(key.created_at) == "active" for one in mine):
            raise Conflict(f"{key.org_id} has a live key named {key.name!r}", code="key_name_taken")
        self._keys[key.id] = key
        self._version += 1

    async def get_key(self, key_id: str) -> APIKey | None:
        """Return a key."""
        return self._keys.get(key_id)

    async def rotate_key(self, former_id: str, key: APIKey, until: datetime) -> bool:
        """Put a key in another one's place."""
        former = self._keys.get(former_id)
        if former is None or former.org_id != key.org_id or former.state(key.created_at) != "active":
            return False
        self._keys[former_id] = msgspec.structs.replace(
            former, superseded_at=key.created_at, expires_at=min(former.expires_at or until, until)
        )
        self._keys[key.id] = key
        self._version += 1
        return True

    async def sealed_secrets(self) -> list[SealedSecret]:
        """Return all Arc keys."""
        return [_sealed(one) for one in (*self._bound.values(), *self._retired.values()) if one.sealed_api_key]

    async def reseal(self, reseal: Callable[[SealedSecret], bytes]) -> int:
        """Replace Arc keys, all or none."""
        places = (self._bound, self._retired)
        sealed = [(place, name, one) for place in places for name, one in place.items() if one.sealed_api_key]
        fresh = [(place, name, one, reseal(_sealed(one))) for place, name, one in sealed]
        changed = [each for each in fresh if each[3] != each[2].sealed_api_key]
        for place, name, one, value in changed:
            place[name] = msgspec.structs.replace(one, sealed_api_key=value)
        self._version += bool(changed)
        return len(changed)

    async def key_digests(self) -> frozenset[bytes]:
        """Return the digest of every key."""
        return frozenset(key.digest for key in self._keys.values())

    async def find_key(self, digest: bytes) -> APIKey | None:
        """Return the key with this digest."""
        return next((key for key in self._keys.values() if key.digest == digest), None)

    async def list_keys(self, org_id: str) -> list[APIKey]:
        """Return an org's keys, oldest first."""
        mine = (key for key in self._keys.values() if key.org_id == org_id)
        return sorted(mine, key=lambda key: (key.created_at, key.id))

    async def revoke_key(self, key_id: str, at: datetime) -> bool:
        """Revoke a key."""
        key = self._keys.get(key_id)
        if key is None:
            return False
        self._keys[key_id] = msgspec.structs.replace(key, revoked_at=key.revoked_at or at)
        self._version += 1
        return True

    async def create_agent(self, agent: Agent) -> None:
        """Store an agent."""
        self._need_org(agent.org_id)
        named_so = (one.org_id == agent.org_id and one.name == agent.name for one in self._agents.values())
        if agent.id in self._agents or any(named_so):
            raise Conflict(f"an agent named {agent.name!r} exists already", code="agent_exists")
        self._agents[agent.id] = agent

    async def find_agent(self, org_id: str, id_or_name: str) -> Agent | None:
        """Return an agent by id, else by name."""
        mine = [agent for agent in self._agents.values() if agent.org_id == org_id]
        by_id = (agent for agent in mine if agent.id == id_or_name)
        by_name = (agent for agent in mine if agent.name == id_or_name)
        return next(itertools.chain(by_id, by_name), None)

    async def list_agents(self, org_id: str, limit: int, after: Position | None) -> list[Agent]:
        """Return agents, newest first."""
        mine = [agent for agent in self._agents.values() if agent.org_id == org_id]
        return _newest(mine, limit, after)

    async def delete_agent(self, org_id: str, agent_id: str) -> bool:
        """Delete an agent."""
        agent = self._agents.get(agent_id)
        if agent is None or agent.org_id != org_id:
            return False
        del self._agents[agent_id]
        return True

    async def create_session(self, session: Session) -> None:
        """Store a session."""
        self._need_org(session.org_id)
        if session.id in self._sessions:
            raise Conflict(f"session {session.id} exists already", code="session_exists")
        self._sessions[session.id] = session

    async def get_session(self, org_id: str, session_id: str) -> Session | None:
        """Return a session."""
        session = self._sessions.get(session_id)
        return session if session is not None and session.org_id == org_id else None

    async def list_sessions(
        self, org_id: str, agent_id: str | None, limit: int, after: Position | None
    ) -> list[Session]:
        """Return sessions, newest first."""
        mine = [
            session
            for session in self._sessions.values()
            if session.org_id == org_id and agent_id in (None, session.agent_id)
        ]
        return _newest(mine, limit, after)

    async def update_session(
        self,
        org_id: str,
        session_id: str,
        *,
        status: SessionStatus | None,
        metadata: Mapping[str, object] | None,
        at: datetime,
    ) -> Session | None:
        """Change a session."""
        session = await self.get_session(org_id, session_id)
        if session is None:
            return None
        changed = session.changed(status, metadata, at)
        if changed.metadata is not None:
            rules.json_object(changed.metadata, "metadata")
        self._sessions[session_id] = changed
        return changed

    async def count_sessions(self, org_id: str, agent_id: str) -> tuple[int, int]:
        """Count an agent's sessions, and the active ones."""
        mine = [one for one in self._sessions.values() if one.org_id == org_id and one.agent_id == agent_id]
        return len(mine), sum(session.status == "active" for session in mine)

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _need_org(self, org_id: str) -> None:
        if org_id not in self._orgs:
            raise NotFound(f"no organization {org_id!r}", code="org_not_found")


def _newest(things: list[Listed], limit: int, after: Position | None) -> list[Listed]:
    placed = ((Position(thing.created_at, thing.id), thing) for thing in things)
    following = [(place, thing) for place, thing in placed if after is None or place < after]
    return [thing for _, thing in sorted(following, key=lambda pair: pair[0], reverse=True)[:limit]]


def _sealed(instance: ArcInstance) -> SealedSecret:
    return SealedSecret(instance.key_context, instance.sealed_api_key or b"")
