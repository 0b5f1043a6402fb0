"""Thousands of bound orgs: idle ones cost little, and checks of their Arcs are bounded."""

import asyncio
import gc
import tracemalloc
from datetime import timedelta

import pytest
from arc_double import ArcDouble
from builders import bound, instance, org, run, settle
from contracts.implementations import KnownKeyVault
from integration.test_arc_delivery import PATIENCE, World

from memtrace_arc import ArcGateway
from memtrace_core.health import CHECK_EVERY, MOST_AT_ONCE
from memtrace_core.services import build_services
from memtrace_core.tenants import Binding
from memtrace_core.testing import InMemoryMetadataRepo, ManualClock
from memtrace_sqlite import EnvelopeVault, MasterKey, SqliteJournal, SqliteMetadataRepo

ORGS = 1_000
MOST_BYTES_EACH = 20 << 10


@pytest.fixture
def arc():
    """An Arc that flushes at once."""
    with ArcDouble(max_buffer_age_ms=0) as double:
        yield double


async def services_for(arc, count, folder):
    """Return services with so many orgs, all bound to one Arc, each to a database of its own."""
    clock, repo, vault = ManualClock(), InMemoryMetadataRepo(), KnownKeyVault(arc.write_token)
    services = build_services(
        repo=repo,
        journal=SqliteJournal(folder / "journal.db", clock),
        gateway=ArcGateway(vault, clock),
        vault=vault,
        clock=clock,
    )
    return await bound(
        services,
        *(instance(f"org_{number}", url=arc.url, database=f"db{number}") for number in range(count)),
    )


async def until(condition):
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the double, in its thread, rings no bell
            await asyncio.sleep(0.002)


def test_checks_are_bounded_in_number_at_once(tmp_path, arc):
    """However many instances there are to check, so many requests are under way and no more."""

    async def body():
        services = await services_for(arc, 100, tmp_path)
        try:
            arc.faults.hang = True
            checking = asyncio.create_task(services.health.check_all())
            await until(lambda: arc.concurrent >= MOST_AT_ONCE)
            arc.faults.hang = False
            await checking
            assert arc.max_concurrent == MOST_AT_ONCE
            assert arc.requests >= 100
            arc.faults.clear()
            await services.health.check_all()
            assert set((await services.health.reachable()).values()) == {True}
            assert arc.max_concurrent <= MOST_AT_ONCE
        finally:
            await services.stop(timedelta(0))

    run(body())


def test_periodic_checks_are_spread_over_the_interval(tmp_path, arc):
    """A tenth of the interval brings about a tenth of the checks."""

    async def body():
        services = await services_for(arc, 50, tmp_path)
        try:
            await services.start()
            asked = []
            for _ in range(10):
                before = arc.requests
                for _ in range(5):
                    await settle()
                    services.clock.advance(CHECK_EVERY / 50)
                await until(lambda before=before: arc.requests >= before + 5)
                asked.append(arc.requests - before)
            assert asked == [5] * 10
        finally:
            await services.stop(timedelta(0))

    run(body())


def test_a_new_binding_is_checked_at_once(tmp_path, arc):
    """Health tells of an instance that nobody has checked yet by checking it, a good and a bad one."""

    async def body():
        async with World(tmp_path, arc).running() as world:
            assert await world.services.health.reachable() == {}
            good = await world.org("good")
            assert await world.services.health.reachable() == {good: True}
            bad = await world.org("bad")
            await world.services.tenants.rebind(bad, Binding(api_key="wrong"))
            assert await world.services.health.reachable() == {good: True, bad: False}
            await world.services.tenants.rebind(bad, Binding(api_key=arc.write_token))
            assert await world.services.health.reachable() == {good: True, bad: True}

    run(body())


@pytest.mark.slow
def test_an_idle_org_costs_little(tmp_path):
    """A thousand bound orgs, known to the server and idle, take less than 20 KiB each, and no request."""

    async def body():
        vault = EnvelopeVault(MasterKey(bytes(32)))
        clock = ManualClock()
        gc.collect()
        tracemalloc.start()
        try:
            repo = SqliteMetadataRepo(tmp_path / "memtrace.db", vault)
            for number in range(ORGS):
                one = instance(f"org_{number}", id=f"arc_{number}", url=f"http://arc{number}.invalid:8000")
                await repo.create_org(org(one.org_id))
                await repo.bind_instance(one)
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            services = build_services(
                repo=repo,
                journal=SqliteJournal(tmp_path / "journal.db", clock),
                gateway=ArcGateway(vault, clock),
                vault=vault,
                clock=clock,
            )
            await services.start()
            try:
                for _ in range(20):
                    await asyncio.sleep(0.005)
                for number in range(ORGS):
                    assert await services.memories._directory.instance(f"org_{number}")
                assert len(asyncio.all_tasks()) < 20
                gc.collect()
                after, _ = tracemalloc.get_traced_memory()
            finally:
                await services.stop(timedelta(0))
            assert (after - before) / ORGS < MOST_BYTES_EACH
        finally:
            tracemalloc.stop()

    run(body())
