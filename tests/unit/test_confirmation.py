import logging
from datetime import timedelta

import pytest
from builders import MICROSECOND, ORG, OTHER_ORG, bound, in_memory, instance, run, settle

from memtrace_core.confirmation import ConfirmationPolicy
from memtrace_core.delivery import DeliveryPolicy
from memtrace_core.entries import OrgHoldings
from memtrace_core.errors import ArcTimeout
from memtrace_core.memories import NewMemory
from memtrace_core.query import MemoryQuery

SECOND = timedelta(seconds=1)
SETTLE = timedelta(minutes=2)
RETRY = timedelta(seconds=15)
ARC, OTHER_ARC = instance(ORG), instance(OTHER_ORG)
EVERYTHING = MemoryQuery(org_id=ORG, order="asc", limit=1000)
POLICY = ConfirmationPolicy(settle=SETTLE, retry=RETRY)


async def prepared(policy=POLICY, **others):
    """Return services whose deliveries go out at once and are not durable."""
    delivery = DeliveryPolicy(batch_size=1, flush_interval=SECOND)
    services = in_memory(delivery=delivery, confirmation=policy, durable=False, **others)
    return await bound(services, ARC, OTHER_ARC)


async def remember(services, *contents, org_id=ORG):
    """Store memories and have them delivered."""
    new = [NewMemory(agent_id="ada", content=content) for content in contents]
    kept = await services.memories.remember(org_id, new)
    await settle()
    return kept


async def pass_time(services, by):
    """Move the clock on and let everybody act on it."""
    services.clock.advance(by)
    await settle()


def asked_of(services):
    """Return a list that names what the gateway is asked for confirmation."""
    asked = []
    own_ids = services.gateway.own_ids

    async def count(one, span):
        asked.append(("own_count", span.org_id))
        return len(await own_ids(one, span))

    async def ids(one, span):
        asked.append(("own_ids", span.org_id))
        return await own_ids(one, span)

    services.gateway.own_count, services.gateway.own_ids = count, ids
    return asked


def test_a_memory_leaves_the_journal_when_it_was_seen_in_arc():
    """After the settle time, and not before, one count lets the delivered memories go; ids are not asked for."""

    async def body():
        services = await prepared()
        asked = asked_of(services)
        kept = await remember(services, "a", "b")
        await pass_time(services, SETTLE - MICROSECOND)
        assert await services.journal.holdings(ORG) == OrgHoldings(delivered=2)
        assert asked == []
        await pass_time(services, MICROSECOND)
        assert await services.journal.holdings(ORG) == OrgHoldings()
        assert asked == [("own_count", ORG)]
        assert (await services.memories.find(EVERYTHING)).memories == kept
        assert len(services.gateway.written) == 1

    run(body())


@pytest.mark.parametrize("lost", ["a", "b", "d", "ac", "abcd"])
def test_what_is_missing_in_arc_is_sent_again(lost):
    """Memories that Arc forgot are delivered once more; readers see every memory once all the time."""

    async def body():
        services = await prepared()
        kept = await remember(services, *"abcd")
        services.gateway.forget(ARC, [one.memory_id for one in kept if one.content in lost])

        async def everything_is_seen():
            assert (await services.memories.find(EVERYTHING)).memories == kept
            assert (await services.memories.count(ORG, "ada")).total == 4

        await everything_is_seen()
        await pass_time(services, SETTLE)
        await everything_is_seen()
        sent = [one.content for batch in services.gateway.written[1:] for one in batch]
        assert sent == list(lost)
        for _ in range(8):
            await pass_time(services, SETTLE / 2)
            await everything_is_seen()
        assert await services.journal.holdings(ORG) == OrgHoldings()
        assert len(services.gateway.written) == 2

    run(body())


def test_what_arc_keeps_forgetting_is_sent_again_and_again_with_growing_patience():
    """A memory is never given up, and asked for less often the more often it was missing."""

    async def body():
        services = await prepared()
        (kept,) = await remember(services, "a")
        for round_trip in range(4):
            assert len(services.gateway.written) == round_trip + 1
            services.gateway.forget(ARC, [kept.memory_id])
            await pass_time(services, SETTLE * 2**round_trip - MICROSECOND)
            assert len(services.gateway.written) == round_trip + 1
            await pass_time(services, MICROSECOND)
        assert len(services.gateway.written) == 5
        await pass_time(services, SETTLE * 16)
        assert await services.journal.holdings(ORG) == OrgHoldings()

    run(body())


def test_what_lies_before_the_first_missing_memory_is_confirmed():
    """The journal keeps the missing one and all behind it, so that what it holds is all from one time on."""

    async def body():
        services = await prepared()
        kept = await remember(services, *"abcd")
        services.gateway.forget(ARC, [kept[1].memory_id])
        original, held = services.journal.resend, []

        async def resend(run, keys):
            held.append(await services.journal.holdings(ORG))
            await original(run, keys)

        services.journal.resend = resend
        await pass_time(services, SETTLE)
        assert held == [OrgHoldings(delivered=3)]

    run(body())


