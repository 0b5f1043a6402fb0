from datetime import timedelta

import pytest
from builders import ORG, bound, draft, in_memory, instance, run, settle

from memtrace_core.clock import SystemClock
from memtrace_core.errors import StorageUnavailable
from memtrace_core.health import CHECK_EVERY
from memtrace_core.memories import NewMemory
from memtrace_core.services import USES_EVERY, build_services
from memtrace_core.testing import (
    InMemoryGateway,
    InMemoryJournal,
    InMemoryMetadataRepo,
    ManualClock,
    TransparentVault,
)

NEW = [NewMemory(agent_id="ada", content="kept")]


def watch_closing(services):
    """Return a list that names the adapters in the order in which they are closed."""
    closed = []
    for name in ("gateway", "journal", "repo"):
        original = getattr(services, name).close

        async def close(name=name, original=original):
            closed.append(name)
            await original()

        getattr(services, name).close = close
    return closed


def keep_open(services):
    """Leave the journal open at the end, so that a test can look into it."""

    async def close():
        pass

    services.journal.close = close


def test_starting_takes_up_what_an_earlier_run_left():
    """Memories that wait in the journal when the services start are delivered."""

    async def body():
        before = await bound(in_memory())
        (kept,) = await before.journal.append(instance(), [draft()])
        after = in_memory(repo=before.repo, journal=before.journal, gateway=before.gateway, clock=before.clock)
        await after.start()
        await settle()
        after.clock.advance(timedelta(seconds=1))
        await settle()
        assert after.gateway.written == [[kept]]
        await after.stop()

    run(body())


def test_stopping_delivers_what_waits_and_releases_everything():
    """A memory that waits for its batch to fill is delivered before the gateway and the journal are closed."""

    async def body():
        services = await bound(in_memory())
        closed = watch_closing(services)
        await services.start()
        (kept,) = await services.memories.remember(ORG, NEW)
        await settle()
        assert services.gateway.written == []
        await services.stop()
        assert services.gateway.written == [[kept]]
        assert closed == ["gateway", "journal", "repo"]

    run(body())


def test_stopping_writes_down_the_uses_of_keys():
    """A key that was used since the last flush has its use on record after the end."""

    async def body():
        services = await bound(in_memory())
        key, secret = await services.tenants.create_key(ORG, "k")
        keep_open(services)
        await services.start()
        await services.access.authenticate(secret)
        await services.stop()
        assert await services.journal.key_uses([key.id]) == {key.id: services.clock.now()}

    run(body())


def test_stopping_releases_everything_though_the_journal_fails():
    """An error of the journal at the end keeps nothing open."""

    async def body():
        services = await bound(in_memory())
        closed = watch_closing(services)
        await services.start()

        async def fail():
            raise StorageUnavailable("the disk is gone")

        services.journal.pending_orgs = fail
        await services.stop()
        assert closed == ["gateway", "journal", "repo"]

    run(body())


def test_stopping_without_a_start_releases_everything():
    """A program that only uses the services, without background work, can close them too."""

    async def body():
        services = await bound(in_memory())
        closed = watch_closing(services)
        await services.stop()
        assert closed == ["gateway", "journal", "repo"]

    run(body())


def test_an_unreachable_arc_keeps_the_journal_and_does_not_stop_the_end():
    """What could not be delivered at the end stays in the journal."""

    async def body():
        services = await bound(in_memory())
        await services.start()
        keep_open(services)
        services.gateway.unreachable.add(instance().id)
        await services.memories.remember(ORG, NEW)
        await services.stop()
        assert (await services.journal.holdings(ORG)).pending == 1

    run(body())


def test_instances_are_checked_periodically():
    """Every interval the instances are pinged once, and an answer shows the newest result."""

    async def body():
        services = await bound(in_memory())
        await services.start()
        await settle()
        assert await services.health.reachable() == {ORG: True}
        services.gateway.unreachable.add(instance().id)
        services.clock.advance(CHECK_EVERY - timedelta(microseconds=1))
        await settle()
        assert await services.health.reachable() == {ORG: True}
        services.clock.advance(timedelta(microseconds=1))
        await settle()
        assert await services.health.reachable() == {ORG: False}
        services.gateway.unreachable.clear()
        services.clock.advance(CHECK_EVERY)
        await settle()
        assert await services.health.reachable() == {ORG: True}
        await services.stop()

    run(body())


