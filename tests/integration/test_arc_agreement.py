"""The same questions have the same answers in memory, in the embedded store and in Arc."""

import sys
import unicodedata
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from arc_double import RELEASED
from builders import AGENTS, MICROSECOND, ORG, OTHER_NODE, START, aims, draft, drafts, memory, queries, run, walk
from contracts.implementations import embedded_in_sqlite, gateway_in_memory, gateway_to_arc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from integration.arc_versions import EVERY_VERSION

from memtrace_core.dedup import DedupPolicy
from memtrace_core.query import AgentCountQuery, MemoryQuery, Position, fold, position_of
from memtrace_core.testing import ManualClock

OFF = DedupPolicy(enabled=False)
HOUR = timedelta(hours=1)
EVERYTHING = MemoryQuery(org_id=ORG, limit=1000)
# Some at once, some at the edges of an hour and of the windows in which Arc is searched.
STEPS = (MICROSECOND, HOUR / 2, HOUR - MICROSECOND, HOUR, 24 * HOUR, 168 * HOUR, 31 * 24 * HOUR)

over_three_stores = settings(
    max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@st.composite
def scattered(draw):
    """Draw drafts with times that lie microseconds to months apart."""
    drawn = draw(st.lists(st.tuples(drafts(), st.sampled_from(STEPS)), min_size=1, max_size=12))
    time, timed = START, []
    for one, step in drawn:
        time += step
        timed.append((time, one))
    return timed


class Store:
    """One gateway with the same memories as the others; ids differ from store to store."""

    def __init__(self, name, gateway, one, kept):
        self.name, self.gateway, self.one, self.kept = name, gateway, one, kept
        self._numbers = {each.memory_id: number for number, each in enumerate(kept)}

    async def numbers(self, query):
        """Return which memories a query finds, by their number."""
        return [self._numbers[each.memory_id] for each in await self.gateway.query(self.one, query)]

    async def walked(self, query):
        """Return which memories are found by following positions from page to page."""
        found = []
        while page := await self.gateway.query(self.one, query):
            found += [self._numbers[each.memory_id] for each in page]
            query = query.following(position_of(page[-1]))
        return found


async def stores(stack, folder, timed):
    """Open every kind of store, with the same drafts kept at the same times."""
    opened = []
    now = timed[-1][0] + HOUR / 3
    for name, factory in (
        ("memory", gateway_in_memory),
        ("embedded", embedded_in_sqlite),
        ("arc", lambda *rest: gateway_to_arc(RELEASED[1], *rest)),
    ):
        clock = ManualClock(START if name == "embedded" else now)
        held = await stack.enter_async_context(factory(folder(), clock, OFF))
        one = held.instance_of(ORG)
        opened.append(Store(name, held.gateway, one, await held.keep(one, timed)))
    return opened


@over_three_stores
@given(scattered(), queries(greatest_limit=6), aims)
def test_all_stores_give_the_same_page(new_folder, timed, query, aim):
    """Filters, order, bounds, positions, offset and limit mean the same everywhere."""

    async def body():
        async with AsyncExitStack() as stack:
            answers = {}
            for store in await stores(stack, new_folder, timed):
                asked = aim.at(query, store.kept)
                answers[store.name] = await store.numbers(asked)
                assert await store.gateway.query(store.one, asked) == asked.page(store.kept), asked
            assert answers["memory"] == answers["embedded"] == answers["arc"]

    run(body())


@over_three_stores
@given(scattered(), queries(greatest_limit=4))
def test_all_stores_give_the_same_pages_in_a_row(new_folder, timed, query):
    """Following the position of each page's last memory finds everything that matches, once, everywhere."""

    async def body():
        async with AsyncExitStack() as stack:
            first = msgspec.structs.replace(query, offset=0)
            answers = {}
            for store in await stores(stack, new_folder, timed):
                answers[store.name] = await store.walked(first)
                expected = [store.kept.index(each) for each in walk(first, store.kept)]
                assert answers[store.name] == expected
            assert answers["memory"] == answers["embedded"] == answers["arc"]

    run(body())


@over_three_stores
@given(scattered(), st.integers(0, 11))
def test_all_stores_count_the_same(new_folder, timed, number):
    """Totals, recent ones, recent errors and types are equal for every agent."""

    async def body():
        async with AsyncExitStack() as stack:
            opened = await stores(stack, new_folder, timed)
            since = timed[number % len(timed)][0]
            for agent_id in (*AGENTS, "nobody"):
                query = AgentCountQuery(org_id=ORG, agent_id=agent_id, recent_since=since)
                first, *others = [await store.gateway.count(store.one, query) for store in opened]
                assert others == [first] * len(others)

    run(body())


def foldable():
    """Return the letters whose lower case is one other character, the newest ones of Unicode apart."""
    # Arc's DuckDB knows fewer letters than the newest Python.
    every = map(chr, range(sys.maxunicode + 1))
    return [
        one for one in every if unicodedata.category(one)[0] == "L" and len(fold(one)) == 1 and fold(one) != one
    ]


@pytest.mark.slow
@pytest.mark.parametrize("version", EVERY_VERSION)
def test_search_takes_capitals_for_small_letters_and_back(version, tmp_path):
    """Every letter whose lower case is one character is found by either case."""

    async def body():
        async with gateway_to_arc(version, tmp_path, ManualClock(START + 2 * HOUR), OFF) as held:
            one, letters = held.instance_of(ORG), foldable()
            missed = []
            parts = ["".join(letters[at : at + 120]) for at in range(0, len(letters), 120)]
            for number, part in enumerate(parts):
                at = START + (number + 1) * timedelta(seconds=1)
                kept = memory(at, salt=number, content=f"upper {part} end", agent_id=f"a{number}")
                assert await held.gateway.write(one, [kept]) is False
                for text in (part, fold(part)):
                    asked = msgspec.structs.replace(EVERYTHING, content_contains=text, agent_ids=(f"a{number}",))
                    if await held.gateway.query(one, asked) != [kept]:
                        missed.append((number, text == part))
            assert missed == []

    run(body())


@pytest.mark.parametrize(
    "changes",
    [
        {"until": datetime(1, 1, 1, tzinfo=UTC)},
        {"until": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)},
        {"since": datetime(1, 1, 1, tzinfo=UTC), "order": "asc"},
        {"since": datetime(1, 1, 1, tzinfo=UTC)},
        {"since": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "order": "asc"},
        {"since": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)},
        {"since": START + HOUR, "until": START},
        {"since": START + HOUR, "until": START, "order": "asc"},
        {"memory_id": "mem_" + "f" * 24},
        {"memory_id": "mem_" + "0" * 24},
        {"after": Position(datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "mem_" + "f" * 24)},
        {"after": Position(datetime(1, 1, 1, tzinfo=UTC), "mem_" + "0" * 24)},
        {"after": Position(datetime(1, 1, 1, tzinfo=UTC), "mem_" + "0" * 24), "order": "asc"},
        {
            "after": Position(datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "x_" + "f" * 24),
            "order": "asc",
        },
    ],
    ids=str,
)
def test_the_ends_of_time_bound_like_any_other_moment(tmp_path, changes):
    """Bounds, positions and ids from the first to the last possible moment have an answer, the specified one."""

    async def body():
        async with gateway_to_arc(RELEASED[1], tmp_path, ManualClock(START + HOUR), OFF) as held:
            one = held.instance_of(ORG)
            kept = await held.keep(one, [(START + MICROSECOND, draft("a")), (START + HOUR / 2, draft("b"))])
            asked = msgspec.structs.replace(EVERYTHING, **changes)
            assert await held.gateway.query(one, asked) == asked.page(kept)

    run(body())


@pytest.mark.parametrize("order", ["desc", "asc"])
@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(hours=47)])
def test_memories_of_a_clock_that_is_ahead_are_found(tmp_path, order, ahead):
    """Another node's clock may be ahead by up to two days."""

    async def body():
        async with gateway_to_arc(RELEASED[1], tmp_path, ManualClock(START), OFF) as held:
            one = held.instance_of(ORG)
            kept = [memory(START - HOUR / 2), memory(START + ahead, node=OTHER_NODE)]
            await held.gateway.write(one, kept)
            for changes in ({}, {"since": START - HOUR}, {"limit": 1}, {"since": START - HOUR, "limit": 1}):
                asked = msgspec.structs.replace(EVERYTHING, order=order, **changes)
                assert await held.gateway.query(one, asked) == asked.page(kept), changes

    run(body())
