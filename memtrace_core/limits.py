"""Fair use: how often a key may ask, and how many requests of an org may be under way."""

from __future__ import annotations

import math
from collections import Counter

import msgspec

from memtrace_core.errors import TooManyRequests
from memtrace_core.model import Principal
from memtrace_core.ports import Clock


class FairUse(msgspec.Struct, frozen=True, kw_only=True):
    """What is fair. Zero means no limit.

    `requests_per_second` is for each API key, in the long run; `burst` requests may come at once. `in_flight` is
    how many requests of an org may be under way.
    """

    requests_per_second: float = 0
    burst: int = 1
    in_flight: int = 0


class Limits:
    """Counts the requests of each key and org."""

    def __init__(self, clock: Clock, fair: FairUse) -> None:
        self._clock = clock
        self._fair = fair
        # Until when each key's requests so far are paid for, on the monotonic clock.
        self._paid_until: dict[str | None, float] = {}
        self._in_flight: Counter[str] = Counter()

    def enter(self, principal: Principal) -> None:
        """Let a request begin; `leave` must follow it.

        Raises:
            TooManyRequests: it must wait, and nothing is to be left.
        """
        fair, org_id = self._fair, principal.org_id
        if fair.in_flight and self._in_flight[org_id] >= fair.in_flight:
            raise TooManyRequests(f"at most {fair.in_flight} requests of an organization may be under way", 1)
        if fair.requests_per_second:
            self._spend(principal.key_id, 1 / fair.requests_per_second)
        self._in_flight[org_id] += 1

    def leave(self, principal: Principal) -> None:
        """Note that a request has ended."""
        self._in_flight[principal.org_id] -= 1
        if not self._in_flight[principal.org_id]:
            del self._in_flight[principal.org_id]

    def _spend(self, key_id: str | None, price: float) -> None:
        now = self._clock.monotonic()
        paid_until = max(self._paid_until.get(key_id, now), now)
        wait = paid_until - now - price * (self._fair.burst - 1)
        # A rest that is smaller than a request takes is no reason to turn one away.
        if wait > 1e-6:
            raise TooManyRequests("this API key asks too often", math.ceil(wait))
        self._paid_until[key_id] = paid_until + price
