"""Changing an org's binding while memories of it are on their way."""

from datetime import timedelta

import pytest
from arc_double import ArcDouble
from builders import run
from integration.test_arc_delivery import NONE_HELD, World, names

from memtrace_core.entries import OrgHoldings
from memtrace_core.errors import NoArcInstance
from memtrace_core.tenants import Binding


@pytest.fixture
def arcs():
    """Two Arcs that flush at once: the old one and the new one."""
    with ArcDouble(max_buffer_age_ms=0) as old, ArcDouble(max_buffer_age_ms=0) as new:
        yield old, new


def to(arc, database="acme"):
    """Return a binding to an Arc."""
    return Binding(url=arc.url, api_key=arc.write_token, database=database)


def test_pending_memories_still_go_where_they_were_accepted_for(tmp_path, arcs):
    """What waits goes to the old Arc, what comes to the new one, and each is seen once until then."""

    async def body():
        old, new = arcs
        async with World(tmp_path, old).running() as world:
            org_id = await world.org()
            old.faults.down = True
            await world.remember(org_id, *names(7))
            await world.services.tenants.rebind(org_id, to(new))
            await world.sees_each_once(org_id, names(7))
            await world.remember(org_id, *names(4, 7))
            await world.sees_each_once(org_id, names(11))
            old.faults.down = False
            await world.until_empty(org_id)
            assert world.stored(arc=old) == names(7)
            assert world.stored(arc=new) == names(4, 7)
            await world.sees_each_once(org_id, names(4, 7))

    run(body())


def test_with_the_old_arc_dead_every_memory_is_seen_once(tmp_path, arcs):
    """Some pending, some delivered to an Arc that then dies: all are shown, until moved and ever after."""

    async def body():
        old, new = arcs
        async with World(tmp_path, old).running() as world:
            org_id = await world.org()
            await world.remember(org_id, *names(6))
            await world.until_delivered(org_id)
            old.kill()
            await world.remember(org_id, *names(6, 6))
            await world.services.tenants.rebind(org_id, to(new))
            await world.remember(org_id, *names(6, 12))
            for _ in range(20):
                world.clock.advance(timedelta(seconds=5))
                await world.sees_each_once(org_id, names(18))
            assert (await world.held(org_id)).undelivered == 18
            assert await world.services.tenants.move_pending(org_id) == 18
            world.services.delivery.wake(org_id)

            async def emptied():
                await world.sees_each_once(org_id, names(18))
                return await world.held(org_id) == NONE_HELD

            await world.until(emptied)
            assert world.stored(arc=new) == names(18)

    run(body())


def test_moving_what_the_new_place_holds_already_doubles_nothing(tmp_path, arcs):
    """Delivered here, bound away and back, moved: the same rows again, and one memory each."""

    async def body():
        old, new = arcs
        async with World(tmp_path, old).running() as world:
            org_id = await world.org()
            await world.remember(org_id, *names(6))
            await world.until_delivered(org_id)
            await world.services.tenants.rebind(org_id, to(new))
            await world.services.tenants.rebind(org_id, to(old))
            await world.sees_each_once(org_id, names(6))
            assert await world.services.tenants.move_pending(org_id) == 6
            world.services.delivery.wake(org_id)
            await world.until_empty(org_id)
            assert len(old.rows("acme", "events")) == 12
            await world.sees_each_once(org_id, names(6))

    run(body())


def test_set_aside_memories_stay_aside_when_others_are_moved(tmp_path, arcs):
    """What the old Arc refused has no place in line any more: it stays readable, and hides nothing younger."""

    async def body():
        old, _ = arcs
        old.faults.reject = {"m0001": 400}
        async with World(tmp_path, old).running() as world:
            org_id = await world.org()
            await world.remember(org_id, *names(3))

            async def aside():
                return await world.held(org_id) == OrgHoldings(set_aside=1)

            await world.until(aside)
            assert await world.services.tenants.move_pending(org_id) == 0
            await world.sees_each_once(org_id, names(3))

    run(body())


def test_an_org_without_arc_still_delivers_what_it_had(tmp_path, arcs):
    """After `remove-arc` reads and writes are refused, and memories that waited arrive all the same."""

    async def body():
        old, _ = arcs
        async with World(tmp_path, old).running() as world:
            org_id = await world.org()
            old.faults.down = True
            await world.remember(org_id, *names(7))
            await world.services.tenants.unbind(org_id)
            with pytest.raises(NoArcInstance):
                await world.seen(org_id)
            with pytest.raises(NoArcInstance):
                await world.remember(org_id, "too late")
            old.faults.down = False
            await world.until_empty(org_id)
            assert world.stored() == names(7)

    run(body())


def test_a_new_key_is_used_for_what_waits_and_for_reads(tmp_path, arcs):
    """Changing the key alone keeps the instance: old and new memories go the same way."""

    async def body():
        old, _ = arcs
        async with World(tmp_path, old).running() as world:
            org_id = await world.org()
            old.faults.down = True
            await world.remember(org_id, *names(2))
            before = await world.services.tenants.instance_of(org_id)
            after = await world.services.tenants.rebind(org_id, Binding(api_key=old.admin_token))
            assert after.id == before.id
            old.faults.down = False
            await world.until_empty(org_id)
            await world.sees_each_once(org_id, names(2))

    run(body())
