"""A measurement that is new, or that the Go service began: its rows are memories like our own."""

import hashlib
from contextlib import asynccontextmanager
from datetime import timedelta

import msgspec
import pytest
from arc_double import RELEASED
from builders import ORG, START, draft, run
from contracts.implementations import gateway_to_arc, shared_arc
from integration.arc_versions import EVERY_VERSION

from memtrace_arc import gateway as gateway_module
from memtrace_core.dedup import DedupPolicy
from memtrace_core.identifiers import memory_id
from memtrace_core.model import AgentCounts
from memtrace_core.query import AgentCountQuery, MemoryQuery, OwnSpan, position_of
from memtrace_core.testing import ManualClock
from memtrace_core.timewindow import to_us

HOUR = timedelta(hours=1)
NOW = START + timedelta(days=30)
NODE = "fedcba"
EVERYTHING = MemoryQuery(org_id=ORG, limit=1000)
ADAS = AgentCountQuery(org_id=ORG, agent_id="ada", recent_since=NOW - 24 * HOUR)

every_version = pytest.mark.parametrize("version", EVERY_VERSION)


class Held:
    """A gateway, an instance of its own in some Arc, and that Arc."""

    def __init__(self, arc, gateway, one):
        self.arc, self.gateway, self.one = arc, gateway, one

    def go_wrote(self, *rows):
        """Put rows of the Go service into a file of their own."""
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        self.arc.store(self.one.database, self.one.measurement, columns)

    async def we_write(self, *times):
        """Write memories of our node at these times, and return them."""
        memories = [
            draft(f"ours {number}").stamped(ORG, memory_id(to_us(time), NODE, f"{number:04x}"), time)
            for number, time in enumerate(times)
        ]
        await self.gateway.write(self.one, memories)
        return memories

    async def ask(self, **changes):
        """Return what a query finds."""
        return await self.gateway.query(self.one, msgspec.structs.replace(EVERYTHING, **changes))


@asynccontextmanager
async def opened(version):
    """Open a gateway to an Arc in which nobody has written yet."""
    async with gateway_to_arc(version, None, ManualClock(NOW), DedupPolicy(enabled=False)) as held:
        yield Held(shared_arc(version), held.gateway, held.instance_of(ORG))


def go_row(time, content="of Go", **changes):
    """Return a row as the Go service writes it."""
    return {
        "time": to_us(time),
        "org_id": ORG,
        "agent_id": "ada",
        "session_id": "s1",
        "memory_type": "episodic",
        "event_type": "general",
        "content": content,
        "metadata_json": "{}",
        "tags_csv": "",
        "dedup_key": "",
        "importance": 0.0,
        "parent_id": "",
        **changes,
    }


def id_of(row):
    """Return the id that design.md gives a row of the Go service: its time and a hash of it."""
    names = ("agent_id", "session_id", "memory_type", "event_type", "content", "dedup_key")
    digest = hashlib.sha256("\x1f".join(row.get(name, "") for name in names).encode()).hexdigest()
    return f"mem_{row['time']:014x}{digest[:10]}"


@every_version
def test_a_measurement_that_is_not_there_yet_is_empty(version):
    """Nothing was ever written: no memories, no counts, no ids, and no error."""

    async def body():
        async with opened(version) as held:
            assert await held.ask() == []
            assert await held.ask(order="asc", since=NOW - HOUR, until=NOW) == []
            assert await held.ask(memory_id="mem_" + "0" * 24) == []
            assert await held.gateway.count(held.one, ADAS) == AgentCounts()
            span = OwnSpan(ORG, NODE, START, NOW)
            assert await held.gateway.own_count(held.one, span) == 0
            assert await held.gateway.own_ids(held.one, span) == set()

    run(body())


@every_version
@pytest.mark.parametrize("most_between", [0, 10_000], ids=["among many others", "among few others"])
def test_rows_of_the_go_service_are_known_by_the_ids_that_readers_see(version, most_between, monkeypatch):
    """An import finds them there, whatever lies between them, and whether a file of ours is there or not."""
    monkeypatch.setattr(gateway_module, "MOST_BETWEEN", most_between)
    monkeypatch.setattr(gateway_module, "MOST_MOMENTS", 2)

    async def body():
        async with opened(version) as held:
            rows = [go_row(NOW - hours * HOUR, f"row {hours}") for hours in range(9)]
            asked = {id_of(row) for row in rows[::2]} | {memory_id(to_us(NOW - HOUR), NODE, "0000")}
            assert await held.gateway.known_ids(held.one, asked) == set()
            held.go_wrote(*rows)
            assert await held.gateway.known_ids(held.one, asked) == {id_of(row) for row in rows[::2]}
            (ours,) = await held.we_write(NOW - HOUR)
            assert await held.gateway.known_ids(held.one, {*asked, ours.memory_id}) == {
                *(id_of(row) for row in rows[::2]),
                ours.memory_id,
            }

    run(body())


