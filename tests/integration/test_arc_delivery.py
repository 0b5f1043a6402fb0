"""From the journal to Arc and out of the journal again: nothing lost, nothing twice, whatever Arc does."""

import asyncio
import itertools
import random
import time
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from arc_double import RELEASED, ArcDouble, engine
from builders import run
from integration.arc_versions import EVERY_VERSION

from memtrace_arc import ArcGateway
from memtrace_core.confirmation import ConfirmationPolicy
from memtrace_core.dedup import DedupPolicy
from memtrace_core.delivery import DeliveryPolicy
from memtrace_core.entries import OrgHoldings
from memtrace_core.memories import NewMemory
from memtrace_core.query import MemoryQuery
from memtrace_core.services import build_services
from memtrace_core.tenants import Binding
from memtrace_core.testing import InMemoryMetadataRepo, ManualClock, TransparentVault
from memtrace_sqlite import SqliteJournal

SETTLE = timedelta(seconds=10)
TICK = timedelta(seconds=2)
PATIENCE = 80.0
NONE_HELD = OrgHoldings()


class World:
    """A server over one Arc double: real journal, real HTTP, and a clock that moves by hand."""

    def __init__(self, folder, arc, *, query_timeout=20.0, batch=5, dedup=None):
        self.arc = arc
        self.clock = ManualClock()
        self.repo = InMemoryMetadataRepo()
        self._folder = folder
        self._query_timeout = query_timeout
        self._batch = batch
        self._dedup = dedup or DedupPolicy(enabled=False)
        self.services = None

    @asynccontextmanager
    async def running(self):
        """Start the services on the same files as before; stop them without delivering anything more."""
        vault = TransparentVault()
        dedup = self._dedup
        self.services = build_services(
            repo=self.repo,
            journal=SqliteJournal(self._folder / "journal.db", self.clock, dedup),
            gateway=ArcGateway(vault, self.clock, query_timeout=self._query_timeout),
            vault=vault,
            clock=self.clock,
            dedup=dedup,
            delivery=DeliveryPolicy(batch_size=self._batch, most_rows=self._batch),
            confirmation=ConfirmationPolicy(settle=SETTLE),
        )
        await self.services.start()
        try:
            yield self
        finally:
            await self.services.stop(timedelta(0))

    async def org(self, name="acme", arc=None, measurement="events"):
        """Create an org that is bound to a database of its own, and return its id."""
        arc = arc or self.arc
        made = await self.services.tenants.create_org(name)
        binding = Binding(url=arc.url, api_key=arc.write_token, database=name, measurement=measurement)
        await self.services.tenants.bind(made.id, binding)
        return made.id

    async def remember(self, org_id, *contents):
        """Store memories; they are acknowledged on return."""
        outcomes = await self.services.memories.remember(
            org_id, [NewMemory(agent_id="ada", content=content) for content in contents], batch=True
        )
        return [each.memory_id for each in outcomes]

    async def seen(self, org_id):
        """Return the contents that a list shows, newest first, page by page."""
        found, after = [], None
        while True:
            page = await self.services.memories.find(MemoryQuery(org_id=org_id, limit=40, after=after))
            found += [each.content for each in page.memories]
            if (after := page.next) is None:
                return found

    async def held(self, org_id):
        """Return what the journal holds."""
        return await self.services.journal.holdings(org_id)

    async def until(self, condition, tick=TICK):
        """Let time pass, tick by tick, until a condition holds."""
        deadline = time.monotonic() + PATIENCE
        while not await condition():
            assert time.monotonic() < deadline, "this never came true"
            self.clock.advance(tick)
            await asyncio.sleep(0.002)

    async def until_empty(self, *org_ids):
        """Let time pass until the journal holds nothing of these orgs."""

        async def empty():
            return all([await self.held(org_id) == NONE_HELD for org_id in org_ids])

        await self.until(empty)

    async def until_delivered(self, org_id, tick=timedelta(seconds=1)):
        """Let time pass until nothing of an org waits for its first delivery; less than it takes to settle."""

        async def delivered():
            return (await self.held(org_id)).pending == 0

        await self.until(delivered, tick)

    def stored(self, name="acme", arc=None):
        """Return the contents in Arc, one for each id, and that no id has two."""
        rows = (arc or self.arc).rows(name, "events")
        by_id = {row["memory_id"]: row["content"] for row in rows}
        assert all(by_id[row["memory_id"]] == row["content"] for row in rows)
        return sorted(by_id.values())

    async def sees_each_once(self, org_id, contents):
        """Check every way of reading: the list, the count, and each by its id."""
        assert await self.seen(org_id) == list(reversed(contents))
        counts = await self.services.memories.count(org_id, "ada")
        assert (counts.total, counts.by_type) == (len(contents), {"episodic": len(contents)} if contents else {})