@pytest.mark.parametrize("how", ["unreachable", "slow"])
def test_a_look_that_fails_is_repeated_and_loses_nothing(how):
    """Without an answer nothing is confirmed and nothing sent again; after the retry time there is another look."""

    async def body():
        services = await prepared()
        await remember(services, "a")
        original = services.gateway.own_count

        async def slow(one, span):
            raise ArcTimeout("too slow")

        if how == "slow":
            services.gateway.own_count = slow
        else:
            services.gateway.unreachable.add(ARC.id)
        await pass_time(services, SETTLE)
        assert await services.journal.holdings(ORG) == OrgHoldings(delivered=1)
        services.gateway.unreachable.clear()
        services.gateway.own_count = original
        await pass_time(services, RETRY - MICROSECOND)
        assert await services.journal.holdings(ORG) == OrgHoldings(delivered=1)
        await pass_time(services, MICROSECOND)
        assert await services.journal.holdings(ORG) == OrgHoldings()
        assert len(services.gateway.written) == 1

    run(body())


def test_one_orgs_failing_arc_does_not_stop_anothers_confirmation():
    """Each org is confirmed by itself."""

    async def body():
        services = await prepared()
        await remember(services, "a")
        await remember(services, "x", org_id=OTHER_ORG)
        services.gateway.unreachable.add(ARC.id)
        await pass_time(services, SETTLE)
        assert await services.journal.holdings(ORG) == OrgHoldings(delivered=1)
        assert await services.journal.holdings(OTHER_ORG) == OrgHoldings()

    run(body())


def test_memories_whose_instance_is_gone_stay():
    """Without an instance to look into nothing is let go."""

    async def body():
        services = await prepared()
        await remember(services, "a")
        original = services.repo.get_instance

        async def nothing(org_id, instance_id):
            return None

        services.repo.get_instance = nothing
        await pass_time(services, SETTLE)
        assert await services.journal.holdings(ORG) == OrgHoldings(delivered=1)
        services.repo.get_instance = original
        await pass_time(services, RETRY)
        assert await services.journal.holdings(ORG) == OrgHoldings()

    run(body())


def test_memories_are_looked_for_where_they_were_delivered():
    """After a rebinding the former instance is asked for what went there."""

    async def body():
        services = await prepared()
        await remember(services, "a")
        successor = instance(ORG, id="arc_new", database="new")
        await services.repo.rebind_instance(successor)
        await remember(services, "b")
        await pass_time(services, SETTLE)
        await pass_time(services, SETTLE)
        assert await services.journal.holdings(ORG) == OrgHoldings()
        assert [[one.content for one in batch] for batch in services.gateway.written] == [["a"], ["b"]]

    run(body())


def test_many_memories_are_confirmed_in_portions():
    """No look asks for more than the policy's number of rows, and all are confirmed."""

    async def body():
        services = await prepared(ConfirmationPolicy(settle=SETTLE, most_rows=2))
        asked = asked_of(services)
        await remember(services, *"abcde")
        await pass_time(services, SETTLE)
        assert asked == [("own_count", ORG)] * 3
        assert await services.journal.holdings(ORG) == OrgHoldings()

    run(body())


def test_starting_takes_up_what_an_earlier_run_left_unconfirmed():
    """What was delivered before a restart is confirmed after it."""

    async def body():
        before = await prepared()
        await remember(before, "a")
        await before.confirmation.stop()
        after = in_memory(
            repo=before.repo,
            journal=before.journal,
            gateway=before.gateway,
            clock=before.clock,
            confirmation=POLICY,
        )
        await pass_time(after, SETTLE)
        assert await after.journal.holdings(ORG) == OrgHoldings(delivered=1)
        await after.confirmation.start()
        await settle()
        assert await after.journal.holdings(ORG) == OrgHoldings()

    run(body())


def test_stopping_ends_it_and_keeps_what_is_not_confirmed():
    """Afterwards nobody sleeps, and the journal has what it had."""

    async def body():
        services = await prepared()
        await remember(services, "a")
        assert services.clock.sleeping == 1
        await services.confirmation.stop()
        await settle()
        assert services.clock.sleeping == 0
        assert await services.journal.holdings(ORG) == OrgHoldings(delivered=1)

    run(body())


def test_memories_of_another_node_do_not_count_as_ours():
    """A foreign row in the same time does not stand in for one of ours that is missing."""

    async def body():
        services = await prepared()
        (kept,) = await remember(services, "a")
        services.gateway.forget(ARC, [kept.memory_id])
        foreign = NewMemory(agent_id="ada", content="foreign")
        other = in_memory(gateway=services.gateway, clock=services.clock)
        await bound(other, ARC)
        (theirs,) = await other.memories.remember(ORG, [foreign])
        await services.gateway.write(ARC, [theirs])
        services.gateway.written.clear()
        await pass_time(services, SETTLE)
        assert [[one.content for one in batch] for batch in services.gateway.written] == [["a"]]

    run(body())


def test_a_loss_is_logged_with_its_org_and_number_and_without_content(caplog):
    """The log says how many memories of which org were missing."""

    async def body():
        services = await prepared()
        kept = await remember(services, "very private", "b")
        services.gateway.forget(ARC, [one.memory_id for one in kept])
        await pass_time(services, SETTLE)

    with caplog.at_level(logging.WARNING, "memtrace.confirmation"):
        run(body())
    (record,) = caplog.records
    assert record.org == ORG
    assert "2 acknowledged memories" in record.getMessage()
    assert "very private" not in caplog.text
