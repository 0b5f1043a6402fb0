"""An org that keeps its memories only for a time: no read shows older ones, and they go, here and in Arc."""

from datetime import timedelta

import pytest
from builders import MICROSECOND, ORG, bound, embedded_instance, in_memory, instance, run, settle

from memtrace_core.confirmation import ConfirmationPolicy
from memtrace_core.entries import Duplicate
from memtrace_core.errors import InvalidInput, NotFound
from memtrace_core.memories import NewMemory
from memtrace_core.query import MemoryQuery
from memtrace_core.testing import InMemoryGateway, InMemoryJournal, ManualClock

HOUR = timedelta(hours=1)
SETTLE = timedelta(seconds=120)
ALL = MemoryQuery(org_id=ORG)


class World:
    """Services over one Arc, with time in the test's hands."""

    def __init__(self):
        self.clock = ManualClock()
        self.journal = InMemoryJournal(self.clock)
        self.arc = InMemoryGateway(self.journal)
        self.services = in_memory(
            clock=self.clock,
            journal=self.journal,
            gateway=self.arc,
            confirmation=ConfirmationPolicy(settle=SETTLE),
        )

    async def remember(self, content):
        """Store a memory, and return what became of it."""
        (made,) = await self.services.memories.remember(
            ORG, [NewMemory(agent_id="ada", content=content, session_id="s1")]
        )
        return made

    async def seen(self):
        """Return the contents that a list shows."""
        return {each.content for each in (await self.services.memories.find(ALL)).memories}

    async def let_pass(self, by, times=1):
        """Let time pass, and everybody do what is due."""
        for _ in range(times):
            self.clock.advance(by)
            await settle()


def in_world(use, one=None, *, started=True):
    """Run a test in a world of one org, whose services run."""

    async def body():
        world = World()
        await bound(world.services, one or instance())
        if started:
            await world.services.start()
        try:
            await use(world)
        finally:
            if started:
                await world.services.stop(timedelta(0))

    run(body())


@pytest.mark.parametrize("one", [instance(), embedded_instance()], ids=["arc", "embedded"])
def test_reads_end_where_the_retention_does(one):
    """To the microsecond, in lists, look-ups, counts and contexts, before anybody has removed anything."""

    async def use(world):
        kept = await world.remember("a")
        await world.services.tenants.set_retention(ORG, 2 * HOUR)
        world.clock.advance(kept.time + 2 * HOUR - world.clock.now())
        assert await world.seen() == {"a"}
        assert (await world.services.memories.count(ORG, "ada")).total == 1
        world.clock.advance(MICROSECOND)
        assert await world.seen() == set()
        assert (await world.services.memories.count(ORG, "ada")).total == 0
        assert (await world.services.memories.context(ORG, "s1", since=None)).memory_count == 0
        with pytest.raises(NotFound):
            await world.services.memories.get(ORG, kept.memory_id)

    in_world(use, one, started=False)


@pytest.mark.parametrize("one", [instance(), embedded_instance()], ids=["arc", "embedded"])
@pytest.mark.parametrize("after", [None, 9 * HOUR], ids=["taken away", "made longer"])
def test_what_was_past_its_time_stays_forgotten_when_the_retention_changes(one, after):
    """Also what no order has covered yet; what was not past it is kept as the new retention says."""

    async def use(world):
        await world.remember("old")
        await world.services.tenants.set_retention(ORG, 2 * HOUR)
        world.clock.advance(HOUR)
        await world.remember("young")
        world.clock.advance(HOUR + HOUR / 2)
        assert await world.seen() == {"young"}
        await world.services.tenants.set_retention(ORG, after)
        assert await world.seen() == {"young"}
        world.clock.advance(HOUR)
        assert await world.seen() == {"young"}

    in_world(use, one, started=False)


def test_what_is_past_its_time_is_deleted_in_arc():
    """By an order that is taken from time to time; younger memories stay, and one order is kept."""

    async def use(world):
        await world.remember("old")
        await world.let_pass(timedelta(seconds=5), 2)
        await world.services.tenants.set_retention(ORG, HOUR)
        await world.let_pass(HOUR)
        await world.remember("young")
        await world.let_pass(timedelta(seconds=5), 40)
        assert {each.content for each in await world.arc.query(instance(), ALL)} == {"young"}
        (order,) = await world.services.forgetting.orders(ORG)
        assert order.reason == "retention"
        assert await world.seen() == {"young"}

    in_world(use)


def test_what_is_past_its_time_leaves_the_embedded_store():
    """There the order is done with the transaction that takes it."""

    async def use(world):
        await world.remember("old")
        await world.services.tenants.set_retention(ORG, HOUR)
        await world.let_pass(HOUR + MICROSECOND)
        await world.let_pass(timedelta(seconds=5), 40)
        assert (await world.services.journal.holdings(ORG)).embedded == 0
        assert await world.services.forgetting.waiting() == []

    in_world(use, embedded_instance())


def test_content_may_come_again_when_it_is_past_its_time():
    """A shorter retention than the dedup window ends the claim with the memory."""

    async def use(world):
        await world.remember("same")
        await world.services.tenants.set_retention(ORG, HOUR)
        assert isinstance(await world.remember("same"), Duplicate)
        await world.let_pass(HOUR + MICROSECOND)
        await world.let_pass(timedelta(seconds=5), 40)
        assert not isinstance(await world.remember("same"), Duplicate)

    in_world(use)


def test_an_org_without_retention_keeps_everything():
    """Nobody takes orders for it."""

    async def use(world):
        await world.remember("old")
        await world.let_pass(timedelta(days=400))
        await world.let_pass(timedelta(seconds=5), 5)
        assert await world.seen() == {"old"}
        assert await world.services.forgetting.orders(ORG) == []

    in_world(use)


def test_a_retention_that_makes_no_sense_is_refused():
    """Less than an hour is a slip of the pen, and an unknown org has none."""

    async def use(world):
        with pytest.raises(InvalidInput, match="at least 1h"):
            await world.services.tenants.set_retention(ORG, HOUR - MICROSECOND)
        with pytest.raises(NotFound):
            await world.services.tenants.set_retention("org_none", HOUR)

    in_world(use, started=False)
