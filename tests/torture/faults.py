"""The faults of the double, one or two at a time, and for how long they last."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http.client import HTTPException
from random import Random

from torture.contents import POISON
from torture.history import Fields
from torture.plan import Plan
from torture.world import World

MENU: tuple[Fields, ...] = (
    {},
    {"lost_answer_share": 0.4},
    {"lost_answer_share": 0.2, "lost_answer": "silence"},
    {"drop_share": 0.5},
    {"drop_share": 1.0},
    {"drop_share": 1.0},
    {"error_before_share": 0.3},
    {"error_before_share": 1.0},
    {"error_after_share": 0.3},
    {"error_after_share": 1.0},
    {"query_error_share": 0.5},
    {"query_error_share": 1.0},
    {"io_errors": 5},
    {"write_latency": 0.1},
    {"query_latency": 0.05},
    {"visibility_lag": 0.3},
    {"reject": {POISON: 400}},
    {"reject": {POISON: 413}},
    {"reject": {POISON: 500}},
    {"down": True},
)


def draw(rng: Random) -> Fields:
    """Return one fault or two."""
    return {**rng.choice(MENU), **rng.choice(MENU)} if rng.random() < 0.4 else rng.choice(MENU)


async def misbehave(world: World, plan: Plan, rng: Random, stop: asyncio.Event) -> None:
    """Switch faults up to three times in a cycle, often at its very beginning."""
    if plan.outage:
        await _switch(world, {"down": True})
        return
    for _ in range(rng.randint(0, 3)):
        # It is the moment of the switch that is drawn: nothing is waited for.
        await asyncio.sleep(rng.choice((0, rng.uniform(0, plan.seconds / 2))))
        if stop.is_set():
            return
        await _switch(world, draw(rng))


async def _switch(world: World, faults: Fields) -> None:
    with suppress(OSError, HTTPException):  # the double is just being killed
        await asyncio.to_thread(world.set_faults, **faults)
