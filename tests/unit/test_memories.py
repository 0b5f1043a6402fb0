from datetime import timedelta

import msgspec
import pytest
from builders import (
    AGENTS,
    EVENTS,
    MICROSECOND,
    ORG,
    OTHER_ORG,
    aims,
    bound,
    drafts,
    embedded_instance,
    in_memory,
    instance,
    memory,
    org,
    queries,
    run,
    walk,
)
from hypothesis import given
from hypothesis import strategies as st

from memtrace_core.dedup import DedupPolicy, generated_key
from memtrace_core.entries import Duplicate
from memtrace_core.errors import ArcUnreachable, InvalidInput, NoArcInstance, NotFound
from memtrace_core.identifiers import parse_memory_id
from memtrace_core.memories import NewMemory
from memtrace_core.model import AgentCounts, Memory
from memtrace_core.query import MemoryQuery, position_of

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
OFF = DedupPolicy(enabled=False)
ARC, OTHER_ARC = instance(ORG), instance(OTHER_ORG)
EVERYTHING = MemoryQuery(org_id=ORG, limit=1000)
stores = pytest.mark.parametrize("store", [instance, embedded_instance], ids=["arc", "embedded"])


def new(content="something happened", **fields):
    """Return a memory as a caller gives it."""
    return NewMemory(agent_id=fields.pop("agent_id", "ada"), content=content, **fields)


async def prepared(store=instance, **others):
    """Return services with two bound orgs, whose deliveries nobody runs."""
    services = await bound(in_memory(**others), store(ORG), store(OTHER_ORG))
    await services.delivery.drain(timedelta(0))
    return services


async def deliver(services, limit, *, org_id=ORG, durable=True, answered=True):
    """Hand the oldest waiting memories of an org to its gateway, as the delivery would."""
    batch = await services.journal.next_batch(org_id, limit, 1 << 20)
    if batch is None:
        return
    one = await services.repo.get_instance(org_id, batch.instance_id)
    await services.gateway.write(one, batch.memories)
    if answered:
        await services.journal.mark_delivered(batch, durable=durable)


def test_a_memory_is_stored_with_every_field_that_was_given():
    """What comes back has the caller's values, and a time and an id of its own."""

    async def body():
        services = await prepared()
        given_fields = {
            "session_id": "s1",
            "memory_type": "decision",
            "event_type": "page_crawled",
            "metadata": {"a": [1, None]},
            "importance": 0.5,
            "dedup_key": "my/key",
            "parent_id": "mem_x",
        }
        (kept,) = await services.memories.remember(ORG, [new("text", tags=["a", "b"], **given_fields)])
        for field, value in given_fields.items():
            assert getattr(kept, field) == value
        assert (kept.content, kept.agent_id, kept.org_id, kept.tags) == ("text", "ada", ORG, ("a", "b"))
        assert kept.time == services.clock.now()
        assert parse_memory_id(kept.memory_id) is not None
        assert await services.memories.get(ORG, kept.memory_id) == kept

    run(body())


def test_absent_fields_have_their_defaults():
    """A memory of agent and content alone is episodic, general, of no importance, with a generated key."""

    async def body():
        services = await prepared()
        (kept,) = await services.memories.remember(ORG, [new("text")])
        assert (kept.memory_type, kept.event_type, kept.importance, kept.tags) == ("episodic", "general", 0.0, ())
        assert (kept.session_id, kept.metadata, kept.parent_id) == (None, None, None)
        assert kept.dedup_key == generated_key("ada", "general", "text")

    run(body())


def test_empty_metadata_and_tags_are_none():
    """An empty object and an empty list are kept as absent."""

    async def body():
        services = await prepared()
        (kept,) = await services.memories.remember(ORG, [new(metadata={}, tags=[])])
        assert (kept.metadata, kept.tags) == (None, ())

    run(body())


def test_no_key_is_generated_with_dedup_off():
    """Without dedup the same memory twice is two memories, and a caller's key is stored all the same."""

    async def body():
        services = await prepared(dedup=OFF)
        kept = await services.memories.remember(ORG, [new("x"), new("x"), new(dedup_key="k"), new(dedup_key="k")])
        assert [one.dedup_key for one in kept] == [None, None, "k", "k"]

    run(body())


