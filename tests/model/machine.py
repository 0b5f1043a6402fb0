"""A machine that does to a server, in any order, what callers, operators, time and Arc do to it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
from builders import AGENTS, queries
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memtrace_core.errors import ArcFailed, ArcTimeout, ArcUnreachable, MemtraceError
from memtrace_core.memories import NewMemory
from memtrace_core.model import EMBEDDED_URL
from memtrace_core.query import MemoryQuery
from memtrace_core.tenants import Binding
from model import invariants, operators
from model.expected import BAD, FAILING, Expected, ExpectedOrg, Request
from model.hostile_arc import MOODS, Mood
from model.worlds import DEDUP, World, come_to_rest

Result = TypeVar("Result")

ARC = Binding(url="http://arc.example:8000", api_key="key", database="shared")
EMBEDDED = Binding(url=EMBEDDED_URL, database="local")
# The first comes back under its own id when it was deleted; the first two share a place in one Arc.
FIRST_BINDINGS = (ARC, ARC, EMBEDDED)
FAILING_SLOT = 1
OWN_KEY = "k1"
MICROSECOND, SECOND, HOUR = timedelta(microseconds=1), timedelta(seconds=1), timedelta(hours=1)
PAUSES = (MICROSECOND, SECOND, 15 * SECOND, 120 * SECOND, HOUR, DEDUP.window - MICROSECOND, DEDUP.window)
LAGS = (timedelta(0), SECOND, 60 * SECOND, 300 * SECOND)

OTHER_ARC = msgspec.structs.replace(ARC, database="other")

slots = st.integers(0, len(FIRST_BINDINGS) - 1)
memories = st.builds(
    NewMemory,
    agent_id=st.sampled_from(AGENTS[:2]),
    content=st.sampled_from("abc") | st.just("new") | st.sampled_from(BAD),
    memory_type=st.sampled_from([None, "decision"]),
    event_type=st.sampled_from([None, None, "error"]),
    session_id=st.sampled_from([None, "s1"]),
    dedup_key=st.sampled_from([None, None, None, OWN_KEY]),
)
places = st.sampled_from([ARC, OTHER_ARC, EMBEDDED])
requests = st.tuples(slots, st.lists(memories, min_size=1, max_size=5))


class Machine(RuleBasedStateMachine):
    """Drives one world in an event loop of its own, and compares it with what it promised."""

    def __init__(self, make_world: Callable[[], World]) -> None:
        super().__init__()
        self.expected = Expected(DEDUP)
        self._numbers = itertools.count()
        self._steps = itertools.count()
        self._has_failing = False
        self._broken = False
        self._loop = asyncio.new_event_loop()
        self.world = make_world()

    @initialize()
    def begin(self) -> None:
        """Start the server, and bind each org for the first time."""

        async def body() -> None:
            await self.world.open()
            for number, binding in enumerate(FIRST_BINDINGS):
                self.expected.orgs.append(await operators.new_org(self.world, binding, default=number == 0))

        self._do(body())

    # --- what callers do

    @rule(made=st.lists(requests, min_size=1, max_size=3))
    def remember(self, made: list[tuple[int, list[NewMemory]]]) -> None:
        """Let one or several callers store memories at once."""
        self._do(self._remember([Request(self._org(slot), self._told_apart(slot, new)) for slot, new in made]))

    @rule(slot=slots, which=st.integers(0, 50), when=st.sampled_from(["now", "just within", "just beyond"]))
    def repeat(self, slot: int, which: int, when: str) -> None:
        """Send again what was stored once: now, or at either side of the end of the dedup window."""
        org = self._org(slot)
        if org.held:
            known = org.held[-1 - which % len(org.held)].memory
            end = known.time + DEDUP.window - (MICROSECOND if when == "just within" else timedelta(0))
            if when != "now" and end > self.world.clock.now():
                self.world.clock.advance(end - self.world.clock.now())
            again = NewMemory(
                agent_id=known.agent_id,
                content=known.content,
                event_type=known.event_type,
                session_id=known.session_id,
                dedup_key=OWN_KEY if known.dedup_key == OWN_KEY else None,
            )
            if FAILING not in known.content:
                self._do(self._remember([Request(org, [again])]))

    @rule(slot=slots)
    def pile_up(self, slot: int) -> None:
        """Store more memories than a few batches take, while Arc is away."""
        self.world.arc.away = ArcUnreachable
        new = [NewMemory(agent_id="ada", content="new") for _ in range(30)]
        self._do(self._remember([Request(self._org(slot), self._told_apart(slot, new))]))

    @rule(slot=slots, query=queries())
    def look(self, slot: int, query: MemoryQuery) -> None:
        """Search with filters."""
        org = self._org(slot)
        self._do(invariants.check_query(self.world, org, msgspec.structs.replace(query, org_id=org.org_id)))

    # --- what time does

    @rule(by=st.sampled_from(PAUSES))
    def pass_time(self, by: timedelta) -> None:
        """Move the clock on; what it wakes goes on beside the next steps."""
        self.world.clock.advance(by)

    @rule()
    def rest(self) -> None:
        """Let everybody finish what can be done now."""
        self._do(come_to_rest(self.world.calls))

    @rule(times=st.integers(1, 4))
    def deliver(self, times: int) -> None:
        """Let deliveries, and their retries, take place."""
        self._do(self._let_pass(15 * SECOND, times))

    @rule(times=st.integers(1, 4))
    def confirm(self, times: int) -> None:
        """Let delivered memories be looked for."""
        self._do(self._let_pass(150 * SECOND, times))

    @rule()
    def set_clock_back(self) -> None:
        """Let the time of day jump back."""
        self.world.clock.set_back(HOUR)

    # --- what Arc does

    @rule(away=st.sampled_from([ArcUnreachable, ArcTimeout, ArcFailed]))
    def leave(self, away: type[MemtraceError]) -> None:
        """Let Arc be away, or answer nothing but errors."""
        self.world.arc.away = away

    @rule(moods=st.lists(st.sampled_from(MOODS), min_size=1, max_size=3))
    def misbehave(self, moods: list[Mood]) -> None:
        """Let Arc do something else with the next writes than it should or says."""
        self.world.arc.moods.extend(moods)

    @rule(lag=st.sampled_from(LAGS), durable=st.booleans())
    def settle_differently(self, lag: timedelta, durable: bool) -> None:
        """Let Arc show rows late, or say that they are safe at once."""
        self.world.arc.lag, self.world.arc.durable = lag, durable

    @rule(every=st.integers(1, 3))
    def lose(self, every: int) -> None:
        """Let Arc lose rows that it had only in memory."""
        self.world.arc.lose(every)

    @rule(slot=slots, new=st.lists(memories, min_size=2, max_size=5), every=st.integers(1, 3))
    def forget(self, slot: int, new: list[NewMemory], every: int) -> None:
        """Let Arc take memories, lose some of them, and be asked for them."""

        async def body() -> None:
            self.world.arc.heal()
            self.world.arc.lag = LAGS[-1]
            await self._remember([Request(self._org(slot), self._told_apart(slot, new))])
            await self._let_pass(15 * SECOND, 1)
            self.world.arc.lose(every)
            self.world.arc.heal()
            await self._let_pass(150 * SECOND, 2)

        self._do(body())

    @rule()
    def come_back(self) -> None:
        """Let Arc be there again."""
        self.world.arc.heal()

    # --- what operators do

    @rule(slot=slots, to=places)
    def rebind(self, slot: int, to: Binding) -> None:
        """Bind an org to another place, or to the same one with another key."""
        self._do(operators.rebind(self.world, self._org(slot), self._with_a_key(to)))

    @rule(slot=slots)
    def move_pending(self, slot: int) -> None:
        """Give what waits to the org's present place."""
        self._do(operators.move_pending(self.world, self._org(slot)))

    @rule(slot=slots, new=st.lists(memories, min_size=1, max_size=4), to=places)
    def relocate(self, slot: int, new: list[NewMemory], to: Binding) -> None:
        """Bind an org to another place, and move there what is delivered, but not safe."""

        async def body() -> None:
            self.world.arc.heal()
            self.world.arc.lag = LAGS[-1]
            await self._remember([Request(self._org(slot), self._told_apart(slot, new))])
            await self._let_pass(15 * SECOND, 1)
            await operators.rebind(self.world, self._org(slot), self._with_a_key(to))
            await operators.move_pending(self.world, self._org(slot))

        self._do(body())

    @rule(slot=slots, delivered=st.booleans(), discard=st.booleans())
    def delete_org(self, slot: int, delivered: bool, discard: bool) -> None:
        """Delete an org, which is refused while it would lose memories, and begin it anew."""

        async def body() -> None:
            await self._let_pass(15 * SECOND, 2 if delivered else 0)
            if await operators.delete_org(self.world, self._org(slot), discard=discard):
                fresh = msgspec.structs.replace(FIRST_BINDINGS[slot], database=f"fresh{next(self._numbers)}")
                self.expected.orgs[slot] = await operators.new_org(self.world, fresh, default=slot == 0)

        self._do(body())

    @rule(slot=slots, scope=st.sampled_from(["memory", "memory", "session", *AGENTS[:2]]), which=st.integers(0, 50))
    def forget_for_good(self, slot: int, scope: str, which: int) -> None:
        """Forget a memory, or all of an agent or a session."""
        self._do(operators.forget(self.world, self.expected, self._org(slot), scope, which))

    # --- what happens to the server

    @rule()
    def crash(self) -> None:
        """Drop the server where it stands."""
        self._do(self.world.crash())

    @precondition(lambda self: self.world.restarts)
    @rule()
    def restart(self) -> None:
        """Stop the server in order, and start it again."""
        self._do(self.world.restart())

    @invariant()
    def agree(self) -> None:
        """Compare everything."""
        self._do(invariants.check(self.world, self.expected, next(self._steps)))

    def teardown(self) -> None:
        """Let everything come to its end, and compare that, too, unless something is wrong already."""
        try:
            if not self._broken and self.expected.orgs:
                self._do(self._end())
        finally:
            self._loop.run_until_complete(self.world.close())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _end(self) -> None:
        self.world.arc.heal()
        # A memory that fails is only found to be at fault beside one that passes.
        for org in self.expected.orgs:
            last = NewMemory(agent_id="ada", content=f"last {next(self._numbers)}")
            await self._remember([Request(org, [last])])
        await invariants.bring_everything_home(self.world, self.expected)
        await invariants.check(self.world, self.expected, next(self._steps))
        await invariants.check_end(self.world, self.expected)

    async def _remember(self, made: list[Request]) -> None:
        now = self.world.clock.now()
        remember = self.world.services.memories.remember
        answers = await asyncio.gather(*(remember(one.org.org_id, one.memories) for one in made))
        self.expected.take(now, made, answers)

    async def _let_pass(self, by: timedelta, times: int) -> None:
        for _ in range(times):
            self.world.clock.advance(by)
            await come_to_rest(self.world.calls)

    def _with_a_key(self, binding: Binding) -> Binding:
        if binding.url == EMBEDDED_URL:
            return binding
        return msgspec.structs.replace(binding, api_key=f"key-{next(self._numbers)}")

    def _org(self, slot: int) -> ExpectedOrg:
        return self.expected.orgs[slot]

    def _told_apart(self, slot: int, new: list[NewMemory]) -> list[NewMemory]:
        """Number the contents that shall not be copies, and let one org have one memory that Arc only fails.

        Of those one is enough: where nothing else passes, it is Arc that is at fault.
        """
        told = []
        for one in new:
            content = one.content
            if content == FAILING:
                if slot == FAILING_SLOT and not self._has_failing:
                    self._has_failing = True
                else:
                    content = "new"
            if content not in "abc":
                content = f"{content} {next(self._numbers)}"
            told.append(msgspec.structs.replace(one, content=content))
        return told

    def _do(self, work: Coroutine[Any, Any, Result]) -> Result:
        try:
            return self._loop.run_until_complete(work)
        except BaseException:
            self._broken = True
            raise
