"""One cycle: start what was killed, see that nothing is missing, work under faults, kill."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from random import Random

import aiohttp

from torture.compaction import files_in
from torture.contents import Pen, sameness_of
from torture.faults import misbehave
from torture.plan import Plan, plan_of
from torture.reading import Follower, Reader
from torture.recorder import Recorder
from torture.traffic import follow, same_as_before, write
from torture.world import Inhabitant, World

WRITERS = 3
ANSWER_SECONDS = 20
PATIENCE_SECONDS = 20
MOST_FILES = 400


class Cycles:
    """What all cycles of a run share.

    Args:
        world: the processes.
        recorder: takes everything down.
        seconds: how long one cycle's traffic lasts at most.
        seed: of all draws.
        forgetting: whether clients forget.
    """

    def __init__(self, world: World, recorder: Recorder, seconds: float, seed: int, *, forgetting: bool) -> None:
        self.world, self.recorder, self.forgetting = world, recorder, forgetting
        self.followers = {one.org: Follower() for one in world.orgs}
        self._seconds, self._seed = seconds, seed

    async def cycle(self, number: int) -> None:
        """Run one cycle, from the start of what was killed to the next kill."""
        plan = plan_of(self._seed, number, self._seconds, forgetting=self.forgetting)
        rng = Random(f"traffic {self._seed}/{number}")
        self.world.start(settle_seconds=plan.settle_seconds)
        self.world.set_faults()
        self.recorder.server_lives = True
        async with AsyncExitStack() as stack:
            readers = {one.org: await self.reader(one, stack) for one in self.world.orgs}
            await asyncio.gather(
                *(self._look_after(one, readers[one.org], number - 1, rng) for one in self.world.orgs)
            )
            await asyncio.to_thread(self.see_claims)
            await self._work(readers, number, plan, rng)

    def see_claims(self) -> None:
        """See that what is stored holds the claim of its key, which is so whenever it is looked at."""
        for org, memory_id in self.world.unclaimed():
            self.recorder.violated("unclaimed", org, f"{memory_id} does not hold the claim of its key")

    async def reader(self, one: Inhabitant, stack: AsyncExitStack) -> Reader:
        """Return a reader whose connections are closed with the stack."""
        api = aiohttp.ClientSession(
            self.world.url,
            headers={"x-api-key": one.tenant.key},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        )
        return Reader(
            await stack.enter_async_context(api), one.org, f"{one.name}.", one.place is not None, self.recorder
        )

    async def _look_after(self, one: Inhabitant, reader: Reader, former: int, rng: Random) -> None:
        """See that after a kill what was acknowledged is there; send again what was not answered; count, search."""
        recorder, org = self.recorder, one.org
        known = recorder.acknowledged[org]
        for memory in (known[-1], rng.choice(known)) if known else ():
            await self._patiently(reader, partial(same_as_before, reader, memory))
        for order in recorder.unsure.pop(org, []):
            await recorder.forget(
                reader.api, org, memory_id=order.memory_id, agent=order.agent, session=order.session, again=True
            )
        again = {sameness_of(memory): memory for memory in recorder.unanswered.pop(org, [])}
        if again and rng.random() < 0.5:
            await recorder.post(reader.api, org, list(again.values()))
        else:
            await asyncio.gather(*(recorder.post(reader.api, org, [memory]) for memory in again.values()))
        agent = _agent(former)
        await self._patiently(reader, partial(self._counts, reader, agent))
        await self._patiently(reader, partial(self._finds, reader, agent))

    async def _counts(self, reader: Reader, agent: str) -> bool:
        found = await reader.get(f"/api/v1/agents/{agent}/stats")
        expected = self.recorder.count_of(reader.org, agent)
        if found is not None and found["memory_count"] not in expected:
            self.recorder.violated("count", reader.org, f"{agent} has {expected}, stats: {found['memory_count']}")
        return found is not None

    async def _finds(self, reader: Reader, agent: str) -> bool:
        """Search for an agent's memories; what is forgotten must not be found."""
        found = await reader.search(agent_id=agent, content_contains=reader.mark, limit=1000)
        if found is not None and found["count"] not in self.recorder.count_of(reader.org, agent):
            self.recorder.violated("count", reader.org, f"a search for {agent} finds {found['count']}")
        return found is not None

    async def _patiently(self, reader: Reader, look: Callable[[], Awaitable[bool]]) -> None:
        """Repeat a look until it was answered; Arc is up, so it must be soon."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        before = len(self.recorder.violations)
        while not await look() and len(self.recorder.violations) == before:
            if time.monotonic() > deadline:
                self.recorder.violated("status", reader.org, "Arc is up, and yet it cannot be read")
                return
            await asyncio.sleep(0.02)

    async def _work(self, readers: dict[str, Reader], number: int, plan: Plan, rng: Random) -> None:
        """Let everybody work for a while, then kill."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(misbehave(self.world, plan, Random(rng.random()), stop))]
        for one in self.world.orgs:
            reader = readers[one.org]
            tasks.append(asyncio.create_task(follow(reader, self.followers[one.org], stop)))
            for writer in range(WRITERS):
                own = Random(rng.random())
                pen = Pen(f"{one.name}.{number}.{writer}", _agent(number), own)
                tasks.append(
                    asyncio.create_task(write(reader, pen, own, self.recorder, stop, forgetting=self.forgetting))
                )
        tasks.append(asyncio.create_task(self._lose_a_worker(plan, Random(rng.random()))))
        await self._kill(plan, stop)
        await asyncio.gather(*tasks)

    async def _lose_a_worker(self, plan: Plan, rng: Random) -> None:
        """Kill one worker in some of the cycles; the others go on, and its connections break."""
        if self.world.workers > 1 and rng.random() < 0.5:
            await asyncio.sleep(rng.uniform(0, plan.seconds))
            self.recorder.server_lives = False
            self.world.kill_a_worker()

    async def _kill(self, plan: Plan, stop: asyncio.Event) -> None:
        """Kill the server, the double, or both; a server that lives on sees the double come back."""
        world = self.world
        # It is the moment of the kill that is drawn: nothing is waited for.
        if plan.victim == "arc":
            await asyncio.sleep(plan.seconds / 2)
            await asyncio.to_thread(world.arc.kill)
            await asyncio.to_thread(world.start_arc)
            await asyncio.sleep(plan.seconds / 2)
        else:
            await asyncio.sleep(plan.seconds)
            if plan.victim == "both" or files_in(world.arc.data) > MOST_FILES:
                world.arc.kill()
            self.end_server()
        stop.set()

    def end_server(self) -> None:
        """Kill the server, which must not have ended before, nor have met an error that is not Arc's."""
        self.recorder.server_lives = False
        if not self.world.kill_server():
            self.recorder.violated("status", "all", "the server ended by itself")
        for complaint in self.world.complaints():
            self.recorder.violated("status", "all", f"the server's log: {complaint}")


def _agent(number: int) -> str:
    return f"c{number}"