@every_version
def test_rows_of_the_go_service_are_memories(version):
    """Rows without `memory_id` are listed in order, filtered, searched and counted."""

    async def body():
        async with opened(version) as held:
            rows = [
                go_row(NOW - 3 * HOUR, "a page", tags_csv="web,a.b", metadata_json='{"n":1}', importance=0.5),
                go_row(NOW - 2 * HOUR, "an ERROR", event_type="error", session_id="s2", dedup_key="k1"),
                go_row(NOW - 40 * HOUR, "long ago", memory_type="decision", parent_id="mem_x"),
                go_row(NOW - HOUR, "of another", agent_id="bob"),
            ]
            held.go_wrote(*rows)
            held.go_wrote(go_row(NOW - HOUR, "another tenant's", org_id="org_b"))
            found = await held.ask()
            assert [each.content for each in found] == ["of another", "an ERROR", "a page", "long ago"]
            assert [each.memory_id for each in found] == [id_of(rows[number]) for number in (3, 1, 0, 2)]
            page = found[2]
            assert (page.tags, page.metadata, page.importance) == (("web", "a.b"), {"n": 1}, 0.5)
            assert (page.session_id, page.dedup_key, page.parent_id) == ("s1", None, None)
            assert found[3].parent_id == "mem_x"
            for changes in (
                {"content_contains": "error"},
                {"event_types": ("error",)},
                {"session_ids": ("s2",)},
                {"dedup_key": "k1"},
                {"memory_id": id_of(rows[1])},
            ):
                assert await held.ask(**changes) == [found[1]]
            assert await held.ask(tags=("a.b",)) == [page]
            counts = await held.gateway.count(held.one, ADAS)
            assert counts == AgentCounts(total=3, recent=2, recent_errors=1, by_type={"episodic": 2, "decision": 1})

    run(body())


@every_version
def test_exact_twins_of_the_go_service_are_one_memory(version):
    """Two equal rows at one time cannot be told apart: they are listed once, and counted once."""

    async def body():
        async with opened(version) as held:
            held.go_wrote(go_row(NOW - HOUR), go_row(NOW - HOUR), go_row(NOW - HOUR, "not a twin"))
            held.go_wrote(go_row(NOW - HOUR))
            assert sorted(each.content for each in await held.ask()) == ["not a twin", "of Go"]
            assert (await held.gateway.count(held.one, ADAS)).total == 2

    run(body())


@every_version
def test_memories_of_the_go_service_are_paged_by_cursor(version):
    """A reader who follows positions sees each of them once, in either order."""

    async def body():
        async with opened(version) as held:
            held.go_wrote(*(go_row(NOW - HOUR, f"at once {number}") for number in range(5)))
            held.go_wrote(*(go_row(NOW - number * HOUR, f"at {number}") for number in range(2, 7)))
            for order in ("desc", "asc"):
                seen, query = [], msgspec.structs.replace(EVERYTHING, order=order, limit=3)
                while page := await held.gateway.query(held.one, query):
                    seen += page
                    query = query.following(position_of(page[-1]))
                assert seen == sorted(seen, key=position_of, reverse=order == "desc")
                assert len(seen) == len({each.memory_id for each in seen}) == 10

    run(body())


@every_version
def test_ids_of_go_rows_outlive_our_first_write(version):
    """The first file with `memory_id` changes no other row's id, and shows no memory twice."""

    async def body():
        async with opened(version) as held:
            held.go_wrote(go_row(NOW - 2 * HOUR, "before"), go_row(NOW - 2 * HOUR, "beside"))
            before = await held.ask()
            ours = await held.we_write(NOW - 2 * HOUR, NOW - HOUR)
            after = await held.ask()
            assert [each for each in after if each not in ours] == before
            assert [each.memory_id for each in after if each in ours] == [each.memory_id for each in ours[::-1]]
            assert len(after) == 4
            assert (await held.gateway.count(held.one, ADAS)).total == 4

    run(body())


