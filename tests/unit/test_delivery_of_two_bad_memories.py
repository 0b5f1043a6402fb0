"""Memories that Arc rejects (it says that the data are bad) and that it fails (it does not say why), together."""

from datetime import timedelta

from builders import bound, in_memory, instance, run, settle

from memtrace_core.delivery import DeliveryPolicy
from memtrace_core.entries import OrgHoldings
from memtrace_core.errors import ArcFailed, ArcRejected
from memtrace_core.memories import NewMemory

ARC = instance()
POLICY = DeliveryPolicy(batch_size=3, most_rows=3, suspect_after=2, condemn_after=3)
REJECTED, FAILED = ArcRejected("a column has another type"), ArcFailed("internal error")


async def delivered(contents, answers):
    """Deliver memories to an Arc that gives the first of `answers` whose text it meets; return what is held."""
    services = await bound(in_memory(delivery=POLICY), ARC)
    original = services.gateway.write

    async def write(one, memories):
        for text, error in answers:
            if any(text in memory.content for memory in memories):
                raise error
        return await original(one, memories)

    services.gateway.write = write
    await services.memories.remember(
        ARC.org_id, [NewMemory(agent_id="ada", content=content) for content in contents]
    )
    for _ in range(40):
        services.clock.advance(timedelta(seconds=15))
        await settle()
    return await services.journal.holdings(ARC.org_id)


def test_a_memory_that_fails_in_a_batch_that_is_rejected_holds_nobody_up():
    """Where Arc rejects a batch for one memory, and fails its other half for another, both are set aside."""
    answers = [("rejected", REJECTED), ("failing", FAILED)]
    assert run(delivered(["a", "failing", "rejected", "b", "c"], answers)) == OrgHoldings(set_aside=2)


def test_a_batch_of_bad_memories_alone_does_not_stand_in_the_way_for_ever():
    """Of a batch that fails, a memory that Arc rejects alone is set aside, though no neighbour of it passes."""
    answers = [("failing", FAILED), ("rejected", REJECTED)]
    contents = ["rejected 1", "failing", "rejected 2", "b", "c"]
    assert run(delivered(contents, answers)) == OrgHoldings(set_aside=3)


def test_a_rejected_memory_condemns_none_that_arc_cannot_store_at_the_moment():
    """Of an Arc that fails everything but rejects one memory, as with a full disk, only that one is set aside."""

    async def body():
        services = await bound(in_memory(delivery=POLICY), ARC)
        original = services.gateway.write
        failing = True

        async def write(one, memories):
            if any(memory.content == "too large" for memory in memories):
                raise ArcRejected("413")
            if failing:
                raise ArcFailed("disk full")
            return await original(one, memories)

        services.gateway.write = write
        contents = ("a", "too large", "b", "c")
        await services.memories.remember(
            ARC.org_id, [NewMemory(agent_id="ada", content=content) for content in contents]
        )
        for _ in range(20):
            services.clock.advance(timedelta(seconds=15))
            await settle()
        assert await services.journal.holdings(ARC.org_id) == OrgHoldings(pending=3, set_aside=1)
        failing = False
        for _ in range(5):
            services.clock.advance(timedelta(seconds=15))
            await settle()
        assert await services.journal.holdings(ARC.org_id) == OrgHoldings(set_aside=1)

    run(body())
