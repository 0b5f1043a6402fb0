"""What every journal does with an order to forget: gone at once, and never back."""

from datetime import timedelta

import msgspec
import pytest
from builders import MICROSECOND, ORG, OTHER_ORG, START, draft, embedded_instance, memory
from contracts.test_journal import ARC, COUNT, EVERYTHING, SETTLE, deliver, set_aside, with_journal

from memtrace_core.entries import DeliveredRun, Duplicate, EntryState, OrgHoldings
from memtrace_core.forgotten import Forgotten
from memtrace_core.query import MemoryQuery

EMBEDDED = embedded_instance(ORG)
LATER = START + timedelta(days=1)
ADAS = Forgotten(agent_id="ada", before=LATER)
OF_S1 = Forgotten(session_id="s1", before=LATER)
ALL = Forgotten(before=LATER)


def one(kept):
    """Return the order for a single memory."""
    return Forgotten.one(kept.memory_id)


async def contents(held, query=EVERYTHING):
    """Return the contents that a view shows."""
    return [each.content for each in (await held.journal.view(query)).memories]


def of_several():
    """Return drafts of two agents, in and out of a session."""
    return [
        draft("ada in s1", agent_id="ada", session_id="s1"),
        draft("ada", agent_id="ada"),
        draft("bob in s1", agent_id="bob", session_id="s1"),
        draft("bob", agent_id="bob"),
    ]


@pytest.mark.parametrize(
    ("what", "left"),
    [
        (ADAS, {"bob in s1", "bob"}),
        (OF_S1, {"ada", "bob"}),
        (Forgotten(agent_id="ada", session_id="s1", before=LATER), {"ada", "bob in s1", "bob"}),
        (ALL, set()),
        (Forgotten(agent_id="eve", before=LATER), {"ada in s1", "ada", "bob in s1", "bob"}),
    ],
    ids=["agent", "session", "both", "everything", "nobody"],
)
@pytest.mark.parametrize("instance", [ARC, EMBEDDED], ids=["arc", "embedded"])
def test_what_an_order_covers_is_gone_and_nothing_else(journal_harness, instance, what, left):
    """Whatever the state, here and in the embedded store; the order tells how many it were."""

    async def body(held):
        await held.journal.append(instance, of_several())
        before = await held.journal.covered(ORG, what)
        order = await held.journal.forget(ORG, what, in_arc=not instance.embedded)
        shown = (
            await held.gateway.query(instance, EVERYTHING)
            if instance.embedded
            else (await held.journal.view(EVERYTHING)).memories
        )
        assert {each.content for each in shown} == left
        assert (before, order.removed) == (4 - len(left), 4 - len(left))
        assert await held.journal.covered(ORG, what) == 0
        assert (order.done_at is None) != instance.embedded

    with_journal(journal_harness, body)


def test_a_single_memory_is_forgotten_by_its_id(journal_harness):
    """Its neighbours stay, and counts follow."""

    async def body(held):
        kept = await held.journal.append(ARC, [draft(text) for text in ("a", "b", "c")])
        await held.journal.forget(ORG, one(kept[1]), in_arc=True)
        assert await contents(held) == ["a", "c"]
        _, counts = await held.journal.count(COUNT)
        assert counts.total == 2

    with_journal(journal_harness, body)


def test_another_orgs_memories_are_untouched(journal_harness):
    """An order is its org's alone, also when it is about an agent of the same name."""

    async def body(held):
        other = msgspec.structs.replace(ARC, org_id=OTHER_ORG, id="arc_other")
        await held.journal.append(other, [draft("theirs", agent_id="ada")])
        await held.journal.forget(ORG, ADAS, in_arc=True)
        assert await contents(held, MemoryQuery(org_id=OTHER_ORG)) == ["theirs"]
        assert await held.journal.orders(OTHER_ORG) == []
        assert await held.journal.forgetting_orgs() == [ORG]

    with_journal(journal_harness, body)


def test_what_is_stored_after_an_order_stays(journal_harness):
    """Even in the same microsecond of the clock, and though the order's time is later."""

    async def body(held):
        await held.journal.append(ARC, [draft("before", agent_id="ada")])
        order = await held.journal.forget(ORG, ADAS, in_arc=True)
        (kept,) = await held.journal.append(ARC, [draft("after", agent_id="ada")])
        assert await contents(held) == ["after"]
        assert order.what.before <= kept.time
        assert not order.what.covers(kept)

    with_journal(journal_harness, body)


