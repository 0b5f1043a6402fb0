"""What is drawn for a cycle before it begins, so that it is the same whenever a seed is used again."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

SETTLE_SECONDS = 1  # more than the double's buffer and its faults hold back what they have taken
LONG_SHARE, LONG_SECONDS = 0.15, 5.0

Victim = Literal["server", "both", "arc"]


@dataclass(frozen=True)
class Plan:
    """How long a cycle's traffic lasts, who is killed, and the settle time of a server that is started.

    Where memories are forgotten there is a settle time, or an order would be done before Arc has shown what it must
    delete; and some cycles last long enough for that. In an outage Arc is away from the beginning to the kill, so
    that the journal fills.
    """

    seconds: float
    victim: Victim
    settle_seconds: int
    outage: bool


def plan_of(seed: int, number: int, most_seconds: float, *, forgetting: bool = False) -> Plan:
    """Draw a cycle."""
    rng = Random(f"{seed}/{number}")
    # A cycle is mostly too short to confirm anything after a settle time, so there mostly is none.
    settle_seconds = rng.choice((0, 0, 0, 1))
    (victim,) = rng.choices(("server", "both", "arc"), (6, 2, 2))
    seconds, outage = rng.uniform(0.05, most_seconds), rng.random() < 0.15
    if forgetting:
        settle_seconds = SETTLE_SECONDS
        if rng.random() < LONG_SHARE:
            seconds, outage = rng.uniform(SETTLE_SECONDS, LONG_SECONDS), False
    return Plan(seconds, victim, settle_seconds, outage)
