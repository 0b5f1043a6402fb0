"""What a question costs Arc: on a history of 2,000 hourly files, few of them are opened."""

from contextlib import asynccontextmanager
from datetime import timedelta

import msgspec
import pytest
from arc_double import RELEASED, ArcDouble
from builders import org, run
from integration.test_arc_delivery import World

from memtrace_core.clock import SystemClock
from memtrace_core.query import MemoryQuery, position_of
from memtrace_core.tenants import Binding

HOURS = 2000
ROWS = 20
FEW = 30


@pytest.fixture(scope="module", params=RELEASED[1:])
def arc(request):
    """An Arc with a long history of an org that is called `org_fill`."""
    with ArcDouble(version=request.param) as double:
        double.fill("acme", "events", hours=HOURS, rows_per_hour=ROWS)
        yield double


class Reader:
    """Services over the long history; it knows how many files the last question opened."""

    def __init__(self, world, arc, org_id):
        self.services, self.arc, self.org_id = world.services, arc, org_id
        self.arc.clear_records()

    @property
    def opened(self):
        """How many files were opened since the last look, over all statements."""
        files = sum(query.files_opened for query in self.arc.queries)
        assert {query.status for query in self.arc.queries} == {200}
        self.arc.clear_records()
        return files

    async def find(self, **changes):
        """Return a page."""
        return await self.services.memories.find(
            msgspec.structs.replace(MemoryQuery(org_id=self.org_id, limit=50), **changes)
        )


@asynccontextmanager
async def reading(folder, arc):
    """Open services for the org of the history, by the real time, with dedup off so that only reads ask."""
    world = World(folder, arc)
    world.clock = SystemClock()
    async with world.running():
        await world.repo.create_org(org("org_fill"))
        await world.services.tenants.bind("org_fill", binding_to(arc))
        yield Reader(world, arc, "org_fill")


def binding_to(arc):
    """Return a binding to the history."""
    return Binding(url=arc.url, api_key=arc.write_token, database="acme", measurement="events")


def test_the_newest_open_few_files(tmp_path, arc):
    """The newest 50 memories are found without looking into the history."""

    async def body():
        async with reading(tmp_path, arc) as reader:
            page = await reader.find()
            assert len(page.memories) == 50
            assert 0 < reader.opened < FEW

    run(body())


def test_the_last_two_hours_open_few_files(tmp_path, arc):
    """A list since two hours ago opens the files of these hours and of their neighbours."""

    async def body():
        async with reading(tmp_path, arc) as reader:
            since = reader.services.clock.now() - timedelta(hours=2)
            page = await reader.find(since=since)
            assert page.memories
            assert all(each.time >= since for each in page.memories)
            assert 0 < reader.opened < FEW

    run(body())


@pytest.mark.parametrize("age", [pytest.param(timedelta(hours=5), marks=pytest.mark.slow), timedelta(days=60)])
def test_a_memory_by_its_id_opens_few_files(tmp_path, arc, age):
    """An id says where to look, however old the memory is."""

    async def body():
        async with reading(tmp_path, arc) as reader:
            until = reader.services.clock.now() - age
            wanted = (await reader.find(until=until, since=until - timedelta(hours=2), limit=1)).memories[0]
            assert reader.opened
            assert await reader.services.memories.get("org_fill", wanted.memory_id) == wanted
            assert 0 < reader.opened < 10

    run(body())


@pytest.mark.parametrize("order", ["desc", "asc"])
def test_a_page_by_cursor_opens_few_files(tmp_path, arc, order):
    """The page after a position begins there, in the middle of the history as at its end."""

    async def body():
        async with reading(tmp_path, arc) as reader:
            until = reader.services.clock.now() - timedelta(days=40)
            (start,) = (await reader.find(until=until, since=until - timedelta(hours=2), limit=1)).memories
            assert reader.opened
            page = await reader.find(order=order, after=position_of(start))
            assert len(page.memories) == 50
            assert all((each.time < start.time) == (order == "desc") for each in page.memories)
            assert 0 < reader.opened < FEW

    run(body())


def test_a_sessions_context_opens_few_files(tmp_path, arc):
    """The context of the last 24 hours, which is what a prompt gets by default, does not open a year."""

    async def body():
        async with reading(tmp_path, arc) as reader:
            since = reader.services.clock.now() - timedelta(hours=24)
            context = await reader.services.memories.context("org_fill", "session_1", since=since)
            assert context.memory_count >= ROWS
            assert 0 < reader.opened < FEW

    run(body())


def test_pages_in_a_row_find_the_whole_of_a_week(tmp_path, arc):
    """Narrow windows lose nothing: following cursors through a week gives every memory of it once, in order."""

    async def body():
        async with reading(tmp_path, arc) as reader:
            until = reader.services.clock.now().replace(minute=0, second=0, microsecond=0) - timedelta(days=9)
            seen, after = [], None
            while True:
                page = await reader.find(since=until - timedelta(days=7), until=until, after=after, limit=700)
                seen += page.memories
                if (after := page.next) is None:
                    break
            assert len(seen) == len({each.memory_id for each in seen}) == 7 * 24 * ROWS
            assert seen == sorted(seen, key=position_of, reverse=True)

    run(body())


@pytest.mark.slow
def test_a_search_that_finds_little_goes_through_all_of_time(tmp_path, arc):
    """What is only in the oldest file is found all the same."""

    async def body():
        async with reading(tmp_path, arc) as reader:
            page = await reader.find(content_contains="memory 7 of hour 0")
            assert [each.content for each in page.memories] == ["memory 7 of hour 0"]

    run(body())
