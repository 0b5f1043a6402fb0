from datetime import timedelta

import pytest
from builders import (
    ORG,
    OTHER_ORG,
    START,
    bound,
    draft,
    embedded_instance,
    in_memory,
    instance,
    memory,
    run,
    settle,
)

from memtrace_core.claims import PAGE, RETRY_SECONDS
from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import Duplicate
from memtrace_core.memories import NewMemory
from memtrace_core.model import Memory
from memtrace_core.query import MemoryQuery

MICROSECOND = timedelta(microseconds=1)
ARC, OTHER_ARC = instance(ORG), instance(OTHER_ORG)


async def prepared(**others):
    """Return services with two bound orgs, and the list of the instances that are asked for memories."""
    services = await bound(in_memory(**others), ARC, OTHER_ARC)
    original, asked = services.gateway.query, []

    async def query(one, wanted):
        asked.append(one.id)
        return await original(one, wanted)

    services.gateway.query = query
    return services, asked


async def stored(services, *memories, one=ARC):
    """Put memories into an instance, as another server did before."""
    await services.gateway.write(one, memories)


def remember(services, key, org_id=ORG):
    """Store a memory with a key."""
    return services.memories.remember(org_id, [NewMemory(agent_id="ada", content="new", dedup_key=key)])


async def use(services, org_id=ORG):
    """Use an org's instance for the first time, and let the loading end."""
    await services.memories.count(org_id, "ada")
    await settle()


def test_what_was_stored_before_this_journal_began_is_not_stored_again():
    """Once its instance has been used a new journal knows the keys that are stored there."""

    async def body():
        services, _ = await prepared()
        old = memory(START - timedelta(hours=1), dedup_key="k")
        await stored(services, old)
        await use(services)
        assert await remember(services, "k") == [Duplicate(old.memory_id)]
        assert isinstance((await remember(services, "k", OTHER_ORG))[0], Memory)

    run(body())


def test_memories_older_than_the_window_claim_nothing():
    """What lies a window back is not loaded."""

    async def body():
        services, _ = await prepared()
        window = DedupPolicy().window
        await stored(services, memory(START - window, dedup_key="k"))
        await use(services)
        assert isinstance((await remember(services, "k"))[0], Memory)

    run(body())


def test_claims_are_loaded_once_for_an_instance_and_remembered():
    """Neither a second use nor another run of the server reads them again."""

    async def body():
        services, asked = await prepared()
        await use(services)
        assert asked == [ARC.id]
        await use(services)
        after = in_memory(
            repo=services.repo, journal=services.journal, gateway=services.gateway, clock=services.clock
        )
        await use(after)
        assert asked == [ARC.id]
        await use(after, OTHER_ORG)
        assert asked == [ARC.id, OTHER_ARC.id]

    run(body())


@pytest.mark.parametrize("count", [PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 1])
def test_all_claims_are_loaded_however_many_there_are(count):
    """Page after page is read, memories of one moment included."""

    async def body():
        services, _ = await prepared()
        old = [
            memory(START - timedelta(hours=1) + number // 3 * MICROSECOND, salt=number, dedup_key=f"k{number}")
            for number in range(count)
        ]
        await stored(services, *old)
        await use(services)
        for one in old:
            assert await remember(services, one.dedup_key) == [Duplicate(one.memory_id)]

    run(body())


def test_no_write_waits_for_loading():
    """A memory is accepted while its instance does not answer."""

    async def body():
        services, _ = await prepared()
        services.gateway.unreachable.add(ARC.id)
        assert isinstance((await remember(services, "k"))[0], Memory)

    run(body())


def test_loading_is_repeated_after_a_failure():
    """An instance that was away is read when it is back."""

    async def body():
        services, asked = await prepared()
        old = memory(START - timedelta(hours=1), dedup_key="k")
        await stored(services, old)
        services.gateway.unreachable.add(ARC.id)
        await remember(services, "other")
        await settle()
        assert asked == [ARC.id]
        services.gateway.unreachable.clear()
        services.clock.advance(timedelta(seconds=RETRY_SECONDS))
        await settle()
        assert asked == [ARC.id] * 2
        assert await remember(services, "k") == [Duplicate(old.memory_id)]

    run(body())


def test_a_new_instance_is_read_from_its_beginning_though_another_was_half_read():
    """A rebinding in the middle of loading does not skip what the new instance has."""

    async def body():
        services, _ = await prepared()
        successor = instance(ORG, id="arc_new", database="new")
        early = memory(START - timedelta(hours=2), salt=1, dedup_key="early")
        await stored(services, early, one=successor)
        late = [
            memory(START - timedelta(hours=1), salt=number, dedup_key=f"k{number}") for number in range(PAGE + 1)
        ]
        await stored(services, *late)
        original = services.journal.load_claims

        async def load_claims(one, memories):
            await original(one, memories)
            if one.id == ARC.id:
                await services.repo.rebind_instance(successor)

        services.journal.load_claims = load_claims
        await use(services)
        await use(services)
        assert await services.journal.claims_loaded(successor)
        assert await remember(services, "early") == [Duplicate(early.memory_id)]

    run(body())


@pytest.mark.parametrize("why", ["embedded", "dedup off"])
def test_nothing_is_loaded_where_it_would_be_of_no_use(why):
    """The embedded store has its claims in the same file, and without dedup there are none."""

    async def body():
        services, asked = await prepared(dedup=DedupPolicy(enabled=why != "dedup off"))
        if why == "embedded":
            await services.repo.rebind_instance(embedded_instance(ORG, id="arc_embedded"))
        await remember(services, "k")
        await settle()
        assert asked == []

    run(body())


def test_stopping_ends_loading():
    """What is not loaded is loaded by the next run."""

    async def body():
        services, _ = await prepared()
        services.gateway.unreachable.add(ARC.id)
        services.memories._on_use(ARC)
        await settle()
        assert services.clock.sleeping == 1
        await services.claim_loading.stop()
        await settle()
        assert services.clock.sleeping == 0
        assert not await services.journal.claims_loaded(ARC)

    run(body())


def test_loading_shows_no_memory_twice():
    """Claims are no memories: what is stored there is seen once."""

    async def body():
        services, _ = await prepared()
        old = memory(START - timedelta(hours=1), dedup_key="k")
        await stored(services, old)
        await use(services)
        (kept,) = await services.journal.append(ARC, [draft("x")])
        found = await services.memories.find(MemoryQuery(org_id=ORG))
        assert found.memories == [kept, old]

    run(body())