BAD_FIELDS = [
    ({"agent_id": "not good"}, "agent_id"),
    ({"content": ""}, "content"),
    ({"content": "\0"}, "content"),
    ({"memory_type": "semantic"}, "memory_type"),
    ({"memory_type": ""}, "memory_type"),
    ({"event_type": "a-b"}, "event_type"),
    ({"event_type": ""}, "event_type"),
    ({"session_id": "1"}, "session_id"),
    ({"session_id": ""}, "session_id"),
    ({"metadata": {"k": "x" * (256 << 10)}}, "metadata"),
    ({"tags": ["good", "not good"]}, "tags[1]"),
    ({"importance": 1.5}, "importance"),
    ({"importance": -1}, "importance"),
    ({"dedup_key": ""}, "dedup_key"),
    ({"parent_id": "x" * 257}, "parent_id"),
]


@pytest.mark.parametrize(("fields", "named"), BAD_FIELDS, ids=lambda value: ascii(value)[:40])
def test_one_bad_field_refuses_the_whole_batch(fields, named):
    """The error names the member and the field, in a single memory the field alone, and nothing was stored."""

    async def body():
        services = await prepared()
        bad = msgspec.structs.replace(new("bad"), **fields)
        with pytest.raises(InvalidInput) as caught:
            await services.memories.remember(ORG, [new("one"), new("two"), bad])
        assert str(caught.value).startswith(f"memories[2].{named} must be")
        with pytest.raises(InvalidInput) as caught:
            await services.memories.remember(ORG, [bad], batch=False)
        assert str(caught.value).startswith(f"{named} must be")
        assert (await services.memories.find(EVERYTHING)).memories == []

    run(body())


def test_a_batch_has_1_to_1000_memories():
    """The ends of the range are taken, beyond them nothing is stored."""

    async def body():
        services = await prepared()
        many = [new(f"m{number}") for number in range(1001)]
        for wrong in ([], many):
            with pytest.raises(InvalidInput, match="from 1 to 1,000"):
                await services.memories.remember(ORG, wrong)
        assert (await services.memories.find(EVERYTHING)).memories == []
        assert len(await services.memories.remember(ORG, many[:1000])) == 1000

    run(body())


@stores
def test_duplicates_name_the_memory_that_is_kept(store):
    """A copy, in the same batch or later, is not stored and points to the first."""

    async def body():
        services = await prepared(store)
        first, copy, other = await services.memories.remember(ORG, [new("x"), new("x"), new("y")])
        assert copy == Duplicate(first.memory_id)
        assert await services.memories.remember(ORG, [new("x")]) == [copy]
        assert (await services.memories.find(EVERYTHING)).memories == [other, first]

    run(body())


async def _do_everything(memories, org_id):
    yield memories.remember(org_id, [new()])
    yield memories.find(MemoryQuery(org_id=org_id))
    yield memories.get(org_id, "k")
    yield memories.count(org_id, "ada")
    yield memories.context(org_id, "s1", since=None)


def test_an_org_without_an_instance_can_do_nothing():
    """Every question and every write says that there is no Arc instance, and how to get one."""

    async def body():
        services = in_memory()
        await services.repo.create_org(org())
        async for act in _do_everything(services.memories, ORG):
            with pytest.raises(NoArcInstance, match=r"^no arc instance configured for this org$") as caught:
                await act
            assert caught.value.hint == f"ask an admin to run `memtrace org add-arc {ORG}`"

    run(body())


def test_a_bad_value_goes_before_a_missing_instance():
    """What is wrong with the request is said first."""

    async def body():
        memories = in_memory().memories
        for act in (
            memories.remember(ORG, [new("")]),
            memories.find(MemoryQuery(org_id=ORG, limit=0)),
            memories.context(ORG, "s1", since=None, max_tokens=1),
        ):
            with pytest.raises(InvalidInput):
                await act

    run(body())


