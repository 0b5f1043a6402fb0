"""What is forgotten is deleted in Arc in the background, when nothing older can arrive there any more."""

import asyncio
from datetime import timedelta

import pytest
from builders import ORG, bound, in_memory, instance, run, settle

from memtrace_core.confirmation import ConfirmationPolicy
from memtrace_core.errors import REFUSES_DELETION, ArcUnreachable, ErasureRefused, NotFound
from memtrace_core.memories import NewMemory
from memtrace_core.query import MemoryQuery
from memtrace_core.tenants import Binding
from memtrace_core.testing import InMemoryGateway, InMemoryJournal, ManualClock

SETTLE = timedelta(seconds=120)
SECOND = timedelta(seconds=1)
ALL = MemoryQuery(org_id=ORG)


class Arc(InMemoryGateway):
    """A gateway that counts deletions, can refuse them, and can be slow to take a batch."""

    def __init__(self, journal):
        super().__init__(journal)
        self.erased = []
        self.looks = 0
        self.trouble = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def write(self, one, memories):
        await self.gate.wait()
        return await super().write(one, memories)

    async def covered(self, one, forgotten):
        self.looks += 1
        return await super().covered(one, forgotten)

    async def erase(self, one, forgotten):
        if self.trouble:
            raise self.trouble
        self.erased.append(len(forgotten))
        return await super().erase(one, forgotten)


class World:
    """Services over one Arc, with time in the test's hands."""

    def __init__(self):
        self.clock = ManualClock()
        self.journal = InMemoryJournal(self.clock)
        self.arc = Arc(self.journal)
        self.services = in_memory(
            clock=self.clock,
            journal=self.journal,
            gateway=self.arc,
            confirmation=ConfirmationPolicy(settle=SETTLE),
        )

    async def remember(self, *contents, agent="ada"):
        """Store memories, and return their ids."""
        made = await self.services.memories.remember(
            ORG, [NewMemory(agent_id=agent, content=content) for content in contents]
        )
        return [each.memory_id for each in made]

    async def let_pass(self, by, times=1):
        """Let time pass, and everybody do what is due."""
        for _ in range(times):
            self.clock.advance(by)
            await settle()

    async def seen(self):
        """Return the contents that readers are shown."""
        return {each.content for each in (await self.services.memories.find(ALL)).memories}

    async def stored(self):
        """Return the contents that Arc has."""
        return {each.content for each in await self.arc.query(instance(), ALL)}

    async def order(self):
        """Return the one order."""
        (order,) = await self.services.forgetting.orders(ORG)
        return order


def in_world(use):
    """Run a test in a world of one org, whose services run."""

    async def body():
        world = World()
        await bound(world.services)
        await world.services.start()
        try:
            await use(world)
        finally:
            await world.services.stop(timedelta(0))

    run(body())


def test_what_is_forgotten_is_hidden_at_once_and_deleted_when_it_has_settled():
    """Readers do not see it from the first moment; Arc is told when everything is flushed there, and then asked."""

    async def use(world):
        await world.remember("a", "b")
        await world.remember("kept", agent="bob")
        await world.let_pass(SECOND, 2)
        assert await world.stored() == {"a", "b", "kept"}
        await world.services.forgetting.agent(ORG, "ada")
        await settle()
        assert await world.seen() == {"kept"}
        await world.let_pass(SETTLE - SECOND)
        assert (await world.stored(), world.arc.erased) == ({"a", "b", "kept"}, [])
        await world.let_pass(SECOND, 5)
        assert await world.stored() == {"kept"}
        await world.let_pass(SETTLE)
        order = await world.order()
        assert (order.deleted, order.trouble) == (2, None)
        assert order.done_at is not None

    in_world(use)


def test_a_batch_that_is_on_its_way_is_waited_for():
    """What arrives after the order, however late, is deleted as well, and never seen."""

    async def use(world):
        world.arc.gate.clear()
        await world.remember("late")
        await world.let_pass(SECOND, 2)
        await world.services.forgetting.agent(ORG, "ada")
        await world.let_pass(SETTLE, 3)
        assert (await world.order()).done_at is None
        world.arc.gate.set()
        await world.let_pass(SECOND)
        assert await world.stored() == {"late"}
        assert await world.seen() == set()
        await world.let_pass(SETTLE, 3)
        assert await world.stored() == set()
        assert (await world.order()).done_at is not None

    in_world(use)


def test_a_refusal_to_delete_is_told_and_tried_again():
    """Without an admin token the order waits, hidden from readers, and says why; with one it goes on."""

    async def use(world):
        await world.remember("a")
        await world.let_pass(SECOND, 2)
        world.arc.trouble = ArcUnreachable("this org's key is not an admin token", code=REFUSES_DELETION)
        await world.services.forgetting.agent(ORG, "ada")
        await world.let_pass(SETTLE, 3)
        order = await world.order()
        assert (order.done_at, order.trouble) == (None, "this org's key is not an admin token")
        assert await world.seen() == set()
        world.arc.trouble = None
        await world.let_pass(SETTLE, 8)
        order = await world.order()
        assert (order.deleted, order.trouble) == (1, None)
        assert order.done_at is not None

    in_world(use)


