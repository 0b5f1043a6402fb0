"""A journal in memory."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from memtrace_core import identifiers
from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import (
    Admission,
    DeliveredRun,
    Draft,
    Duplicate,
    EntryState,
    JournalEntry,
    JournalView,
    OrgBacklog,
    OrgHoldings,
    PendingBatch,
)
from memtrace_core.errors import OrgClosing, StorageUnavailable
from memtrace_core.forgotten import ForgetOrder, Forgotten, OrderReason
from memtrace_core.model import AgentCounts, ArcInstance, Memory
from memtrace_core.ports import Clock
from memtrace_core.query import AgentCountQuery, Horizon, MemoryQuery, OwnSpan
from memtrace_core.testing.order_book import InMemoryOrderBook
from memtrace_core.testing.shelves import Shelf, counted, shelf_of
from memtrace_core.timewindow import EPOCH, from_us, to_us

MOST_OUT_OF_LINE = 100


class _Entry(msgspec.Struct):
    instance_id: str
    memory: Memory
    state: EntryState = EntryState.PENDING
    delivered_at: datetime = EPOCH
    resent: int = 0
    answer: str | None = None
    retry: bool = False


class InMemoryJournal:
    """A journal in a dict. `embedded` is the store of memories for embedded instances."""

    def __init__(self, clock: Clock, dedup: DedupPolicy | None = None) -> None:
        self.node = identifiers.new_node_id()
        self.embedded: dict[Shelf, list[Memory]] = defaultdict(list)
        self._clock = clock
        self._dedup = dedup or DedupPolicy()
        self._entries: dict[int, _Entry] = {}
        self._claims: dict[tuple[str, str], Memory] = {}
        self._activity: dict[tuple[str, str], datetime] = {}
        self._key_uses: dict[str, datetime] = {}
        self._closed_orgs: set[str] = set()
        self._loaded: set[tuple[str, str]] = set()
        self._gaps: set[tuple[str, int]] = set()
        self._orders = InMemoryOrderBook()
        self._last = 0
        self._closed = False
        self._looks = itertools.count()

    def version(self) -> int:
        """Return another number each time: something may have been written."""
        return next(self._looks)

    async def append(self, instance: ArcInstance, drafts: Sequence[Draft]) -> list[Memory | Duplicate]:
        """Store all drafts or none."""
        self._check_open()
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
            self.embedded[shelf_of(instance)].append(memory)
        else:
            self._entries[us] = _Entry(instance.id, memory)
        return memory

    async def view(self, query: MemoryQuery, instance: ArcInstance | None = None) -> JournalView:
        """Return what matches; the embedded store is left to be asked."""
        self._check_open()
        first = msgspec.structs.replace(query, offset=0, limit=query.offset + query.limit)
        held = [entry.memory for _, entry in self._of(query.org_id)]
        return JournalView(self._horizon(query.org_id), first.page(held))

    async def count(self, query: AgentCountQuery) -> tuple[Horizon, AgentCounts]:
        """Count what matches."""
        self._check_open()
        held = [entry.memory for _, entry in self._of(query.org_id)]
        return self._horizon(query.org_id), counted(held, query)

    async def agent_activity(self, org_id: str, agent_ids: Iterable[str]) -> dict[str, datetime]:
        """Return when agents last stored a memory."""
        self._check_open()
        return {one: self._activity[org_id, one] for one in agent_ids if (org_id, one) in self._activity}

    async def pending_orgs(self) -> list[str]:
        """Return the orgs with undelivered memories."""
        return self._orgs(EntryState.PENDING)

    async def unconfirmed_orgs(self) -> list[str]:
        """Return the orgs with delivered memories."""
        return self._orgs(EntryState.DELIVERED)

    async def next_batch(
        self, org_id: str, limit: int, max_bytes: int, skipping: Collection[str] = ()
    ) -> PendingBatch | None:
        """Return the oldest undelivered memories for one instance."""
        self._check_open()
        batch: list[tuple[int, _Entry]] = []
        size, more = 0, False
        for key, entry in self._of(org_id):
            if entry.state is not EntryState.PENDING or entry.instance_id in skipping:
                continue
            size += len(entry.memory.content.encode())
            full = len(batch) == limit or size > max_bytes
            if batch and (full or entry.instance_id != batch[0][1].instance_id):
                more = True
                break
            batch.append((key, entry))
        if not batch:
            return None
        keys = tuple(key for key, _ in batch)
        return PendingBatch(org_id, batch[0][1].instance_id, keys, [entry.memory for _, entry in batch], more)

    async def mark_delivered(self, batch: PendingBatch, *, durable: bool) -> None:
        """Note a delivery."""
        for _, entry in self._still_pending(batch):
            entry.state = EntryState.DELIVERED
            entry.delivered_at = EPOCH if durable else self._clock.now()
        if not durable:
            return
        for key, entry in self._of(batch.org_id):
            if entry.answer is not None:
                continue
            if entry.state is not EntryState.DELIVERED or entry.delivered_at != EPOCH:
                return
            del self._entries[key]

    async def set_aside(self, batch: PendingBatch, answer: str) -> None:
        """Keep what an instance refuses."""
        for _, entry in self._still_pending(batch):
            entry.state, entry.answer = EntryState.SET_ASIDE, answer
        self._send_retries(batch.org_id)

    async def next_delivered(self, org_id: str, settle: timedelta, limit: int) -> DeliveredRun | datetime | None:
        """Return the org's oldest memories if they are due, or when they will be."""
        self._check_open()
        unconfirmed = itertools.dropwhile(lambda one: one[1].answer is not None, self._of(org_id))
        in_line = itertools.takewhile(lambda one: one[1].answer is None, unconfirmed)
        due = [self._run(org_id, itertools.islice(self._until_gap(org_id, in_line), limit), settle)]
        oldest = self._oldest(org_id)
        retried = [one for one in self._of(org_id) if one[1].answer is not None and one[0] < oldest]
        due += [self._run(org_id, [one], settle) for one in retried]
        runs = [one for one in due if isinstance(one, DeliveredRun)]
        return runs[0] if runs else min((one for one in due if isinstance(one, datetime)), default=None)

    def _until_gap(self, org_id: str, entries: Iterable[tuple[int, _Entry]]) -> Iterator[tuple[int, _Entry]]:
        end: float | None = None
        for key, entry in entries:
            if end is None:
                end = min((gap for owner, gap in self._gaps if owner == org_id and gap > key), default=math.inf)
            if key > end:
                return
            yield key, entry

    def _run(
        self, org_id: str, entries: Iterable[tuple[int, _Entry]], settle: timedelta
    ) -> DeliveredRun | datetime | None:
        now = self._clock.now()
        run: list[tuple[int, _Entry]] = []
        for key, entry in entries:
            wait = settle * (1 << min(entry.resent, 5))
            known = EPOCH < entry.delivered_at <= now  # the clock may have been set back since
            due = entry.delivered_at + wait if known else EPOCH
            if entry.state is not EntryState.DELIVERED or (run and entry.instance_id != run[0][1].instance_id):
                break
            if due > now:
                if not run:
                    return due
                break
            run.append((key, entry))
        if not run:
            return None
        memories = [entry.memory for _, entry in run]
        span = OwnSpan(org_id, self.node, memories[0].time, memories[-1].time)
        ids = tuple(memory.memory_id for memory in memories)
        whole = not any(order.what.before > span.first for order in self._orders.of(org_id))
        return DeliveredRun(run[0][1].instance_id, tuple(key for key, _ in run), ids, span, whole)

    async def confirm(self, run: DeliveredRun, keys: Sequence[int]) -> None:
        """Let delivered memories go."""
        for key, _ in self._delivered(run, keys):
            del self._entries[key]
        self._send_retries(run.span.org_id)

    async def resend(self, run: DeliveredRun, keys: Sequence[int]) -> None:
        """Let delivered memories wait again."""
        for _, entry in self._delivered(run, keys):
            entry.state = EntryState.PENDING
            entry.resent += 1

    async def move_pending(self, instance: ArcInstance) -> int:
        """Let everything of the org go to one instance."""
        self._check_open()
        moved = [
            (key, entry)
            for key, entry in self._of(instance.org_id)
            if instance.embedded or entry.state is not EntryState.SET_ASIDE
        ]
        for _, entry in self._of(instance.org_id):
            entry.instance_id = instance.id
        for key, entry in moved:
            if instance.embedded:
                self.embedded[shelf_of(instance)].append(self._entries.pop(key).memory)
            else:
                self._entries[key] = _Entry(instance.id, entry.memory, answer=entry.answer)
        return len(moved)

    async def backlogs(self) -> list[OrgBacklog]:
        """Count, org by org."""
        self._check_open()
        return [self._backlog(org_id) for org_id in sorted({one.memory.org_id for one in self._entries.values()})]

    def _backlog(self, org_id: str) -> OrgBacklog:
        held = [entry for _, entry in self._of(org_id)]
        states = [entry.state for entry in held]
        return OrgBacklog(
            org_id=org_id,
            pending=states.count(EntryState.PENDING),
            delivered=states.count(EntryState.DELIVERED),
            set_aside=states.count(EntryState.SET_ASIDE),
            oldest=min((entry.memory.time for entry in held if entry.answer is None), default=None),
            oldest_pending=min(
                (entry.memory.time for entry in held if entry.state is EntryState.PENDING), default=None
            ),
            pending_bytes=sum(_size(entry.memory) for entry in held if entry.state is EntryState.PENDING),
        )

    async def entries(
        self, org_id: str, states: Collection[EntryState], limit: int, after: int = 0
    ) -> list[JournalEntry]:
        """Return what is held."""
        self._check_open()
        wanted = ((key, one) for key, one in self._of(org_id) if key > after and one.state in states)
        return [
            JournalEntry(
                key=key,
                instance_id=entry.instance_id,
                state=entry.state,
                resent=entry.resent,
                bytes=_size(entry.memory),
                answer=entry.answer,
                memory=entry.memory,
            )
            for key, entry in itertools.islice(wanted, limit)
        ]

    async def retry(self, org_id: str, memory_ids: Collection[str] | None = None) -> int:
        """Let memories that are set aside wait again."""
        self._check_open()
        marked = 0
        for _, entry in self._of(org_id):
            if entry.state is EntryState.SET_ASIDE and (memory_ids is None or entry.memory.memory_id in memory_ids):
                entry.retry = True
                marked += 1
        self._send_retries(org_id)
        return marked

    def _send_retries(self, org_id: str) -> None:
        aside = [entry for _, entry in self._of(org_id) if entry.answer is not None]
        on_their_way = sum(entry.state is not EntryState.SET_ASIDE for entry in aside)
        waiting = (entry for entry in aside if entry.retry)
        for entry in itertools.islice(waiting, max(0, MOST_OUT_OF_LINE - on_their_way)):
            entry.state, entry.retry, entry.resent = EntryState.PENDING, False, 0

    async def drop(self, org_id: str, memory_ids: Collection[str]) -> int:
        """Forget memories and their claims."""
        self._check_open()
        wanted = set(memory_ids)
        dropped = [(key, entry.memory) for key, entry in self._of(org_id) if entry.memory.memory_id in wanted]
        for key, memory in dropped:
            del self._entries[key]
            self._gaps.add((org_id, key))
            claim = (org_id, memory.dedup_key or "")
            if claim in self._claims and self._claims[claim].memory_id == memory.memory_id:
                del self._claims[claim]
        self._send_retries(org_id)
        return len(dropped)

    async def forget(
        self, org_id: str, what: Forgotten, *, in_arc: bool, reason: OrderReason = "asked"
    ) -> ForgetOrder:
        """Remove what an order covers, and its claims, and keep the order."""
        self._check_open()
        now = self._last = max(to_us(self._clock.now()), self._last + 1)
        if what.memory_id is None:
            what = msgspec.structs.replace(what, before=min(what.before, from_us(now)))
        here = await self.covered(org_id, what)
        for key, entry in self._of(org_id):
            if what.covers(entry.memory):
                del self._entries[key]
        for shelf in [shelf for shelf in self.embedded if shelf[0] == org_id]:
            self.embedded[shelf][:] = [memory for memory in self.embedded[shelf] if not what.covers(memory)]
        self._claims = {
            claim: memory for claim, memory in self._claims.items() if claim[0] != org_id or not what.covers(memory)
        }
        self._send_retries(org_id)
        return self._orders.take(org_id, what, from_us(now), in_arc=in_arc, reason=reason, removed=here)

    async def sweep(self, org_id: str) -> bool:
        """Do nothing: `forget` removes everything at once."""
        self._check_open()
        return False

    async def orders(
        self, org_id: str, *, waiting: bool = False, limit: int = 1000, after: int = 0
    ) -> list[ForgetOrder]:
        """Return an org's orders."""
        self._check_open()
        return [one for one in self._orders.of(org_id, waiting=waiting) if one.key > after][:limit]

    async def forgetting_orgs(self) -> list[str]:
        """Return the orgs whose orders are not all done."""
        self._check_open()
        return self._orders.waiting_orgs()

    async def free_claims(self, order: ForgetOrder, memories: Sequence[Memory], *, all_of_them: bool) -> None:
        """Do nothing: claims know their memories here, and went with the order."""
        self._check_open()

    async def note_progress(
        self,
        org_id: str,
        orders: Sequence[ForgetOrder],
        *,
        deleted: int = 0,
        trouble: str | None = None,
        done: bool = False,
    ) -> None:
        """Record how far orders are."""
        self._check_open()
        done_at = self._clock.now() if done else None
        self._orders.note(org_id, orders, deleted=deleted, trouble=trouble, done_at=done_at)

    async def reopen_orders(self, org_id: str) -> None:
        """Let all orders of an org wait again."""
        self._check_open()
        self._orders.reopen(org_id)

    async def orgs_to_look_at_again(self, after: timedelta) -> list[str]:
        """Return the orgs that have orders to look at again."""
        self._check_open()
        return sorted({one.org_id for one in self._orders.done_early(self._clock.now(), after)})

    async def orders_to_look_at_again(self, org_id: str, after: timedelta, limit: int) -> list[ForgetOrder]:
        """Return orders to look at again."""
        self._check_open()
        found = self._orders.done_early(self._clock.now(), after)
        return [one for one in found if one.org_id == org_id][:limit]

    async def note_second_look(self, org_id: str, orders: Sequence[ForgetOrder], *, found: bool) -> None:
        """Record what a second look has shown."""
        self._check_open()
        self._orders.note_second_look(org_id, orders, None if found else self._clock.now())

    async def covered(self, org_id: str, what: Forgotten) -> int:
        """Count what an order would remove."""
        self._check_open()
        held = [entry.memory for _, entry in self._of(org_id)]
        held += [memory for shelf, stored in self.embedded.items() if shelf[0] == org_id for memory in stored]
        return sum(map(what.covers, held))

    async def forgotten(self, memories: Sequence[Memory]) -> set[str]:
        """Return which memories must never come back."""
        self._check_open()
        return self._orders.covered(memories)

    async def admit(self, instance: ArcInstance, memories: Sequence[Memory]) -> Admission:
        """Take in what comes from elsewhere."""
        self._check_open()
        if instance.org_id in self._closed_orgs:
            raise OrgClosing(f"{instance.org_id} is being deleted")
        gone = self._orders.covered(memories)
        forgotten = [memory for memory in memories if memory.memory_id in gone]
        admitted = Admission(stored=[], present=[], outward=[], waiting=[], forgotten=forgotten)
        entries = {entry.memory.memory_id: entry for _, entry in self._of(instance.org_id)}
        oldest = self._oldest(instance.org_id)
        shelf = self.embedded[shelf_of(instance)] if instance.embedded else []
        stored = {memory.memory_id for memory in shelf}
        for memory in memories:
            us, parsed = to_us(memory.time), identifiers.parse_memory_id(memory.memory_id)
            own = parsed is not None and parsed[1] == self.node
            if memory.memory_id in gone:
                continue
            entry = entries.get(memory.memory_id)
            if entry is not None and entry.instance_id != instance.id:
                if entry.state is not EntryState.SET_ASIDE:
                    admitted.waiting.append(memory)
                    continue
                entry.instance_id = instance.id
                if instance.embedded:
                    shelf.append(self._entries.pop(us).memory)
                    self._gaps.add((instance.org_id, us))
            if entry is not None or memory.memory_id in stored:
                admitted.present.append(memory)
                continue
            self._last = max(self._last, us) if own else self._last
            if instance.embedded:
                stored.add(memory.memory_id)
                shelf.append(memory)
                admitted.stored.append(memory)
            else:
                (admitted.waiting if own and us >= oldest else admitted.outward).append(memory)
        await self.note_arrivals(instance, admitted.stored)
        return admitted

    async def note_arrivals(self, instance: ArcInstance, memories: Sequence[Memory]) -> None:
        """Claim keys that are not claimed, and note activity."""
        for memory in memories:
            activity = (instance.org_id, memory.agent_id)
            self._activity[activity] = max(memory.time, self._activity.get(activity, memory.time))
        if self._dedup.enabled:
            await self.load_claims(instance, memories)

    async def claims_loaded(self, instance: ArcInstance) -> bool:
        """Tell whether an instance's claims are all here."""
        self._check_open()
        return (instance.org_id, instance.id) in self._loaded

    async def load_claims(self, instance: ArcInstance, memories: Sequence[Memory]) -> None:
        """Claim keys that are not claimed."""
        self._check_open()
        forgotten = self._orders.covered(memories)
        for memory in memories:
            known = memory.org_id == instance.org_id and memory.memory_id not in forgotten
            if known and memory.dedup_key is not None:
                claim = (memory.org_id, memory.dedup_key)
                self._claims[claim] = max(memory, self._claims.get(claim, memory), key=lambda one: one.time)

    async def mark_claims_loaded(self, instance: ArcInstance) -> None:
        """Remember that an instance's claims are all here."""
        self._check_open()
        self._loaded.add((instance.org_id, instance.id))

    async def record_key_use(self, used: Mapping[str, datetime]) -> None:
        """Keep the latest use of each key."""
        self._check_open()
        for key_id, at in used.items():
            self._key_uses[key_id] = max(at, self._key_uses.get(key_id, at))

    async def key_uses(self, key_ids: Iterable[str]) -> dict[str, datetime]:
        """Return when keys were last used."""
        self._check_open()
        return {key_id: self._key_uses[key_id] for key_id in key_ids if key_id in self._key_uses}

    async def close_org(self, org_id: str) -> None:
        """Refuse appends."""
        self._check_open()
        self._closed_orgs.add(org_id)

    async def reopen_org(self, org_id: str) -> None:
        """Take appends again."""
        self._check_open()
        self._closed_orgs.discard(org_id)

    async def holdings(self, org_id: str) -> OrgHoldings:
        """Count."""
        self._check_open()
        states = [entry.state for _, entry in self._of(org_id)]
        return OrgHoldings(
            pending=states.count(EntryState.PENDING),
            delivered=states.count(EntryState.DELIVERED),
            set_aside=states.count(EntryState.SET_ASIDE),
            embedded=sum(len(memories) for shelf, memories in self.embedded.items() if shelf[0] == org_id),
        )

    async def purge_org(self, org_id: str) -> None:
        """Forget everything of the org."""
        self._check_open()
        for key, _ in self._of(org_id):
            del self._entries[key]
        self._claims = {key: one for key, one in self._claims.items() if key[0] != org_id}
        self._activity = {key: one for key, one in self._activity.items() if key[0] != org_id}
        self._loaded = {one for one in self._loaded if one[0] != org_id}
        self._orders.purge(org_id)
        for shelf in [shelf for shelf in self.embedded if shelf[0] == org_id]:
            del self.embedded[shelf]

    async def close(self) -> None:
        """Take nothing more."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StorageUnavailable("the journal is closed")

    def _of(self, org_id: str) -> list[tuple[int, _Entry]]:
        return [(key, entry) for key, entry in sorted(self._entries.items()) if entry.memory.org_id == org_id]

    def _orgs(self, state: EntryState) -> list[str]:
        self._check_open()
        return sorted({entry.memory.org_id for entry in self._entries.values() if entry.state is state})

    def _still_pending(self, batch: PendingBatch) -> list[tuple[int, _Entry]]:
        self._check_open()
        return [
            (key, entry)
            for key, entry in self._of(batch.org_id)
            if key in batch.keys and entry.instance_id == batch.instance_id and entry.state is EntryState.PENDING
        ]

    def _delivered(self, run: DeliveredRun, keys: Sequence[int]) -> list[tuple[int, _Entry]]:
        self._check_open()
        return [
            (key, entry)
            for key, entry in self._of(run.span.org_id)
            if key in keys and entry.instance_id == run.instance_id and entry.state is EntryState.DELIVERED
        ]

    def _oldest(self, org_id: str) -> float:
        return min((key for key, entry in self._of(org_id) if entry.answer is None), default=math.inf)

    def _horizon(self, org_id: str) -> Horizon:
        held = self._of(org_id)
        in_line = (key for key, entry in held if entry.answer is None)
        before = min(in_line, default=self._last + 1)
        aside = [(key, entry) for key, entry in held if entry.answer is not None and key < before]
        # First those on their way again: the others are hardly in Arc.
        aside.sort(key=lambda one: (one[1].state is EntryState.SET_ASIDE, -one[0]))
        refused = [entry.memory.memory_id for _, entry in aside[:MOST_OUT_OF_LINE]]
        forgotten = tuple(order.what for order in self._orders.of(org_id, waiting=True))
        return Horizon(self.node, from_us(before), frozenset(refused), forgotten)


def _size(memory: Memory) -> int:
    return len(memory.content.encode())