@pytest.fixture
def arc():
    """An Arc that flushes at once."""
    with ArcDouble(max_buffer_age_ms=0) as double:
        yield double


@pytest.fixture(params=EVERY_VERSION)
def any_arc(request):
    """An Arc of each version."""
    with ArcDouble(version=request.param, max_buffer_age_ms=0) as double:
        yield double


def names(count, start=0):
    """Return contents that differ."""
    return [f"m{number:04}" for number in range(start, start + count)]


def test_memories_reach_arc_and_leave_the_journal(tmp_path, any_arc):
    """After delivery, settling and a look into Arc the journal is empty, and Arc holds everything once."""

    async def body():
        async with World(tmp_path, any_arc).running() as world:
            org_id = await world.org()
            await world.remember(org_id, *names(23))
            await world.sees_each_once(org_id, names(23))
            await world.until_empty(org_id)
            await world.sees_each_once(org_id, names(23))
            assert world.stored() == names(23)
            assert len(any_arc.rows("acme", "events")) == 23

    run(body())


def test_first_deliveries_keep_the_order(tmp_path, arc):
    """Batches arrive in the order of acknowledgement, failures in between or not."""

    async def body():
        arc.faults.next_writes = ["ok", "error_before", "reset", "ok", "error_after", "ok"]
        async with World(tmp_path, arc).running() as world:
            org_id = await world.org()
            await world.remember(org_id, *names(12))
            await world.remember(org_id, *names(12, 12))
            await world.until_delivered(org_id)
            firsts = list(dict.fromkeys(row["content"] for row in by_arrival(arc)))
            assert firsts == names(24)

    run(body())


def by_arrival(arc):
    """Return Arc's rows in the order in which its files were written."""
    files = sorted(
        (file.path for hour in arc._server.storage.tables[("acme", "events")].values() for file in hour.files),
        key=lambda path: int(path.stem.rsplit("_", 1)[1]),
    )
    rows = []
    for path in files:
        with engine.cursor() as connection:
            found = connection.execute(f"SELECT content FROM read_parquet('{path}') ORDER BY time").fetchall()
            rows += [{"content": content} for (content,) in found]
    return rows


def test_what_arc_loses_with_its_buffer_is_sent_again(tmp_path):
    """Arc is killed after its 204: all the while each memory is seen once, and in the end Arc has it."""

    async def body():
        with ArcDouble(max_buffer_age_ms=None) as arc:
            async with World(tmp_path, arc).running() as world:
                org_id = await world.org()
                await world.remember(org_id, *names(7))
                await world.until_delivered(org_id)
                await world.sees_each_once(org_id, names(7))
                assert arc.buffered_rows == 7
                arc.kill()
                arc.start()
                assert world.stored() == []
                await world.sees_each_once(org_id, names(7))

                async def flushed():
                    arc.flush()
                    await world.sees_each_once(org_id, names(7))
                    return await world.held(org_id) == NONE_HELD

                await world.until(flushed)
                assert world.stored() == names(7)
                await world.sees_each_once(org_id, names(7))

    run(body())


def test_only_what_is_missing_is_sent_again(tmp_path, arc):
    """Of three batches Arc drops the second: it alone is delivered twice."""

    async def body():
        arc.faults.next_writes = ["ok", "drop", "ok"]
        async with World(tmp_path, arc).running() as world:
            org_id = await world.org()
            await world.remember(org_id, *names(15))
            await world.until_empty(org_id)
            assert [(write.rows, write.stored) for write in arc.writes] == [
                (5, True),
                (5, False),
                (5, True),
                (5, True),
            ]
            assert len(arc.rows("acme", "events")) == 15
            await world.sees_each_once(org_id, names(15))

    run(body())


@pytest.mark.parametrize("fate", ["reset", "error_after"])
def test_a_batch_whose_answer_was_lost_is_seen_once(tmp_path, any_arc, fate):
    """Arc stored it and the answer never came: it is sent again, is there twice, and is shown once."""

    async def body():
        any_arc.faults.next_writes = [fate, fate]
        async with World(tmp_path, any_arc).running() as world:
            org_id = await world.org()
            await world.remember(org_id, *names(5))
            await world.until_delivered(org_id)
            await world.sees_each_once(org_id, names(5))
            await world.until_empty(org_id)
            assert len(any_arc.rows("acme", "events")) == 15
            await world.sees_each_once(org_id, names(5))

    run(body())


