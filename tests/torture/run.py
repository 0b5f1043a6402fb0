"""A whole run: cycles over one growing state, then peace, and the judgement."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec
from e2e.processes import eventually

from torture.checks import check
from torture.cycle import Cycles
from torture.history import Attempt, History, Order, Reading, Table, Violation, summed_up
from torture.plan import SETTLE_SECONDS
from torture.recorder import Recorder
from torture.world import World

PEACE_SECONDS = 60
HISTORY = "history.json"  # beside the files of a run that went wrong, to judge it again


@dataclass(frozen=True)
class Result:
    """How a run went."""

    seed: int
    cycles: int
    attempts: list[Attempt]
    orders: list[Order]
    violations: list[Violation]
    set_aside: int

    def __str__(self) -> str:
        return summed_up(self.seed, self.cycles, self.attempts, self.violations, self.orders)


def run(
    folder: Path, *, cycles: int, seed: int, seconds_per_cycle: float, workers: int = 1, forgetting: bool = True
) -> Result:
    """Run so many cycles in a folder; the first one that shows a violation is the last."""
    world, recorder = World(folder, Random(seed), workers), Recorder()
    with world.living():
        recorder.over_arc = frozenset(one.org for one in world.orgs if one.place is not None)
        course = Cycles(world, recorder, seconds_per_cycle, seed, forgetting=forgetting)
        done = asyncio.run(_cycles(course, recorder, cycles))
        _make_peace(course, world, recorder)
        set_aside = frozenset(world.set_aside())
        readings = asyncio.run(_read_all(course, world, set_aside))
        history = History(
            attempts=recorder.attempts, readings=readings, tables=_tables(world), orders=recorder.orders
        )
    violations = [*recorder.violations, *check(history)]
    if violations:
        (folder / HISTORY).write_bytes(msgspec.json.encode(history))
    return Result(seed, done, recorder.attempts, recorder.orders, violations, len(set_aside))


async def _cycles(course: Cycles, recorder: Recorder, most: int) -> int:
    for number in range(1, most + 1):
        await course.cycle(number)
        if recorder.violations:
            return number
    return most


def _make_peace(course: Cycles, world: World, recorder: Recorder) -> None:
    """Start the server afresh, without faults, and wait until all is confirmed, and forgotten in Arc as well."""
    course.end_server()
    world.start(settle_seconds=SETTLE_SECONDS if course.forgetting else 0)
    world.set_faults()
    recorder.server_lives = True
    try:
        eventually(lambda: not world.waiting() and not world.orders(), within=PEACE_SECONDS)
    except AssertionError:
        left = f"{world.waiting()} memories are not confirmed and {world.orders()} orders to forget not done"
        recorder.violated("unsettled", "all", f"{left} in {PEACE_SECONDS} s")
    course.see_claims()


async def _read_all(course: Cycles, world: World, set_aside: frozenset[str]) -> list[Reading]:
    """Read what every org has, and let its follower come to the end."""
    readings: list[Reading] = []
    async with AsyncExitStack() as stack:
        for one in world.orgs:
            reader, follower = await course.reader(one, stack), course.followers[one.org]
            while await follower.look(reader):
                pass
            memories = await reader.everything()
            if memories is None:
                course.recorder.violated("status", one.org, "it cannot be read in peace")
                continue
            followed = [memory["memory_id"] for memory in follower.met]
            readings.append(
                Reading(
                    org=one.org,
                    memories=memories,
                    followed=followed,
                    set_aside=set_aside,
                    over_arc=one.place is not None,
                )
            )
    return readings


def _tables(world: World) -> list[Table]:
    def at(place: tuple[str, str]) -> frozenset[str]:
        return frozenset(one.org for one in world.orgs if one.place == place)

    return [Table(orgs=at(place), rows=rows) for place, rows in world.rows().items()]
