import asyncio
from datetime import timedelta

import msgspec
import pytest
from builders import (
    AGENTS,
    MICROSECOND,
    ORG,
    OTHER_ORG,
    START,
    aims,
    draft,
    drafts,
    embedded_instance,
    instance,
    memory,
    queries,
    run,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import DeliveredRun, Duplicate, OrgHoldings, PendingBatch
from memtrace_core.errors import OrgClosing, StorageUnavailable
from memtrace_core.identifiers import parse_memory_id
from memtrace_core.model import AgentCounts, Memory
from memtrace_core.query import AgentCountQuery, MemoryQuery, OwnSpan
from memtrace_core.timewindow import to_us

OFF = DedupPolicy(enabled=False)
WINDOW = DedupPolicy().window
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
SETTLE = timedelta(minutes=2)
ARC, OTHER_ARC = instance(ORG), instance(OTHER_ORG)
SECOND_ARC = instance(ORG, id="arc_second", url="http://second.example")
EMBEDDED, OTHER_EMBEDDED = embedded_instance(ORG), embedded_instance(OTHER_ORG)
EVERYTHING = MemoryQuery(org_id=ORG, order="asc", limit=1000)
OTHERS = msgspec.structs.replace(EVERYTHING, org_id=OTHER_ORG)
COUNT = AgentCountQuery(org_id=ORG, agent_id="ada", recent_since=START)
MANY_BYTES = 1 << 30
both_kinds = pytest.mark.parametrize("one", [ARC, EMBEDDED], ids=["arc", "embedded"])
over_implementations = settings(
    max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def with_journal(open_it, use, **settings_of_it):
    """Await `use` with a harness that is open."""

    async def body():
        async with open_it(**settings_of_it) as held:
            await use(held)

    run(body())


def some(count, prefix="m", **fields):
    """Return drafts with contents and keys of their own."""
    return [draft(f"{prefix}{number}", **fields) for number in range(count)]


async def held_by(held, query=EVERYTHING):
    """Return an org's memories that wait in the journal."""
    return (await held.journal.view(query)).memories


async def stored_by(held, one):
    """Return everything of an org that can be read, in the order of time."""
    query = msgspec.structs.replace(EVERYTHING, org_id=one.org_id)
    return await held.gateway.query(one, query) if one.embedded else await held_by(held, query)


async def set_aside(held, limit, answer="bad column", *, org_id=ORG):
    """Set the oldest waiting memories of an org aside, and return them."""
    batch = await held.journal.next_batch(org_id, limit, MANY_BYTES)
    await held.journal.set_aside(batch, answer)
    return batch.memories


async def due(held, limit=1000, *, org_id=ORG):
    """Return the org's oldest memories if they can be confirmed."""
    return await held.journal.next_delivered(org_id, SETTLE, limit)


def delivered_run(org_id):
    """Return a run of an org that names its instance, and no memory that there is."""
    return DeliveredRun(ARC.id, (), (), OwnSpan(org_id, "a" * 6, START, START))


async def deliver(held, limit=1000, *, durable=True, org_id=ORG):
    """Mark the oldest waiting memories of an org as delivered, and return them."""
    batch = await held.journal.next_batch(org_id, limit, MANY_BYTES)
    await held.journal.mark_delivered(batch, durable=durable)
    return batch.memories


# --- append


@both_kinds
def test_drafts_become_memories_in_their_order(journal_harness, one):
    """What is returned is each draft with the org, a time and an id, and the same can be read from then on."""

    async def use(held):
        given_drafts = [
            draft(
                "line\nbreak ' \" \\ 日本語 🙂",
                agent_id="bob",
                session_id="s1",
                memory_type="decision",
                event_type="error",
                metadata={"": None, "n": 2**53, "deep": {"list": [1, [], {}]}},
                tags=("b", "a.b"),
                dedup_key="k/1",
                importance=0.1,
                parent_id="mem_x",
            ),
            draft("plain"),
        ]
        kept = await held.journal.append(one, given_drafts)
        assert kept == [
            each.stamped(ORG, memory.memory_id, memory.time)
            for each, memory in zip(given_drafts, kept, strict=True)
        ]
        assert await stored_by(held, one) == kept
        for each in kept:
            assert parse_memory_id(each.memory_id)[0] == to_us(each.time)

    with_journal(journal_harness, use)


@both_kinds
def test_times_are_those_of_the_clock_and_strictly_increase(journal_harness, one):
    """The first memory of a moment has its time, each further one a microsecond more."""

    async def use(held):
        held.clock.advance(SECOND)
        first = await held.journal.append(one, some(3))
        assert [memory.time - START for memory in first] == [SECOND + n * MICROSECOND for n in range(3)]
        held.clock.advance(SECOND)
        (second,) = await held.journal.append(one, some(1, "n"))
        assert second.time == START + 2 * SECOND

    with_journal(journal_harness, use)


def test_times_increase_though_the_clock_jumps_back(journal_harness):
    """After a jump back of the clock times go on from the last one, over orgs and stores alike."""

    async def use(held):
        (first,) = await held.journal.append(ARC, some(1))
        held.clock.set_back(HOUR)
        (second,) = await held.journal.append(OTHER_EMBEDDED, some(1, "n"))
        (third,) = await held.journal.append(EMBEDDED, some(1, "o"))
        assert (second.time, third.time) == (first.time + MICROSECOND, first.time + 2 * MICROSECOND)
        held.clock.advance(2 * HOUR)
        (fourth,) = await held.journal.append(ARC, some(1, "p"))
        assert fourth.time == held.clock.now()

    with_journal(journal_harness, use)


def test_times_increase_though_what_had_the_last_one_is_gone(journal_harness):
    """Delivery and deletion take memories away, not the last time that was given out."""

    async def use(held):
        (first,) = await held.journal.append(ARC, some(1))
        await deliver(held)
        (second,) = await held.journal.append(OTHER_EMBEDDED, some(1))
        await held.journal.close_org(OTHER_ORG)
        await held.journal.purge_org(OTHER_ORG)
        held.clock.set_back(HOUR)
        (third,) = await held.journal.append(ARC, some(1, "n"))
        assert first.time < second.time < third.time

    with_journal(journal_harness, use)


def test_appends_at_the_same_time_have_times_and_ids_of_their_own(journal_harness):
    """Of many requests at once every memory is stored, each batch in order, no time given twice."""

    async def use(held):
        answers = await asyncio.gather(
            *(
                held.journal.append(one, some(5, f"{number} "))
                for number, one in enumerate([ARC, OTHER_ARC, EMBEDDED, SECOND_ARC] * 5)
            )
        )
        kept = [memory for answer in answers for memory in answer]
        assert len({memory.time for memory in kept}) == len({memory.memory_id for memory in kept}) == 100
        for answer in answers:
            assert answer == sorted(answer, key=lambda memory: memory.time)
        assert sorted(kept, key=lambda memory: memory.memory_id) == sorted(kept, key=lambda memory: memory.time)
        assert len({parse_memory_id(memory.memory_id)[1] for memory in kept}) == 1

    with_journal(journal_harness, use)


@both_kinds
def test_appends_of_a_closing_org_are_stored_whole_or_not_at_all(journal_harness, one):
    """Batches that meet the closing of their org are each accepted whole or refused whole, and say which."""

    async def use(held):
        answers = await asyncio.gather(
            *(held.journal.append(one, some(7, f"{number} ")) for number in range(6)),
            held.journal.close_org(ORG),
            *(held.journal.append(one, some(7, f"{number} ")) for number in range(6, 12)),
            return_exceptions=True,
        )
        answers.pop(6)
        accepted = [memory for answer in answers if isinstance(answer, list) for memory in answer]
        assert all(isinstance(answer, list | OrgClosing) for answer in answers)
        assert sorted(accepted, key=lambda memory: memory.time) == await stored_by(held, one)

    with_journal(journal_harness, use)


def test_nothing_to_append_is_nothing(journal_harness):
    """An append of no drafts returns nothing and stores nothing."""

    async def use(held):
        assert await held.journal.append(ARC, []) == []
        assert await held.journal.holdings(ORG) == OrgHoldings()

    with_journal(journal_harness, use)


def test_embedded_memories_are_in_their_store_and_not_in_the_journal(journal_harness):
    """A memory of an embedded instance is read through the gateway, waits for nobody and is in no view."""

    async def use(held):
        kept = await held.journal.append(EMBEDDED, some(3))
        assert await held.gateway.query(EMBEDDED, EVERYTHING) == kept
        view = await held.journal.view(EVERYTHING)
        assert view.memories == []
        assert (await held.journal.count(COUNT))[1] == AgentCounts()
        assert (await held.gateway.count(EMBEDDED, COUNT)).total == 3
        assert await held.journal.pending_orgs() == []
        assert await held.journal.next_batch(ORG, 10, MANY_BYTES) is None
        assert await held.journal.holdings(ORG) == OrgHoldings(embedded=3)

    with_journal(journal_harness, use)


# --- dedup


@both_kinds
def test_a_copy_within_the_window_is_a_duplicate_of_the_first(journal_harness, one):
    """Just before the window ends a copy is refused, at its end it is a memory of its own."""

    async def use(held):
        (first,) = await held.journal.append(one, [draft(dedup_key="k")])
        held.clock.advance(WINDOW - MICROSECOND)
        assert await held.journal.append(one, [draft(dedup_key="k")]) == [Duplicate(first.memory_id)]
        held.clock.advance(MICROSECOND)
        (second,) = await held.journal.append(one, [draft(dedup_key="k")])
        assert isinstance(second, Memory)
        assert await stored_by(held, one) == [first, second]

    with_journal(journal_harness, use)


def test_a_window_begins_with_the_memory_that_is_kept(journal_harness):
    """A refused copy does not prolong the window; the next kept one begins another."""

    async def use(held):
        (first,) = await held.journal.append(ARC, [draft(dedup_key="k")])
        held.clock.advance(WINDOW / 2)
        assert await held.journal.append(ARC, [draft(dedup_key="k")]) == [Duplicate(first.memory_id)]
        held.clock.advance(WINDOW / 2)
        (second,) = await held.journal.append(ARC, [draft(dedup_key="k")])
        held.clock.advance(WINDOW - MICROSECOND)
        assert await held.journal.append(ARC, [draft(dedup_key="k")]) == [Duplicate(second.memory_id)]

    with_journal(journal_harness, use)


@both_kinds
def test_a_copy_within_one_batch_is_a_duplicate(journal_harness, one):
    """The first member with a key is kept, the others name it, each answer in its place."""

    async def use(held):
        batch = [draft("a", dedup_key="k"), draft("b"), draft("c", dedup_key="k"), draft("d", dedup_key="l")]
        first, second, third, fourth = await held.journal.append(one, batch)
        assert third == Duplicate(first.memory_id)
        assert await stored_by(held, one) == [first, second, fourth]

    with_journal(journal_harness, use)


def test_the_same_key_in_another_org_is_no_copy(journal_harness):
    """Claims of one org mean nothing to another."""

    async def use(held):
        for one in (ARC, OTHER_ARC):
            (kept,) = await held.journal.append(one, [draft(dedup_key="k")])
            assert isinstance(kept, Memory)
            assert kept.org_id == one.org_id

    with_journal(journal_harness, use)


def test_a_copy_for_another_instance_of_the_org_is_a_duplicate(journal_harness):
    """Dedup is the org's: a rebinding does not make the same memory new."""

    async def use(held):
        (first,) = await held.journal.append(ARC, [draft(dedup_key="k")])
        for one in (SECOND_ARC, EMBEDDED):
            assert await held.journal.append(one, [draft(dedup_key="k")]) == [Duplicate(first.memory_id)]

    with_journal(journal_harness, use)


def test_memories_without_a_key_are_never_copies(journal_harness):
    """No key, no claim."""

    async def use(held):
        kept = await held.journal.append(ARC, [draft("same"), draft("same")])
        assert await held_by(held) == kept

    with_journal(journal_harness, use)


def test_keys_are_compared_as_they_are(journal_harness):
    """Case, spaces and accents make another key."""

    async def use(held):
        keys = ["k", "K", "k ", " k", "ké", "ke\u0301"]
        kept = await held.journal.append(ARC, [draft(dedup_key=key) for key in keys])
        assert [memory.dedup_key for memory in kept] == keys

    with_journal(journal_harness, use)


def test_no_copies_are_refused_with_dedup_off(journal_harness):
    """The key is stored, and the same again is another memory."""

    async def use(held):
        kept = await held.journal.append(ARC, [draft(dedup_key="k"), draft(dedup_key="k")])
        assert [memory.dedup_key for memory in kept] == ["k", "k"]
        assert await held_by(held) == kept

    with_journal(journal_harness, use, dedup=OFF)


def test_a_delivered_memory_still_makes_a_copy_a_duplicate(journal_harness):
    """A claim outlives the memory's stay in the journal."""

    async def use(held):
        (first,) = await held.journal.append(ARC, [draft(dedup_key="k")])
        await deliver(held, durable=True)
        assert await held.journal.append(ARC, [draft(dedup_key="k")]) == [Duplicate(first.memory_id)]

    with_journal(journal_harness, use)


@both_kinds
def test_of_many_identical_writes_at_once_one_is_stored(journal_harness, one):
    """All other writers are told the id of the one that is kept."""

    async def use(held):
        answers = await asyncio.gather(*(held.journal.append(one, [draft(dedup_key="k")]) for _ in range(30)))
        kept = [answer for (answer,) in answers if isinstance(answer, Memory)]
        assert len(kept) == 1
        assert [answer for (answer,) in answers if answer != kept[0]] == [Duplicate(kept[0].memory_id)] * 29
        assert await stored_by(held, one) == kept

    with_journal(journal_harness, use)


steps = st.lists(
    st.tuples(
        st.sampled_from(
            [MICROSECOND, SECOND, HOUR, WINDOW / 2, WINDOW - MICROSECOND, WINDOW, WINDOW + MICROSECOND]
        ),
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([ARC, OTHER_ARC])), max_size=4),
    ),
    max_size=12,
)


