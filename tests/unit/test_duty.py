import asyncio
from datetime import timedelta

import pytest
from builders import ORG, bound, draft, in_memory, instance, run, settle

from memtrace_core.confirmation import ConfirmationPolicy
from memtrace_core.errors import StorageUnavailable
from memtrace_core.memories import NewMemory
from memtrace_core.services import LOOK_EVERY
from memtrace_core.testing import InMemoryOwnership

NEW = [NewMemory(agent_id="ada", content="kept")]
FLUSH = timedelta(seconds=1)
LOOK = timedelta(seconds=0.25)


async def a_pair(**others):
    """Return the services of two processes that share everything but their memory; the first one is the owner."""
    contenders = []
    one = await bound(in_memory(ownership=InMemoryOwnership(contenders), **others))
    shared = {name: getattr(one, name) for name in ("repo", "journal", "gateway", "clock")}
    other = in_memory(ownership=InMemoryOwnership(contenders), **shared, **others)
    for each in (one, other):
        await each.start()
    await settle()
    return one, other


def keep_open(*services):
    """Let none of the services close what they share."""

    async def close():
        pass

    for each in services:
        each.gateway.close = each.journal.close = each.repo.close = close


async def pass_by(services, time):
    """Let time pass, in steps that are shorter than the time between two looks."""
    for _ in range(time // (LOOK / 2)):
        services.clock.advance(LOOK / 2)
        await settle()


def test_only_the_owner_delivers_and_takes_up_what_others_append():
    """What is appended by the other process is delivered once, soon after the flush interval."""

    async def body():
        one, other = await a_pair()
        (kept,) = await other.memories.remember(ORG, NEW)
        await settle()
        await pass_by(one, FLUSH)
        assert one.gateway.written == []  # the other one would have delivered it by now
        await pass_by(one, LOOK)
        assert one.gateway.written == [[kept]]
        await pass_by(one, LOOK_EVERY)
        assert one.gateway.written == [[kept]]
        keep_open(one)
        await one.stop()
        await other.stop()

    run(body())


def test_nothing_is_looked_for_while_the_journal_stands_still():
    """Whose memories wait is asked only when something was written."""

    async def body():
        one, other = await a_pair()
        one.journal.version = lambda: 7
        await pass_by(one, LOOK * 2)
        looks = []

        async def pending_orgs():
            looks.append(1)
            return []

        one.journal.pending_orgs = pending_orgs
        await pass_by(one, LOOK * 4)
        assert looks == []
        one.journal.version = lambda: 8
        await pass_by(one, LOOK * 4)
        assert looks == [1]
        keep_open(one)
        await one.stop()
        await other.stop()

    run(body())


def test_another_process_takes_over_when_the_owner_has_ended():
    """What the former owner has left, delivered or not, is delivered and confirmed by the next one."""

    async def body():
        one, other = await a_pair(durable=False, confirmation=ConfirmationPolicy(settle=LOOK_EVERY))
        (first,) = await one.memories.remember(ORG, NEW)
        await pass_by(one, FLUSH + LOOK)
        one.gateway.unreachable.add(instance().id)
        (second,) = await one.journal.append(instance(), [draft("left")])
        keep_open(one)
        await one.stop()
        held = await one.journal.holdings(ORG)
        assert (held.pending, held.delivered) == (1, 1)
        one.gateway.unreachable.clear()
        await pass_by(other, LOOK + FLUSH)
        assert other.gateway.written == [[first], [second]]
        await pass_by(other, 2 * LOOK_EVERY)
        assert (await other.journal.holdings(ORG)).undelivered == 0
        await other.stop()

    run(body())


def test_a_process_that_ends_beside_the_owner_leaves_delivery_to_it():
    """Its last memories wait in the journal, and go the way of all others."""

    async def body():
        one, other = await a_pair()
        (kept,) = await other.memories.remember(ORG, NEW)
        keep_open(other)
        await other.stop()
        assert one.gateway.written == []
        await pass_by(one, LOOK + FLUSH)
        assert one.gateway.written == [[kept]]
        await one.stop()

    run(body())


def test_the_last_one_to_end_delivers_what_came_after_the_owner():
    """A request may end after the owner has gone: its memory still goes out at the end."""

    async def body():
        one, other = await a_pair()
        keep_open(one)
        await one.stop()
        (kept,) = await other.memories.remember(ORG, NEW)
        await other.stop()
        assert other.gateway.written == [[kept]]

    run(body())


@pytest.mark.parametrize("error", [StorageUnavailable("the disk is away"), ZeroDivisionError("a defect")])
def test_a_look_that_fails_is_repeated(error):
    """After an error of the journal, and even after a defect, the owner goes on looking."""

    async def body():
        one, other = await a_pair()
        version = one.journal.version

        def fail():
            raise error

        one.journal.version = fail
        await pass_by(one, FLUSH)
        one.journal.version = version
        await pass_by(one, LOOK_EVERY)
        (kept,) = await other.memories.remember(ORG, NEW)
        await pass_by(one, LOOK * 2 + FLUSH)
        assert one.gateway.written == [[kept]]
        keep_open(one)
        await one.stop()
        await other.stop()

    run(body())


def test_nothing_is_under_way_after_the_end():
    """What the last delivery has brought to Arc is confirmed by the next run: no task is left that would look."""

    async def body():
        services = await bound(in_memory())
        services.gateway._durable = False
        await services.start()
        await services.memories.remember(ORG, NEW)
        await services.stop()
        await settle()
        assert services.gateway.written
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(body())
