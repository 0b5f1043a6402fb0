"""Memories: remember, recall, search, and the context for a prompt."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from memtrace_core import rules
from memtrace_core.context import SessionContext, build_context
from memtrace_core.dedup import DedupPolicy
from memtrace_core.directory import Directory
from memtrace_core.entries import Draft, Duplicate
from memtrace_core.errors import InvalidInput, MemtraceError, NoArcInstance, NotFound
from memtrace_core.identifiers import parse_memory_id
from memtrace_core.meter import SILENT, Meter
from memtrace_core.model import MEMORY_TYPES, AgentCounts, ArcInstance, Memory
from memtrace_core.ports import ArcGateway, Clock, Journal
from memtrace_core.query import AgentCountQuery, MemoryQuery, Order, Position, position_of

RECENT = timedelta(hours=24)
MOST_IN_CONTEXT = 1000


class NewMemory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A memory as a caller gives it; None means absent, and the rules are those of `memtrace_core.rules`."""

    agent_id: str
    content: str
    memory_type: str | None = None
    event_type: str | None = None
    session_id: str | None = None
    metadata: dict[str, object] | None = None
    tags: list[str] | None = None
    importance: float | None = None
    dedup_key: str | None = None
    parent_id: str | None = None


class Page(msgspec.Struct, frozen=True):
    """A part of an answer; `next` is where the following page begins, None on the last one."""

    memories: list[Memory]
    next: Position | None


