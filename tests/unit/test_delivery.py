import asyncio
import itertools
import logging
from datetime import timedelta

import pytest
from builders import MICROSECOND, ORG, OTHER_ORG, bound, draft, embedded_instance, in_memory, instance, run, settle

from memtrace_core.delivery import DeliveryPolicy
from memtrace_core.entries import EntryState, OrgHoldings
from memtrace_core.errors import REFUSES_KEY, ArcFailed, ArcRejected, ArcTimeout, ArcUnreachable
from memtrace_core.memories import NewMemory
from memtrace_core.query import MemoryQuery

SECOND = timedelta(seconds=1)
POLICY = DeliveryPolicy(batch_size=3, most_rows=3, flush_interval=SECOND)
ARC, OTHER_ARC = instance(ORG), instance(OTHER_ORG)


async def prepared(policy=POLICY, **others):
    """Return services with two bound orgs."""
    return await bound(in_memory(delivery=policy, **others), ARC, OTHER_ARC)


async def remember(services, *contents, org_id=ORG):
    """Store a memory with each of these contents, one request each."""
    kept = []
    for content in contents:
        kept += await services.memories.remember(org_id, [NewMemory(agent_id="ada", content=content)])
    return kept


def written(services, org_id=ORG):
    """Return the contents of every batch that the gateway took for an org."""
    batches = [[one.content for one in batch] for batch in services.gateway.written if batch[0].org_id == org_id]
    assert all(one.org_id == batch[0].org_id for batch in services.gateway.written for one in batch)
    return batches


async def pass_time(services, by):
    """Move the clock on and let everybody act on it."""
    services.clock.advance(by)
    await settle()


def test_a_full_batch_goes_out_at_once():
    """As soon as `batch_size` memories wait they are delivered, in order, without any time passing."""

    async def body():
        services = await prepared()
        new = [NewMemory(agent_id="ada", content=content) for content in "abc"]
        await services.memories.remember(ORG, new)
        await settle()
        assert written(services) == [["a", "b", "c"]]
        assert await services.journal.pending_orgs() == []

    run(body())


def test_a_batch_that_fills_while_it_waits_goes_out_at_once():
    """The memory that completes a batch sends it off, though the flush interval is not over."""

    async def body():
        services = await prepared()
        await remember(services, "a")
        await settle()
        await remember(services, "b", "c")
        await settle()
        assert written(services) == [["a", "b", "c"]]

    run(body())


def test_a_batch_that_does_not_fill_goes_out_after_the_flush_interval():
    """A single memory waits for others exactly as long as the policy says."""

    async def body():
        services = await prepared()
        await remember(services, "a", "b")
        await settle()
        await pass_time(services, SECOND - MICROSECOND)
        assert written(services) == []
        await pass_time(services, MICROSECOND)
        assert written(services) == [["a", "b"]]

    run(body())


def test_what_comes_while_a_batch_waits_goes_with_it():
    """A memory stored during the flush interval is in the batch that ends it."""

    async def body():
        services = await prepared()
        await remember(services, "a")
        await settle()
        await pass_time(services, SECOND / 2)
        await remember(services, "b")
        await pass_time(services, SECOND / 2)
        assert written(services) == [["a", "b"]]

    run(body())


def test_the_flush_interval_begins_anew_with_the_next_batch():
    """A memory stored after a flush waits the whole interval again."""

    async def body():
        services = await prepared()
        await remember(services, "a")
        await settle()
        await pass_time(services, SECOND)
        await remember(services, "b")
        await settle()
        await pass_time(services, SECOND / 2)
        assert written(services) == [["a"]]
        await pass_time(services, SECOND / 2)
        assert written(services) == [["a"], ["b"]]

    run(body())


