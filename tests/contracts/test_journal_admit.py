"""Memories that come from elsewhere with ids and times of their own, as every journal takes them in."""

from datetime import timedelta

import pytest
from builders import MICROSECOND, ORG, OTHER_NODE, OTHER_ORG, START, draft, embedded_instance, instance, memory, run
from contracts.test_journal import MANY_BYTES, SECOND_ARC, SETTLE, deliver, set_aside

from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import Duplicate, OrgHoldings
from memtrace_core.errors import OrgClosing
from memtrace_core.forgotten import Forgotten
from memtrace_core.identifiers import parse_memory_id
from memtrace_core.query import MemoryQuery

ARC, EMBEDDED = instance(ORG), embedded_instance(ORG)
EVERYTHING = MemoryQuery(org_id=ORG, order="asc", limit=1000)
HOUR = timedelta(hours=1)
WINDOW = DedupPolicy().window
both_kinds = pytest.mark.parametrize("one", [ARC, EMBEDDED], ids=["arc", "embedded"])


def with_journal(open_it, use, **settings_of_it):
    """Await `use` with a harness that is open."""

    async def body():
        async with open_it(**settings_of_it) as held:
            await use(held)

    run(body())


async def node_of(held):
    """Return the node's part of the ids that this journal gives."""
    return (await held.journal.view(EVERYTHING)).horizon.node


def test_what_is_admitted_to_the_embedded_store_is_there_as_it_came(journal_harness):
    """Ids, times and every field stay, old ones stand before new ones, and a second time changes nothing."""

    async def use(held):
        full = memory(
            START - 9 * HOUR, session_id="s1", metadata={"n": [1, None]}, tags=("a", "b"), importance=0.5,
            memory_type="entity", event_type="error", dedup_key="k", parent_id="mem_x", content="é\n",
        )  # fmt: skip
        (new,) = await held.journal.append(EMBEDDED, [draft("new")])
        old = [full, memory(START - 8 * HOUR, salt=1), memory(START - 8 * HOUR, salt=2)]
        first = await held.journal.admit(EMBEDDED, old)
        assert (first.stored, first.present, first.outward, first.waiting) == (old, [], [], [])
        again = await held.journal.admit(EMBEDDED, [*old, memory(START - 7 * HOUR, salt=3)])
        assert (again.stored, again.present) == ([memory(START - 7 * HOUR, salt=3)], old)
        assert await held.gateway.query(EMBEDDED, EVERYTHING) == [*old, *again.stored, new]

    with_journal(journal_harness, use)


def test_what_belongs_into_arc_is_the_callers_to_write(journal_harness):
    """For an instance elsewhere nothing is stored here: not waiting for delivery, not in the embedded store."""

    async def use(held):
        old = [memory(START - HOUR), memory(START - HOUR + MICROSECOND)]
        admitted = await held.journal.admit(ARC, old)
        assert (admitted.outward, admitted.stored, admitted.present, admitted.waiting) == (old, [], [], [])
        assert await held.journal.pending_orgs() == []
        assert (await held.journal.holdings(ORG)).embedded == 0

    with_journal(journal_harness, use)


def test_what_is_in_the_journal_already_is_present(journal_harness):
    """A memory on its way to Arc, or set aside, is not taken a second time."""

    async def use(held):
        aside, pending = await held.journal.append(ARC, [draft("a"), draft("b")])
        await set_aside(held, 1)
        admitted = await held.journal.admit(ARC, [aside, pending])
        assert (admitted.present, admitted.outward, admitted.waiting) == ([aside, pending], [], [])

    with_journal(journal_harness, use)


@pytest.mark.parametrize("one", [SECOND_ARC, embedded_instance(id="arc_here")], ids=["arc", "embedded"])
def test_what_is_on_its_way_to_a_former_instance_must_wait(journal_harness, one):
    """The journal lets it go when it is seen there, and then nobody would have it; what is set aside stays."""

    async def use(held):
        aside, delivered, pending = kept = await held.journal.append(ARC, [draft("a"), draft("b"), draft("c")])
        await set_aside(held, 1)
        await deliver(held, 1, durable=False)
        admitted = await held.journal.admit(one, kept)
        assert (admitted.present, admitted.waiting) == ([aside], [delivered, pending])
        assert admitted.stored == admitted.outward == []
        await deliver(held, durable=False)
        held.clock.advance(SETTLE)
        seen = await held.journal.next_delivered(ORG, SETTLE, 10)
        await held.journal.confirm(seen, seen.keys)
        admitted = await held.journal.admit(one, kept)
        assert (admitted.present, admitted.waiting) == ([aside], [])
        assert admitted.stored + admitted.outward == [delivered, pending]

    with_journal(journal_harness, use)


