"""Organizations, instances, API keys, agents and sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Protocol

from memtrace_core.model import Agent, APIKey, ArcInstance, Org, SealedSecret, Session, SessionStatus
from memtrace_core.query import Position


class MetadataRepo(Protocol):
    """Orgs, Arc instances, API keys, agents and sessions. Every method of one org names the org.

    Methods that create raise `Conflict` where a name or an id is taken and `NotFound` where the org does not exist.
    """

    def version(self) -> int:
        """Return a number that changes whenever orgs, instances or keys change, made anywhere.

        It is asked on every request: microseconds, and no waiting.
        """
        ...

    async def create_org(self, org: Org) -> None:
        """Store a new org."""
        ...

    async def get_org(self, org_id: str) -> Org | None:
        """Return an org."""
        ...

    async def list_orgs(self) -> list[Org]:
        """Return all orgs, oldest first."""
        ...

    async def set_retention(self, org_id: str, retention: timedelta | None) -> bool:
        """Set how long an org's memories are kept, None for ever; False if there is no such org."""
        ...

    async def delete_org(self, org_id: str) -> bool:
        """Delete an org with its instances, keys, agents and sessions; False if there is none."""
        ...

    async def bind_instance(self, instance: ArcInstance) -> None:
        """Bind an org that has no Arc instance to one.

        Raises:
            Conflict: the org has an instance already.
        """
        ...

    async def rebind_instance(self, instance: ArcInstance) -> None:
        """Replace the org's instance in one step.

        The same id changes it in place; another id retires the former, which stays readable by its id while
        memories wait for it.
        """
        ...

    async def unbind_instance(self, org_id: str) -> bool:
        """Take an org's instance away (it is retired, not forgotten); False if it had none."""
        ...

    async def instance_of(self, org_id: str) -> ArcInstance | None:
        """Return the instance an org is bound to."""
        ...

    async def get_instance(self, org_id: str, instance_id: str) -> ArcInstance | None:
        """Return one of an org's instances, retired ones included."""
        ...

    async def list_instances(self) -> list[ArcInstance]:
        """Return every instance that an org is bound to."""
        ...

    async def knows_instances(self) -> bool:
        """Tell whether any org has an instance, retired ones included."""
        ...

    async def create_key(self, key: APIKey) -> None:
        """Store a key; names are unique among an org's active keys."""
        ...

    async def get_key(self, key_id: str) -> APIKey | None:
        """Return a key by its id, revoked and expired ones included."""
        ...

    async def rotate_key(self, former_id: str, key: APIKey, until: datetime) -> bool:
        """Store a key under the name of another one of the org, in one step; False if that one is not active.

        The former is superseded, and works until its own end or `until`, whichever comes first.
        """
        ...

    async def sealed_secrets(self) -> list[SealedSecret]:
        """Return every sealed secret there is, those of retired instances included."""
        ...

    async def reseal(self, reseal: Callable[[SealedSecret], bytes]) -> int:
        """Replace every sealed secret by what the function makes of it, all or none; return how many changed.

        What the function raises is passed on, and nothing is changed.
        """
        ...

    async def key_digests(self) -> frozenset[bytes]:
        """Return the SHA-256 of every key, revoked and expired ones included."""
        ...

    async def find_key(self, digest: bytes) -> APIKey | None:
        """Return the key with this SHA-256, revoked and expired ones included."""
        ...

    async def list_keys(self, org_id: str) -> list[APIKey]:
        """Return an org's keys, oldest first, revoked ones included."""
        ...

    async def revoke_key(self, key_id: str, at: datetime) -> bool:
        """Revoke a key for good; False if there is none (revoking twice keeps the first time)."""
        ...

    async def create_agent(self, agent: Agent) -> None:
        """Store an agent; names are unique within an org."""
        ...

    async def find_agent(self, org_id: str, id_or_name: str) -> Agent | None:
        """Return an agent by its id, else by its name."""
        ...

    async def list_agents(self, org_id: str, limit: int, after: Position | None) -> list[Agent]:
        """Return agents, newest first."""
        ...

    async def delete_agent(self, org_id: str, agent_id: str) -> bool:
        """Delete an agent by its id; False if there is none."""
        ...

    async def create_session(self, session: Session) -> None:
        """Store a session."""
        ...

    async def get_session(self, org_id: str, session_id: str) -> Session | None:
        """Return a session."""
        ...

    async def list_sessions(
        self, org_id: str, agent_id: str | None, limit: int, after: Position | None
    ) -> list[Session]:
        """Return sessions, newest first."""
        ...

    async def update_session(
        self,
        org_id: str,
        session_id: str,
        *,
        status: SessionStatus | None,
        metadata: Mapping[str, object] | None,
        at: datetime,
    ) -> Session | None:
        """Set a session's status and merge its metadata key by key, atomically; None if there is none.

        Closing sets `closed_at` once, reopening clears it.

        Raises:
            InvalidInput: the merged metadata would break the rule for JSON objects.
        """
        ...

    async def count_sessions(self, org_id: str, agent_id: str) -> tuple[int, int]:
        """Return how many sessions an agent has, and how many of them are active."""
        ...

    async def close(self) -> None:
        """Release the database."""
        ...