@over_implementations
@given(steps)
def test_dedup_is_exact_over_any_time(journal_harness, happenings):
    """Whatever is written when, a memory is refused exactly while its first copy is younger than the window."""

    async def use(held):
        claims = {}
        for pause, writes in happenings:
            held.clock.advance(pause)
            for key, one in writes:
                held.clock.advance(MICROSECOND)
                (answer,) = await held.journal.append(one, [draft(dedup_key=key)])
                first = claims.get((key, one.org_id))
                if first is not None and held.clock.now() - first.time < WINDOW:
                    assert answer == Duplicate(first.memory_id)
                else:
                    assert isinstance(answer, Memory)
                    claims[key, one.org_id] = answer

    with_journal(journal_harness, use)


# --- claims from elsewhere


def elsewhere(dedup_key, time=START, one=ARC, salt=0):
    """Return a memory that another node stored in an instance."""
    return memory(time, one.org_id, salt=salt, dedup_key=dedup_key)


@both_kinds
def test_a_loaded_claim_makes_a_copy_a_duplicate(journal_harness, one):
    """What came into the instance by another way is the first copy, from its own time on."""

    async def use(held):
        first = elsewhere("k", START - HOUR)
        await held.journal.load_claims(ARC, [first, elsewhere(None, salt=1)])
        assert await held.journal.append(one, [draft(dedup_key="k")]) == [Duplicate(first.memory_id)]
        held.clock.advance(WINDOW - HOUR - MICROSECOND)
        assert await held.journal.append(one, [draft(dedup_key="k")]) == [Duplicate(first.memory_id)]
        held.clock.advance(MICROSECOND)
        (kept,) = await held.journal.append(one, [draft(dedup_key="k")])
        assert isinstance(kept, Memory)

    with_journal(journal_harness, use)


