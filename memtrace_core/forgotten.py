"""What is forgotten: which memories nobody may see any more, and the orders that say so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from memtrace_core.identifiers import parse_memory_id
from memtrace_core.model import Memory
from memtrace_core.timewindow import from_us

__all__ = ["ForgetOrder", "Forgotten", "OrderReason", "sieve"]

OrderReason = Literal["asked", "retention"]
"""Why there is an order: somebody asked for it, or the org keeps its memories only for a time."""

_INSTANT = timedelta(microseconds=1)


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """Memories of one org: the one of `memory_id`, or all before `before` of an agent, of a session, or of both.

    With none of the three it is everything before `before`. A memory's own `before` is just behind its time.
    """

    before: datetime
    memory_id: str | None = None
    agent_id: str | None = None
    session_id: str | None = None

    @classmethod
    def one(cls, memory_id: str) -> Forgotten | None:
        """Return what covers a single memory; None if that is no memory's id."""
        parsed = parse_memory_id(memory_id)
        return None if parsed is None else cls(memory_id=memory_id, before=from_us(parsed[0]) + _INSTANT)

    def covers(self, memory: Memory) -> bool:
        """Tell whether a memory of the same org is among these."""
        if self.memory_id is not None:
            return memory.memory_id == self.memory_id
        return (
            memory.time < self.before
            and self.agent_id in (None, memory.agent_id)
            and self.session_id in (None, memory.session_id)
        )


class ForgetOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An order to forget, and how far it is.

    `swept` tells that nothing of it is left in the local files, `claims_freed` that no dedup claim of it is, and
    `done_at` when Arc was seen to have nothing of it. `removed` counts memories that were here, `deleted` the rows
    that Arc had. `trouble` is why it did not get on when it was last tried.
    """

    key: int
    org_id: str
    what: Forgotten
    reason: OrderReason
    made_at: datetime
    swept: bool
    claims_freed: bool
    done_at: datetime | None
    removed: int
    deleted: int
    trouble: str | None


def sieve(forgotten: Iterable[Forgotten]) -> Callable[[Memory], bool]:
    """Return what tells whether a memory of the org is left, quickly also for thousands of forgotten ones."""
    everything = tuple(forgotten)
    ids = frozenset(one.memory_id for one in everything if one.memory_id is not None)
    broad = tuple(one for one in everything if one.memory_id is None)

    def left(memory: Memory) -> bool:
        return memory.memory_id not in ids and not any(one.covers(memory) for one in broad)

    return left