def test_many_memories_go_out_in_batches_in_order():
    """A backlog is cut into batches of the policy's size, the oldest first, and the rest waits to fill."""

    async def body():
        services = await prepared()
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abcdefgh"])
        await settle()
        assert written(services) == [["a", "b", "c"], ["d", "e", "f"]]
        await pass_time(services, SECOND)
        assert written(services) == [["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]

    run(body())


def test_a_backlog_goes_out_in_larger_batches():
    """Who is late sends more at once, up to the greatest number of rows."""

    async def body():
        services = await prepared(DeliveryPolicy(batch_size=2, most_rows=5, flush_interval=SECOND))
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abcdefg"])
        await settle()
        assert written(services) == [["a", "b", "c", "d", "e"], ["f", "g"]]

    run(body())


def test_after_a_failure_little_is_tried_until_it_works_again():
    """An org whose Arc is away probes with a small batch, and goes on with large ones when it is back."""

    async def body():
        services = await prepared(DeliveryPolicy(batch_size=2, most_rows=5, flush_interval=SECOND))
        services.gateway.unreachable.add(ARC.id)
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abcdefg"])
        await settle()
        services.gateway.unreachable.clear()
        await pass_time(services, SECOND)
        assert written(services) == [["a", "b"], ["c", "d", "e", "f", "g"]]

    run(body())


def test_a_bounded_number_of_batches_is_in_memory_at_once():
    """However many orgs have memories waiting, only so many batches are under way, and all are delivered."""

    async def body():
        instances = [instance(f"org_{number}") for number in range(9)]
        policy = DeliveryPolicy(batch_size=1, flush_interval=SECOND, most_batches=2)
        services = await bound(in_memory(delivery=policy), *instances)
        original, under_way, most = services.gateway.write, 0, 0

        async def write(one, memories):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1
            return await original(one, memories)

        services.gateway.write = write
        for one in instances:
            await remember(services, "x", org_id=one.org_id)
        await settle()
        assert most == 2
        assert len(services.gateway.written) == 9

    run(body())


@pytest.mark.parametrize("bad", ["", "a", "c", "f", "af", "bcd", "abcdef"])
def test_a_memory_that_arc_rejects_is_set_aside_alone(bad):
    """Its neighbours are delivered in order, it stays readable with Arc's answer, and no time passes."""

    async def body():
        policy = DeliveryPolicy(batch_size=6, flush_interval=SECOND)
        services = await prepared(policy)
        original = services.gateway.write

        async def write(one, memories):
            if any(memory.content in bad for memory in memories):
                raise ArcRejected("column x has another type")
            return await original(one, memories)

        services.gateway.write = write
        new = [NewMemory(agent_id="ada", content=one) for one in "abcdef"]
        kept = await services.memories.remember(ORG, new)
        await settle()
        assert [one for batch in written(services) for one in batch] == [one for one in "abcdef" if one not in bad]
        assert await services.journal.holdings(ORG) == OrgHoldings(set_aside=len(bad))
        refused = {one.memory_id for one in kept if one.content in bad}
        aside = await services.journal.entries(ORG, {EntryState.SET_ASIDE}, 100)
        answers = {one.memory.memory_id: one.answer for one in aside}
        assert answers == dict.fromkeys(refused, "column x has another type")
        found = await services.memories.find(MemoryQuery(org_id=ORG, order="asc"))
        assert found.memories == kept
        assert (await services.memories.count(ORG, "ada")).total == 6

    run(body())


def test_a_rejected_memory_that_arc_stored_all_the_same_is_seen_once():
    """An Arc that says no and yet has the row does not show it beside the journal's copy."""

    async def body():
        services = await prepared(DeliveryPolicy(batch_size=1, flush_interval=SECOND))
        original = services.gateway.write

        async def write(one, memories):
            await original(one, memories)
            raise ArcRejected("no")

        services.gateway.write = write
        (kept,) = await remember(services, "a")
        await settle()
        assert await services.journal.holdings(ORG) == OrgHoldings(set_aside=1)
        assert (await services.memories.find(MemoryQuery(org_id=ORG))).memories == [kept]
        assert (await services.memories.count(ORG, "ada")).total == 1

    run(body())


def fails_on(services, bad, error=None):
    """Let the gateway fail every batch that has a memory with one of these contents; return the attempts."""
    original, attempts = services.gateway.write, []

    async def write(one, memories):
        attempts.append([memory.content for memory in memories])
        if any(memory.content in bad for memory in memories):
            raise error or ArcFailed("internal error")
        return await original(one, memories)

    services.gateway.write = write
    return attempts


@pytest.mark.parametrize("bad", ["a", "d", "bc"])
def test_a_memory_that_makes_arc_fail_again_and_again_is_set_aside(bad):
    """A batch that fails thrice while Arc can be talked to is searched; what fails alone is set aside."""

    async def body():
        services = await prepared(DeliveryPolicy(batch_size=4, flush_interval=SECOND))
        attempts = fails_on(services, bad)
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abcd"])
        await settle()
        assert attempts == [list("abcd")]
        await pass_time(services, SECOND)
        assert attempts == [list("abcd")] * 2
        assert await services.journal.holdings(ORG) == OrgHoldings(pending=4)
        await pass_time(services, 2 * SECOND)
        assert [one for batch in written(services) for one in batch] == [one for one in "abcd" if one not in bad]
        assert await services.journal.holdings(ORG) == OrgHoldings(set_aside=len(bad))

    run(body())


def test_an_arc_that_fails_everything_has_a_fault_of_its_own():
    """Where not one memory passes nothing is set aside, however long it lasts, and all go out in the end."""

    async def body():
        services = await prepared(DeliveryPolicy(batch_size=4, flush_interval=SECOND))
        fails_on(services, "abcd")
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abcd"])
        await settle()
        for _ in range(30):
            await pass_time(services, timedelta(seconds=15))
        assert await services.journal.holdings(ORG) == OrgHoldings(pending=4)
        del services.gateway.write
        await pass_time(services, timedelta(seconds=15))
        assert [one for batch in written(services) for one in batch] == list("abcd")

    run(body())


@pytest.mark.parametrize("contents", ["a", "abcd"])
def test_nothing_is_set_aside_while_arc_cannot_be_talked_to(contents):
    """An Arc that fails writes and does not answer a ping either may be away altogether."""

    async def body():
        services = await prepared(DeliveryPolicy(batch_size=4, flush_interval=SECOND))
        fails_on(services, "a")
        services.gateway.unreachable.add(ARC.id)
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in contents])
        await settle()
        for _ in range(30):
            await pass_time(services, timedelta(seconds=15))
        assert await services.journal.holdings(ORG) == OrgHoldings(pending=len(contents))

    run(body())