def test_loading_claims_stores_no_memories(journal_harness):
    """A loaded claim is no memory here, and no activity."""

    async def use(held):
        await held.journal.load_claims(ARC, [elsewhere("k")])
        assert await held_by(held) == []
        assert await held.journal.holdings(ORG) == OrgHoldings()
        assert await held.journal.agent_activity(ORG, ["ada"]) == {}

    with_journal(journal_harness, use)


def test_a_key_that_is_claimed_here_keeps_its_claim(journal_harness):
    """Loading does not replace what was stored here, nor does loading again."""

    async def use(held):
        (kept,) = await held.journal.append(ARC, [draft(dedup_key="k")])
        for salt in (1, 2):
            await held.journal.load_claims(ARC, [elsewhere("k", START - SECOND, salt=salt)])
            assert await held.journal.append(ARC, [draft(dedup_key="k")]) == [Duplicate(kept.memory_id)]

    with_journal(journal_harness, use)


def test_a_claim_whose_window_is_over_does_not_stand_in_the_way_of_a_loaded_one(journal_harness):
    """An old copy here does not hide a younger one that is loaded."""

    async def use(held):
        await held.journal.append(ARC, [draft(dedup_key="k")])
        held.clock.advance(WINDOW + HOUR)
        younger = elsewhere("k", held.clock.now() - SECOND)
        await held.journal.load_claims(ARC, [younger])
        assert await held.journal.append(ARC, [draft(dedup_key="k")]) == [Duplicate(younger.memory_id)]

    with_journal(journal_harness, use)


def test_a_loaded_claim_whose_window_is_over_does_not_stand_in_the_way_either(journal_harness):
    """However short the time between the two loads."""

    async def use(held):
        await held.journal.load_claims(ARC, [elsewhere("k", held.clock.now() - WINDOW + SECOND)])
        held.clock.advance(SECOND)
        younger = elsewhere("k", held.clock.now() - SECOND)
        await held.journal.load_claims(ARC, [younger])
        assert await held.journal.append(ARC, [draft(dedup_key="k")]) == [Duplicate(younger.memory_id)]

    with_journal(journal_harness, use)


def test_a_claim_is_loaded_for_its_own_org(journal_harness):
    """Another org may use the key, and memories of another org claim nothing."""

    async def use(held):
        await held.journal.load_claims(ARC, [elsewhere("k"), elsewhere("l", one=OTHER_ARC)])
        for one, key in ((OTHER_ARC, "k"), (OTHER_ARC, "l"), (ARC, "l")):
            (kept,) = await held.journal.append(one, [draft(dedup_key=key)])
            assert isinstance(kept, Memory)

    with_journal(journal_harness, use)


def test_that_claims_are_loaded_is_remembered_for_each_instance(journal_harness):
    """The mark is for one instance of one org, and goes with the org."""

    async def use(held):
        twin = msgspec.structs.replace(OTHER_ARC, id=ARC.id)
        await held.journal.mark_claims_loaded(ARC)
        await held.journal.mark_claims_loaded(ARC)
        assert await held.journal.claims_loaded(ARC) is True
        for other in (SECOND_ARC, OTHER_ARC, twin):
            assert await held.journal.claims_loaded(other) is False
        await held.journal.close_org(ORG)
        await held.journal.purge_org(ORG)
        assert await held.journal.claims_loaded(ARC) is False

    with_journal(journal_harness, use)


# --- view and count


@over_implementations
@given(st.lists(drafts(), max_size=15), queries(), aims, st.integers(0, 5))
def test_a_view_is_answered_as_its_specification_says(journal_harness, drawn, query, aim, delivered):
    """Every filter, order and position gives what the reference gives, as many as offset and limit together."""

    async def use(held):
        kept, embedded = [], []
        for number, each in enumerate(drawn):
            held.clock.advance(number % 3 * MICROSECOND)
            kept += await held.journal.append((ARC, SECOND_ARC)[number % 2], [each])
            await held.journal.append(OTHER_ARC, [each])
            embedded += await held.journal.append(EMBEDDED, [each])
        if delivered and kept:
            await deliver(held, delivered, durable=False)
        asked = aim.at(query, kept)
        view = await held.journal.view(asked)
        first = msgspec.structs.replace(asked, offset=0, limit=asked.offset + asked.limit)
        assert view.memories == first.page(kept)
        assert view.stored is None
        whole = await held.journal.view(asked, EMBEDDED)
        assert whole.memories == view.memories
        if whole.stored is None:
            assert whole.horizon == view.horizon
        else:
            assert whole.stored == asked.beside(len(view.memories)).page(embedded)

    with_journal(journal_harness, use, dedup=OFF)


@over_implementations
@given(st.lists(drafts(), max_size=15), st.integers(0, 30))
def test_an_agents_waiting_memories_are_counted(journal_harness, drawn, number):
    """Totals, recent ones, recent errors and types are those of the journal's memories of this agent and org."""

    async def use(held):
        kept = []
        for each in drawn:
            held.clock.advance(SECOND)
            kept += await held.journal.append(ARC, [each])
            await held.journal.append(OTHER_ARC, [each])
        since = kept[number % len(kept)].time if kept else START
        for agent_id in AGENTS:
            query = AgentCountQuery(org_id=ORG, agent_id=agent_id, recent_since=since)
            horizon, counts = await held.journal.count(query)
            mine = [each for each in kept if each.agent_id == agent_id]
            recent = [each for each in mine if each.time >= since]
            types = [each.memory_type for each in mine]
            assert (counts.total, counts.recent) == (len(mine), len(recent))
            assert counts.recent_errors == sum(each.event_type == "error" for each in recent)
            assert counts.by_type == {each: types.count(each) for each in types}
            assert horizon == (await held.journal.view(EVERYTHING)).horizon

    with_journal(journal_harness, use, dedup=OFF)


def test_a_delivered_memory_stays_in_the_view_until_it_is_durable(journal_harness):
    """What Arc has only taken is still the journal's to answer for; what is durable there is not."""

    async def use(held):
        one, two, three = await held.journal.append(ARC, some(3))
        assert await deliver(held, 1, durable=False) == [one]
        assert await held_by(held) == [one, two, three]
        assert (await held.journal.count(COUNT))[1].total == 3

        (other,) = await held.journal.append(OTHER_ARC, some(1))
        assert await deliver(held, durable=True, org_id=OTHER_ORG) == [other]
        assert await held_by(held, OTHERS) == []

    with_journal(journal_harness, use)