def test_reads_of_an_unreachable_arc_are_an_error_and_writes_are_not():
    """There is no answer without Arc, but a memory is accepted."""

    async def body():
        services = await prepared()
        services.gateway.unreachable.add(ARC.id)
        (kept,) = await services.memories.remember(ORG, [new()])
        assert isinstance(kept, Memory)
        for act in (
            services.memories.find(EVERYTHING),
            services.memories.count(ORG, "ada"),
            services.memories.get(ORG, "mem_" + "0" * 24),
            services.memories.context(ORG, "s1", since=None),
        ):
            with pytest.raises(ArcUnreachable):
                await act

    run(body())


@stores
def test_a_write_is_seen_by_every_read_after_it(store):
    """Listing, reading by id and key, counting and the context show a memory before it is delivered, and after."""

    async def body():
        services = await prepared(store)
        for delivered in (0, 1):
            (kept,) = await services.memories.remember(
                ORG, [new(f"n{delivered}", session_id="s1", dedup_key=f"k{delivered}")]
            )
            for _ in range(2):
                assert (await services.memories.find(msgspec.structs.replace(EVERYTHING, limit=1))).memories == [
                    kept
                ]
                assert await services.memories.get(ORG, kept.memory_id) == kept
                assert await services.memories.get(ORG, f"k{delivered}") == kept
                assert (await services.memories.count(ORG, "ada")).total == delivered + 1
                context = await services.memories.context(ORG, "s1", since=None)
                assert (context.memory_count, kept.content in context.context) == (delivered + 1, True)
                await deliver(services, 10)

    run(body())


@stores
def test_a_memory_is_unknown_to_another_org(store):
    """No id, key or filter of one org finds a memory of another, delivered or not."""

    async def body():
        services = await prepared(store)
        (kept,) = await services.memories.remember(ORG, [new(session_id="s1", dedup_key="k")])
        for _ in range(2):
            for reference in (kept.memory_id, "k"):
                with pytest.raises(NotFound, match=r"^memory not found$") as caught:
                    await services.memories.get(OTHER_ORG, reference)
                assert caught.value.code == "memory_not_found"
            page = await services.memories.find(MemoryQuery(org_id=OTHER_ORG))
            assert (page.memories, page.next) == ([], None)
            assert await services.memories.count(OTHER_ORG, "ada") == AgentCounts()
            assert (await services.memories.context(OTHER_ORG, "s1", since=None)).memory_count == 0
            await deliver(services, 10)

    run(body())


def test_the_same_memory_in_two_orgs_is_two_memories():
    """Dedup knows only its own org."""

    async def body():
        services = await prepared()
        (one,) = await services.memories.remember(ORG, [new(dedup_key="k")])
        (two,) = await services.memories.remember(OTHER_ORG, [new(dedup_key="k")])
        assert isinstance(one, Memory)
        assert isinstance(two, Memory)
        assert await services.memories.get(ORG, "k") == one
        assert await services.memories.get(OTHER_ORG, "k") == two

    run(body())


def test_a_memory_is_found_by_its_key_with_slashes_the_newest_of_several():
    """Of several memories with one key, written a window apart, the newest answers."""

    async def body():
        services = await prepared()
        await services.memories.remember(ORG, [new(dedup_key="a/b c")])
        await deliver(services, 10)
        services.clock.advance(timedelta(hours=24))
        (second,) = await services.memories.remember(ORG, [new(dedup_key="a/b c")])
        assert await services.memories.get(ORG, "a/b c") == second
        await deliver(services, 10)
        assert await services.memories.get(ORG, "a/b c") == second

    run(body())


def test_a_key_that_looks_like_an_id_finds_its_memory():
    """A caller's key of the form of an id is found where no memory has that id, and gives way where one has."""

    async def body():
        services = await prepared()
        looks = "mem_" + "0" * 24
        (by_key,) = await services.memories.remember(ORG, [new("a", dedup_key=looks)])
        assert await services.memories.get(ORG, looks) == by_key
        (by_id,) = await services.memories.remember(ORG, [new("b")])
        await services.memories.remember(ORG, [new("c", dedup_key=by_id.memory_id)])
        assert await services.memories.get(ORG, by_id.memory_id) == by_id

    run(body())


