"""What every journal lets an operator see and do: entries, backlogs, retries of what was set aside, and drops."""

from datetime import timedelta

import pytest
from builders import ORG, OTHER_ORG, START, draft, instance
from contracts.test_journal import (
    ARC,
    COUNT,
    EVERYTHING,
    MANY_BYTES,
    OTHER_ARC,
    SECOND_ARC,
    SETTLE,
    deliver,
    held_by,
    set_aside,
    some,
    with_journal,
)

from memtrace_core.entries import DeliveredRun, Duplicate, EntryState, OrgHoldings
from memtrace_core.timewindow import to_us

ALL = tuple(EntryState)
ROOM = 100


async def entries(held, *states, limit=1000, after=0, org_id=ORG):
    """Return the entries of an org."""
    return await held.journal.entries(org_id, states or ALL, limit, after)


def keyed(count):
    """Return drafts with dedup keys."""
    return [draft(f"m{number}", dedup_key=f"k{number}") for number in range(count)]


async def in_three_states(held):
    """Return three memories of an org: set aside, delivered, pending."""
    kept = await held.journal.append(ARC, keyed(3))
    await set_aside(held, 1, "bad column")
    await deliver(held, 1, durable=False)
    return kept


async def due(held):
    """Return what is to be confirmed."""
    return await held.journal.next_delivered(ORG, SETTLE, 1000)


async def all_set_aside(held, count):
    """Return so many memories that are all set aside."""
    kept = await held.journal.append(ARC, some(count))
    await set_aside(held, count)
    return kept


def test_entries_tell_what_became_of_each_memory(journal_harness):
    """State, instance, Arc's answer and the memory itself, oldest first; only the org's own."""

    async def use(held):
        kept = await in_three_states(held)
        await held.journal.append(OTHER_ARC, [draft("foreign")])
        found = await entries(held)
        assert [one.memory for one in found] == kept
        assert [one.state for one in found] == [EntryState.SET_ASIDE, EntryState.DELIVERED, EntryState.PENDING]
        assert [one.answer for one in found] == ["bad column", None, None]
        assert {one.instance_id for one in found} == {ARC.id}
        assert all(one.bytes >= len(one.memory.content) for one in found)
        assert await entries(held, org_id="org_nobody") == []

    with_journal(journal_harness, use)


@pytest.mark.parametrize("state", ALL)
def test_entries_of_one_state_come_in_pages(journal_harness, state):
    """A page begins behind the last key of the one before."""

    async def use(held):
        for prefix in "abc":
            await held.journal.append(ARC, some(1, prefix + "1"))
            await set_aside(held, 1)
            await held.journal.append(ARC, some(1, prefix + "2"))
            await deliver(held, durable=False)
        await held.journal.append(ARC, some(3, "p"))
        whole = await entries(held, state)
        assert len(whole) == 3
        first = await entries(held, state, limit=2)
        assert first == whole[:2]
        assert await entries(held, state, after=first[-1].key) == whole[2:]
        assert await held.journal.entries(ORG, (), 10) == []

    with_journal(journal_harness, use)


def test_backlogs_count_org_by_org(journal_harness):
    """Each state, the oldest in line and of those that wait, what waits in bytes; orgs without any are left out."""

    async def use(held):
        assert await held.journal.backlogs() == []
        _, delivered, pending = await in_three_states(held)
        other = await held.journal.append(OTHER_ARC, [draft("foreign")])
        one, two = sorted(await held.journal.backlogs(), key=lambda each: each.org_id != ORG)
        assert (one.org_id, one.pending, one.delivered, one.set_aside) == (ORG, 1, 1, 1)
        assert (one.oldest, one.oldest_pending) == (delivered.time, pending.time)
        assert one.pending_bytes > 0
        assert (two.org_id, two.pending, two.oldest) == (OTHER_ORG, 1, other[0].time)
        await deliver(held)
        await deliver(held, org_id=OTHER_ORG)
        await held.journal.drop(ORG, [each.memory.memory_id for each in await entries(held, EntryState.DELIVERED)])
        (left,) = await held.journal.backlogs()
        assert (left.set_aside, left.pending, left.oldest, left.pending_bytes) == (1, 0, None, 0)
        assert left.oldest_pending is None

    with_journal(journal_harness, use)


def test_the_oldest_that_waits_is_the_oldest_for_any_instance(journal_harness):
    """Of memories for a former instance and for the present one, the first of all counts."""

    async def use(held):
        former, present = instance(ORG, id="arc_z"), instance(ORG, id="arc_a")
        first = (await held.journal.append(former, [draft("one")]))[0]
        await held.journal.append(present, [draft("two")])
        (backlog,) = await held.journal.backlogs()
        assert backlog.oldest_pending == first.time

    with_journal(journal_harness, use)