@pytest.mark.parametrize("instance", [ARC, EMBEDDED], ids=["arc", "embedded"])
@pytest.mark.parametrize("by", ["id", "agent"])
def test_the_same_content_may_be_stored_again(journal_harness, instance, by):
    """The claim goes with the memory, and the next one has it."""

    async def body(held):
        same = draft("same", agent_id="ada", dedup_key="k")
        (kept,) = await held.journal.append(instance, [same])
        await held.journal.forget(ORG, one(kept) if by == "id" else ADAS, in_arc=not instance.embedded)
        (again,) = await held.journal.append(instance, [same])
        assert not isinstance(again, Duplicate)
        assert await held.journal.append(instance, [same]) == [Duplicate(again.memory_id)]

    with_journal(journal_harness, body)


@pytest.mark.parametrize("by", ["id", "agent", "time"])
def test_the_claim_of_a_memory_that_only_arc_has_does_not_count(journal_harness, by):
    """It left the journal long ago; still its content may be stored again right after the order."""

    async def body(held):
        same = draft("same", agent_id="ada", dedup_key="k")
        (kept,) = await held.journal.append(ARC, [same])
        await deliver(held, 1, durable=True)
        assert await held.journal.holdings(ORG) == OrgHoldings()
        what = {"id": one(kept), "agent": ADAS, "time": ALL}[by]
        await held.journal.forget(ORG, what, in_arc=True)
        (again,) = await held.journal.append(ARC, [same])
        assert not isinstance(again, Duplicate)

    with_journal(journal_harness, body)


def test_other_claims_still_count(journal_harness):
    """A copy of a memory that is not forgotten is refused, once the claims of an order are known."""

    async def body(held):
        same = draft("same", agent_id="bob", dedup_key="k")
        (kept,) = await held.journal.append(ARC, [same])
        await deliver(held, 1, durable=True)
        order = await held.journal.forget(ORG, ADAS, in_arc=True)
        await held.journal.free_claims(order, [], all_of_them=True)
        assert await held.journal.append(ARC, [same]) == [Duplicate(kept.memory_id)]

    with_journal(journal_harness, body)


def test_claims_that_arc_names_are_freed(journal_harness):
    """What an order covers in Arc alone has its claims freed by name, and for good."""

    async def body(held):
        same = draft("same", agent_id="ada", dedup_key="k")
        kept = await held.journal.append(ARC, [same])
        await deliver(held, 1, durable=True)
        order = await held.journal.forget(ORG, ADAS, in_arc=True)
        await held.journal.free_claims(order, kept, all_of_them=True)
        await held.journal.note_progress(ORG, [order], done=True)
        (again,) = await held.journal.append(ARC, [same])
        assert not isinstance(again, Duplicate)

    with_journal(journal_harness, body)


def test_the_horizon_names_what_arc_may_still_have(journal_harness):
    """In the same snapshot as the memories, until the order is done; a done one is asked for again by reopening."""

    async def body(held):
        order = await held.journal.forget(ORG, ADAS, in_arc=True)
        view = await held.journal.view(EVERYTHING)
        horizon, _ = await held.journal.count(COUNT)
        assert view.horizon.forgotten == horizon.forgotten == (order.what,)
        await held.journal.note_progress(ORG, [order], deleted=3, done=True)
        assert (await held.journal.view(EVERYTHING)).horizon.forgotten == ()
        (done,) = await held.journal.orders(ORG)
        assert (done.deleted, done.done_at) == (3, held.clock.now())
        assert await held.journal.orders(ORG, waiting=True) == []
        assert await held.journal.forgetting_orgs() == []
        await held.journal.reopen_orders(ORG)
        assert (await held.journal.view(EVERYTHING)).horizon.forgotten == (order.what,)

    with_journal(journal_harness, body)


def test_trouble_is_kept_until_there_is_progress(journal_harness):
    """The last trouble is told, and progress clears it; other orders keep theirs."""

    async def body(held):
        first = await held.journal.forget(ORG, ADAS, in_arc=True)
        second = await held.journal.forget(ORG, OF_S1, in_arc=True)
        await held.journal.note_progress(ORG, [first, second], trouble="no admin")
        await held.journal.note_progress(ORG, [first], deleted=1)
        assert [(each.trouble, each.deleted) for each in await held.journal.orders(ORG)] == [
            (None, 1),
            ("no admin", 0),
        ]
        assert [each.key for each in await held.journal.orders(ORG, limit=1, after=first.key)] == [second.key]

    with_journal(journal_harness, body)