def test_a_lone_memory_is_tried_ten_times_before_it_is_set_aside():
    """With no neighbours to compare it with a memory gets more patience."""

    async def body():
        services = await prepared(DeliveryPolicy(batch_size=1, flush_interval=SECOND))
        attempts = fails_on(services, "a")
        await remember(services, "a")
        await settle()
        while len(attempts) < 9:
            await pass_time(services, timedelta(seconds=15))
        assert await services.journal.holdings(ORG) == OrgHoldings(pending=1)
        await pass_time(services, timedelta(seconds=15))
        assert await services.journal.holdings(ORG) == OrgHoldings(set_aside=1)
        assert len(attempts) == 10

    run(body())


@pytest.mark.parametrize("error", [ArcUnreachable("no"), ArcTimeout("slow")], ids=repr)
def test_an_arc_that_is_away_makes_no_memory_suspect(error):
    """However often a batch does not arrive, that says nothing about its memories."""

    async def body():
        services = await prepared(DeliveryPolicy(batch_size=4, flush_interval=SECOND))
        fails_on(services, "a", error)
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abcd"])
        await settle()
        for _ in range(30):
            await pass_time(services, timedelta(seconds=15))
        assert await services.journal.holdings(ORG) == OrgHoldings(pending=4)

    run(body())


def test_a_batch_is_bounded_by_bytes():
    """Large memories go out in smaller batches, one that is larger than the bound alone."""

    async def body():
        policy = DeliveryPolicy(batch_size=3, batch_bytes=1000, flush_interval=SECOND)
        services = await prepared(policy)
        sizes = [600, 600, 5000, 10]
        await services.memories.remember(
            ORG, [NewMemory(agent_id="ada", content=str(n) * size) for n, size in enumerate(sizes)]
        )
        await settle()
        await pass_time(services, SECOND)
        await pass_time(services, SECOND)
        await pass_time(services, SECOND)
        await pass_time(services, SECOND)
        assert [len(content) for batch in written(services) for content in batch] == sizes
        assert all(len(batch) == 1 or sum(map(len, batch)) <= 1000 for batch in written(services))

    run(body())