def test_a_retried_memory_waits_for_delivery_again(journal_harness):
    """It comes before what is younger, counts as pending, and what is not set aside is not retried."""

    async def use(held):
        aside, _, pending = await in_three_states(held)
        assert await held.journal.retry(ORG) == 1
        assert await held.journal.retry(ORG) == 0
        assert await held.journal.holdings(ORG) == OrgHoldings(pending=2, delivered=1)
        assert (await held.journal.next_batch(ORG, 10, MANY_BYTES)).memories == [aside, pending]
        assert [one.answer for one in await entries(held)] == ["bad column", None, None]

    with_journal(journal_harness, use)


def test_only_the_named_memories_are_retried(journal_harness):
    """By their ids, and only within the org."""

    async def use(held):
        kept = await all_set_aside(held, 3)
        assert await held.journal.retry(OTHER_ORG) == 0
        assert await held.journal.retry(OTHER_ORG, [kept[0].memory_id]) == 0
        assert await held.journal.retry(ORG, [kept[1].memory_id, "mem_unknown"]) == 1
        assert (await held.journal.next_batch(ORG, 10, MANY_BYTES)).memories == [kept[1]]

    with_journal(journal_harness, use)


def test_a_retried_memory_does_not_move_the_watermark_back(journal_harness):
    """Younger memories have left the journal, so Arc must go on answering for them; not for the retried one."""

    async def use(held):
        aside, younger = await held.journal.append(ARC, some(2))
        await set_aside(held, 1)
        await deliver(held)
        before = (await held.journal.view(EVERYTHING)).horizon
        assert before.before > younger.time
        await held.journal.retry(ORG)
        for step in ("pending", "delivered"):
            view = await held.journal.view(EVERYTHING)
            assert view.memories == [aside], step
            assert view.horizon == before, step
            assert view.horizon.set_aside == {aside.memory_id}, step
            assert (await held.journal.count(COUNT))[1].total == 1
            if step == "pending":
                await deliver(held, durable=False)

    with_journal(journal_harness, use)


def test_a_retried_memory_is_confirmed_by_itself(journal_harness):
    """Its span covers nothing else, it waits for its own settle time, and the others do not wait for it."""

    async def use(held):
        aside, first, second = await held.journal.append(ARC, some(3))
        await set_aside(held, 1)
        await deliver(held, durable=False)
        await held.journal.retry(ORG)
        held.clock.advance(SETTLE / 2)
        await deliver(held, durable=False)
        held.clock.advance(SETTLE / 2)
        run = await due(held)
        assert run.memory_ids == (first.memory_id, second.memory_id)
        await held.journal.confirm(run, run.keys)
        assert await due(held) == held.clock.now() + SETTLE / 2
        held.clock.advance(SETTLE / 2)
        run = await due(held)
        assert isinstance(run, DeliveredRun)
        assert run.memory_ids == (aside.memory_id,)
        assert run.span.first == run.span.last == aside.time
        await held.journal.confirm(run, run.keys)
        assert await held.journal.holdings(ORG) == OrgHoldings()

    with_journal(journal_harness, use)


def test_a_retried_memory_in_the_middle_is_no_part_of_a_run(journal_harness):
    """A run ends before it and goes on behind it, so that its count is that of its memories."""

    async def use(held):
        first, _, third = await held.journal.append(ARC, some(3))
        one, rest = (await held.journal.next_batch(ORG, 3, MANY_BYTES)).halves()
        two, three = rest.halves()
        await held.journal.mark_delivered(one, durable=False)
        await held.journal.set_aside(two, "no")
        await held.journal.mark_delivered(three, durable=False)
        await held.journal.retry(ORG)
        await deliver(held, durable=False)
        held.clock.advance(SETTLE)
        seen = []
        while (run := await due(held)) is not None:
            seen.append(run.memory_ids)
            await held.journal.confirm(run, run.keys)
        assert seen[0] == (first.memory_id,)
        assert (third.memory_id,) in seen
        assert len(seen) == 3

    with_journal(journal_harness, use)


