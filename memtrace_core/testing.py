"""In-memory implementations of every port, for tests of programs that embed Memtrace, and for our own.

They keep the promises of `memtrace_core.ports` except the one about disks.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec

from memtrace_core import identifiers
from memtrace_core.context import ERROR_EVENT
from memtrace_core.dedup import DedupPolicy
from memtrace_core.errors import (
    ArcUnreachable,
    Conflict,
    NotFound,
    OrgClosing,
    SealBroken,
    StorageUnavailable,
)
from memtrace_core.model import (
    Agent,
    AgentCounts,
    APIKey,
    ArcInstance,
    Memory,
    Org,
    Session,
    SessionStatus,
)
from memtrace_core.ports import Clock, Draft, Duplicate, JournalView, OrgHoldings, PendingBatch
from memtrace_core.query import AgentCountQuery, Horizon, MemoryQuery, Position
from memtrace_core.timewindow import from_us, to_us

Listed = TypeVar("Listed", Agent, Session)

__all__ = ["InMemoryGateway", "InMemoryJournal", "InMemoryMetadataRepo", "ManualClock", "TransparentVault"]


class ManualClock:
    """A clock that stands still until `advance` moves it."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Return the time of day."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds since the clock was made."""
        return self._monotonic

    @property
    def sleeping(self) -> int:
        """How many tasks wait for this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was advanced so far."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), future))
        await future

    def set_back(self, by: timedelta) -> None:
        """Make the time of day jump back; monotonic time does not."""
        self._now -= by

    def advance(self, by: timedelta) -> None:
        """Move the clock on, and wake whoever slept until then."""
        self._now += by
        self._monotonic += by.total_seconds()
        while self._sleepers and self._sleepers[0][0] <= self._monotonic:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)


class TransparentVault:
    """A vault that hides nothing, but opens a value only in its own context."""

    def seal(self, secret: str, context: str) -> bytes:
        """Return the secret with its context in front."""
        return f"{context}\0{secret}".encode()

    def open(self, sealed: bytes, context: str) -> str:
        """Return the secret.

        Raises:
            SealBroken: it was sealed for another context.
        """
        place, _, secret = sealed.decode().partition("\0")
        if place != context:
            raise SealBroken("the sealed value belongs to another place")
        return secret


class _Entry(msgspec.Struct):
    instance_id: str
    memory: Memory
    delivered: bool = False


class InMemoryJournal:
    """A journal in a dict. `embedded` is the store of memories for embedded instances."""

    def __init__(self, clock: Clock, dedup: DedupPolicy | None = None) -> None:
        self.node = identifiers.new_node_id()
        self.embedded: dict[tuple[str, str, str], list[Memory]] = defaultdict(list)
        self._clock = clock
        self._dedup = dedup or DedupPolicy()
        self._entries: dict[int, _Entry] = {}
        self._claims: dict[tuple[str, str], Memory] = {}
        self._activity: dict[tuple[str, str], datetime] = {}
        self._key_uses: dict[str, datetime] = {}
        self._closed_orgs: set[str] = set()
        self._last = 0
        self._closed = False

    async def append(self, instance: ArcInstance, drafts: Sequence[Draft]) -> list[Memory | Duplicate]:
        """Store all drafts or none."""
        if self._closed:
            raise StorageUnavailable("the journal is closed")
        if instance.org_id in self._closed_orgs:
            raise OrgClosing(f"{instance.org_id} is being deleted")
        return [self._append_one(instance, draft) for draft in drafts]

    def _append_one(self, instance: ArcInstance, draft: Draft) -> Memory | Duplicate:
        org_id = instance.org_id
        us = max(to_us(self._clock.now()), self._last + 1)
        claim = (org_id, draft.dedup_key or "")
        if self._dedup.enabled and draft.dedup_key is not None:
            first = self._claims.get(claim)
            if first is not None and from_us(us) - first.time < self._dedup.window:
                return Duplicate(first.memory_id)
        self._last = us
        memory = draft.stamped(org_id, identifiers.memory_id(us, self.node, f"{us % 65536:04x}"), from_us(us))
        if self._dedup.enabled and draft.dedup_key is not None:
            self._claims[claim] = memory
        self._activity[org_id, draft.agent_id] = memory.time
        if instance.embedded:
            self.embedded[_shelf(instance)].append(memory)
        else:
            self._entries[us] = _Entry(instance.id, memory)
        return memory

    async def view(self, query: MemoryQuery, instance: ArcInstance) -> JournalView:
        """Return what matches."""
        first = msgspec.structs.replace(query, offset=0, limit=query.offset + query.limit)
        return JournalView(self._horizon(instance), first.page(self._held(query.org_id)))

    async def count(self, query: AgentCountQuery, instance: ArcInstance) -> tuple[Horizon, AgentCounts]:
        """Count what matches."""
        return self._horizon(instance), _count(self._held(query.org_id), query)

    async def agent_activity(self, org_id: str, agent_ids: Iterable[str]) -> dict[str, datetime]:
        """Return when agents last stored a memory."""
        return {one: self._activity[org_id, one] for one in agent_ids if (org_id, one) in self._activity}

    async def pending_orgs(self) -> list[str]:
        """Return the orgs with undelivered memories."""
        return sorted({entry.memory.org_id for entry in self._entries.values() if not entry.delivered})

    async def next_batch(self, org_id: str, limit: int, max_bytes: int) -> PendingBatch | None:
        """Return the oldest undelivered memories for one instance."""
        batch: list[tuple[int, _Entry]] = []
        size = 0
        for key, entry in sorted(self._entries.items()):
            if entry.memory.org_id != org_id or entry.delivered:
                continue
            size += len(entry.memory.content)
            full = len(batch) == limit or size > max_bytes
            if batch and (full or entry.instance_id != batch[0][1].instance_id):
                break
            batch.append((key, entry))
        if not batch:
            return None
        keys = tuple(key for key, _ in batch)
        return PendingBatch(org_id, batch[0][1].instance_id, keys, [entry.memory for _, entry in batch])

    async def mark_delivered(self, batch: PendingBatch, *, durable: bool) -> None:
        """Note a delivery."""
        for key in batch.keys:
            entry = self._entries.get(key)
            if entry is None or entry.instance_id != batch.instance_id:
                continue
            entry.delivered = True
            if durable:
                del self._entries[key]

    async def move_pending(self, instance: ArcInstance) -> int:
        """Let everything of the org go to one instance."""
        moved = [key for key, entry in self._entries.items() if entry.memory.org_id == instance.org_id]
        for key in moved:
            if instance.embedded:
                self.embedded[_shelf(instance)].append(self._entries.pop(key).memory)
            else:
                self._entries[key] = _Entry(instance.id, self._entries[key].memory)
        return len(moved)

    async def record_key_use(self, used: Mapping[str, datetime]) -> None:
        """Keep the latest use of each key."""
        for key_id, at in used.items():
            self._key_uses[key_id] = max(at, self._key_uses.get(key_id, at))

    async def key_uses(self, key_ids: Iterable[str]) -> dict[str, datetime]:
        """Return when keys were last used."""
        return {key_id: self._key_uses[key_id] for key_id in key_ids if key_id in self._key_uses}

    async def close_org(self, org_id: str) -> None:
        """Refuse appends."""
        self._closed_orgs.add(org_id)

    async def reopen_org(self, org_id: str) -> None:
        """Take appends again."""
        self._closed_orgs.discard(org_id)

    async def holdings(self, org_id: str) -> OrgHoldings:
        """Count."""
        held = [entry for entry in self._entries.values() if entry.memory.org_id == org_id]
        delivered = sum(entry.delivered for entry in held)
        embedded = sum(len(memories) for shelf, memories in self.embedded.items() if shelf[0] == org_id)
        return OrgHoldings(pending=len(held) - delivered, delivered=delivered, embedded=embedded)

    async def purge_org(self, org_id: str) -> None:
        """Forget everything of the org."""
        self._entries = {key: one for key, one in self._entries.items() if one.memory.org_id != org_id}
        self._claims = {key: one for key, one in self._claims.items() if key[0] != org_id}
        self._activity = {key: one for key, one in self._activity.items() if key[0] != org_id}
        for shelf in [shelf for shelf in self.embedded if shelf[0] == org_id]:
            del self.embedded[shelf]

    async def close(self) -> None:
        """Take nothing more."""
        self._closed = True

    def _held(self, org_id: str) -> list[Memory]:
        return [entry.memory for entry in self._entries.values() if entry.memory.org_id == org_id]

    def _horizon(self, instance: ArcInstance) -> Horizon:
        waiting = (key for key, entry in self._entries.items() if entry.instance_id == instance.id)
        return Horizon(self.node, from_us(min(waiting, default=self._last + 1)))