@pytest.mark.parametrize("reference", ["", "x", "mem_x", "mem_" + "f" * 24, "x" * 257, "\0", "é"], ids=ascii)
def test_what_nobody_stored_is_not_found(reference):
    """Any text that is no id and no key of a memory is an ordinary "not found"."""

    async def body():
        services = await prepared()
        await services.memories.remember(ORG, [new()])
        with pytest.raises(NotFound):
            await services.memories.get(ORG, reference)

    run(body())


def test_a_page_that_just_holds_all_is_the_last():
    """With exactly `limit` matches there is no further page, with one more there is."""

    async def body():
        services = await prepared()
        kept = await services.memories.remember(ORG, [new(f"m{n}") for n in range(3)])
        query = MemoryQuery(org_id=ORG, order="asc", limit=3)
        assert (await services.memories.find(query)).next is None
        page = await services.memories.find(msgspec.structs.replace(query, limit=2))
        assert page.memories == kept[:2]
        assert page.next == position_of(kept[1])

    run(body())


@pytest.mark.parametrize("delivered", range(6))
@pytest.mark.parametrize("order", ["desc", "asc"])
def test_every_offset_and_limit_cuts_the_united_order(delivered, order):
    """Wherever a page begins and however long it is, delivered and waiting memories are cut as one list."""

    async def body():
        services = await prepared()
        kept = await services.memories.remember(ORG, [new(f"m{n}") for n in range(5)])
        if delivered:
            await deliver(services, delivered)
        ordered = kept if order == "asc" else kept[::-1]
        for offset in range(7):
            for limit in range(1, 7):
                query = MemoryQuery(org_id=ORG, order=order, offset=offset, limit=limit)
                page = await services.memories.find(query)
                assert page.memories == ordered[offset : offset + limit]
                assert (page.next is None) is (offset + limit >= len(kept))

    run(body())


def test_memories_written_while_somebody_reads_pages_disturb_no_page():
    """A reader who follows positions sees what there was, once each, though others write meanwhile."""

    async def body():
        services = await prepared()
        kept = []
        for number in range(6):
            kept += await services.memories.remember(ORG, [new(f"m{number}")])
            services.clock.advance(SECOND)
        seen, query = [], MemoryQuery(org_id=ORG, limit=2)
        for number in range(3):
            page = await services.memories.find(query)
            seen += page.memories
            query = msgspec.structs.replace(query, after=page.next)
            await services.memories.remember(ORG, [new(f"later {number}")])
            await deliver(services, 3)
        assert seen == kept[::-1]

    run(body())


operations = st.lists(
    st.one_of(
        st.tuples(st.just("remember"), drafts(), st.sampled_from([ORG, ORG, OTHER_ORG])),
        st.tuples(st.just("deliver"), st.integers(1, 4)),
        st.tuples(st.just("lose an answer"), st.integers(1, 4)),
        st.tuples(st.just("other node"), drafts(), st.sampled_from([-HOUR, -MICROSECOND, timedelta(0), HOUR])),
        st.tuples(st.just("rebind")),
        st.tuples(st.just("wait"), st.sampled_from([MICROSECOND, SECOND, 25 * HOUR])),
    ),
    max_size=25,
)


async def live_through(services, happenings, *, durable):
    """Do what happened, and return all memories that were stored; a gateway's word is always the same."""
    stored = []
    for number, (what, *details) in enumerate(happenings):
        if what == "remember":
            drawn, org_id = details
            one = await services.repo.instance_of(org_id)
            (kept,) = await services.journal.append(one, [drawn])
            stored.append(kept)
        elif what == "deliver":
            await deliver(services, details[0], durable=durable)
        elif what == "lose an answer":
            await deliver(services, details[0], answered=False)
        elif what == "other node":
            drawn, away = details
            foreign = memory(services.clock.now() + away, salt=number)
            foreign = drawn.stamped(ORG, foreign.memory_id, foreign.time)
            await services.gateway.write(await services.repo.instance_of(ORG), [foreign])
            stored.append(foreign)
        elif what == "rebind":
            await services.repo.rebind_instance(instance(ORG, sealed_api_key=b"%d" % number))
        else:
            services.clock.advance(details[0])
    return stored