def test_silence_is_an_ambiguous_answer(tmp_path, arc):
    """A write without an answer in time is repeated, and its memories are shown once."""

    async def body():
        arc.faults.next_writes = ["silence"]
        async with World(tmp_path, arc, query_timeout=0.5).running() as world:
            org_id = await world.org()
            await world.remember(org_id, *names(3))
            await world.until_delivered(org_id)
            assert [write.stored for write in arc.writes] == [True, True]
            await world.until_empty(org_id)
            await world.sees_each_once(org_id, names(3))

    run(body())


@pytest.mark.parametrize("count", [24, pytest.param(72, marks=pytest.mark.slow)])
@pytest.mark.parametrize("version", EVERY_VERSION)
def test_every_memory_is_seen_once_while_arc_loses_delays_and_fails(tmp_path, version, count):
    """20% of batches dropped, 10% unanswered, 10% failed: each memory is seen once, and is in Arc in the end."""

    async def body():
        with ArcDouble(version=version, max_buffer_age_ms=0, seed=7) as arc:
            arc.faults.update(
                {
                    "drop_share": 0.2,
                    "lost_answer_share": 0.1,
                    "lost_answer": "silence" if version == RELEASED[1] else "reset",
                    "error_before_share": 0.05,
                    "error_after_share": 0.05,
                }
            )
            async with World(tmp_path, arc, query_timeout=3.0).running() as world:
                org_id = await world.org()
                acknowledged, ids = [], {}
                rng = random.Random(3)
                for start in range(0, count, 12):
                    contents = names(12, start)
                    ids.update(zip(contents, await world.remember(org_id, *contents), strict=True))
                    acknowledged += contents
                    for _ in range(4):
                        world.clock.advance(TICK)
                        await asyncio.sleep(0.01)
                        await world.sees_each_once(org_id, acknowledged)
                        content = rng.choice(acknowledged)
                        assert (await world.services.memories.get(org_id, ids[content])).content == content

                looks = itertools.count()

                async def emptied():
                    if next(looks) % 50 == 0:
                        await world.sees_each_once(org_id, acknowledged)
                    return await world.held(org_id) == NONE_HELD

                await world.until(emptied)
                await world.sees_each_once(org_id, acknowledged)
                assert world.stored() == acknowledged
                assert {write.stored for write in arc.writes} == {True, False}

    run(body())


@pytest.mark.parametrize("status", [400, 413, 500])
def test_a_bad_memory_is_set_aside_alone(tmp_path, any_arc, status):
    """Arc refuses one memory of a batch: that one is set aside and readable, its neighbours are delivered."""

    async def body():
        any_arc.faults.reject = {"m0003": status}
        async with World(tmp_path, any_arc, batch=8).running() as world:
            org_id = await world.org()
            ids = await world.remember(org_id, *names(11))

            async def aside():
                held = await world.held(org_id)
                return held == OrgHoldings(set_aside=1)

            await world.until(aside)
            assert world.stored() == [content for content in names(11) if content != "m0003"]
            await world.sees_each_once(org_id, names(11))
            assert (await world.services.memories.get(org_id, ids[3])).content == "m0003"
            await world.remember(org_id, "later")
            await world.until(aside)
            await world.sees_each_once(org_id, [*names(11), "later"])

    run(body())


@pytest.mark.parametrize("count", [2, 20])
def test_several_bad_memories_hold_nobody_up(tmp_path, any_arc, count):
    """Bad memories at the head of the line are all set aside, and what waits behind them is delivered."""

    async def body():
        any_arc.faults.reject = {"wicked": 500}
        async with World(tmp_path, any_arc, batch=100).running() as world:
            org_id = await world.org()
            bad = [f"wicked {number}" for number in range(count)]
            await world.remember(org_id, *bad, *names(5))

            async def aside():
                return await world.held(org_id) == OrgHoldings(set_aside=count)

            await world.until(aside)
            assert world.stored() == names(5)

    run(body())


def test_an_arc_with_many_refused_memories_can_still_be_read(tmp_path, arc):
    """However many memories are set aside, lists, counts and look-ups answer."""

    async def body():
        arc.faults.reject = {"wicked": 400}
        async with World(tmp_path, arc, batch=100).running() as world:
            org_id = await world.org()
            contents = [*(f"wicked {number}" for number in range(200)), *names(5)]
            ids = await world.remember(org_id, *contents)

            async def aside():
                return await world.held(org_id) == OrgHoldings(set_aside=200)

            await world.until(aside)
            await world.sees_each_once(org_id, contents)
            assert (await world.services.memories.get(org_id, ids[7])).content == "wicked 7"

    run(body())


