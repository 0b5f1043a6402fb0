"""Sessions: bounded stretches of an agent's work."""

from __future__ import annotations

from memtrace_core import rules
from memtrace_core.errors import NotFound
from memtrace_core.identifiers import new_session_id
from memtrace_core.model import Session, SessionStatus
from memtrace_core.ports import Clock, MetadataRepo
from memtrace_core.query import Position


class Sessions:
    """Opens, lists and closes sessions, for one org at a time."""

    def __init__(self, repo: MetadataRepo, clock: Clock) -> None:
        self._repo = repo
        self._clock = clock

    async def create(self, org_id: str, agent_id: str, metadata: dict[str, object] | None = None) -> Session:
        """Start a session.

        Raises:
            InvalidInput: a value breaks its rule.
        """
        if metadata is not None:
            rules.json_object(metadata, "metadata")
        now = self._clock.now()
        session = Session(
            id=new_session_id(),
            org_id=org_id,
            agent_id=rules.identifier(agent_id, "agent_id"),
            status="active",
            metadata=metadata or None,
            created_at=now,
            updated_at=now,
        )
        await self._repo.create_session(session)
        return session

    async def get(self, org_id: str, session_id: str) -> Session:
        """Return a session.

        Raises:
            NotFound: the org has no such session.
        """
        return _found(await self._repo.get_session(org_id, session_id))

    async def page(
        self,
        org_id: str,
        agent_id: str | None = None,
        limit: int = rules.MAX_LIMIT,
        after: Position | None = None,
    ) -> tuple[list[Session], Position | None]:
        """Return sessions, newest first, and where the next page begins (None on the last)."""
        rules.within(limit, 1, rules.MAX_LIMIT, "limit")
        if agent_id is not None:
            rules.identifier(agent_id, "agent_id")
        sessions = await self._repo.list_sessions(org_id, agent_id, limit + 1, after)
        page = sessions[:limit]
        more = Position(page[-1].created_at, page[-1].id) if len(sessions) > limit else None
        return page, more

    async def update(
        self,
        org_id: str,
        session_id: str,
        *,
        status: SessionStatus | None = None,
        metadata: dict[str, object] | None = None,
    ) -> Session:
        """Set the status and merge metadata key by key.

        Raises:
            InvalidInput: the metadata, alone or merged, breaks its rule.
            NotFound: the org has no such session.
        """
        if metadata is not None:
            rules.json_object(metadata, "metadata")
        return _found(
            await self._repo.update_session(
                org_id, session_id, status=status, metadata=metadata, at=self._clock.now()
            )
        )


def _found(session: Session | None) -> Session:
    if session is None:
        raise NotFound("session not found", code="session_not_found")
    return session