class Memories:
    """Stores memories and answers questions about them, for one org at a time.

    Every answer unites the journal with the org's gateway, so a write is seen by every read after it.
    """

    def __init__(
        self,
        directory: Directory,
        journal: Journal,
        gateway: ArcGateway,
        clock: Clock,
        dedup: DedupPolicy,
        *,
        on_pending: Callable[[str], None],
        on_use: Callable[[ArcInstance], None],
        meter: Meter = SILENT,
    ) -> None:
        self._directory = directory
        self._journal = journal
        self._gateway = gateway
        self._clock = clock
        self._dedup = dedup
        self._on_pending = on_pending
        self._on_use = on_use
        self._meter = meter

    async def remember(
        self, org_id: str, memories: Sequence[NewMemory], *, batch: bool = True
    ) -> list[Memory | Duplicate]:
        """Store memories, all or none, and return what became of each.

        On return every `Memory` in the answer is on disk and visible to every read. A `Duplicate` names the
        memory that is kept instead.

        Args:
            org_id: the org.
            memories: 1 to 1,000 of them.
            batch: whether an error names a field with its index, as `memories[2].tags`.

        Raises:
            InvalidInput: naming the first bad field; nothing was stored.
            NoArcInstance, JournalFull, OrgClosing, StorageUnavailable: nothing was stored.
        """
        try:
            outcomes = await self._append(org_id, memories, batch)
        except MemtraceError:
            self._meter.rejected(org_id, len(memories))
            raise
        duplicates = sum(isinstance(outcome, Duplicate) for outcome in outcomes)
        self._meter.remembered(org_id, len(outcomes) - duplicates, duplicates)
        return outcomes

    async def _append(self, org_id: str, memories: Sequence[NewMemory], batch: bool) -> list[Memory | Duplicate]:
        rules.within(len(memories), 1, rules.MAX_BATCH, "the number of memories")
        drafts: list[Draft] = []
        for memory in memories:
            try:
                drafts.append(self._draft(memory))
            except InvalidInput as error:
                # A rule's sentence begins with the field.
                where = f"memories[{len(drafts)}]." if batch else ""
                raise InvalidInput(f"{where}{error}", code=error.code) from None
        instance = await self._instance(org_id)
        outcomes = await self._journal.append(instance, drafts)
        if not instance.embedded:
            self._on_pending(org_id)
        return outcomes

    async def find(self, query: MemoryQuery) -> Page:
        """Return one page of memories.

        Raises:
            InvalidInput: a filter breaks its rule.
            NoArcInstance, ArcUnreachable, ArcTimeout: there is no answer.
        """
        query.check()
        return await self.find_in(await self._instance(query.org_id), query)

    async def find_in(self, instance: ArcInstance, query: MemoryQuery) -> Page:
        """Return one page of the memories in one of the org's instances, a former one perhaps, and in the journal.

        Raises:
            ArcUnreachable, ArcTimeout: there is no answer.
        """
        memories = await self._united(query, instance)
        more = len(memories) > query.limit
        page = memories[: query.limit]
        return Page(page, position_of(page[-1]) if more else None)

    async def get(self, org_id: str, reference: str) -> Memory:
        """Return a memory by its `memory_id`, or the newest with this `dedup_key`.

        Raises:
            NotFound: there is none in this org.
        """
        instance = await self._instance(org_id)
        attempts: list[MemoryQuery] = []
        if parse_memory_id(reference):
            attempts.append(MemoryQuery(org_id=org_id, memory_id=reference, limit=1))
        if 1 <= len(reference) <= rules.MAX_REFERENCE_CHARACTERS and reference.isprintable():
            attempts.append(MemoryQuery(org_id=org_id, dedup_key=reference, limit=1))
        for attempt in attempts:
            if found := await self._united(attempt, instance):
                return found[0]
        raise NotFound("memory not found", code="memory_not_found")

    async def count(self, org_id: str, agent_id: str) -> AgentCounts:
        """Count an agent's memories, exactly, the newest write included."""
        instance = await self._instance(org_id)
        query = AgentCountQuery(
            org_id=org_id,
            agent_id=agent_id,
            recent_since=self._clock.now() - RECENT,
            since=await self._kept_since(org_id),
        )
        horizon, here = await self._journal.count(query)
        if not instance.embedded:
            return here + await self._gateway.count(instance, msgspec.structs.replace(query, horizon=horizon))
        stored = await self._gateway.count(instance, query)
        # An admin may move what waits into the embedded store just now: then it was counted in both places.
        while here.total and (now_here := (await self._journal.count(query))[1]) != here:
            here, stored = now_here, await self._gateway.count(instance, query)
        return here + stored

    async def context(
        self,
        org_id: str,
        session_id: str,
        *,
        since: datetime | None,
        until: datetime | None = None,
        include_types: Sequence[str] = (),
        exclude_types: Sequence[str] = (),
        max_tokens: int | None = None,
        order: Order = "desc",
    ) -> SessionContext:
        """Write a session's newest 1,000 memories as Markdown for a prompt.

        Args:
            org_id: the org.
            session_id: the session.
            since: inclusive, None for all time.
            until: exclusive, None for now.
            include_types: memory types to write; empty for all.
            exclude_types: memory types to leave out.
            max_tokens: the text's greatest length in tokens of four characters.
            order: of the memories within a section.
        """
        if max_tokens is not None:
            rules.within(max_tokens, rules.MIN_CONTEXT_TOKENS, rules.MAX_CONTEXT_TOKENS, "max_tokens")
        included = {rules.memory_type(one, "include_types") for one in include_types} or set(MEMORY_TYPES)
        excluded = {rules.memory_type(one, "exclude_types") for one in exclude_types}
        wanted = tuple(sorted(included - excluded))
        query = MemoryQuery(
            org_id=org_id,
            session_ids=(session_id,),
            memory_types=() if len(wanted) == len(MEMORY_TYPES) else wanted,
            since=since,
            until=until,
            limit=MOST_IN_CONTEXT,
        ).check()
        instance = await self._instance(org_id)
        memories = (await self._united(query, instance))[:MOST_IN_CONTEXT] if wanted else []
        if order == "asc":
            memories.reverse()
        return build_context(session_id, memories, max_tokens)

    async def _instance(self, org_id: str) -> ArcInstance:
        instance = await self._directory.instance(org_id)
        if instance is None:
            raise NoArcInstance(org_id)
        self._on_use(instance)
        return instance

    async def _kept_since(self, org_id: str) -> datetime | None:
        """Return the time before which the org's memories are past their time."""
        org = await self._directory.org(org_id)
        return None if org is None or org.retention is None else self._clock.now() - org.retention

    async def _united(self, query: MemoryQuery, instance: ArcInstance) -> list[Memory]:
        """Return the memories from `offset` on and one more than `limit`, of journal and gateway together."""
        since = query.since
        if (kept_since := await self._kept_since(query.org_id)) is not None:
            since = kept_since if since is None else max(since, kept_since)
        wider = msgspec.structs.replace(query, since=since, limit=query.limit + 1)
        view = await self._journal.view(wider, instance)
        asked = wider.beside(len(view.memories))
        stored = view.stored
        if stored is None:
            # The embedded store never holds what the journal holds.
            horizon = None if instance.embedded else view.horizon
            stored = await self._gateway.query(instance, msgspec.structs.replace(asked, horizon=horizon))
        if not view.memories:
            return stored
        # A memory that Arc has refused and stored all the same is the journal's alone.
        held = {memory.memory_id for memory in view.memories}
        elsewhere = (memory for memory in stored if memory.memory_id not in held)
        merged = heapq.merge(elsewhere, view.memories, key=position_of, reverse=query.order == "desc")
        rest = wider.offset - asked.offset
        return list(merged)[rest : rest + wider.limit]

    def _draft(self, new: NewMemory) -> Draft:
        # Every memory of a batch of 1,000 comes through here: what is absent is passed over without a call.
        agent_id = rules.identifier(new.agent_id, "agent_id")
        content = rules.content(new.content, "content")
        event_type = "general" if new.event_type is None else rules.event_type(new.event_type, "event_type")
        given_key = None if new.dedup_key is None else rules.reference(new.dedup_key, "dedup_key")
        return Draft(
            agent_id=agent_id,
            session_id=None if new.session_id is None else rules.identifier(new.session_id, "session_id"),
            memory_type=(
                "episodic" if new.memory_type is None else rules.memory_type(new.memory_type, "memory_type")
            ),
            event_type=event_type,
            content=content,
            metadata=new.metadata or None,
            metadata_json=rules.json_object(new.metadata, "metadata") if new.metadata else "",
            tags=rules.tags(new.tags, "tags") if new.tags else (),
            dedup_key=self._dedup.key_for(agent_id, event_type, content, given_key),
            importance=0.0 if new.importance is None else rules.importance(new.importance, "importance"),
            parent_id=None if new.parent_id is None else rules.reference(new.parent_id, "parent_id"),
        )