def test_an_arc_that_fails_everything_sets_nothing_aside(tmp_path, any_arc):
    """Every write fails with 500 while a ping works: the memories wait, and are delivered when it is over."""

    async def body():
        any_arc.faults.error_before_share = 1.0
        async with World(tmp_path, any_arc).running() as world:
            org_id = await world.org()
            await world.remember(org_id, *names(40))

            async def tried():
                return len(any_arc.writes) >= 30

            await world.until(tried, timedelta(seconds=15))
            assert await world.held(org_id) == OrgHoldings(pending=40)
            any_arc.faults.clear()
            await world.until_empty(org_id)
            await world.sees_each_once(org_id, names(40))

    run(body())


def test_delivery_recovers_when_arc_comes_back(tmp_path, arc):
    """While Arc is down writes go on; when it is up again everything arrives, in order."""

    async def body():
        async with World(tmp_path, arc).running() as world:
            org_id = await world.org()
            arc.faults.down = True
            contents = []
            for start in range(0, 20, 4):
                await world.remember(org_id, *names(4, start))
                contents += names(4, start)
                world.clock.advance(timedelta(seconds=15))
                await asyncio.sleep(0.01)
            assert await world.held(org_id) == OrgHoldings(pending=20)
            arc.faults.down = False
            await world.until_delivered(org_id)
            assert list(dict.fromkeys(row["content"] for row in by_arrival(arc))) == contents
            await world.until_empty(org_id)
            await world.sees_each_once(org_id, contents)

    run(body())


@pytest.mark.parametrize("status", [401, 403])
def test_an_arc_that_refuses_our_key_keeps_everything_waiting(tmp_path, arc, status):
    """The memories stay, health says so, and a new key lets them through."""

    async def body():
        async with World(tmp_path, arc).running() as world:
            org_id = await world.org()
            wrong = arc.read_token if status == 403 else "wrong"
            await world.services.tenants.rebind(org_id, Binding(api_key=wrong))
            await world.remember(org_id, *names(7))

            async def refused():
                return len(arc.writes) >= 3

            await world.until(refused)
            assert {write.status for write in arc.writes} == {status}
            assert await world.held(org_id) == OrgHoldings(pending=7)
            assert await world.services.health.reachable() == {org_id: False}
            await world.services.tenants.rebind(org_id, Binding(api_key=arc.write_token))
            await world.until_empty(org_id)
            await world.services.health.check_all()
            assert await world.services.health.reachable() == {org_id: True}
            await world.sees_each_once(org_id, names(7))

    run(body())


def test_an_orgs_hanging_arc_delays_no_other_org(tmp_path, arc):
    """One org's requests are never answered: another's are delivered, confirmed and read meanwhile."""

    async def body():
        with ArcDouble(max_buffer_age_ms=0) as stuck:
            stuck.faults.hang = True
            async with World(tmp_path, arc, query_timeout=600.0).running() as world:
                org_id = await world.org()
                slow = await world.org("stuck", stuck)
                await world.remember(slow, *names(30))
                await world.remember(org_id, *names(30))
                hanging = asyncio.create_task(world.seen(slow))
                await world.until_empty(org_id)
                await world.sees_each_once(org_id, names(30))
                assert not hanging.done()
                assert await world.held(slow) == OrgHoldings(pending=30)
                stuck.faults.clear()
                assert sorted(await hanging) == names(30)
                await world.until_empty(slow)
                await world.sees_each_once(slow, names(30))

    run(body())


def test_a_restart_in_the_middle_loses_and_doubles_nothing(tmp_path, arc):
    """Pending, delivered, half confirmed: after each of several restarts everything is seen once."""

    async def body():
        world = World(tmp_path, arc)
        arc.faults.drop_share = 0.3
        contents, org_id = [], None
        for start in range(0, 60, 10):
            async with world.running():
                org_id = org_id or await world.org()
                await world.sees_each_once(org_id, contents)
                await world.remember(org_id, *names(10, start))
                contents += names(10, start)
                for _ in range(start // 10):
                    world.clock.advance(timedelta(seconds=5))
                    await asyncio.sleep(0.02)
                await world.sees_each_once(org_id, contents)
        arc.faults.clear()
        async with world.running():
            await world.until_empty(org_id)
            await world.sees_each_once(org_id, contents)
            assert world.stored() == contents

    run(body())


def test_memories_that_wait_are_delivered_when_the_server_stops(tmp_path, arc):
    """Stopping with time to drain sends what waits; the unconfirmed stays in the journal for the next start."""

    async def body():
        world = World(tmp_path, arc)
        async with world.running():
            org_id = await world.org()
            await world.remember(org_id, *names(3))
            await world.services.stop(timedelta(seconds=30))
        assert world.stored() == names(3)
        async with world.running():
            await world.sees_each_once(org_id, names(3))
            await world.until_empty(org_id)

    run(body())