def test_the_horizon_lies_at_the_oldest_memory_the_journal_answers_for(journal_harness):
    """The gateway answers for what is older; it moves when the oldest are durable, not when they are taken."""

    async def use(held):
        async def horizon():
            return (await held.journal.view(EVERYTHING)).horizon

        kept = await held.journal.append(ARC, some(4))
        node = parse_memory_id(kept[0].memory_id)[1]
        assert (await horizon()).node == node
        assert (await horizon()).before == kept[0].time
        await deliver(held, 2, durable=True)
        assert (await horizon()).before == kept[2].time
        await deliver(held, 1, durable=False)
        assert (await horizon()).before == kept[2].time

    with_journal(journal_harness, use)


def test_with_nothing_waiting_the_horizon_lies_beyond_all_that_was_stored(journal_harness):
    """The gateway answers for every memory that is durable there, and for none that comes later."""

    async def use(held):
        empty = (await held.journal.view(EVERYTHING)).horizon
        (kept,) = await held.journal.append(ARC, some(1))
        assert empty.before <= kept.time
        await deliver(held, durable=True)
        horizon = (await held.journal.view(EVERYTHING)).horizon
        held.clock.set_back(HOUR)
        (later,) = await held.journal.append(ARC, some(1, "n"))
        assert kept.time < horizon.before <= later.time

    with_journal(journal_harness, use)


def test_each_org_has_a_horizon_of_its_own(journal_harness):
    """What waits in one org holds back nobody else's answers; within an org the oldest counts for all instances."""

    async def use(held):
        (old,) = await held.journal.append(ARC, some(1))
        held.clock.advance(SECOND)
        (young,) = await held.journal.append(SECOND_ARC, some(1, "n"))
        (others,) = await held.journal.append(OTHER_ARC, some(1))
        assert (await held.journal.view(EVERYTHING)).horizon.before == old.time
        assert (await held.journal.view(OTHERS)).horizon.before == others.time
        await deliver(held, 1, durable=True)
        assert (await held.journal.view(EVERYTHING)).horizon.before == young.time
        await deliver(held, 1, durable=True)
        assert (await held.journal.view(EVERYTHING)).horizon.before > young.time
        assert (await held.journal.view(OTHERS)).horizon.before == others.time

    with_journal(journal_harness, use)


def test_a_memory_set_aside_does_not_hold_the_horizon_back(journal_harness):
    """The journal goes on answering for it, the gateway must not, and everything else moves on."""

    async def use(held):
        one, two, three = await held.journal.append(ARC, some(3))
        await set_aside(held, 1)
        view = await held.journal.view(EVERYTHING)
        assert view.memories == [one, two, three]
        assert (view.horizon.before, view.horizon.set_aside) == (two.time, {one.memory_id})
        assert (await held.journal.view(OTHERS)).horizon.set_aside == frozenset()
        await deliver(held, durable=True)
        view = await held.journal.view(EVERYTHING)
        assert view.memories == [one]
        assert view.horizon.before > three.time
        horizon, counts = await held.journal.count(COUNT)
        assert (horizon, counts.total) == (view.horizon, 1)

    with_journal(journal_harness, use)


happenings = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from([ARC, SECOND_ARC, OTHER_ARC])),
        st.tuples(st.just("deliver"), st.integers(1, 3)),
        st.tuples(st.just("set aside"), st.integers(1, 2)),
        st.tuples(st.just("confirm"), st.integers(1, 3)),
        st.tuples(st.just("resend"), st.integers(1, 3)),
        st.tuples(st.just("retry"), st.just(ORG)),
        st.tuples(st.just("move"), st.sampled_from([ARC, SECOND_ARC])),
    ),
    max_size=20,
)


@over_implementations
@given(happenings)
def test_journal_and_gateway_never_answer_for_the_same_memory(journal_harness, happened):
    """Every memory is held by the journal, or its gateway may answer for it, and never both."""

    async def use(held):
        kept = []
        for number, (what, detail) in enumerate(happened):
            if what == "append":
                answers = await held.journal.append(detail, some(2, f"{number} "))
                kept += answers if detail.org_id == ORG else []
            elif what in ("deliver", "set aside"):
                if batch := await held.journal.next_batch(ORG, detail, MANY_BYTES):
                    if what == "deliver":
                        await held.journal.mark_delivered(batch, durable=False)
                    else:
                        await held.journal.set_aside(batch, "no")
            elif what == "retry":
                await held.journal.retry(detail)
            elif what == "move":
                await held.journal.move_pending(detail)
            else:
                found = await held.journal.next_delivered(ORG, timedelta(0), detail)
                if isinstance(found, DeliveredRun):
                    act = held.journal.confirm if what == "confirm" else held.journal.resend
                    await act(found, found.keys)
            view = await held.journal.view(EVERYTHING)
            answered = {memory.memory_id for memory in kept if view.horizon.admits(memory)}
            held_here = {memory.memory_id for memory in view.memories}
            assert answered | held_here == {memory.memory_id for memory in kept}
            assert not answered & held_here

    with_journal(journal_harness, use)


# --- activity and key uses


@both_kinds
def test_an_agent_was_active_when_it_last_stored_a_memory(journal_harness, one):
    """The newest memory's time counts, agent by agent and org by org; who never wrote is left out."""

    async def use(held):
        await held.journal.append(one, [draft("a"), draft("b", agent_id="bob")])
        held.clock.advance(SECOND)
        (last,) = await held.journal.append(one, [draft("c")])
        held.clock.advance(SECOND)
        await held.journal.append(OTHER_ARC, [draft("d")])
        activity = await held.journal.agent_activity(ORG, ["ada", "bob", "eve"])
        assert activity == {"ada": last.time, "bob": START + MICROSECOND}
        assert await held.journal.agent_activity(ORG, ["eve"]) == {}
        assert await held.journal.agent_activity(ORG, []) == {}
        assert await held.journal.agent_activity("org_x", ["ada"]) == {}

    with_journal(journal_harness, use)


def test_activity_outlives_delivery_and_a_copy_is_none(journal_harness):
    """Delivering a memory does not make its agent idle, and a refused copy does not make it active."""

    async def use(held):
        (kept,) = await held.journal.append(ARC, [draft(dedup_key="k")])
        await deliver(held, durable=True)
        held.clock.advance(SECOND)
        await held.journal.append(ARC, [draft(dedup_key="k")])
        assert await held.journal.agent_activity(ORG, ["ada"]) == {"ada": kept.time}

    with_journal(journal_harness, use)


def test_activity_of_many_agents_is_told_at_once(journal_harness):
    """A whole page of agents, under ids and names, is one question."""

    async def use(held):
        kept = await held.journal.append(ARC, [draft(agent_id=f"agent{n}") for n in range(2000)])
        names = [f"agent{n}" for n in range(2000)] + ["Any Name, 'quoted'"]
        activity = await held.journal.agent_activity(ORG, names)
        assert activity == {memory.agent_id: memory.time for memory in kept}

    with_journal(journal_harness, use)