@given(operations, queries(), aims, st.booleans())
def test_an_answer_unites_what_waits_and_what_is_delivered(happenings, query, aim, durable):
    """Whatever part is delivered, unanswered or from elsewhere, a page is that of all memories together."""

    async def body():
        services = await prepared(dedup=OFF)
        stored = await live_through(services, happenings, durable=durable)
        asked = aim.at(query, stored)
        page = await services.memories.find(asked)
        assert page.memories == asked.page(stored)
        beyond = msgspec.structs.replace(asked, offset=asked.offset + asked.limit, limit=1).page(stored)
        assert page.next == (position_of(page.memories[-1]) if beyond else None)

    run(body())


@given(operations, queries(greatest_limit=5), aims, st.booleans())
def test_following_positions_shows_everything_once(happenings, query, aim, durable):
    """From page to page every match comes once and in order, and the last page says that it is the last."""

    async def body():
        services = await prepared(dedup=OFF)
        stored = await live_through(services, happenings, durable=durable)
        asked = msgspec.structs.replace(aim.at(query, stored), offset=0)
        seen, page = [], await services.memories.find(asked)
        seen += page.memories
        while page.next is not None:
            page = await services.memories.find(msgspec.structs.replace(asked, after=page.next))
            assert page.memories
            seen += page.memories
        assert seen == walk(asked, stored)

    run(body())


@given(operations, st.booleans())
def test_counts_unite_what_waits_and_what_is_delivered(happenings, durable):
    """An agent's counts are those of all its memories together."""

    async def body():
        services = await prepared(dedup=OFF)
        stored = await live_through(services, happenings, durable=durable)
        day_ago = services.clock.now() - timedelta(hours=24)
        for agent_id in AGENTS:
            mine = [one for one in stored if one.org_id == ORG and one.agent_id == agent_id]
            recent = [one for one in mine if one.time >= day_ago]
            counts = await services.memories.count(ORG, agent_id)
            assert (counts.total, counts.recent) == (len(mine), len(recent))
            assert counts.recent_errors == sum(one.event_type == "error" for one in recent)
            types = [one.memory_type for one in mine]
            assert counts.by_type == {one: types.count(one) for one in types}

    run(body())


@given(st.lists(drafts(), max_size=15), queries(), aims)
def test_an_answer_of_the_embedded_store_is_that_of_all_its_memories(drawn, query, aim):
    """The embedded store answers for everything by itself, counts included."""

    async def body():
        services = await prepared(embedded_instance, dedup=OFF)
        stored = await services.journal.append(embedded_instance(ORG), drawn)
        await services.journal.append(embedded_instance(OTHER_ORG), drawn)
        asked = aim.at(query, stored)
        assert (await services.memories.find(asked)).memories == asked.page(stored)
        assert sum([(await services.memories.count(ORG, one)).total for one in AGENTS]) == len(stored)

    run(body())


@pytest.mark.parametrize("delivered", [0, 1, 2])
def test_memories_that_wait_for_a_former_instance_are_seen(delivered):
    """After a rebinding to another place the memories not confirmed yet are read from the journal, once."""

    async def body():
        services = await prepared()
        (old,) = await services.memories.remember(ORG, [new("old")])
        await services.repo.rebind_instance(instance(ORG, id="arc_new", database="new"))
        (young,) = await services.memories.remember(ORG, [new("young")])
        for _ in range(delivered):
            await deliver(services, 1, durable=False)
        assert (await services.memories.find(EVERYTHING)).memories == [young, old]
        assert (await services.memories.count(ORG, "ada")).total == 2

    run(body())


@pytest.mark.parametrize("answered", [True, False], ids=["delivered, unconfirmed", "stored, answer lost"])
def test_nothing_is_seen_twice_after_a_rebinding_that_ends_at_the_same_store(answered):
    """Another instance id for the same data, as after a change of host name, does not show a memory twice."""

    async def body():
        services = await prepared()
        (kept,) = await services.memories.remember(ORG, [new()])
        await deliver(services, 1, durable=False, answered=answered)
        await services.repo.rebind_instance(instance(ORG, id="arc_new", url="http://arc.new-name.example:8000"))
        assert (await services.memories.find(EVERYTHING)).memories == [kept]
        assert (await services.memories.count(ORG, "ada")).total == 1

    run(body())