def test_an_order_that_cannot_be_carried_out_does_not_hold_up_others():
    """What Arc does not take for one is that one's trouble alone."""

    async def use(world):
        (first,) = await world.remember("a")
        await world.remember("b", agent="bob")
        await world.let_pass(SECOND, 2)
        world.arc.trouble = ErasureRefused("more than is to be forgotten")
        await world.services.forgetting.memory(ORG, first)
        await settle()
        await world.let_pass(SETTLE)
        world.arc.trouble = None
        await world.services.forgetting.agent(ORG, "bob")
        one, other = await world.services.forgetting.orders(ORG)
        assert (one.trouble, other.trouble) == ("more than is to be forgotten", None)
        await world.let_pass(SETTLE, 4)
        assert await world.stored() == set()

    in_world(use)


def test_many_single_memories_are_deleted_together():
    """Arc rewrites files for every deletion: one for forty memories, not forty."""

    async def use(world):
        ids = await world.remember(*(f"m{number}" for number in range(50)))
        await world.let_pass(SECOND, 2)
        for memory_id in ids:
            await world.services.forgetting.memory(ORG, memory_id)
        await world.let_pass(SETTLE, 5)
        assert await world.stored() == set()
        assert sorted(world.arc.erased) == [10, 40]
        assert await world.services.forgetting.waiting() == []

    in_world(use)


def test_an_order_is_carried_out_by_the_next_process():
    """A server that ends in between leaves the order to its successor."""

    async def body():
        world = World()
        await bound(world.services)
        await world.services.start()
        await world.remember("a")
        await world.let_pass(SECOND, 2)
        await world.services.forgetting.agent(ORG, "ada")
        await world.services.erasing.stop()
        next_one = in_memory(
            clock=world.clock,
            journal=world.journal,
            gateway=world.arc,
            repo=world.services.repo,
            confirmation=ConfirmationPolicy(settle=SETTLE),
        )
        await next_one.start()
        await world.let_pass(SETTLE, 3)
        assert await world.stored() == set()
        await next_one.stop(timedelta(0))

    run(body())


def test_orders_are_carried_out_anew_where_an_org_is_bound_to_next():
    """A copy of the memories in another Arc is hidden from the first moment, and deleted."""

    async def use(world):
        await world.remember("a")
        await world.let_pass(SECOND, 2)
        copy = await world.arc.query(instance(), ALL)
        await world.services.forgetting.agent(ORG, "ada")
        await world.let_pass(SETTLE, 3)
        assert (await world.order()).done_at is not None
        bound_to = await world.services.tenants.rebind(ORG, Binding(api_key="key", database="elsewhere"))
        await world.arc.write(bound_to, copy)
        assert await world.seen() == set()
        await world.let_pass(SETTLE, 3)
        assert await world.arc.query(bound_to, ALL) == []

    in_world(use)


def test_what_arc_has_again_a_day_later_is_deleted_again():
    """It was restored, or read its own log again: a second look finds it, hides it and has it deleted."""

    async def use(world):
        (gone, again) = await world.remember("gone", "again")
        await world.remember("kept", agent="bob")
        await world.let_pass(SECOND, 2)
        kept = await world.services.memories.get(ORG, again)
        for memory_id in (gone, again):
            await world.services.forgetting.memory(ORG, memory_id)
        await world.let_pass(SETTLE, 5)
        assert [order.done_at is None for order in await world.services.forgetting.orders(ORG)] == [False, False]
        await world.arc.write(instance(), [kept])
        assert await world.seen() == {"again", "kept"}
        await world.let_pass(timedelta(hours=23))
        assert await world.seen() == {"again", "kept"}
        await world.let_pass(timedelta(hours=1))
        assert await world.seen() == {"kept"}
        await world.let_pass(SETTLE, 5)
        assert await world.stored() == {"kept"}
        looks = world.arc.looks
        await world.let_pass(timedelta(days=1), 3)
        assert world.arc.looks == looks
        assert not await world.services.forgetting.waiting()

    in_world(use)


def test_a_second_look_waits_for_an_arc_that_is_away():
    """It is made up for when Arc is back, and no order waits meanwhile."""

    async def use(world):
        (one,) = await world.remember("one")
        await world.let_pass(SECOND, 2)
        kept = await world.services.memories.get(ORG, one)
        await world.services.forgetting.memory(ORG, one)
        await world.let_pass(SETTLE, 5)
        await world.arc.write(instance(), [kept])
        world.arc.unreachable.add(instance().id)
        await world.let_pass(timedelta(hours=25))
        assert not await world.services.forgetting.waiting()
        world.arc.unreachable.clear()
        await world.let_pass(timedelta(minutes=10), 5)
        assert await world.stored() == set()

    in_world(use)


def test_an_unknown_memory_is_not_found():
    """Whether its id is none, nobody's, or one that was forgotten already; then no order is taken."""

    async def use(world):
        (kept,) = await world.remember("a")
        await world.services.forgetting.memory(ORG, kept)
        for unknown in ("nonsense", "mem_" + "0" * 24, kept):
            with pytest.raises(NotFound):
                await world.services.forgetting.memory(ORG, unknown)
        assert len(await world.services.forgetting.orders(ORG)) == 1

    in_world(use)


def test_a_memory_may_be_forgotten_while_arc_is_away():
    """Whether it is there cannot be asked then, so it is taken on trust."""

    async def use(world):
        (kept,) = await world.remember("a")
        await world.let_pass(SECOND, 2)
        world.arc.unreachable.add(instance().id)
        await world.services.forgetting.memory(ORG, kept)
        world.arc.unreachable.clear()
        assert await world.seen() == set()
        assert await world.stored() == {"a"}

    in_world(use)
