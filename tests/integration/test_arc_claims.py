"""Dedup over Arc: a fresh journal learns in the background what an Arc holds already."""

from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from arc_double import ArcDouble
from builders import MICROSECOND, START, memory, run, settle
from contracts.implementations import KnownKeyVault
from integration.test_arc_delivery import World

from memtrace_arc import ArcGateway
from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import Duplicate
from memtrace_core.errors import ArcUnreachable
from memtrace_core.memories import NewMemory
from memtrace_core.model import Memory
from memtrace_core.services import build_services
from memtrace_core.tenants import Binding
from memtrace_sqlite import SqliteJournal

HOUR = timedelta(hours=1)


class HalfRead(ArcGateway):
    """A gateway that gives so many pages of claims of an instance, and then fails for it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.pages_of, self.refused = {}, False

    async def query(self, instance, query):
        """Give a page, or fail."""
        if query.order == "asc" and instance.id in self.pages_of:
            if self.pages_of[instance.id] == 0:
                self.refused = True
                raise ArcUnreachable("no more pages")
            self.pages_of[instance.id] -= 1
        return await super().query(instance, query)


class Fresh(World):
    """A server whose journal is new while its Arc is not; dedup is on."""

    @asynccontextmanager
    async def running(self):
        """Start the services, with a window of 24 hours."""
        vault = KnownKeyVault(self.arc.write_token)
        dedup = DedupPolicy()
        self.gateway = HalfRead(vault, self.clock, query_timeout=20.0)
        self.services = build_services(
            repo=self.repo,
            journal=SqliteJournal(self._folder / "journal.db", self.clock, dedup),
            gateway=self.gateway,
            vault=vault,
            clock=self.clock,
            dedup=dedup,
        )
        await self.services.start()
        try:
            yield self
        finally:
            await self.services.stop(timedelta(0))

    async def arc_holds(self, org_id, count, *, age=HOUR, prefix="k"):
        """Put memories of another node into the org's Arc, the first of them `age` old."""
        one = await self.services.tenants.instance_of(org_id)
        kept = [
            memory(START - age + number * MICROSECOND, org_id, salt=number, dedup_key=f"{prefix}{number}")
            for number in range(count)
        ]
        await self.gateway.write(one, kept)
        return kept

    async def store(self, org_id, *keys):
        """Store memories with these keys, and return what became of each."""
        return await self.services.memories.remember(
            org_id, [NewMemory(agent_id="ada", content=key, dedup_key=key) for key in keys]
        )

    async def until_loaded(self, org_id):
        """Let time pass until the claims of the org's instance are all here."""
        one = await self.services.tenants.instance_of(org_id)

        async def loaded():
            return await self.services.journal.claims_loaded(one)

        await self.until(loaded, timedelta(seconds=5))


@pytest.fixture
def arc():
    """An Arc that flushes at once."""
    with ArcDouble(max_buffer_age_ms=0) as double:
        yield double


def test_what_arc_holds_within_the_window_is_a_duplicate(tmp_path, arc):
    """After loading, keys from all pages are claimed, by the memories that have them; new ones are not."""

    async def body():
        async with Fresh(tmp_path, arc).running() as world:
            org_id = await world.org()
            kept = await world.arc_holds(org_id, 250)
            await world.seen(org_id)
            await world.until_loaded(org_id)
            assert await world.store(org_id, "k0", "k120", "k249") == [
                Duplicate(kept[number].memory_id) for number in (0, 120, 249)
            ]
            (stored,) = await world.store(org_id, "new")
            assert isinstance(stored, Memory)

    run(body())


def test_what_is_older_than_the_window_is_free(tmp_path, arc):
    """A memory that is stored for longer than the window claims nothing."""

    async def body():
        async with Fresh(tmp_path, arc).running() as world:
            org_id = await world.org()
            await world.arc_holds(org_id, 3, age=25 * HOUR)
            await world.seen(org_id)
            await world.until_loaded(org_id)
            (stored,) = await world.store(org_id, "k1")
            assert isinstance(stored, Memory)

    run(body())


def test_no_write_waits_for_the_claims(tmp_path, arc):
    """While Arc answers no query, writes are acknowledged; the claims follow when it does."""

    async def body():
        async with Fresh(tmp_path, arc).running() as world:
            org_id = await world.org()
            kept = await world.arc_holds(org_id, 10)
            arc.faults.hang_queries = True
            outcomes = await world.store(org_id, "new", "k3")
            assert [type(each) for each in outcomes] == [Memory, Memory]
            arc.faults.clear()
            await world.until_loaded(org_id)
            # The claim that was made here stays: the key is not given to the older memory.
            assert await world.store(org_id, "k3", "k4") == [
                Duplicate(outcomes[1].memory_id),
                Duplicate(kept[4].memory_id),
            ]

    run(body())


def test_loading_goes_on_after_failures(tmp_path, arc):
    """Queries that fail delay the claims, and lose none."""

    async def body():
        async with Fresh(tmp_path, arc).running() as world:
            org_id = await world.org()
            kept = await world.arc_holds(org_id, 350)
            arc.faults.query_error_share = 0.6
            await world.store(org_id, "new")
            await world.until_loaded(org_id)
            arc.faults.clear()
            keys = [f"k{number}" for number in range(350)]
            assert await world.store(org_id, *keys) == [Duplicate(each.memory_id) for each in kept]

    run(body())


def test_claims_are_loaded_once(tmp_path, arc):
    """A later start finds the mark and asks Arc for nothing; the claims are still there."""

    async def body():
        world = Fresh(tmp_path, arc)
        async with world.running():
            org_id = await world.org()
            await world.arc_holds(org_id, 5)
            await world.seen(org_id)
            await world.until_loaded(org_id)
        arc.clear_records()
        async with world.running():
            (outcome,) = await world.store(org_id, "k2")
            assert isinstance(outcome, Duplicate)
            await settle()
            assert [query.sql for query in arc.queries] == []

    run(body())


def test_an_arc_that_an_org_is_bound_to_meanwhile_gives_all_its_claims(tmp_path, arc):
    """The second Arc is read from the beginning, though the first one was half read when the binding changed."""

    async def body():
        with ArcDouble(max_buffer_age_ms=0) as second:
            async with Fresh(tmp_path, arc).running() as world:
                org_id = await world.org()
                await world.arc_holds(org_id, 150)
                one = await world.services.tenants.instance_of(org_id)
                world.gateway.pages_of[one.id] = 1
                await world.seen(org_id)

                async def half_read():
                    return world.gateway.pages_of[one.id] == 0 and world.gateway.refused

                await world.until(half_read, timedelta(0))
                binding = Binding(url=second.url, api_key=second.write_token, database="acme")
                await world.services.tenants.rebind(org_id, binding)
                early = await world.arc_holds(org_id, 20, age=3 * HOUR, prefix="early")
                await world.seen(org_id)
                await world.until_loaded(org_id)
                assert await world.store(org_id, "early7") == [Duplicate(early[7].memory_id)]

    run(body())
