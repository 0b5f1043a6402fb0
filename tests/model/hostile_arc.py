"""An Arc that does everything an Arc may do to its users, in memory."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Literal

import msgspec

from memtrace_core.errors import ArcFailed, ArcRejected, ArcTimeout, ArcUnreachable, MemtraceError
from memtrace_core.forgotten import Forgotten, sieve
from memtrace_core.identifiers import parse_memory_id
from memtrace_core.model import AgentCounts, ArcInstance, Memory
from memtrace_core.query import AgentCountQuery, MemoryQuery, OwnSpan
from memtrace_core.testing import ManualClock
from memtrace_core.testing.shelves import counted
from model.expected import FAILING, REFUSED, REFUSED_AND_KEPT, Place, place_of

Mood = Literal["well", "twice", "dropped", "lost", "late", "half", "failed before", "failed after"]
MOODS: tuple[Mood, ...] = ("twice", "dropped", "lost", "late", "half", "failed before", "failed after")


class Row(msgspec.Struct):
    """A row, which is in memory, unseen, until a moment on the clock, and from then on for good."""

    memory: Memory
    flushed_at: float


class HostileArc:
    """A gateway to Arcs in dicts. Its attributes may be set at any time.

    `away` is what every request raises, `moods` is what happens to the writes to come, one each, `lag` is how long
    rows are only in memory, and `durable` lets a write that is not say so. Rows of many orgs share a place.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.away: type[MemtraceError] | None = None
        self.moods: deque[Mood] = deque()
        self.lag = timedelta(0)
        self.durable = False
        self.blamed: Counter[str] = Counter()
        self.first_attempts: dict[tuple[str, str], dict[str, Memory]] = defaultdict(dict)
        self._clock = clock
        self._rows: dict[Place, list[Row]] = defaultdict(list)

    def lose(self, every: int) -> None:
        """Lose every so manieth row that is only in memory."""
        now = self._clock.monotonic()
        for place, rows in self._rows.items():
            self._rows[place] = [row for number, row in enumerate(rows) if row.flushed_at <= now or number % every]

    def wipe(self, org_id: str) -> None:
        """Remove an org's rows, as an operator does who deletes an org."""
        for place, rows in self._rows.items():
            self._rows[place] = [row for row in rows if row.memory.org_id != org_id]
        for offered in [key for key in self.first_attempts if key[0] == org_id]:
            del self.first_attempts[offered]

    def heal(self) -> None:
        """Be an Arc as one wishes it; what is lost is lost."""
        self.away = None
        self.moods.clear()
        self.lag = timedelta(0)
        self.durable = False

    def ids(self, place: Place, org_id: str) -> set[str]:
        """Return the ids of an org's memories that are safe in a place."""
        return {one.memory_id for one in self._safe(place) if one.org_id == org_id}

    async def write(self, instance: ArcInstance, memories: Sequence[Memory]) -> bool:
        """Take memories, or not, and say something about it."""
        for one in memories:
            self.first_attempts[instance.org_id, instance.id].setdefault(one.memory_id, one)
        await self._answer()
        contents = " ".join(one.content for one in memories)
        if FAILING in contents:
            raise self._blame(memories, ArcFailed("internal error"))
        if REFUSED in contents or REFUSED_AND_KEPT in contents:
            if REFUSED_AND_KEPT in contents:
                self._store(instance, memories)
            raise self._blame(memories, ArcRejected("a column has another type"))
        mood = self.moods.popleft() if self.moods else "well"
        if mood == "failed before":
            raise self._blame(memories, ArcFailed("nothing was stored"))
        if mood == "half":
            self._store(instance, memories[: len(memories) // 2])
            raise self._blame(memories, ArcFailed("something was stored"))
        if mood != "dropped":
            self._store(instance, memories)
        if mood == "twice":
            self._store(instance, memories)
        await asyncio.sleep(0)
        if mood == "lost":
            raise ArcUnreachable("the answer was lost")
        if mood == "late":
            raise ArcTimeout("the answer took too long")
        if mood == "failed after":
            raise self._blame(memories, ArcFailed("everything was stored"))
        return self.durable and mood != "dropped" and not self.lag

    async def query(self, instance: ArcInstance, query: MemoryQuery) -> list[Memory]:
        """Return what matches."""
        await self._answer()
        found = query.page(self._safe(place_of(instance)))
        await asyncio.sleep(0)
        return found

    async def count(self, instance: ArcInstance, query: AgentCountQuery) -> AgentCounts:
        """Count what matches."""
        await self._answer()
        counts = counted(self._safe(place_of(instance)), query)
        await asyncio.sleep(0)
        return counts

    async def own_count(self, instance: ArcInstance, span: OwnSpan) -> int:
        """Count what readers are shown of a span."""
        return len(await self.own_ids(instance, span))

    async def own_ids(self, instance: ArcInstance, span: OwnSpan) -> set[str]:
        """Return what readers are shown of a span."""
        await self._answer()
        found = {
            one.memory_id
            for one in self._safe(place_of(instance))
            if one.org_id == span.org_id
            and span.first <= one.time <= span.last
            and (parse_memory_id(one.memory_id) or (0, ""))[1] == span.node
        }
        await asyncio.sleep(0)
        return found

    async def covered(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Count the rows that are to be forgotten, of those that are flushed."""
        await self._answer()
        found = len(self._flushed(instance, forgotten))
        await asyncio.sleep(0)
        return found

    async def erase(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Delete them; rows that are not flushed are passed over."""
        await self._answer()
        gone = self._flushed(instance, forgotten)
        place = place_of(instance)
        self._rows[place] = [row for row in self._rows[place] if row not in gone]
        await asyncio.sleep(0)
        return len(gone)

    def _flushed(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> list[Row]:
        left, now = sieve(forgotten), self._clock.monotonic()
        return [
            row
            for row in self._rows[place_of(instance)]
            if row.flushed_at <= now and row.memory.org_id == instance.org_id and not left(row.memory)
        ]

    async def known_ids(self, instance: ArcInstance, memory_ids: Collection[str]) -> set[str]:
        """Return which of these memories readers are shown."""
        await self._answer()
        found = {one.memory_id for one in self._safe(place_of(instance))} & set(memory_ids)
        await asyncio.sleep(0)
        return found

    async def ping(self, instance: ArcInstance) -> None:
        """Answer, or not."""
        await self._answer()

    async def server_version(self, instance: ArcInstance) -> str | None:
        """Return that there is no server."""
        return None

    async def close(self) -> None:
        """Do nothing: what is stored outlives its clients."""

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.away is not None:
            raise self.away("as the test wishes")

    def _store(self, instance: ArcInstance, memories: Sequence[Memory]) -> None:
        flushed_at = self._clock.monotonic() + self.lag.total_seconds()
        self._rows[place_of(instance)] += [Row(one, flushed_at) for one in memories]

    def _safe(self, place: Place) -> list[Memory]:
        """Return the memories of a place that readers are shown, one per id."""
        now = self._clock.monotonic()
        shown = (row.memory for row in self._rows[place] if row.flushed_at <= now)
        return list({one.memory_id: one for one in shown}.values())

    def _blame(self, memories: Sequence[Memory], error: MemtraceError) -> MemtraceError:
        if len(memories) == 1:
            self.blamed[memories[0].memory_id] += 1
        return error