def test_large_memories_do_not_wait_once_a_batch_of_them_does():
    """With `batch_size` memories waiting a batch that is cut short by its bytes goes out at once."""

    async def body():
        policy = DeliveryPolicy(batch_size=3, batch_bytes=1000, flush_interval=SECOND)
        services = await prepared(policy)
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one * 900) for one in "abc"])
        await settle()
        assert written(services)[:1] == [["a" * 900]]

    run(body())


@pytest.mark.parametrize("error", [ArcUnreachable("no"), ArcTimeout("slow")], ids=repr)
def test_a_failure_keeps_order_and_everything(error):
    """Whatever error the gateway has, the batch stays and goes out first when the gateway is well again."""

    async def body():
        services = await prepared()
        original, attempts = services.gateway.write, []

        async def write(one, memories):
            attempts.append([memory.content for memory in memories])
            if len(attempts) <= 4:
                raise error
            return await original(one, memories)

        services.gateway.write = write
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abcd"])
        await settle()
        for _ in range(4):
            assert (await services.journal.holdings(ORG)).pending == 4
            await pass_time(services, POLICY.longest_retry)
        await pass_time(services, SECOND)
        assert attempts[:5] == [["a", "b", "c"]] * 5
        assert written(services) == [["a", "b", "c"], ["d"]]

    run(body())


def test_a_delivery_whose_answer_was_lost_is_repeated_as_it_was():
    """A batch that Arc took, but did not confirm to us, is sent again whole and with the same ids."""

    async def body():
        services = await prepared()
        original, lost = services.gateway.write, []

        async def write(one, memories):
            durable = await original(one, memories)
            if not lost:
                lost.append(True)
                raise ArcUnreachable("the answer was lost")
            return durable

        services.gateway.write = write
        await remember(services, "a")
        await settle()
        await pass_time(services, SECOND)
        await pass_time(services, SECOND)
        first, second = services.gateway.written
        assert first == second
        assert await services.journal.pending_orgs() == []

    run(body())


def test_a_failed_batch_is_tried_again_within_a_second_and_not_at_once():
    """No time, no retry; after the first second there is one."""

    async def body():
        services = await prepared()
        services.gateway.unreachable.add(ARC.id)
        original, attempts = services.gateway.write, []

        async def write(one, memories):
            attempts.append(services.clock.monotonic())
            return await original(one, memories)

        services.gateway.write = write
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abc"])
        await settle()
        await settle()
        assert attempts == [0.0]
        await pass_time(services, SECOND)
        assert len(attempts) == 2

    run(body())


def test_retries_are_at_most_15_seconds_apart_and_less_and_less_frequent():
    """A gateway that stays away is asked less often, but never later than the longest retry."""

    async def body():
        services = await prepared()
        services.gateway.unreachable.add(ARC.id)
        original, attempts = services.gateway.write, []

        async def write(one, memories):
            attempts.append(services.clock.monotonic())
            return await original(one, memories)

        services.gateway.write = write
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abc"])
        await settle()
        for _ in range(1200):
            await pass_time(services, SECOND / 10)
        gaps = [later - earlier for earlier, later in itertools.pairwise(attempts)]
        assert max(gaps) <= 15.2  # the clock moves in tenths
        assert 8 <= len(gaps) <= 30
        assert min(gaps[-3:]) > max(gaps[:2])
        services.gateway.unreachable.clear()
        await pass_time(services, timedelta(seconds=15))
        assert written(services) == [["a", "b", "c"]]

    run(body())


def test_the_wait_for_a_retry_doubles_up_to_its_bound_with_jitter():
    """The first wait is a second at most, each further one up to twice the last, none beyond the longest."""
    policy = DeliveryPolicy()
    for failures, ceiling in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 15), (6, 15), (10_000, 15)]:
        waits = [policy.retry_after(failures) for _ in range(200)]
        assert ceiling / 4 < min(waits) < max(waits) <= ceiling