def test_a_retried_memory_stays_while_an_older_one_is_in_line(journal_harness):
    """The journal alone answers for what is younger than that one: what leaves before it would be hidden in Arc."""

    async def use(held):
        older, retried = await held.journal.append(ARC, some(2))
        one, two = (await held.journal.next_batch(ORG, 2, MANY_BYTES)).halves()
        await held.journal.set_aside(two, "no")
        await held.journal.retry(ORG)
        await held.journal.mark_delivered(two, durable=False)
        held.clock.advance(SETTLE)
        assert await due(held) is None
        view = await held.journal.view(EVERYTHING)
        for kept in (older, retried):
            assert kept in view.memories or view.horizon.admits(kept)
        await held.journal.mark_delivered(one, durable=False)
        held.clock.advance(SETTLE)
        assert (await due(held)).memory_ids == (older.memory_id,)
        run = await due(held)
        await held.journal.confirm(run, run.keys)
        assert (await due(held)).memory_ids == (retried.memory_id,)

    with_journal(journal_harness, use)


def test_a_retried_memory_never_makes_up_for_a_lost_one(journal_harness):
    """No run in line covers it, though it is in Arc and they are counted: not even when it was due before them."""

    async def use(held):
        first, retried, third = await held.journal.append(ARC, some(3))
        one, rest = (await held.journal.next_batch(ORG, 3, MANY_BYTES)).halves()
        two, three = rest.halves()
        await held.journal.mark_delivered(one, durable=False)
        await held.journal.set_aside(two, "no")
        await held.journal.mark_delivered(three, durable=False)
        held.clock.advance(SETTLE)
        run = await due(held)
        await held.journal.resend(run, run.keys[:1])  # it got lost
        await held.journal.retry(ORG)
        await deliver(held, durable=False)
        held.clock.advance(SETTLE)
        assert not isinstance(await due(held), DeliveredRun)  # the first is looked for after twice the time
        held.clock.advance(SETTLE)
        seen = []
        while isinstance(run := await due(held), DeliveredRun):
            assert {
                one.memory_id for one in (first, retried, third) if run.span.first <= one.time <= run.span.last
            } == {*run.memory_ids}
            seen.append(run.memory_ids)
            await held.journal.confirm(run, run.keys)
        assert seen[0] == (first.memory_id,)
        assert sorted(seen[1:]) == sorted([(retried.memory_id,), (third.memory_id,)])

    with_journal(journal_harness, use)


@pytest.mark.parametrize("what_was_seen", ["confirm", "resend"])
def test_what_was_moved_meanwhile_is_not_of_the_run_any_more(journal_harness, what_was_seen):
    """What was seen, or missed, in the former instance says nothing about the one that it is in by now."""

    async def use(held):
        await held.journal.append(ARC, some(2))
        await deliver(held, durable=False)
        held.clock.advance(SETTLE)
        stale = await due(held)
        await held.journal.move_pending(SECOND_ARC)
        await deliver(held, durable=False)
        await getattr(held.journal, what_was_seen)(stale, stale.keys)
        assert await held.journal.holdings(ORG) == OrgHoldings(delivered=2)
        assert {one.instance_id for one in await entries(held)} == {SECOND_ARC.id}

    with_journal(journal_harness, use)


def test_a_retried_memory_that_got_lost_is_sent_again(journal_harness):
    """It waits for delivery once more, still out of line."""

    async def use(held):
        (aside,) = await all_set_aside(held, 1)
        await held.journal.retry(ORG)
        await deliver(held, durable=False)
        held.clock.advance(SETTLE)
        run = await due(held)
        await held.journal.resend(run, run.keys)
        assert (await held.journal.next_batch(ORG, 10, MANY_BYTES)).memories == [aside]
        assert (await held.journal.view(EVERYTHING)).horizon.before > aside.time

    with_journal(journal_harness, use)


def test_a_retried_memory_may_be_refused_again(journal_harness):
    """It is set aside with the new answer, and stays so until it is retried again."""

    async def use(held):
        await all_set_aside(held, 1)
        await held.journal.retry(ORG)
        await set_aside(held, 1, "worse")
        (entry,) = await entries(held)
        assert (entry.state, entry.answer) == (EntryState.SET_ASIDE, "worse")
        assert await held.journal.next_batch(ORG, 10, MANY_BYTES) is None
        assert await held.journal.retry(ORG) == 1

    with_journal(journal_harness, use)


def test_retries_go_in_portions_that_readers_can_tell_apart(journal_harness):
    """A hundred at a time are on their way, each named by the horizon; when some are done others follow."""

    async def use(held):
        kept = await all_set_aside(held, 2 * ROOM + 50)
        assert await held.journal.retry(ORG) == len(kept)
        sent = []
        for expected in (ROOM, ROOM, 50):
            view = await held.journal.view(EVERYTHING)
            batch = await held.journal.next_batch(ORG, 1000, MANY_BYTES)
            assert len(batch.keys) == expected
            assert {one.memory_id for one in batch.memories} <= view.horizon.set_aside
            await held.journal.mark_delivered(batch, durable=False)
            assert await held.journal.next_batch(ORG, 1000, MANY_BYTES) is None
            sent += batch.memories
            held.clock.advance(SETTLE)
            while isinstance(run := await due(held), DeliveredRun):
                await held.journal.confirm(run, run.keys)
                if len(await entries(held, EntryState.DELIVERED)) == 0:
                    break
        assert sent == kept
        assert await held.journal.holdings(ORG) == OrgHoldings()

    with_journal(journal_harness, use)