@pytest.mark.parametrize("how", ["admitted", "moved"])
def test_what_a_former_arc_has_refused_is_tried_again_with_the_present_one(journal_harness, how):
    """It stays set aside, and is readable; a retry sends it where the org's readers will look for it."""

    async def use(held):
        aside = await held.journal.append(ARC, [draft("a")])
        await set_aside(held, 1)
        if how == "admitted":
            await held.journal.admit(SECOND_ARC, aside)
        else:
            assert await held.journal.move_pending(SECOND_ARC) == 0
        assert await held.journal.holdings(ORG) == OrgHoldings(set_aside=1)
        await held.journal.retry(ORG)
        batch = await held.journal.next_batch(ORG, 9, MANY_BYTES)
        assert (batch.instance_id, batch.memories) == (SECOND_ARC.id, aside)

    with_journal(journal_harness, use)


def test_what_a_former_arc_has_refused_is_stored_in_the_embedded_store(journal_harness):
    """The journal has nothing more to do with it; it is seen once, and no other memory is confirmed by it."""

    async def use(held):
        here = embedded_instance(id="arc_here")
        first, aside, last = await held.journal.append(ARC, [draft("a"), draft("b"), draft("c")])
        one, rest = (await held.journal.next_batch(ORG, 3, MANY_BYTES)).halves()
        two, three = rest.halves()
        await held.journal.set_aside(two, "no")
        for batch in (one, three):
            await held.journal.mark_delivered(batch, durable=False)
        admitted = await held.journal.admit(here, [aside])
        assert (admitted.present, admitted.stored) == ([aside], [])
        assert await held.gateway.query(here, EVERYTHING) == [aside]
        assert await held.journal.holdings(ORG) == OrgHoldings(delivered=2, embedded=1)
        held.clock.advance(SETTLE)
        found = await held.journal.next_delivered(ORG, SETTLE, 10)
        assert found.memory_ids == (first.memory_id,)
        await held.journal.confirm(found, found.keys)
        assert (await held.journal.next_delivered(ORG, SETTLE, 10)).memory_ids == (last.memory_id,)

    with_journal(journal_harness, use)


def test_what_the_journal_answers_for_must_wait(journal_harness):
    """This node's memories from its oldest unconfirmed one on would be hidden in Arc; all others go there."""

    async def use(held):
        held.clock.advance(HOUR)
        (oldest,) = await held.journal.append(ARC, [draft("unconfirmed")])
        node = parse_memory_id(oldest.memory_id)[1]
        before, after = oldest.time - MICROSECOND, oldest.time + MICROSECOND
        own = [memory(before, node=node), memory(after, node=node)]
        foreign = memory(after, node=OTHER_NODE)
        admitted = await held.journal.admit(ARC, [*own, foreign])
        assert (admitted.waiting, admitted.outward) == ([own[1]], [own[0], foreign])
        horizon = (await held.journal.view(EVERYTHING)).horizon
        assert [horizon.admits(each) for each in (*own, foreign)] == [True, False, True]
        await held.journal.drop(ORG, [oldest.memory_id])
        admitted = await held.journal.admit(ARC, own)
        assert (admitted.waiting, admitted.outward) == ([], own)

    with_journal(journal_harness, use)


@both_kinds
def test_a_time_of_this_node_ahead_of_its_clock_is_never_given_again(journal_harness, one):
    """What was restored from elsewhere is shown at once, and what is stored afterwards is younger."""

    async def use(held):
        ahead = START + HOUR
        restored = memory(ahead, node=await node_of(held))
        admitted = await held.journal.admit(one, [restored])
        assert admitted.outward + admitted.stored == [restored]
        assert (await held.journal.view(EVERYTHING)).horizon.admits(restored)
        (new,) = await held.journal.append(one, [draft("new")])
        assert new.time > ahead

    with_journal(journal_harness, use)