def test_after_a_success_the_first_retry_is_short_again():
    """Failures of the past do not make the next one wait longer."""

    async def body():
        services = await prepared()
        services.gateway.unreachable.add(ARC.id)
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abcdef"])
        await settle()
        for _ in range(10):
            await pass_time(services, timedelta(seconds=15))
        original, attempts = services.gateway.write, []

        async def write(one, memories):
            attempts.append(services.clock.monotonic())
            if len(attempts) == 2:
                raise ArcUnreachable("again")
            return await original(one, memories)

        services.gateway.unreachable.clear()
        services.gateway.write = write
        await pass_time(services, timedelta(seconds=15))
        assert len(attempts) == 2
        await pass_time(services, SECOND)
        assert len(attempts) == 3

    run(body())


def test_one_orgs_failure_does_not_stop_another():
    """While one org's Arc is away, another org's memories go out in their time."""

    async def body():
        services = await prepared()
        services.gateway.unreachable.add(ARC.id)
        await remember(services, "a", "b", "c")
        await settle()
        await remember(services, "x", org_id=OTHER_ORG)
        await settle()
        await pass_time(services, SECOND)
        assert written(services, OTHER_ORG) == [["x"]]
        assert written(services) == []

    run(body())


def test_one_orgs_hanging_arc_does_not_stop_another():
    """A write that never returns holds up its own org only."""

    async def body():
        services = await prepared()
        original = services.gateway.write

        async def write(one, memories):
            if one.org_id == ORG:
                await asyncio.Event().wait()
            return await original(one, memories)

        services.gateway.write = write
        for org_id in (ORG, OTHER_ORG):
            await services.memories.remember(org_id, [NewMemory(agent_id="ada", content=one) for one in "abc"])
        await settle()
        assert written(services, OTHER_ORG) == [["a", "b", "c"]]
        assert written(services) == []

    run(body())


def test_a_memory_stored_in_the_moment_of_the_last_look_is_delivered():
    """A wake-up that comes while a delivery finds its queue empty, and is about to end, is not lost."""

    async def body():
        services = await prepared()
        original, late = services.journal.next_batch, []

        async def next_batch(*asked):
            batch = await original(*asked)
            if batch is None and not late:
                # As a real journal does: the answer is on its way while another request commits.
                late.append(True)
                await remember(services, "late")
            return batch

        services.journal.next_batch = next_batch
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abc"])
        await settle()
        await pass_time(services, SECOND)
        assert written(services) == [["a", "b", "c"], ["late"]]

    run(body())


def test_a_memory_stored_between_the_end_of_a_delivery_and_its_notice_is_delivered():
    """Two tasks of one loop: the one that stores runs right after the delivery has ended."""

    async def body():
        services = await prepared()
        original, late = services.journal.next_batch, []

        async def next_batch(*asked):
            batch = await original(*asked)
            if batch is None and not late:
                late.append(asyncio.create_task(remember(services, "late")))
            return batch

        services.journal.next_batch = next_batch
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abc"])
        await settle()
        await pass_time(services, SECOND)
        assert written(services) == [["a", "b", "c"], ["late"]]

    run(body())


def test_memories_go_to_the_instance_they_were_accepted_for():
    """After a rebinding what waited still goes to the former instance, and what is new to the new one."""

    async def body():
        services = await prepared()
        successor = instance(ORG, id="arc_new", database="new")
        targets = []
        original = services.gateway.write

        async def write(one, memories):
            targets.append((one.id, [memory.content for memory in memories]))
            return await original(one, memories)

        services.gateway.write = write
        await remember(services, "a")
        await services.repo.rebind_instance(successor)
        await remember(services, "b")
        await settle()
        for _ in range(3):
            await pass_time(services, SECOND)
        assert targets == [(ARC.id, ["a"]), (successor.id, ["b"])]

    run(body())