@pytest.mark.parametrize("error", [StorageUnavailable("the disk is full"), ZeroDivisionError("a defect")])
def test_uses_of_keys_are_flushed_periodically_also_after_a_failure(error):
    """The periodic work goes on after an error, and even after a defect."""

    async def body():
        services = await bound(in_memory())
        key, secret = await services.tenants.create_key(ORG, "k")
        await services.start()
        await settle()
        original = services.journal.record_key_use

        async def fail(used):
            raise error

        services.journal.record_key_use = fail
        await services.access.authenticate(secret)
        services.clock.advance(USES_EVERY)
        await settle()
        services.journal.record_key_use = original
        assert await services.journal.key_uses([key.id]) == {}
        await services.access.authenticate(secret)
        used_at = services.clock.now()
        services.clock.advance(USES_EVERY)
        await settle()
        assert await services.journal.key_uses([key.id]) == {key.id: used_at}
        await services.stop()

    run(body())


def test_stopping_ends_the_periodic_work():
    """After the end no task sleeps on the clock any more."""

    async def body():
        services = await bound(in_memory())
        await services.start()
        await settle()
        assert services.clock.sleeping == 4
        await services.stop()
        assert services.clock.sleeping == 0

    run(body())


def test_the_clock_of_the_machine_is_used_if_none_is_given():
    """Embedders need not bring a clock."""
    journal = InMemoryJournal(SystemClock())
    services = build_services(
        repo=InMemoryMetadataRepo(), journal=journal, gateway=InMemoryGateway(journal), vault=TransparentVault()
    )
    assert isinstance(services.clock, SystemClock)


def test_closing_alone_releases_everything_and_delivers_nothing():
    """A command that only reads releases the adapters without waiting for any delivery."""

    async def body():
        services = await bound(in_memory())
        closed = watch_closing(services)
        await services.journal.append(instance(), [draft()])
        await services.close()
        assert closed == ["gateway", "journal", "repo"]
        assert services.gateway.written == []

    run(body())


def test_the_uptime_grows_with_the_clock_whatever_the_time_of_day_does():
    """How long the services have run is told by the monotonic clock, from when they were made."""
    clock = ManualClock()
    clock.advance(timedelta(hours=5))
    services = in_memory(clock=clock)
    assert services.uptime == timedelta(0)
    clock.advance(timedelta(hours=2, minutes=30, seconds=15))
    clock.set_back(timedelta(days=1))
    assert services.uptime == timedelta(hours=2, minutes=30, seconds=15)


def test_a_memory_is_delivered_confirmed_and_gone_from_the_journal():
    """All background work together takes a memory from the acknowledgement to Arc and out of the journal."""

    async def body():
        services = await bound(in_memory(durable=False))
        await services.start()
        (kept,) = await services.memories.remember(ORG, NEW)
        await settle()
        for _ in range(2):
            assert (await services.journal.holdings(ORG)).undelivered == 1
            services.clock.advance(timedelta(seconds=60))
            await settle()
        services.clock.advance(timedelta(seconds=61))
        await settle()
        assert (await services.journal.holdings(ORG)).undelivered == 0
        assert await services.memories.get(ORG, kept.memory_id) == kept
        await services.stop()

    run(body())


@pytest.mark.parametrize("durable", [True, False])
def test_a_delivery_is_durable_only_by_the_gateways_word(durable):
    """A delivered memory leaves the journal only if the gateway says that it is durable."""

    async def body():
        services = await bound(in_memory(durable=durable))
        await services.memories.remember(ORG, NEW)
        await services.delivery.drain(timedelta(seconds=1))
        held = await services.journal.holdings(ORG)
        assert (held.pending, held.delivered) == (0, 0 if durable else 1)

    run(body())
