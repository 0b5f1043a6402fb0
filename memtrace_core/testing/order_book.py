"""Orders to forget in memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from memtrace_core.forgotten import ForgetOrder, Forgotten, OrderReason
from memtrace_core.model import Memory

_INSTANT = timedelta(microseconds=1)


class InMemoryOrderBook:
    """Orders in a list; whoever keeps memories as well removes what `take` says."""

    def __init__(self) -> None:
        self._orders: list[ForgetOrder] = []
        self._last_key = 0
        self._in_arc: set[int] = set()

    def take(
        self, org_id: str, what: Forgotten, now: datetime, *, in_arc: bool, reason: OrderReason, removed: int
    ) -> ForgetOrder:
        """Record an order that is carried out here already."""
        self._last_key += 1
        self._orders = [one for one in self._orders if not _replaced(one, org_id, what)]
        order = ForgetOrder(
            key=self._last_key,
            org_id=org_id,
            what=what,
            reason=reason,
            made_at=now,
            swept=True,
            claims_freed=True,
            done_at=None if in_arc else now,
            removed=removed,
            deleted=0,
            trouble=None,
        )
        self._orders.append(order)
        if in_arc:
            self._in_arc.add(order.key)
        return order

    def of(self, org_id: str, *, waiting: bool = False) -> list[ForgetOrder]:
        """Return an org's orders, oldest first."""
        return [one for one in self._orders if one.org_id == org_id and not (waiting and one.done_at)]

    def waiting_orgs(self) -> list[str]:
        """Return the orgs with orders that are not done."""
        return sorted({one.org_id for one in self._orders if one.done_at is None})

    def note(
        self,
        org_id: str,
        orders: Sequence[ForgetOrder],
        *,
        deleted: int,
        trouble: str | None,
        done_at: datetime | None,
    ) -> None:
        """Record how far orders are."""
        meant = {(one.key, one.made_at) for one in orders}
        first = min((key for key, _ in meant), default=0)
        for place, one in enumerate(self._orders):
            if one.org_id == org_id and (one.key, one.made_at) in meant and one.done_at is None:
                self._orders[place] = msgspec.structs.replace(
                    one,
                    deleted=one.deleted + (deleted if one.key == first else 0),
                    trouble=trouble,
                    done_at=done_at,
                )

    def done_early(self, now: datetime, after: timedelta) -> list[ForgetOrder]:
        """Return the orders of all orgs that are older than `after`, and were done when they were not."""
        return [
            one
            for one in self._orders
            if one.key in self._in_arc
            and one.done_at is not None
            and one.made_at + after <= now
            and one.done_at < one.made_at + after
        ]

    def note_second_look(self, org_id: str, orders: Sequence[ForgetOrder], done_at: datetime | None) -> None:
        """Record that orders are done now after all, or, without a time, let them wait again."""
        for place, one in enumerate(self._orders):
            if one in orders and one.org_id == org_id:
                made_at = one.made_at if done_at else one.made_at + _INSTANT
                self._orders[place] = msgspec.structs.replace(one, done_at=done_at, made_at=made_at, trouble=None)

    def reopen(self, org_id: str) -> None:
        """Let all orders of an org wait."""
        self._in_arc |= {one.key for one in self._orders if one.org_id == org_id}
        self._orders = [
            msgspec.structs.replace(one, done_at=None, trouble=None, made_at=one.made_at + _INSTANT)
            if one.org_id == org_id
            else one
            for one in self._orders
        ]

    def purge(self, org_id: str) -> None:
        """Drop an org's orders."""
        self._orders = [one for one in self._orders if one.org_id != org_id]

    def covered(self, memories: Sequence[Memory]) -> set[str]:
        """Return the ids of those memories that some order covers."""
        return {
            memory.memory_id
            for memory in memories
            if any(one.what.covers(memory) for one in self._orders if one.org_id == memory.org_id)
        }


def _replaced(order: ForgetOrder, org_id: str, what: Forgotten) -> bool:
    """Tell whether an order is done, and nothing more than a new one."""
    same = msgspec.structs.replace(order.what, before=what.before) == what
    return order.org_id == org_id and same and order.what.before <= what.before and order.done_at is not None
