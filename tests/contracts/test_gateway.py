from datetime import timedelta

import msgspec
import pytest
from builders import AGENTS, MICROSECOND, ORG, OTHER_ORG, START, aims, draft, drafts, instance, queries, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memtrace_core.dedup import DedupPolicy
from memtrace_core.errors import ArcUnreachable
from memtrace_core.identifiers import parse_memory_id
from memtrace_core.model import AgentCounts
from memtrace_core.query import AgentCountQuery, Horizon, MemoryQuery, OwnSpan

OFF = DedupPolicy(enabled=False)
EVERYTHING = MemoryQuery(org_id=ORG, limit=1000)
SECOND = timedelta(seconds=1)
over_implementations = settings(
    max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@st.composite
def timed_drafts(draw):
    """Draw drafts with increasing times."""
    drawn = draw(st.lists(st.tuples(drafts(), st.integers(1, 5)), max_size=15))
    time, timed = START, []
    for one, us in drawn:
        time += us * MICROSECOND
        timed.append((time, one))
    return timed


def in_a_row(*contents, **fields):
    """Return drafts of these contents, a second apart."""
    return [(START + (number + 1) * SECOND, draft(content, **fields)) for number, content in enumerate(contents)]


@over_implementations
@given(timed_drafts(), timed_drafts(), queries(), aims)
def test_a_query_is_answered_as_its_specification_says(gateway_harness, mine, others, query, aim):
    """Every filter, order, position, offset and limit gives what the reference gives, of this org alone."""

    async def body():
        async with gateway_harness(dedup=OFF) as held:
            one = held.instance_of(ORG)
            kept = await held.keep(one, mine)
            latest = mine[-1][0] - START if mine else timedelta(0)
            await held.keep(held.instance_of(OTHER_ORG), [(time + latest, each) for time, each in others])
            asked = aim.at(query, kept)
            assert await held.gateway.query(one, asked) == asked.page(kept)

    run(body())


@over_implementations
@given(timed_drafts(), st.integers(0, 30), st.booleans(), st.sets(st.integers(0, 14), max_size=3))
def test_a_horizon_leaves_out_a_nodes_memories_from_its_time_on(writing_harness, timed, number, same_node, refused):
    """Answers and counts stop at the horizon for the rows of its node, and for no others.

    The embedded store is not asked so: what it holds the journal never holds.
    """

    async def body():
        async with writing_harness(dedup=OFF) as held:
            one = held.instance_of(ORG)
            kept = await held.keep(one, timed)
            if not kept:
                return
            node = parse_memory_id(kept[0].memory_id)[1] if same_node else "000000"
            # What is set aside is always the node's own.
            aside = frozenset(kept[each].memory_id for each in refused if same_node and each < len(kept))
            horizon = Horizon(node, kept[number % len(kept)].time, aside)
            asked = msgspec.structs.replace(EVERYTHING, horizon=horizon)
            assert await held.gateway.query(one, asked) == asked.page(kept)
            for agent_id in AGENTS:
                count = AgentCountQuery(org_id=ORG, agent_id=agent_id, recent_since=START, horizon=horizon)
                mine = msgspec.structs.replace(asked, agent_ids=(agent_id,)).page(kept)
                assert (await held.gateway.count(one, count)).total == len(mine)

    run(body())


@over_implementations
@given(timed_drafts(), st.sampled_from(AGENTS), st.integers(0, 30))
def test_an_agents_memories_are_counted(gateway_harness, timed, agent_id, number):
    """Totals, recent ones, recent errors and types are those of this agent, the bound itself being recent."""

    async def body():
        async with gateway_harness(dedup=OFF) as held:
            one = held.instance_of(ORG)
            kept = await held.keep(one, timed)
            since = kept[number % len(kept)].time if kept else START
            counts = await held.gateway.count(
                one, AgentCountQuery(org_id=ORG, agent_id=agent_id, recent_since=since)
            )
            mine = [each for each in kept if each.agent_id == agent_id]
            recent = [each for each in mine if each.time >= since]
            types = [each.memory_type for each in mine]
            assert (counts.total, counts.recent) == (len(mine), len(recent))
            assert counts.recent_errors == sum(each.event_type == "error" for each in recent)
            assert counts.by_type == {each: types.count(each) for each in types}

    run(body())


def test_a_store_without_memories_answers_with_none(gateway_harness):
    """An instance that nothing was ever stored in is empty, not an error."""

    async def body():
        async with gateway_harness() as held:
            one = held.instance_of(ORG)
            assert await held.gateway.query(one, EVERYTHING) == []
            count = AgentCountQuery(org_id=ORG, agent_id="ada", recent_since=START)
            assert await held.gateway.count(one, count) == AgentCounts()

    run(body())


def test_no_question_reaches_another_org(gateway_harness):
    """Ids, keys, agents and contents of one org find nothing in another, even in a store of the same name."""

    async def body():
        async with gateway_harness() as held:
            timed = in_a_row("kept", session_id="s1", dedup_key="k", tags=("t",))
            (kept,) = await held.keep(held.instance_of(ORG), timed)
            other = held.instance_of(OTHER_ORG)
            for changes in (
                {},
                {"memory_id": kept.memory_id},
                {"dedup_key": "k"},
                {"agent_ids": ("ada",)},
                {"session_ids": ("s1",)},
                {"tags": ("t",)},
                {"content_contains": "kept"},
            ):
                query = MemoryQuery(org_id=OTHER_ORG, **changes)
                assert await held.gateway.query(other, query) == []
                found = await held.gateway.query(held.instance_of(ORG), msgspec.structs.replace(query, org_id=ORG))
                assert found == [kept]
            count = AgentCountQuery(org_id=OTHER_ORG, agent_id="ada", recent_since=START)
            assert await held.gateway.count(other, count) == AgentCounts()

    run(body())


def test_a_memory_comes_back_with_every_field(gateway_harness):
    """What went in comes out unchanged, to the microsecond and to the last character."""

    async def body():
        async with gateway_harness() as held:
            one = held.instance_of(ORG)
            full = draft(
                "line\nbreak, tab\t, quote ' \" \\ %_ 日本語 🙂 \u2028 \u200b",
                session_id="s1",
                memory_type="decision",
                event_type="error",
                metadata={"": None, "n": 2**53, "f": 0.1, "t": True, "deep": {"list": [1, [], {}, "é\n"]}},
                tags=("b", "a.b", "a-b"),
                dedup_key="k/ é",
                importance=0.1,
                parent_id="mem_x",
            )
            kept = await held.keep(one, [(START + MICROSECOND, full), (START + SECOND, draft("x"))])
            assert await held.gateway.query(one, EVERYTHING) == kept[::-1]

    run(body())


@pytest.mark.parametrize(
    ("bounds", "found"),
    [
        ({}, True),
        ({"since": START + SECOND}, True),
        ({"since": START + SECOND + MICROSECOND}, False),
        ({"until": START + SECOND}, False),
        ({"until": START + SECOND + MICROSECOND}, True),
        ({"agent_ids": ("bob",)}, False),
    ],
    ids=["alone", "since it", "since later", "until it", "until later", "of another agent"],
)
def test_an_id_is_one_filter_among_others(gateway_harness, bounds, found):
    """A memory asked for by its id must match the other filters, too."""

    async def body():
        async with gateway_harness() as held:
            one = held.instance_of(ORG)
            (kept,) = await held.keep(one, in_a_row("a"))
            query = MemoryQuery(org_id=ORG, memory_id=kept.memory_id, **bounds)
            assert await held.gateway.query(one, query) == ([kept] if found else [])

    run(body())


def test_a_content_of_a_mebibyte_comes_back(gateway_harness):
    """The greatest content there may be is kept whole."""

    async def body():
        async with gateway_harness() as held:
            one = held.instance_of(ORG)
            (kept,) = await held.keep(one, in_a_row("é" * (1 << 19)))
            assert await held.gateway.query(one, EVERYTHING) == [kept]

    run(body())


@over_implementations
@given(timed_drafts(), st.integers(0, 30), st.integers(0, 30))
def test_a_nodes_own_memories_of_a_span_are_counted_and_named(gateway_harness, timed, first, last):
    """Both ends of a span belong to it; another node's memories, and another org's, do not."""

    async def body():
        async with gateway_harness(dedup=OFF) as held:
            one = held.instance_of(ORG)
            kept = await held.keep(one, timed)
            if not kept:
                return
            node = parse_memory_id(kept[0].memory_id)[1]
            span = OwnSpan(ORG, node, kept[first % len(kept)].time, kept[last % len(kept)].time)
            ids = {each.memory_id for each in kept if span.first <= each.time <= span.last}
            assert await held.gateway.own_ids(one, span) == ids
            assert await held.gateway.own_count(one, span) == len(ids)
            foreign = msgspec.structs.replace(span, node="000000")
            assert await held.gateway.own_ids(one, foreign) == set()
            assert await held.gateway.own_count(one, foreign) == 0
            other = held.instance_of(OTHER_ORG)
            others = msgspec.structs.replace(span, org_id=OTHER_ORG)
            assert await held.gateway.own_ids(other, others) == set()
            assert await held.gateway.own_count(other, others) == 0

    run(body())


@over_implementations
@given(timed_drafts(), st.sets(st.integers(0, 14)))
def test_of_some_ids_those_that_are_stored_are_known(gateway_harness, timed, asked):
    """Stored memories are known by their ids; what nobody stored is not, and neither is another org's."""

    async def body():
        async with gateway_harness(dedup=OFF) as held:
            one, other = held.instance_of(ORG), held.instance_of(OTHER_ORG)
            kept = await held.keep(one, timed)
            wanted = {each.memory_id for number, each in enumerate(kept) if number in asked}
            absent = {each[:-4] + "ffff" for each in wanted} | {"mem_" + "0" * 24, "no id at all"}
            assert await held.gateway.known_ids(one, wanted | absent) == wanted
            assert await held.gateway.known_ids(other, wanted) == set()

    run(body())


def test_an_instance_that_can_be_used_answers_a_ping(gateway_harness):
    """A ping of a good instance returns, and its version is a text if it has one."""

    async def body():
        async with gateway_harness() as held:
            await held.gateway.ping(held.instance_of(ORG))
            version = await held.gateway.server_version(held.instance_of(ORG))
            assert version is None or version.strip()

    run(body())


def test_a_memory_written_twice_is_one(writing_harness):
    """After a resend there is one row per id, in answers as in counts."""

    async def body():
        async with writing_harness() as held:
            one = held.instance_of(ORG)
            kept = await held.keep(one, in_a_row("a", "b"))
            await held.gateway.write(one, kept)
            await held.gateway.write(one, kept[:1])
            assert await held.gateway.query(one, EVERYTHING) == kept[::-1]
            assert await held.gateway.query(one, msgspec.structs.replace(EVERYTHING, offset=1)) == kept[:1]
            count = AgentCountQuery(org_id=ORG, agent_id="ada", recent_since=START)
            counts = await held.gateway.count(one, count)
            assert (counts.total, counts.recent, counts.by_type) == (2, 2, {"episodic": 2})
            span = OwnSpan(ORG, parse_memory_id(kept[0].memory_id)[1], kept[0].time, kept[1].time)
            assert await held.gateway.own_count(one, span) == 2
            assert await held.gateway.own_ids(one, span) == {each.memory_id for each in kept}

    run(body())


def test_a_write_says_whether_it_is_durable(writing_harness):
    """The answer is true or false, nothing else."""

    async def body():
        async with writing_harness() as held:
            one = held.instance_of(ORG)
            (kept,) = await held.keep(one, in_a_row("a"))
            assert await held.gateway.write(one, [kept]) in (True, False)

    run(body())


def test_an_instance_that_does_not_answer_is_an_error_for_every_question(writing_harness):
    """No question to an unreachable instance has an empty answer."""

    async def body():
        async with writing_harness() as held:
            one = held.unreachable
            written = draft().stamped(one.org_id, "mem_" + "0" * 24, START)
            count = AgentCountQuery(org_id=one.org_id, agent_id="ada", recent_since=START)
            for question in (
                held.gateway.ping(one),
                held.gateway.query(one, MemoryQuery(org_id=one.org_id)),
                held.gateway.count(one, count),
                held.gateway.write(one, [written]),
                held.gateway.own_count(one, OwnSpan(one.org_id, "000000", START, START)),
                held.gateway.own_ids(one, OwnSpan(one.org_id, "000000", START, START)),
                held.gateway.known_ids(one, {written.memory_id}),
            ):
                with pytest.raises(ArcUnreachable):
                    await question
            # Another org is not touched by it.
            await held.gateway.ping(held.instance_of(ORG))

    run(body())


def test_two_databases_of_an_org_are_two_stores(writing_harness):
    """What was written to one place is not found in another."""

    async def body():
        async with writing_harness() as held:
            one = held.instance_of(ORG)
            (kept,) = await held.keep(one, in_a_row("a"))
            for changes in ({"database": "other"}, {"measurement": "other"}):
                other = msgspec.structs.replace(one, id=instance().id + "_2", **changes)
                assert await held.gateway.query(other, EVERYTHING) == []
            assert await held.gateway.query(one, EVERYTHING) == [kept]

    run(body())