def test_an_order_takes_the_place_of_one_that_is_done(journal_harness):
    """Asking for the same again and again leaves one order, for another agent another."""

    async def body(held):
        for _ in range(3):
            order = await held.journal.forget(ORG, ADAS, in_arc=True)
            await held.journal.note_progress(ORG, [order], done=True)
        await held.journal.forget(ORG, Forgotten(agent_id="bob", before=LATER), in_arc=True)
        assert [each.what.agent_id for each in await held.journal.orders(ORG)] == ["ada", "bob"]

    with_journal(journal_harness, body)


def test_an_order_never_has_the_number_of_one_that_it_replaces(journal_harness):
    """Who was at work on the replaced one cannot note on the new one that it is done."""

    async def body(held):
        first, second, third = [await held.journal.forget(ORG, ADAS, in_arc=True) for _ in range(3)]
        assert len({first.key, second.key, third.key}) == 3
        await held.journal.note_progress(ORG, [first, second], done=True)
        await held.journal.free_claims(second, [], all_of_them=True)
        assert [each.key for each in await held.journal.orders(ORG, waiting=True)][-1] == third.key

    with_journal(journal_harness, body)


def test_an_order_that_was_reopened_is_not_done_for_having_been_looked_at_before(journal_harness):
    """What an import brings, or another store has, comes after that look."""

    async def body(held):
        await held.journal.forget(ORG, ADAS, in_arc=True)
        (looked_at,) = await held.journal.orders(ORG, waiting=True)
        await held.journal.reopen_orders(ORG)
        await held.journal.note_progress(ORG, [looked_at], done=True, deleted=3)
        (reopened,) = await held.journal.orders(ORG, waiting=True)
        assert reopened.deleted == 0
        await held.journal.note_progress(ORG, [reopened], done=True)
        assert await held.journal.orders(ORG, waiting=True) == []

    with_journal(journal_harness, body)


SECOND, DAY = timedelta(seconds=1), timedelta(days=1)


async def early(held):
    """Return the keys of the orders that are due for a second look, however they are asked for."""
    keys = [each.key for each in await held.journal.orders_to_look_at_again(ORG, DAY, 10)]
    assert await held.journal.orgs_to_look_at_again(DAY) == ([ORG] if keys else [])
    return keys


def test_an_order_is_looked_at_again_once_when_it_was_done_early(journal_harness):
    """A day after it was made it is due, unless it is not done or was done only then; seen again, never more."""

    async def body(held):
        waits = await held.journal.forget(ORG, OF_S1, in_arc=True)
        await held.journal.forget(ORG, ALL, in_arc=False)
        order = await held.journal.forget(ORG, ADAS, in_arc=True)
        await held.journal.note_progress(ORG, [order], done=True)
        held.clock.advance(DAY - SECOND)
        assert await early(held) == []
        held.clock.advance(2 * SECOND)
        assert await early(held) == [order.key]
        await held.journal.note_progress(ORG, [waits], done=True)
        (due,) = await held.journal.orders_to_look_at_again(ORG, DAY, 10)
        await held.journal.note_second_look(ORG, [due], found=False)
        assert await early(held) == []
        held.clock.advance(DAY)
        assert await early(held) == []
        assert await held.journal.orders(ORG, waiting=True) == []

    with_journal(journal_harness, body)


def test_an_order_of_which_arc_shows_something_again_waits_once_more(journal_harness):
    """It is hidden and carried out anew, and done at last; one that was replaced meanwhile is left alone."""

    async def body(held):
        order = await held.journal.forget(ORG, ADAS, in_arc=True)
        await held.journal.note_progress(ORG, [order], done=True)
        held.clock.advance(DAY + SECOND)
        (due,) = await held.journal.orders_to_look_at_again(ORG, DAY, 10)
        await held.journal.note_second_look(ORG, [due], found=True)
        (waits,) = await held.journal.orders(ORG, waiting=True)
        assert waits.key == order.key
        assert (await held.journal.view(EVERYTHING)).horizon.forgotten == (waits.what,)
        await held.journal.note_second_look(ORG, [due], found=False)
        assert await held.journal.orders(ORG, waiting=True) == [waits]
        await held.journal.note_progress(ORG, [waits], done=True)
        assert await early(held) == []

    with_journal(journal_harness, body)