class InMemoryGateway:
    """A gateway in a dict, for embedded instances of `journal` and for all others.

    `unreachable` holds the ids of instances that do not answer; `written` is every batch as it came.
    """

    def __init__(self, journal: InMemoryJournal, *, durable: bool = True) -> None:
        self.unreachable: set[str] = set()
        self.written: list[list[Memory]] = []
        self._durable = durable
        self._journal = journal
        self._stored: dict[tuple[str, str, str], dict[str, Memory]] = defaultdict(dict)

    async def write(self, instance: ArcInstance, memories: Sequence[Memory]) -> bool:
        """Keep memories, one per id."""
        await self.ping(instance)
        self.written.append(list(memories))
        self._stored[_shelf(instance)].update({memory.memory_id: memory for memory in memories})
        return self._durable

    async def query(self, instance: ArcInstance, query: MemoryQuery) -> list[Memory]:
        """Return what matches."""
        await self.ping(instance)
        return query.page(self._memories(instance))

    async def count(self, instance: ArcInstance, query: AgentCountQuery) -> AgentCounts:
        """Count what matches."""
        await self.ping(instance)
        return _count(self._memories(instance), query)

    async def ping(self, instance: ArcInstance) -> None:
        """Raise ArcUnreachable for an instance that is marked so."""
        if instance.id in self.unreachable:
            raise ArcUnreachable(f"{instance.id} does not answer")

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _memories(self, instance: ArcInstance) -> list[Memory]:
        if instance.embedded:
            return self._journal.embedded[_shelf(instance)]
        return list(self._stored[_shelf(instance)].values())


def _shelf(instance: ArcInstance) -> tuple[str, str, str]:
    return instance.org_id, instance.database, instance.measurement


def _count(memories: Iterable[Memory], query: AgentCountQuery) -> AgentCounts:
    whole = MemoryQuery(org_id=query.org_id, agent_ids=(query.agent_id,), horizon=query.horizon)
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

    async def create_key(self, key: APIKey) -> None:
        """Store a key."""
        self._need_org(key.org_id)
        live = (one for one in self._keys.values() if one.org_id == key.org_id and one.revoked_at is None)
        if any(one.name == key.name for one in live):
            raise Conflict(f"{key.org_id} has a live key named {key.name!r}", code="key_name_taken")
        self._keys[key.id] = key
        self._version += 1

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
        if any(one.org_id == agent.org_id and one.name == agent.name for one in self._agents.values()):
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