def test_other_nodes_do_not_move_the_clock(journal_harness):
    """Times that another journal has given say nothing about this one's."""

    async def use(held):
        await held.journal.admit(EMBEDDED, [memory(START + HOUR)])
        (new,) = await held.journal.append(EMBEDDED, [draft("new")])
        assert new.time < START + HOUR

    with_journal(journal_harness, use)


def test_a_memory_within_the_window_claims_its_key(journal_harness):
    """The same memory again is a duplicate of an imported one that is young enough, and of no older one."""

    async def use(held):
        young = memory(START - WINDOW + HOUR, dedup_key="young")
        old = memory(START - WINDOW - HOUR, dedup_key="old")
        past = memory(START - 2 * WINDOW, dedup_key="young")
        (first,) = await held.journal.append(EMBEDDED, [draft(dedup_key="taken")])
        await held.journal.admit(EMBEDDED, [past, young, old, memory(START - HOUR, dedup_key="taken")])
        again = await held.journal.append(EMBEDDED, [draft(dedup_key=key) for key in ("young", "old", "taken")])
        assert (again[0], again[2]) == (Duplicate(young.memory_id), Duplicate(first.memory_id))
        assert not isinstance(again[1], Duplicate)

    with_journal(journal_harness, use)


@both_kinds
def test_imported_memories_tell_when_their_agents_were_active(journal_harness, one):
    """An agent's newest memory counts, whenever it was imported; an older one changes nothing."""

    async def use(held):
        for time in (START - HOUR, START - 2 * HOUR):
            admitted = await held.journal.admit(one, [memory(time)])
            await held.journal.note_arrivals(one, admitted.outward)
        assert await held.journal.agent_activity(ORG, ["ada"]) == {"ada": START - HOUR}

    with_journal(journal_harness, use)


@both_kinds
def test_what_is_forgotten_does_not_come_back(journal_harness, one):
    """What an order covers, done or not, is neither stored nor given out to be written, and claims nothing."""

    async def use(held):
        bobs, single, kept = (
            memory(START - 3 * HOUR, agent_id="bob", dedup_key="bobs"),
            memory(START - 2 * HOUR, dedup_key="single"),
            memory(START - HOUR, dedup_key="kept"),
        )
        order = await held.journal.forget(ORG, Forgotten(before=START, agent_id="bob"), in_arc=not one.embedded)
        await held.journal.free_claims(order, [], all_of_them=True)
        await held.journal.forget(ORG, Forgotten.one(single.memory_id), in_arc=not one.embedded)
        admitted = await held.journal.admit(one, [bobs, single, kept])
        assert admitted.forgotten == [bobs, single]
        assert admitted.stored + admitted.outward == [kept]
        assert (admitted.present, admitted.waiting) == ([], [])
        await held.journal.note_arrivals(one, [bobs, single, kept])
        again = await held.journal.append(one, [draft(dedup_key=key) for key in ("bobs", "single", "kept")])
        assert [isinstance(each, Duplicate) for each in again] == [False, False, True]

    with_journal(journal_harness, use)


@both_kinds
def test_an_org_that_is_being_deleted_takes_nothing_in(journal_harness, one):
    """A closed org refuses, and holds nothing afterwards."""

    async def use(held):
        await held.journal.close_org(ORG)
        with pytest.raises(OrgClosing):
            await held.journal.admit(one, [memory()])
        assert (await held.journal.holdings(ORG)).embedded == 0

    with_journal(journal_harness, use)


def test_an_org_takes_nothing_of_another_into_account(journal_harness):
    """The same id may be in two orgs, and another org's journal makes nobody wait."""

    async def use(held):
        (others,) = await held.journal.append(instance(OTHER_ORG), [draft("theirs")])
        mine = memory(others.time + MICROSECOND, node=await node_of(held))
        assert (await held.journal.admit(ARC, [mine])).outward == [mine]
        twin = memory(START - HOUR)
        await held.journal.admit(EMBEDDED, [twin])
        foreign = embedded_instance(OTHER_ORG)
        assert len((await held.journal.admit(foreign, [memory(START - HOUR, OTHER_ORG)])).stored) == 1

    with_journal(journal_harness, use)
