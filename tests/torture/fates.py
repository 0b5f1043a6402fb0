"""What orders to forget must have done to a memory, or may have done, judged by when requests began and ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import msgspec

from torture.history import Attempt, Known, Order


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """When a memory was stored, as far as its sender can tell, and which orders are about it.

    `began` and `ended` are those of the request; `memory_id` is None where no answer named it. Of what is known as
    another's first only, the session is not known.
    """

    org: str
    memory_id: str | None
    agent: str
    session: str | None
    session_known: bool = True
    began: int
    ended: int


def birth_of(attempt: Attempt, memory_id: str | None = None) -> Birth:
    """Return the birth of what an attempt has stored, or may have stored."""
    return Birth(
        org=attempt.org,
        memory_id=memory_id,
        agent=attempt.sent["agent_id"],
        session=attempt.sent.get("session_id"),
        session_known=not isinstance(attempt.outcome, Known),
        began=attempt.began,
        ended=attempt.ended,
    )


class Fates:
    """The orders of a run; those that are still under way are brought up to date by whoever gave them."""

    def __init__(self, orders: Iterable[Order] = ()) -> None:
        self._single: dict[tuple[str, str], list[Order]] = defaultdict(list)
        self._broad: dict[str, list[Order]] = defaultdict(list)
        for order in orders:
            self.add(order)

    def add(self, order: Order) -> None:
        """Take an order into account."""
        if order.memory_id is not None:
            self._single[order.org, order.memory_id].append(order)
        else:
            self._broad[order.org].append(order)

    def gone_at(self, birth: Birth) -> int | None:
        """Return the moment from which on a memory must not be seen; None if it may be for ever."""
        moments = [
            order.ended
            for order in self._about(birth)
            if order.answered
            and order.ended is not None
            and birth.ended < order.began
            and (birth.session_known or order.session is None)
        ]
        return min(moments, default=None)

    def may_be_gone(self, birth: Birth, *, beside: Order | None = None) -> bool:
        """Tell whether an order, one apart, may have taken a memory: it must have ended after that was sent."""
        return any(
            order.ended is None or birth.began < order.ended for order in self._about(birth) if order is not beside
        )

    def may_be_gone_before(self, birth: Birth, moment: int) -> bool:
        """Tell the same of the orders that were given before a moment."""
        return any(
            order.began < moment and (order.ended is None or birth.began < order.ended)
            for order in self._about(birth)
        )

    def may_be_stored_again(self, birth: Birth, moment: int, *, own_key: bool, over_arc: bool) -> bool:
        """Tell whether a copy of a memory may be stored at a moment: an order has freed its claim, or may have."""
        return self.may_be_gone_before(birth, moment) or (
            over_arc and self.may_free_the_claims_of_others(birth, moment, own_key=own_key)
        )

    def any_since(self, org: str, moment: int) -> bool:
        """Tell whether an org has given an order that a memory of that moment may have met."""
        orders = [*self._broad[org], *(one for (of, _), some in self._single.items() if of == org for one in some)]
        return any(order.ended is None or moment < order.ended for order in orders)

    def may_free_the_claims_of_others(self, birth: Birth, moment: int, *, own_key: bool) -> bool:
        """Tell whether a copy may be stored though its first is kept, at a moment.

        That is so until Arc has named the memories of a session, and, for a caller's own key, those of an agent.
        """
        return any(
            order.began < moment and (order.ended is None or birth.began < order.ended)
            for order in self._broad[birth.org]
            if own_key or order.session is not None
        )

    def _about(self, birth: Birth) -> Iterator[Order]:
        if birth.memory_id is not None:
            yield from self._single.get((birth.org, birth.memory_id), ())
        for order in self._broad[birth.org]:
            if order.agent in (None, birth.agent) and (
                order.session in (None, birth.session) or not birth.session_known
            ):
                yield order