def test_a_changed_key_is_used_for_what_waits():
    """A binding that is changed in place reaches memories accepted before it."""

    async def body():
        services = await prepared()
        services.gateway.unreachable.add(ARC.id)
        await remember(services, "a", "b", "c")
        await settle()
        await services.repo.rebind_instance(instance(ORG, sealed_api_key=b"new"))
        used = []

        async def write(one, memories):
            used.append(one.sealed_api_key)
            return True

        services.gateway.write = write
        await pass_time(services, SECOND)
        assert used == [b"new"]

    run(body())


def test_memories_whose_instance_is_gone_stay():
    """Without an instance to go to nothing is lost, and delivery goes on when there is one."""

    async def body():
        services = await prepared()
        original = services.repo.get_instance

        async def nothing(org_id, instance_id):
            return None

        services.repo.get_instance = nothing
        await remember(services, "a", "b", "c")
        await settle()
        assert (await services.journal.holdings(ORG)).pending == 3
        services.repo.get_instance = original
        await pass_time(services, SECOND)
        assert written(services) == [["a", "b", "c"]]

    run(body())


def test_starting_takes_up_every_org_that_has_memories_waiting():
    """What an earlier run left is delivered for all orgs."""

    async def body():
        services = await prepared()
        await services.journal.append(ARC, [draft("a")])
        await services.journal.append(OTHER_ARC, [draft("x")])
        await services.delivery.start()
        await settle()
        await pass_time(services, SECOND)
        assert (written(services), written(services, OTHER_ORG)) == ([["a"]], [["x"]])

    run(body())


def test_embedded_memories_are_never_delivered():
    """Storing into the embedded store wakes nobody."""

    async def body():
        services = await bound(in_memory(delivery=POLICY), embedded_instance())
        await remember(services, "a", "b", "c")
        await settle()
        assert services.clock.sleeping == 0
        assert services.gateway.written == []

    run(body())


def test_draining_delivers_a_batch_that_waits_to_fill():
    """At the end nobody waits for a batch to fill."""

    async def body():
        services = await prepared()
        await remember(services, "a")
        await remember(services, "x", org_id=OTHER_ORG)
        await settle()
        await services.delivery.drain(SECOND)
        assert (written(services), written(services, OTHER_ORG)) == ([["a"]], [["x"]])
        assert services.clock.sleeping == 0

    run(body())


def test_draining_delivers_a_whole_backlog():
    """All batches go out, not only the first."""

    async def body():
        services = await prepared()
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abcdefg"])
        await services.delivery.drain(SECOND)
        assert written(services) == [["a", "b", "c"], ["d", "e", "f"], ["g"]]

    run(body())


def test_draining_tries_an_org_that_waits_for_a_retry():
    """A gateway that came back meanwhile gets its memories at the end, without any time passing."""

    async def body():
        services = await prepared()
        services.gateway.unreachable.add(ARC.id)
        await remember(services, "a", "b", "c")
        await settle()
        services.gateway.unreachable.clear()
        await services.delivery.drain(SECOND)
        assert written(services) == [["a", "b", "c"]]

    run(body())


def test_draining_gives_up_on_a_gateway_that_fails():
    """An org that cannot be delivered now keeps its memories, and does not hold the end up."""

    async def body():
        services = await prepared()
        services.gateway.unreachable.add(ARC.id)
        await remember(services, "a")
        await remember(services, "x", org_id=OTHER_ORG)
        await services.delivery.drain(SECOND)
        assert (await services.journal.holdings(ORG)).pending == 1
        assert written(services, OTHER_ORG) == [["x"]]

    run(body())


def test_draining_gives_up_on_a_gateway_that_hangs():
    """After the time for it the drain ends, and what was not answered stays in the journal."""

    async def body():
        services = await prepared()

        async def write(one, memories):
            await asyncio.Event().wait()

        services.gateway.write = write
        await remember(services, "a")
        await services.delivery.drain(timedelta(0))
        assert (await services.journal.holdings(ORG)).pending == 1
        assert len(asyncio.all_tasks()) == 1

    run(body())