def test_uses_of_keys_are_kept_and_never_set_back(journal_harness):
    """The latest use of each key is told; an older one that is recorded late changes nothing."""

    async def use(held):
        await held.journal.record_key_use({"key_1": START + SECOND, "key_2": START})
        await held.journal.record_key_use({"key_1": START, "key_2": START + MICROSECOND})
        await held.journal.record_key_use({})
        uses = await held.journal.key_uses(["key_1", "key_2", "key_3"])
        assert uses == {"key_1": START + SECOND, "key_2": START + MICROSECOND}
        assert await held.journal.key_uses([]) == {}

    with_journal(journal_harness, use)


# --- delivery


@pytest.mark.parametrize("last_durable", [True, False])
def test_a_durable_memory_stays_while_something_older_is_in_the_journal(journal_harness, last_durable):
    """What the journal holds of an org is all of it from one time on, so a durable one waits for its turn."""

    async def use(held):
        kept = await held.journal.append(ARC, some(3))
        first, second = (await held.journal.next_batch(ORG, 3, MANY_BYTES)).halves()
        await held.journal.mark_delivered(second, durable=True)
        assert await held_by(held) == kept
        assert await held.journal.unconfirmed_orgs() == [ORG]
        assert await due(held) is None
        await held.journal.mark_delivered(first, durable=last_durable)
        held.clock.advance(SETTLE)
        while isinstance(run_of_them := await due(held), DeliveredRun):
            await held.journal.confirm(run_of_them, run_of_them.keys)
        assert await held_by(held) == []

    with_journal(journal_harness, use)


def test_a_durable_memory_need_not_settle(journal_harness):
    """Once nothing older stands before it, a durable delivery leaves at once."""

    async def use(held):
        held.clock.advance(HOUR)
        kept = await held.journal.append(ARC, some(2))
        first, second = (await held.journal.next_batch(ORG, 2, MANY_BYTES)).halves()
        await held.journal.mark_delivered(second, durable=True)
        assert await held_by(held) == kept
        await held.journal.mark_delivered(first, durable=True)
        assert await held_by(held) == []

    with_journal(journal_harness, use)


def test_a_batch_is_the_oldest_memories_in_order(journal_harness):
    """A batch has up to `limit` memories, the oldest first, and asking again gives the same one."""

    async def use(held):
        kept = await held.journal.append(ARC, some(5))
        batch = await held.journal.next_batch(ORG, 3, MANY_BYTES)
        assert (batch.org_id, batch.instance_id, batch.memories) == (ORG, ARC.id, kept[:3])
        assert len(batch.keys) == len(set(batch.keys)) == 3
        assert await held.journal.next_batch(ORG, 3, MANY_BYTES) == batch
        for durable in (True, False):
            await deliver(held, 2, durable=durable)
        assert (await held.journal.next_batch(ORG, 3, MANY_BYTES)).memories == kept[4:]

    with_journal(journal_harness, use)


def test_without_waiting_memories_there_is_no_batch(journal_harness):
    """An org that never wrote, and one whose memories are all delivered, have nothing to deliver."""

    async def use(held):
        assert await held.journal.next_batch(ORG, 3, MANY_BYTES) is None
        await held.journal.append(ARC, some(1))
        await deliver(held, durable=False)
        assert await held.journal.next_batch(ORG, 3, MANY_BYTES) is None
        assert await held.journal.pending_orgs() == []

    with_journal(journal_harness, use)