def test_what_is_forgotten_is_known_for_good(journal_harness):
    """Whoever brings memories from elsewhere can ask which must not come back, also when all is done."""

    async def body(held):
        kept = await held.journal.append(ARC, of_several())
        await held.journal.forget(ORG, one(kept[3]), in_arc=False)
        await held.journal.forget(ORG, ADAS, in_arc=False)
        held.clock.advance(timedelta(hours=1))
        (later,) = await held.journal.append(ARC, [draft("later", agent_id="ada")])
        theirs = msgspec.structs.replace(kept[0], org_id=OTHER_ORG)
        assert await held.journal.forgotten([*kept, later]) == {kept[number].memory_id for number in (0, 1, 3)}
        assert await held.journal.forgotten([theirs]) == set()
        await held.journal.load_claims(ARC, [msgspec.structs.replace(kept[0], dedup_key="k")])
        (again,) = await held.journal.append(ARC, [draft("other", dedup_key="k")])
        assert not isinstance(again, Duplicate)

    with_journal(journal_harness, body)


def test_delivery_passes_over_what_is_forgotten(journal_harness):
    """Not in the next batch; one that is on its way changes nothing when it is marked."""

    async def body(held):
        kept = await held.journal.append(ARC, [draft("a"), draft("b")])
        batch = await held.journal.next_batch(ORG, 10, 1 << 20)
        await held.journal.forget(ORG, one(kept[0]), in_arc=True)
        await held.journal.mark_delivered(batch, durable=False)
        assert await contents(held) == ["b"]
        assert await held.journal.holdings(ORG) == OrgHoldings(delivered=1)

    with_journal(journal_harness, body)


def test_a_run_with_forgotten_memories_in_between_is_not_whole(journal_harness):
    """Its memories must be looked for by their ids: a count could be made up by one that Arc still has."""

    async def body(held):
        kept = await held.journal.append(ARC, [draft(text) for text in ("a", "b", "c")])
        await deliver(held, 3, durable=False)
        await held.journal.forget(ORG, one(kept[1]), in_arc=True)
        held.clock.advance(SETTLE)
        run = await held.journal.next_delivered(ORG, SETTLE, 10)
        assert isinstance(run, DeliveredRun)
        assert (run.memory_ids, run.whole) == ((kept[0].memory_id, kept[2].memory_id), False)

    with_journal(journal_harness, body)


def test_a_run_is_whole_beside_what_was_forgotten_before_it(journal_harness):
    """Former orders do not make every later confirmation dear."""

    async def body(held):
        (gone,) = await held.journal.append(ARC, [draft("gone")])
        await held.journal.forget(ORG, one(gone), in_arc=True)
        await held.journal.forget(ORG, ADAS, in_arc=True)
        held.clock.advance(timedelta(seconds=1))
        await held.journal.append(ARC, [draft("later")])
        await deliver(held, 1, durable=False)
        held.clock.advance(SETTLE)
        run = await held.journal.next_delivered(ORG, SETTLE, 10)
        assert run.whole

    with_journal(journal_harness, body)


def test_what_is_set_aside_is_forgotten_as_well(journal_harness):
    """Nothing of it is left for the operator to send again."""

    async def body(held):
        await held.journal.append(ARC, [draft("bad", agent_id="ada")])
        await set_aside(held, 1, "bad column")
        await held.journal.forget(ORG, ADAS, in_arc=True)
        assert await held.journal.entries(ORG, tuple(EntryState), 10) == []
        assert await held.journal.retry(ORG) == 0
        assert await held.journal.backlogs() == []

    with_journal(journal_harness, body)


def test_a_deleted_orgs_orders_go_with_it(journal_harness):
    """An org of the same id begins with nothing forgotten."""

    async def body(held):
        await held.journal.forget(ORG, ALL, in_arc=True)
        await held.journal.close_org(ORG)
        await held.journal.purge_org(ORG)
        assert await held.journal.orders(ORG) == []
        assert await held.journal.forgotten([memory(org_id=ORG, time=START - MICROSECOND)]) == set()

    with_journal(journal_harness, body)