@every_version
def test_a_stretch_of_time_with_go_rows_alone_is_read(version):
    """Arc opens only the files of the hours asked for: those may all lack `memory_id` while others have it."""

    async def body():
        async with opened(version) as held:
            (ours,) = await held.we_write(NOW - HOUR / 2)
            old = go_row(NOW - 240 * HOUR, "old")
            held.go_wrote(old)
            (found,) = await held.ask(since=NOW - 241 * HOUR, until=NOW - 239 * HOUR)
            assert found.memory_id == id_of(old)
            assert await held.ask(memory_id=id_of(old)) == [found]
            assert await held.ask() == [ours, found]

    run(body())


@every_version
def test_the_newest_are_read_while_the_go_service_alone_writes(version):
    """The hours in which it wrote last hold no file of ours, those before do."""

    async def body():
        async with opened(version) as held:
            (ours,) = await held.we_write(NOW - 240 * HOUR)
            held.go_wrote(go_row(NOW - HOUR / 2, "new"))
            assert [each.content for each in await held.ask(limit=1)] == ["new"]
            assert [each.content for each in await held.ask()] == ["new", ours.content]

    run(body())


@every_version
def test_a_lost_memory_is_missed_in_an_hour_that_holds_go_rows_alone(version):
    """What confirmation asks has an answer where no file has our column: none of ours is there."""

    async def body():
        async with opened(version) as held:
            await held.we_write(NOW - 240 * HOUR)
            held.go_wrote(go_row(NOW - HOUR))
            span = OwnSpan(ORG, NODE, NOW - HOUR, NOW)
            assert await held.gateway.own_count(held.one, span) == 0
            assert await held.gateway.own_ids(held.one, span) == set()

    run(body())


@every_version
def test_a_measurement_with_go_rows_alone_holds_none_of_ours(version):
    """Confirmation over a measurement that never had a `memory_id` finds nothing."""

    async def body():
        async with opened(version) as held:
            held.go_wrote(go_row(NOW - HOUR))
            span = OwnSpan(ORG, NODE, START, NOW)
            assert await held.gateway.own_count(held.one, span) == 0
            assert await held.gateway.own_ids(held.one, span) == set()

    run(body())


@every_version
def test_columns_that_old_files_lack_are_absent_text(version):
    """Files from before a column was thought of are read; the column is absent there, and no filter finds it."""

    async def body():
        async with opened(version) as held:
            old = go_row(NOW - 2 * HOUR, "old")
            for name in ("importance", "parent_id", "dedup_key", "tags_csv", "metadata_json"):
                del old[name]
            held.go_wrote(old)
            (found,) = await held.ask()
            assert (found.content, found.importance, found.parent_id, found.dedup_key) == ("old", 0.0, None, None)
            assert (found.tags, found.metadata) == ((), None)
            assert await held.ask(content_contains="OLD", max_importance=0.5) == [found]
            assert await held.ask(tags=("a",)) == []
            assert await held.ask(dedup_key="k1") == []
            assert (await held.gateway.count(held.one, ADAS)).total == 1

    run(body())


@every_version
def test_the_id_of_an_old_row_does_not_change_when_a_column_is_added(version):
    """A row is the same memory, with the same id, before and after other files brought a column it lacks."""

    async def body():
        async with opened(version) as held:
            old = go_row(NOW - 2 * HOUR, "old")
            del old["dedup_key"]
            held.go_wrote(old)
            (found,) = await held.ask()
            held.go_wrote(go_row(NOW - HOUR, "new", dedup_key="k1"))
            assert (await held.ask())[1:] == [found]
            assert await held.ask(memory_id=found.memory_id) == [found]

    run(body())


@every_version
def test_columns_that_nobody_uses_any_more_do_no_harm(version):
    """A file with columns of another writer is read by the columns that we know."""

    async def body():
        async with opened(version) as held:
            held.go_wrote(go_row(NOW - HOUR, "wider", host="a", retries=3))
            assert [each.content for each in await held.ask()] == ["wider"]

    run(body())


def test_a_filled_history_of_the_go_service_is_counted_and_paged():
    """A long history is walked page by page without a gap or a repetition."""

    async def body():
        async with opened(RELEASED[1]) as held:
            held.arc.fill(
                held.one.database,
                held.one.measurement,
                hours=30,
                rows_per_hour=10,
                go_style=True,
                org_id=ORG,
                until=NOW,
            )
            count = AgentCountQuery(org_id=ORG, agent_id="agent_1", recent_since=START)
            assert (await held.gateway.count(held.one, count)).total == 90
            seen, query = set(), msgspec.structs.replace(EVERYTHING, limit=64)
            pages = 0
            while page := await held.gateway.query(held.one, query):
                seen |= {each.memory_id for each in page}
                pages += 1
                query = query.following(position_of(page[-1]))
            assert (len(seen), pages) == (300, 5)

    run(body())