def test_refused_retries_make_room_for_others(journal_harness):
    """What is set aside again gives its place on the way to the next."""

    async def use(held):
        kept = await all_set_aside(held, ROOM + 20)
        await held.journal.retry(ORG)
        batch = await held.journal.next_batch(ORG, ROOM, MANY_BYTES)
        await held.journal.set_aside(batch, "still bad")
        assert (await held.journal.next_batch(ORG, ROOM, MANY_BYTES)).memories == kept[ROOM:]

    with_journal(journal_harness, use)


def test_a_retried_memory_can_be_moved_to_another_instance(journal_harness):
    """It waits there, still out of line."""

    async def use(held):
        (aside,) = await all_set_aside(held, 1)
        await held.journal.retry(ORG)
        assert await held.journal.move_pending(SECOND_ARC) == 1
        batch = await held.journal.next_batch(ORG, 10, MANY_BYTES)
        assert (batch.instance_id, batch.memories) == (SECOND_ARC.id, [aside])
        assert (await held.journal.view(EVERYTHING)).horizon.before > aside.time

    with_journal(journal_harness, use)


def test_dropped_memories_are_gone_and_free_their_claims(journal_harness):
    """Whatever their state; the same content can be stored again, and others keep their claims."""

    async def use(held):
        kept = await in_three_states(held)
        ids = [one.memory_id for one in kept]
        assert await held.journal.drop(OTHER_ORG, ids) == 0
        assert await held.journal.drop(ORG, ids[:2]) == 2
        assert await held.journal.drop(ORG, ids[:2]) == 0
        assert await held_by(held) == kept[2:]
        again = await held.journal.append(ARC, keyed(3))
        assert again[2] == Duplicate(kept[2].memory_id)
        assert [to_us(one.time) for one in again[:2]] > [to_us(kept[2].time)]
        assert await held.journal.drop(ORG, [one.memory.memory_id for one in await entries(held)]) == 3
        assert await held.journal.holdings(ORG) == OrgHoldings()

    with_journal(journal_harness, use)


def test_dropping_frees_only_the_claim_that_the_memory_holds(journal_harness):
    """When the key is held by a later memory, because the window was over, that claim stays."""

    async def use(held):
        await held.journal.append(ARC, [draft("same", dedup_key="k")])
        held.clock.advance(timedelta(hours=25))
        (later,) = await held.journal.append(ARC, [draft("same", dedup_key="k")])
        first, _ = await entries(held)
        await held.journal.drop(ORG, [first.memory.memory_id, "mem_unknown"])
        assert await held.journal.append(ARC, [draft("same", dedup_key="k")]) == [Duplicate(later.memory_id)]

    with_journal(journal_harness, use)


def test_time_goes_on_after_a_drop(journal_harness):
    """Nothing new is as old as what was dropped."""

    async def use(held):
        (last,) = await held.journal.append(ARC, [draft("last")])
        (entry,) = await entries(held)
        await held.journal.drop(ORG, [entry.memory.memory_id])
        (new,) = await held.journal.append(ARC, [draft("new")])
        assert new.time > last.time >= START

    with_journal(journal_harness, use)


def test_no_run_reaches_across_a_dropped_memory(journal_harness):
    """Arc may have it: counted in, it would make up for one that Arc has lost."""

    async def use(held):
        kept = await held.journal.append(ARC, some(5))
        await deliver(held, durable=False)
        await held.journal.drop(ORG, [kept[1].memory_id, kept[2].memory_id])
        held.clock.advance(SETTLE)
        seen = []
        while (run := await due(held)) is not None:
            seen.append(run.memory_ids)
            assert not run.span.first < kept[1].time < run.span.last
            await held.journal.confirm(run, run.keys)
        assert seen == [(kept[0].memory_id,), (kept[3].memory_id, kept[4].memory_id)]
        await held.journal.append(ARC, some(2, "later"))
        await deliver(held, durable=False)
        held.clock.advance(SETTLE)
        assert len((await due(held)).keys) == 2

    with_journal(journal_harness, use)