@pytest.mark.parametrize("delivered", [0, 2, 4])
def test_a_context_has_a_sessions_memories_of_the_wanted_types_and_times(delivered):
    """Session, types and bounds choose; the order is the caller's."""

    async def body():
        services = await prepared()
        start = services.clock.now()
        for number, memory_type in enumerate(["episodic", "session", "decision", "entity"]):
            await services.memories.remember(
                ORG,
                [new(f"m{number}", session_id="s1", memory_type=memory_type), new(f"o{number}", session_id="s2")],
            )
            services.clock.advance(SECOND)
        await services.memories.remember(ORG, [new("m4", session_id="s1")])
        await deliver(services, delivered)

        async def contents(**choice):
            built = await services.memories.context(ORG, "s1", **{"since": None, **choice})
            lines = [line for line in built.context.splitlines() if line.startswith("- ")]
            assert built.memory_count == len(lines)
            return [line[-2:] for line in lines]

        assert await contents() == ["m4", "m0", "m2", "m3", "m1"]
        assert await contents(order="asc") == ["m0", "m4", "m2", "m3", "m1"]
        assert await contents(since=start + SECOND) == ["m4", "m2", "m3", "m1"]
        assert await contents(until=start + 2 * SECOND) == ["m0", "m1"]
        assert await contents(include_types=["decision", "entity"]) == ["m2", "m3"]
        assert await contents(exclude_types=["episodic"]) == ["m2", "m3", "m1"]
        assert await contents(include_types=["decision", "entity"], exclude_types=["entity"]) == ["m2"]
        assert await contents(include_types=["entity"], exclude_types=["entity"]) == []

    run(body())


def test_a_context_considers_the_newest_thousand():
    """Of more memories the oldest are not looked at, in either order."""

    async def body():
        services = await prepared()
        for start in (0, 501):
            await services.memories.remember(
                ORG, [new(f"m{n}.", session_id="s1") for n in range(start, start + 501)]
            )
        for order in ("desc", "asc"):
            built = await services.memories.context(ORG, "s1", since=None, order=order)
            assert built.memory_count == 1000
            assert "m2." in built.context
            assert "m1001." in built.context
            assert " m1." not in built.context

    run(body())


@pytest.mark.parametrize(
    ("choice", "field"),
    [
        ({"session_id": "not good"}, "session_id"),
        ({"include_types": ["semantic"]}, "include_types"),
        ({"exclude_types": ["semantic"]}, "exclude_types"),
        ({"max_tokens": 31}, "max_tokens must be from 32 to 1,000,000"),
        ({"max_tokens": 1_000_001}, "max_tokens must be from 32 to 1,000,000"),
    ],
)
def test_a_context_with_a_bad_value_is_refused(choice, field):
    """The refusal names the value."""

    async def body():
        services = await prepared()
        with pytest.raises(InvalidInput, match=field):
            await services.memories.context(ORG, **{"session_id": "s1", "since": None, **choice})

    run(body())


@pytest.mark.parametrize("max_tokens", [32, 1_000_000])
def test_a_context_keeps_to_its_budget(max_tokens):
    """The ends of the range are taken, and the text is no longer than that."""

    async def body():
        services = await prepared()
        await services.memories.remember(ORG, [new("x" * 100 + str(n), session_id="s1") for n in range(9)])
        built = await services.memories.context(ORG, "s1", since=None, max_tokens=max_tokens)
        assert len(built.context) <= 4 * max_tokens
        assert (built.memory_count == 9) is (max_tokens > 32)

    run(body())


def test_two_disjoint_counts_add_up():
    """The sum has every number of both, type by type."""
    one = AgentCounts(total=3, recent=2, recent_errors=1, by_type={"episodic": 2, "entity": 1})
    two = AgentCounts(total=1, recent=1, by_type={"episodic": 1})
    assert one + two == AgentCounts(total=4, recent=3, recent_errors=1, by_type={"episodic": 3, "entity": 1})
    assert AgentCounts() + AgentCounts() == AgentCounts()


def test_errors_are_among_the_events_that_are_drawn():
    """The random memories of these tests have errors to be counted."""
    assert "error" in EVENTS