@pytest.mark.parametrize("character", ["x", "é", "日", "🙂"])
def test_a_batch_is_bounded_by_bytes(journal_harness, character):
    """Contents of a batch have no more bytes of UTF-8 than asked for, and every memory comes in its turn."""

    async def use(held):
        kept = await held.journal.append(ARC, [draft(str(n) + character * 1000) for n in range(6)])
        size = len(kept[0].content.encode())
        seen = []
        while batch := await held.journal.next_batch(ORG, 100, 3 * size + size // 2):
            assert 1 <= len(batch.memories) <= 3
            seen += batch.memories
            await held.journal.mark_delivered(batch, durable=True)
        assert seen == kept

    with_journal(journal_harness, use)


def test_a_batch_with_room_is_not_cut_short(journal_harness):
    """Small memories come together as far as both bounds let them."""

    async def use(held):
        await held.journal.append(ARC, some(50))
        assert len((await held.journal.next_batch(ORG, 40, 1 << 20)).memories) == 40

    with_journal(journal_harness, use)


def test_a_memory_beyond_the_bytes_comes_alone(journal_harness):
    """What is larger than the bound is delivered all the same, by itself."""

    async def use(held):
        kept = await held.journal.append(ARC, [draft("x" * 5000), draft("small")])
        batch = await held.journal.next_batch(ORG, 10, 1000)
        assert batch.memories == kept[:1]

    with_journal(journal_harness, use)


def test_a_batch_is_for_one_instance(journal_harness):
    """Where the instance changes the batch ends, and order goes before size."""

    async def use(held):
        kept = []
        for number, one in enumerate([ARC, ARC, SECOND_ARC, ARC]):
            kept += await held.journal.append(one, [draft(f"m{number}")])
        for instance_id, memories in ((ARC.id, kept[:2]), (SECOND_ARC.id, kept[2:3]), (ARC.id, kept[3:])):
            batch = await held.journal.next_batch(ORG, 10, MANY_BYTES)
            assert (batch.instance_id, batch.memories) == (instance_id, memories)
            await held.journal.mark_delivered(batch, durable=False)

    with_journal(journal_harness, use)


def test_orgs_with_waiting_memories_are_named(journal_harness):
    """An org is pending from its first memory until its last is delivered."""

    async def use(held):
        assert await held.journal.pending_orgs() == []
        await held.journal.append(OTHER_ARC, some(1))
        await held.journal.append(ARC, some(2))
        assert sorted(await held.journal.pending_orgs()) == [ORG, OTHER_ORG]
        await deliver(held, 1)
        assert sorted(await held.journal.pending_orgs()) == [ORG, OTHER_ORG]
        await deliver(held, 1, durable=False)
        assert await held.journal.pending_orgs() == [OTHER_ORG]

    with_journal(journal_harness, use)


def test_holdings_tell_what_the_files_have_of_an_org(journal_harness):
    """Waiting, taken and embedded memories are counted apart, org by org; durable ones are no more."""

    async def use(held):
        await held.journal.append(ARC, some(6))
        await held.journal.append(EMBEDDED, some(2, "e"))
        await held.journal.append(OTHER_ARC, some(1))
        await deliver(held, 1, durable=True)
        await deliver(held, 2, durable=False)
        holdings = await held.journal.holdings(ORG)
        assert holdings == OrgHoldings(pending=3, delivered=2, embedded=2)
        assert holdings.undelivered == 5
        assert await held.journal.holdings(OTHER_ORG) == OrgHoldings(pending=1)
        assert await held.journal.holdings("org_x") == OrgHoldings()

    with_journal(journal_harness, use)


@pytest.mark.parametrize("durable", [True, False])
def test_marking_twice_does_nothing_more(journal_harness, durable):
    """A delivery that is recorded again changes nothing, and neither does one of nothing."""

    async def use(held):
        kept = await held.journal.append(ARC, some(2))
        batch = await held.journal.next_batch(ORG, 1, MANY_BYTES)
        await held.journal.mark_delivered(PendingBatch(ORG, ARC.id, (), []), durable=durable)
        for _ in range(2):
            await held.journal.mark_delivered(batch, durable=durable)
            assert await held.journal.holdings(ORG) == OrgHoldings(pending=1, delivered=0 if durable else 1)
            assert (await held.journal.next_batch(ORG, 9, MANY_BYTES)).memories == kept[1:]

    with_journal(journal_harness, use)


def test_a_batch_tells_whether_others_wait_behind_it(journal_harness):
    """Number, bytes or another instance can cut a batch short; the last one has nothing behind it."""

    async def use(held):
        await held.journal.append(ARC, [draft("x" * 1000), draft("y" * 1000), draft("z")])
        await held.journal.append(SECOND_ARC, some(1))
        for limit, max_bytes, count in ((2, MANY_BYTES, 2), (3, 1500, 1), (3, MANY_BYTES, 3), (9, MANY_BYTES, 3)):
            batch = await held.journal.next_batch(ORG, limit, max_bytes)
            assert (len(batch.memories), batch.more) == (count, True)
        await deliver(held, 3)
        assert not (await held.journal.next_batch(ORG, 1, MANY_BYTES)).more

    with_journal(journal_harness, use)


def test_half_a_batch_can_be_marked(journal_harness):
    """The halves of a batch are batches: one may be delivered and the other not."""

    async def use(held):
        kept = await held.journal.append(ARC, some(3))
        first, second = (await held.journal.next_batch(ORG, 3, MANY_BYTES)).halves()
        await held.journal.mark_delivered(second, durable=False)
        assert (await held.journal.next_batch(ORG, 3, MANY_BYTES)).memories == first.memories == kept[:1]

    with_journal(journal_harness, use)


# --- setting aside and confirming


def test_a_memory_set_aside_stays_readable_and_holds_nobody_up(journal_harness):
    """It is counted apart, never in a batch again, and those behind it come next."""

    async def use(held):
        kept = await held.journal.append(ARC, some(2))
        assert await set_aside(held, 1) == kept[:1]
        assert await held.journal.holdings(ORG) == OrgHoldings(pending=1, set_aside=1)
        assert (await held.journal.holdings(ORG)).undelivered == 2
        assert await held_by(held) == kept
        assert await deliver(held, durable=False) == kept[1:]
        assert await held.journal.pending_orgs() == []

    with_journal(journal_harness, use)


def test_what_is_not_waiting_is_not_set_aside(journal_harness):
    """A batch that was moved or delivered meanwhile stays what it is, and so does another org's."""

    async def use(held):
        await held.journal.append(ARC, some(2))
        one, two = (await held.journal.next_batch(ORG, 2, MANY_BYTES)).halves()
        await held.journal.mark_delivered(one, durable=False)
        await held.journal.set_aside(one, "no")
        await held.journal.set_aside(msgspec.structs.replace(two, org_id=OTHER_ORG), "no")
        assert await held.journal.holdings(ORG) == OrgHoldings(pending=1, delivered=1)
        await held.journal.move_pending(SECOND_ARC)
        await held.journal.set_aside(two, "no")
        assert await held.journal.holdings(ORG) == OrgHoldings(pending=2)

    with_journal(journal_harness, use)


def test_delivered_memories_can_be_confirmed_after_the_settle_time(journal_harness):
    """Before it the journal says when they will be due; at it they are one run, in order, with its span."""

    async def use(held):
        kept = await held.journal.append(ARC, some(3))
        assert await due(held) is None
        assert await held.journal.unconfirmed_orgs() == []
        held.clock.advance(HOUR)
        delivered_at = held.clock.now()
        await deliver(held, 2, durable=False)
        assert await held.journal.unconfirmed_orgs() == [ORG]
        held.clock.advance(SETTLE - MICROSECOND)
        assert await due(held) == delivered_at + SETTLE
        held.clock.advance(MICROSECOND)
        run_of_them = await due(held)
        assert run_of_them.instance_id == ARC.id
        assert run_of_them.memory_ids == tuple(memory.memory_id for memory in kept[:2])
        node = parse_memory_id(kept[0].memory_id)[1]
        assert run_of_them.span == OwnSpan(ORG, node, kept[0].time, kept[1].time)
        await held.journal.confirm(run_of_them, run_of_them.keys)
        assert await held_by(held) == kept[2:]
        assert await held.journal.holdings(ORG) == OrgHoldings(pending=1)
        assert await due(held) is None

    with_journal(journal_harness, use)


def test_a_run_has_no_more_memories_than_asked_for(journal_harness):
    """The oldest come first, as many as the limit."""

    async def use(held):
        kept = await held.journal.append(ARC, some(5))
        await deliver(held, durable=False)
        held.clock.advance(SETTLE)
        seen = []
        while run_of_them := await due(held, 2):
            assert len(run_of_them.keys) <= 2
            seen += run_of_them.memory_ids
            await held.journal.confirm(run_of_them, run_of_them.keys)
        assert seen == [memory.memory_id for memory in kept]

    with_journal(journal_harness, use)


def test_a_run_is_for_one_instance(journal_harness):
    """Where the instance changes the run ends."""

    async def use(held):
        (one,) = await held.journal.append(ARC, some(1))
        (two,) = await held.journal.append(SECOND_ARC, some(1, "n"))
        await deliver(held, 1, durable=False)
        await deliver(held, 1, durable=False)
        held.clock.advance(SETTLE)
        for expected, instance_id in ((one, ARC.id), (two, SECOND_ARC.id)):
            run_of_them = await due(held)
            assert (run_of_them.instance_id, run_of_them.memory_ids) == (instance_id, (expected.memory_id,))
            await held.journal.confirm(run_of_them, run_of_them.keys)

    with_journal(journal_harness, use)


def test_nothing_is_confirmed_before_what_is_older(journal_harness):
    """While the org's oldest memory waits, or was delivered too lately, those behind it are not due."""

    async def use(held):
        await held.journal.append(ARC, some(3))
        first, second = (await held.journal.next_batch(ORG, 3, MANY_BYTES)).halves()
        await held.journal.mark_delivered(second, durable=False)
        held.clock.advance(SETTLE)
        assert await due(held) is None
        await held.journal.mark_delivered(first, durable=False)
        assert await due(held) == held.clock.now() + SETTLE
        held.clock.advance(SETTLE)
        assert len((await due(held)).keys) == 3

    with_journal(journal_harness, use)


def test_a_run_ends_before_what_is_not_due(journal_harness):
    """Only memories that are all long enough in Arc are one run."""

    async def use(held):
        kept = await held.journal.append(ARC, some(3))
        await deliver(held, 1, durable=False)
        held.clock.advance(SECOND)
        await deliver(held, 1, durable=False)
        held.clock.advance(SETTLE - SECOND)
        assert (await due(held)).memory_ids == (kept[0].memory_id,)
        held.clock.advance(SECOND)
        assert (await due(held)).memory_ids == tuple(memory.memory_id for memory in kept[:2])

    with_journal(journal_harness, use)


def test_memories_set_aside_do_not_hold_confirmation_up(journal_harness):
    """What is set aside at the beginning is passed over, and stays when the others are confirmed."""

    async def use(held):
        kept = await held.journal.append(ARC, some(3))
        await set_aside(held, 1)
        await deliver(held, durable=False)
        held.clock.advance(SETTLE)
        run_of_them = await due(held)
        assert run_of_them.memory_ids == tuple(memory.memory_id for memory in kept[1:])
        await held.journal.confirm(run_of_them, run_of_them.keys)
        assert await held.journal.holdings(ORG) == OrgHoldings(set_aside=1)
        assert await due(held) is None

    with_journal(journal_harness, use)


def test_a_span_covers_its_run_and_nothing_else_of_the_org(journal_harness):
    """Between the first and the last memory of a run there is none that is not in it."""

    async def use(held):
        await held.journal.append(ARC, some(5))
        one, rest = (await held.journal.next_batch(ORG, 3, MANY_BYTES)).halves()
        two, three = rest.halves()
        await held.journal.mark_delivered(one, durable=False)
        await held.journal.set_aside(two, "no")
        await held.journal.mark_delivered(three, durable=False)
        held.clock.advance(SETTLE)
        ids = []
        while run_of_them := await due(held):
            inside = [
                memory.memory_id
                for memory in await held_by(held)
                if run_of_them.span.first <= memory.time <= run_of_them.span.last
            ]
            assert inside == list(run_of_them.memory_ids)
            ids += inside
            await held.journal.confirm(run_of_them, run_of_them.keys)
        assert ids == [memory.memory_id for memory in one.memories + three.memories]

    with_journal(journal_harness, use)


def test_memories_that_are_not_seen_wait_again_and_longer_each_time(journal_harness):
    """What is sent again is in the next batch, in its place, and due after twice the settle time, then four."""

    async def use(held):
        kept = await held.journal.append(ARC, some(3))
        await deliver(held, 2, durable=False)
        held.clock.advance(SETTLE)
        for patience in (2 * SETTLE, 4 * SETTLE):
            run_of_them = await due(held)
            await held.journal.resend(run_of_them, run_of_them.keys[:1])
            assert await held.journal.pending_orgs() == [ORG]
            assert (await held.journal.next_batch(ORG, 9, MANY_BYTES)).memories == [kept[0], kept[2]]
            assert await due(held) is None
            await deliver(held, 1, durable=False)
            assert await due(held) == held.clock.now() + patience
            held.clock.advance(patience)
        assert (await due(held)).memory_ids == tuple(memory.memory_id for memory in kept[:2])

    with_journal(journal_harness, use)


def test_only_delivered_memories_of_the_org_are_confirmed_or_sent_again(journal_harness):
    """Keys of another org's memories, or of those that wait or are set aside, change nothing."""

    async def use(held):
        await held.journal.append(ARC, some(2))
        await set_aside(held, 1)
        waiting = await held.journal.next_batch(ORG, 1, MANY_BYTES)
        for act in (held.journal.confirm, held.journal.resend):
            await act(delivered_run(ORG), waiting.keys)
            assert await held.journal.holdings(ORG) == OrgHoldings(pending=1, set_aside=1)
        await held.journal.mark_delivered(waiting, durable=False)
        for act in (held.journal.confirm, held.journal.resend):
            await act(delivered_run(OTHER_ORG), waiting.keys)
            await act(delivered_run(ORG), [])
            assert await held.journal.holdings(ORG) == OrgHoldings(delivered=1, set_aside=1)
        assert await held.journal.next_delivered(OTHER_ORG, timedelta(0), 10) is None
        assert await held.journal.unconfirmed_orgs() == [ORG]

    with_journal(journal_harness, use)


# --- moving to another instance


def test_what_waits_can_be_moved_to_another_instance(journal_harness):
    """What waits, for whichever instance, and what was delivered without confirmation goes to the one named.

    What is set aside stays so: younger memories may have left the journal, so it has no place in line any more.
    """

    async def use(held):
        first = await held.journal.append(ARC, some(3))
        second = await held.journal.append(SECOND_ARC, some(2, "n"))
        others = await held.journal.append(OTHER_ARC, some(1))
        await set_aside(held, 1)
        await deliver(held, 1, durable=False)
        third = msgspec.structs.replace(ARC, id="arc_third")
        assert await held.journal.move_pending(third) == 4
        assert await held.journal.holdings(ORG) == OrgHoldings(pending=4, set_aside=1)
        batch = await held.journal.next_batch(ORG, 10, MANY_BYTES)
        assert (batch.instance_id, batch.memories) == (third.id, first[1:] + second)
        view = await held.journal.view(EVERYTHING)
        assert (view.memories, view.horizon.before) == (first + second, first[1].time)
        batch = await held.journal.next_batch(OTHER_ORG, 10, MANY_BYTES)
        assert (batch.instance_id, batch.memories) == (OTHER_ARC.id, others)

    with_journal(journal_harness, use)


def test_what_is_moved_to_the_embedded_store_is_there_at_once(journal_harness):
    """Nothing waits any more, and the store has the memories beside those it had, in order and unchanged."""

    async def use(held):
        full = draft("x", metadata={"k": [1]}, tags=("a", "b"), dedup_key="k", importance=0.5, session_id="s1")
        stored = await held.journal.append(EMBEDDED, some(1, "e"))
        stored += await held.journal.append(ARC, [full, *some(2)])
        stored += await held.journal.append(EMBEDDED, some(1, "f"))
        others = await held.journal.append(OTHER_ARC, some(1))
        await deliver(held, 1, durable=False)
        await set_aside(held, 1)
        assert await held.journal.move_pending(EMBEDDED) == 3
        assert await held.journal.holdings(ORG) == OrgHoldings(embedded=5)
        assert await held.journal.next_batch(ORG, 10, MANY_BYTES) is None
        assert await held_by(held) == []
        assert await held.gateway.query(EMBEDDED, EVERYTHING) == stored
        assert await held.journal.append(EMBEDDED, [full]) == [Duplicate(stored[1].memory_id)]
        assert await held_by(held, OTHERS) == others

    with_journal(journal_harness, use)


@both_kinds
def test_moving_nothing_is_nothing(journal_harness, one):
    """An org without waiting memories has none to move, and embedded ones stay where they are."""

    async def use(held):
        await held.journal.append(EMBEDDED, some(1))
        await held.journal.append(ARC, some(1, "n"))
        await deliver(held, durable=True)
        assert await held.journal.move_pending(one) == 0
        assert await held.journal.holdings(ORG) == OrgHoldings(embedded=1)

    with_journal(journal_harness, use)


@pytest.mark.parametrize("durable", [True, False])
def test_a_batch_that_is_moved_while_it_is_delivered_goes_on_waiting(journal_harness, durable):
    """That the former instance took it does not count for the one it was moved to."""

    async def use(held):
        kept = await held.journal.append(ARC, some(2))
        batch = await held.journal.next_batch(ORG, 10, MANY_BYTES)
        await held.journal.move_pending(SECOND_ARC)
        await held.journal.mark_delivered(batch, durable=durable)
        again = await held.journal.next_batch(ORG, 10, MANY_BYTES)
        assert (again.instance_id, again.memories) == (SECOND_ARC.id, kept)

    with_journal(journal_harness, use)


# --- deletion of an org


@both_kinds
def test_a_closed_org_refuses_every_append_until_it_is_reopened(journal_harness, one):
    """Nothing of a refused batch is stored, claimed or counted as activity; other orgs go on."""

    async def use(held):
        await held.journal.close_org(ORG)
        await held.journal.close_org(ORG)
        with pytest.raises(OrgClosing):
            await held.journal.append(one, [draft(dedup_key="k"), draft("b")])
        assert await stored_by(held, one) == []
        assert await held.journal.holdings(ORG) == OrgHoldings()
        assert await held.journal.agent_activity(ORG, ["ada"]) == {}
        await held.journal.append(OTHER_ARC, some(1))
        await held.journal.reopen_org(ORG)
        (kept,) = await held.journal.append(one, [draft(dedup_key="k")])
        assert isinstance(kept, Memory)
        assert await stored_by(held, one) == [kept]

    with_journal(journal_harness, use)


def test_a_closed_org_keeps_what_it_has(journal_harness):
    """Closing refuses writes only: reading and delivering go on."""

    async def use(held):
        kept = await held.journal.append(ARC, some(2))
        await held.journal.close_org(ORG)
        assert await held_by(held) == kept
        assert await deliver(held, 1) == kept[:1]
        await held.journal.reopen_org(ORG)
        assert await held_by(held) == kept[1:]

    with_journal(journal_harness, use)


def test_reopening_an_org_that_is_open_does_nothing(journal_harness):
    """An org that was never closed stays open."""

    async def use(held):
        await held.journal.reopen_org(ORG)
        assert len(await held.journal.append(ARC, some(1))) == 1

    with_journal(journal_harness, use)


def test_a_purge_takes_everything_of_an_org_and_nothing_of_another(journal_harness):
    """Memories of every kind, claims and activity go; the org stays closed."""

    async def use(held):
        others = {}
        for arc, embedded in ((ARC, EMBEDDED), (OTHER_ARC, OTHER_EMBEDDED)):
            org_id = arc.org_id
            others["waiting"] = await held.journal.append(arc, [draft("a", dedup_key="k"), draft("b")])
            others["embedded"] = await held.journal.append(embedded, [draft("c")])
            await deliver(held, 1, durable=False, org_id=org_id)
        await held.journal.close_org(ORG)
        await held.journal.purge_org(ORG)
        assert await held.journal.holdings(ORG) == OrgHoldings()
        assert await held_by(held) == []
        assert await held.gateway.query(EMBEDDED, EVERYTHING) == []
        assert await held.journal.next_batch(ORG, 10, MANY_BYTES) is None
        assert await held.journal.pending_orgs() == [OTHER_ORG]
        assert await held.journal.agent_activity(ORG, ["ada"]) == {}
        with pytest.raises(OrgClosing):
            await held.journal.append(ARC, some(1))

        assert await held.journal.holdings(OTHER_ORG) == OrgHoldings(pending=1, delivered=1, embedded=1)
        assert await held_by(held, OTHERS) == others["waiting"]
        assert await held.gateway.query(OTHER_EMBEDDED, OTHERS) == others["embedded"]
        assert set(await held.journal.agent_activity(OTHER_ORG, ["ada"])) == {"ada"}
        copy = await held.journal.append(OTHER_ARC, [draft(dedup_key="k")])
        assert copy == [Duplicate(others["waiting"][0].memory_id)]

        await held.journal.reopen_org(ORG)
        (again,) = await held.journal.append(ARC, [draft(dedup_key="k")])
        assert isinstance(again, Memory)

    with_journal(journal_harness, use)


def test_a_batch_of_a_purged_org_can_be_marked_without_harm(journal_harness):
    """A delivery that was under way when its org was purged finds nothing to mark."""

    async def use(held):
        await held.journal.append(ARC, some(1))
        batch = await held.journal.next_batch(ORG, 10, MANY_BYTES)
        await held.journal.close_org(ORG)
        await held.journal.purge_org(ORG)
        await held.journal.mark_delivered(batch, durable=False)
        assert await held.journal.holdings(ORG) == OrgHoldings()

    with_journal(journal_harness, use)


# --- tenants


def test_no_method_reaches_another_orgs_memories(journal_harness):
    """Views, counts, batches, marks and activity see their own org only, whatever ids they are given."""

    async def use(held):
        (kept,) = await held.journal.append(ARC, [draft("kept", session_id="s1", dedup_key="k", tags=("t",))])
        for changes in (
            {},
            {"memory_id": kept.memory_id},
            {"dedup_key": "k"},
            {"agent_ids": ("ada",)},
            {"session_ids": ("s1",)},
            {"tags": ("t",)},
            {"content_contains": "kept"},
        ):
            query = msgspec.structs.replace(OTHERS, **changes)
            assert (await held.journal.view(query)).memories == []
            assert await held_by(held, msgspec.structs.replace(query, org_id=ORG)) == [kept]
        count = msgspec.structs.replace(COUNT, org_id=OTHER_ORG)
        assert (await held.journal.count(count))[1] == AgentCounts()
        assert await held.journal.agent_activity(OTHER_ORG, ["ada"]) == {}
        assert await held.journal.next_batch(OTHER_ORG, 10, MANY_BYTES) is None
        batch = await held.journal.next_batch(ORG, 10, MANY_BYTES)
        stolen = msgspec.structs.replace(batch, org_id=OTHER_ORG)
        for durable in (True, False):
            await held.journal.mark_delivered(stolen, durable=durable)
        assert await held.journal.next_batch(ORG, 10, MANY_BYTES) == batch
        await held.journal.close_org(OTHER_ORG)
        await held.journal.purge_org(OTHER_ORG)
        assert await held_by(held) == [kept]

    with_journal(journal_harness, use)


# --- the end


CALLS = {
    "append": lambda journal: journal.append(ARC, [draft()]),
    "view": lambda journal: journal.view(EVERYTHING),
    "count": lambda journal: journal.count(COUNT),
    "agent_activity": lambda journal: journal.agent_activity(ORG, ["ada"]),
    "pending_orgs": lambda journal: journal.pending_orgs(),
    "next_batch": lambda journal: journal.next_batch(ORG, 1, MANY_BYTES),
    "mark_delivered": lambda journal: journal.mark_delivered(PendingBatch(ORG, ARC.id, (1,), []), durable=True),
    "set_aside": lambda journal: journal.set_aside(PendingBatch(ORG, ARC.id, (1,), []), "no"),
    "unconfirmed_orgs": lambda journal: journal.unconfirmed_orgs(),
    "next_delivered": lambda journal: journal.next_delivered(ORG, SETTLE, 10),
    "confirm": lambda journal: journal.confirm(delivered_run(ORG), [1]),
    "resend": lambda journal: journal.resend(delivered_run(ORG), [1]),
    "claims_loaded": lambda journal: journal.claims_loaded(ARC),
    "load_claims": lambda journal: journal.load_claims(ARC, []),
    "mark_claims_loaded": lambda journal: journal.mark_claims_loaded(ARC),
    "move_pending": lambda journal: journal.move_pending(ARC),
    "record_key_use": lambda journal: journal.record_key_use({"key_1": START}),
    "key_uses": lambda journal: journal.key_uses(["key_1"]),
    "close_org": lambda journal: journal.close_org(ORG),
    "reopen_org": lambda journal: journal.reopen_org(ORG),
    "holdings": lambda journal: journal.holdings(ORG),
    "purge_org": lambda journal: journal.purge_org(ORG),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_journal_is_unavailable(journal_harness, call):
    """After the end every call says that the storage cannot be used."""

    async def use(held):
        await held.journal.append(ARC, [draft()])
        await held.journal.close()
        with pytest.raises(StorageUnavailable):
            await CALLS[call](held.journal)

    with_journal(journal_harness, use)


def test_a_journal_finishes_what_it_accepted_before_it_closes(journal_harness):
    """An append that is under way when the journal closes is answered, with its memories or with an error."""

    async def use(held):
        answers = await asyncio.gather(
            *(held.journal.append(ARC, some(2, f"{number} ")) for number in range(5)),
            held.journal.close(),
            return_exceptions=True,
        )
        assert answers.pop() is None
        assert all(
            isinstance(answer, StorageUnavailable) or [type(one) for one in answer] == [Memory, Memory]
            for answer in answers
        )

    with_journal(journal_harness, use)
