"""What is asked of a store: a specification of memories, never SQL.

`MemoryQuery.matches` is the reference for every store's own rendering of it.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from typing import Literal

import msgspec

from memtrace_core import identifiers, rules
from memtrace_core.errors import InvalidInput
from memtrace_core.forgotten import Forgotten, sieve
from memtrace_core.model import Memory
from memtrace_core.timewindow import from_us, to_us

__all__ = [
    "AgentCountQuery",
    "Horizon",
    "MemoryQuery",
    "Order",
    "OwnSpan",
    "Position",
    "decode_cursor",
    "encode_cursor",
    "fold",
    "position_of",
]

Order = Literal["desc", "asc"]

_CURSOR = re.compile(r"([da])(-?[0-9]{1,18})\.([a-z]+_[0-9a-f]{24})", re.ASCII)


def fold(text: str) -> str:
    """Lower-case letter by letter, so that "case-insensitive" means the same on every store.

    `str.lower` turns `Σ` at a word's end into `ς` and `İ` into two characters; databases do neither.
    """
    return text.replace("Σ", "σ").replace("İ", "i").lower()


class Position(msgspec.Struct, frozen=True, order=True):
    """A place in the order of things: time, then id."""

    time: datetime
    id: str


class Horizon(msgspec.Struct, frozen=True):
    """Which rows a gateway may answer for, while the journal answers for the rest.

    A row counts when another node wrote it, or when it is older than `before` and not one of `set_aside`, the ids
    of the latest memories older than `before` that a gateway has refused (but might have stored all the same). No
    row counts that is among `forgotten`, whoever wrote it: what a gateway may still have of what was forgotten.
    """

    node: str
    before: datetime
    set_aside: frozenset[str] = frozenset()
    forgotten: tuple[Forgotten, ...] = ()

    def admits(self, memory: Memory) -> bool:
        """Tell whether a gateway may answer with this memory."""
        if self.forgotten and not sieve(self.forgotten)(memory):
            return False
        parsed = identifiers.parse_memory_id(memory.memory_id)
        if parsed is None or parsed[1] != self.node:
            return True
        return memory.time < self.before and memory.memory_id not in self.set_aside


class OwnSpan(msgspec.Struct, frozen=True):
    """The memories of one org that one node wrote, from `first` to `last`, both included."""

    org_id: str
    node: str
    first: datetime
    last: datetime


class MemoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Memories of one org, filtered, ordered and paged.

    An empty tuple and None mean "any". `since` is inclusive, `until` exclusive. The order is by time, then by
    `memory_id`. `after` is the position of the last memory already seen.
    """

    org_id: str
    agent_ids: tuple[str, ...] = ()
    session_ids: tuple[str, ...] = ()
    memory_types: tuple[str, ...] = ()
    event_types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    content_contains: str | None = None
    min_importance: float | None = None
    max_importance: float | None = None
    since: datetime | None = None
    until: datetime | None = None
    memory_id: str | None = None
    dedup_key: str | None = None
    order: Order = "desc"
    after: Position | None = None
    offset: int = 0
    limit: int = 100
    horizon: Horizon | None = None

    def check(self) -> MemoryQuery:
        """Return the query itself if every value is within its rule.

        Raises:
            InvalidInput: naming the first value that is not.
        """
        for values, one, many in (
            (self.agent_ids, rules.identifier, "agent_id"),
            (self.session_ids, rules.identifier, "session_id"),
            (self.memory_types, rules.memory_type, "memory_types"),
            (self.event_types, rules.event_type, "event_types"),
        ):
            for value in values:
                one(value, many)
        rules.tags(self.tags, "tags")
        if self.content_contains is not None:
            rules.search_text(self.content_contains, "content_contains")
        if self.min_importance is not None:
            rules.importance(self.min_importance, "min_importance")
        if self.max_importance is not None:
            rules.importance(self.max_importance, "max_importance")
        rules.within(self.limit, 1, rules.MAX_LIMIT, "limit")
        rules.within(self.offset, 0, rules.MAX_OFFSET, "offset")
        if self.offset and self.after:
            raise InvalidInput("cursor and offset cannot be combined")
        if self._values() > rules.MAX_FILTER_VALUES:
            raise InvalidInput(f"a query may have at most {rules.MAX_FILTER_VALUES} filter values in all")
        return self

    def _values(self) -> int:
        lists = (self.agent_ids, self.session_ids, self.memory_types, self.event_types, self.tags)
        single = (self.content_contains, self.min_importance, self.max_importance, self.since, self.until)
        return sum(map(len, lists)) + sum(value is not None for value in single)

    def matches(self, memory: Memory) -> bool:
        """Tell whether a memory belongs to the answer, order and paging apart."""
        return (
            memory.org_id == self.org_id
            and (not self.agent_ids or memory.agent_id in self.agent_ids)
            and (not self.session_ids or memory.session_id in self.session_ids)
            and (not self.memory_types or memory.memory_type in self.memory_types)
            and (not self.event_types or memory.event_type in self.event_types)
            and set(self.tags) <= set(memory.tags)
            and (self.content_contains is None or fold(self.content_contains) in fold(memory.content))
            and (self.min_importance is None or memory.importance >= self.min_importance)
            and (self.max_importance is None or memory.importance <= self.max_importance)
            and (self.since is None or memory.time >= self.since)
            and (self.until is None or memory.time < self.until)
            and (self.memory_id is None or memory.memory_id == self.memory_id)
            and (self.dedup_key is None or memory.dedup_key == self.dedup_key)
            and (self.horizon is None or self.horizon.admits(memory))
            and (self.after is None or self._follows(position_of(memory), self.after))
        )

    def following(self, seen: Position) -> MemoryQuery:
        """Return the query for the page after a position."""
        return msgspec.structs.replace(self, after=seen, offset=0)

    def beside(self, found: int) -> MemoryQuery:
        """Return what to ask a second, disjoint set, when one has `found` of its first `offset + limit` memories.

        Of the first `offset` of both no more come from the one than it holds: the other can skip the rest itself.
        """
        skipped = max(0, self.offset - found)
        return msgspec.structs.replace(self, offset=skipped, limit=self.limit + self.offset - skipped)

    def page(self, memories: list[Memory]) -> list[Memory]:
        """Return the memories that match, in order, from `offset` on, at most `limit`."""
        found = sorted(filter(self.matches, memories), key=position_of, reverse=self.order == "desc")
        return found[self.offset : self.offset + self.limit]

    def _follows(self, position: Position, after: Position) -> bool:
        return position < after if self.order == "desc" else position > after


class AgentCountQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's memories of one org, to be counted; `recent_since` bounds the recent ones, `since` them all."""

    org_id: str
    agent_id: str
    recent_since: datetime
    since: datetime | None = None
    horizon: Horizon | None = None


def position_of(memory: Memory) -> Position:
    """Return a memory's place in the order of memories."""
    return Position(memory.time, memory.memory_id)


def encode_cursor(position: Position, order: Order) -> str:
    """Return a position as the opaque text that a caller sends back for the next page."""
    plain = f"{order[0]}{to_us(position.time)}.{position.id}"
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, order: Order) -> Position:
    """Read a cursor back.

    Raises:
        InvalidInput: it is not a cursor of ours, or belongs to a page in the other order.
    """
    try:
        plain = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        match = _CURSOR.fullmatch(plain)
        if match is None:
            raise InvalidInput("cursor is not one that this server gave out")
        position = Position(from_us(int(match[2])), match[3])
    except (binascii.Error, ValueError, OverflowError):
        raise InvalidInput("cursor is not one that this server gave out") from None
    if match[1] != order[0]:
        raise InvalidInput("cursor belongs to a page in the other order")
    return position