def test_nothing_starts_after_the_drain():
    """A memory stored at the very end stays in the journal for the next run."""

    async def body():
        services = await prepared()
        await services.delivery.drain(SECOND)
        await remember(services, "a", "b", "c")
        await settle()
        assert written(services) == []
        assert (await services.journal.holdings(ORG)).pending == 3

    run(body())


def test_memories_moved_while_they_are_delivered_go_to_the_new_instance_too():
    """A batch that is moved under way is delivered again where it was moved to, and nothing is lost."""

    async def body():
        services = await prepared()
        successor = instance(ORG, id="arc_new", database="new")
        original, targets = services.gateway.write, []

        async def write(one, memories):
            if not targets:
                await services.repo.rebind_instance(successor)
                await services.tenants.move_pending(ORG)
            targets.append((one.id, [memory.content for memory in memories]))
            return await original(one, memories)

        services.gateway.write = write
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abc"])
        await settle()
        assert targets == [(ARC.id, ["a", "b", "c"]), (successor.id, ["a", "b", "c"])]
        assert await services.journal.pending_orgs() == []

    run(body())


def test_an_outage_is_logged_once_with_its_org_and_without_content(caplog):
    """One warning begins an outage and one message ends it, with nothing of what was to be delivered."""

    async def body():
        services = await prepared()
        services.gateway.unreachable.add(ARC.id)
        await remember(services, "very private", "b", "c")
        await settle()
        for _ in range(5):
            await pass_time(services, timedelta(seconds=15))
        services.gateway.unreachable.clear()
        await pass_time(services, timedelta(seconds=15))
        assert written(services) == [["very private", "b", "c"]]

    with caplog.at_level(logging.INFO, "memtrace.delivery"):
        run(body())
    assert [(record.levelname, record.org, record.failures) for record in caplog.records] == [
        ("WARNING", ORG, 1),
        ("INFO", ORG, 6),
    ]
    assert "very private" not in caplog.text


def test_an_arc_that_refuses_our_key_is_an_error_in_the_log_and_unreachable_in_health(caplog):
    """Only an operator can mend a refused key, so every attempt says so, and health tells until a write passes."""

    async def body():
        services = await prepared()
        attempts = fails_on(services, "a", ArcUnreachable("arc refuses our key", code=REFUSES_KEY))
        await remember(services, "a", "b", "c")
        await settle()
        assert await services.health.reachable() == {ORG: False, OTHER_ORG: True}
        await pass_time(services, SECOND)
        assert len(attempts) == 2
        del services.gateway.write
        await pass_time(services, timedelta(seconds=15))
        assert await services.health.reachable() == {ORG: True, OTHER_ORG: True}
        assert written(services) == [["a", "b", "c"]]

    # Others may have configured the logs of this process.
    with caplog.at_level(logging.WARNING, "memtrace"):
        run(body())
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


def test_a_delivery_that_dies_of_a_defect_is_logged_and_begins_again_with_the_next_memory(caplog):
    """An error that nobody foresaw stops one task, not the org for good."""

    async def body():
        services = await prepared()
        original = services.gateway.write

        async def write(one, memories):
            raise RuntimeError("a defect")

        services.gateway.write = write
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abc"])
        await settle()
        services.gateway.write = original
        await remember(services, "d")
        await settle()
        assert written(services) == [["a", "b", "c"]]

    run(body())
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_an_arc_that_recovers_while_bad_memories_are_looked_for_sets_nothing_aside():
    """What failed before the first memory passed is tried once more, for Arc may have been at fault until then."""

    async def body():
        services = await prepared(DeliveryPolicy(batch_size=3, flush_interval=SECOND, suspect_after=1))
        original, attempts = services.gateway.write, []

        async def write(one, memories):
            attempts.append(len(memories))
            if len(attempts) <= 4:
                raise ArcFailed("Failed to write records")
            return await original(one, memories)

        services.gateway.write = write
        await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=one) for one in "abc"])
        await settle()
        assert attempts == [3, 1, 2, 1, 1, 1, 1]
        assert (await services.journal.holdings(ORG)).set_aside == 0
        assert sorted(one.content for batch in services.gateway.written for one in batch) == ["a", "b", "c"]

    run(body())
