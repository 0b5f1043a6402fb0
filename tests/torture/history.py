"""What was sent, what was answered, and what lies there in the end: all that the checks judge by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

Fields = dict[str, Any]

KINDS = (
    "lost",
    "doubled",
    "altered",
    "unsent",
    "foreign",
    "out of order",
    "skipped",
    "torn",
    "unjustified",
    "status",
    "count",
    "unclaimed",
    "unsettled",
    "resurrected",
    "overforgotten",
)


class Violation(msgspec.Struct, frozen=True):
    """A promise that was broken, one of `KINDS`; `org` is the id of whose it was."""

    kind: str
    org: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind} ({self.org}): {self.what}"


class Stored(msgspec.Struct, frozen=True, tag=True):
    """A memory was answered with 201."""

    memory: Fields


class Known(msgspec.Struct, frozen=True, tag=True):
    """A memory was answered to be a duplicate of another: 409, or the `duplicates` of a batch."""

    memory_id: str


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One memory in one request.

    `sameness` is equal for what dedup must take for the same memory within an org. Members of a batch share
    `request`, and stand in its order. `began` and `ended` count the beginnings and ends of all requests: a request
    that ended before another began has the smaller number. `outcome` is None where no answer came.
    """

    org: str
    request: int
    sent: Fields
    sameness: str
    began: int
    ended: int
    outcome: Stored | Known | None


class Order(msgspec.Struct, kw_only=True):
    """A request to forget one memory, or what an agent or a session has until then.

    `began` and `ended` count as those of attempts do; `ended` is None while it is under way. `answered` tells that
    the server has said it is forgotten: without an answer it may be.
    """

    org: str
    memory_id: str | None = None
    agent: str | None = None
    session: str | None = None
    began: int
    ended: int | None = None
    answered: bool = False


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What one org saw: everything in the end, oldest first, and the ids that its follower met on the way.

    `over_arc` tells that its memories end up in Arc.
    """

    org: str
    memories: Sequence[Fields]
    followed: Sequence[str]
    set_aside: frozenset[str] = frozenset()
    over_arc: bool = True


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one measurement in Arc, `time` in µs, and the orgs that are bound to it."""

    orgs: frozenset[str]
    rows: Sequence[Fields]


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    attempts: Sequence[Attempt]
    readings: Sequence[Reading]
    tables: Sequence[Table] = ()
    orders: Sequence[Order] = ()


def summed_up(
    seed: int,
    cycles: int,
    attempts: Sequence[Attempt],
    violations: Sequence[Violation],
    orders: Sequence[Order] = (),
) -> str:
    """Return the one line that tells how a run went."""
    acknowledged = sum(isinstance(attempt.outcome, Stored) for attempt in attempts)
    duplicates = sum(isinstance(attempt.outcome, Known) for attempt in attempts)
    found = Counter(violation.kind for violation in violations)
    kinds = ", ".join(f"{kind} {found[kind]}" for kind in KINDS)
    return (
        f"seed {seed}, cycles {cycles}, acknowledged {acknowledged}, duplicates answered {duplicates}, "
        f"unanswered {len(attempts) - acknowledged - duplicates}: {kinds}; "
        f"orders to forget answered {sum(order.answered for order in orders)} of {len(orders)}"
    )
