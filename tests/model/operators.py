"""What operators do to orgs, and what must come of it."""

from __future__ import annotations

from memtrace_core.errors import Conflict
from memtrace_core.model import DEFAULT_ORG_ID
from memtrace_core.query import MemoryQuery
from memtrace_core.tenants import Binding
from model.expected import Expected, ExpectedOrg, is_embedded
from model.worlds import World, come_to_rest

MANY = 1000
EVERYTHING = 1 << 30


async def new_org(world: World, binding: Binding, *, default: bool) -> ExpectedOrg:
    """Make an org and bind it; the default one comes back under its id when it was deleted."""
    tenants = world.services.tenants
    org = await (tenants.ensure_default_org() if default else tenants.create_org("another"))
    assert (org.id == DEFAULT_ORG_ID) is default
    return ExpectedOrg(org.id, await tenants.bind(org.id, binding))


async def rebind(world: World, org: ExpectedOrg, to: Binding) -> None:
    """Bind an org to another place, or to the same one with another key."""
    org.instance = await world.services.tenants.rebind(org.org_id, to)


async def move_pending(world: World, org: ExpectedOrg) -> None:
    """Give an org's present place everything that waits, but what an Arc has refused to no other Arc."""
    await come_to_rest(world.calls)
    journal, tenants = world.services.journal, world.services.tenants
    everything = MemoryQuery(org_id=org.org_id, limit=MANY)
    waiting = (await journal.view(everything)).memories
    aside = (await tenants.holdings(org.org_id)).set_aside
    moved = await tenants.move_pending(org.org_id)
    left = (await journal.view(everything)).memories
    if is_embedded(org.place):
        assert (moved, left) == (len(waiting), [])
        org.move({one.memory_id for one in waiting})
        return
    assert (moved, left) == (len(waiting) - aside, waiting)
    batch = await journal.next_batch(org.org_id, MANY, EVERYTHING)
    assert (len(batch.keys) if batch else 0) == moved
    if batch is not None:
        assert batch.instance_id == org.instance.id
        org.move({one.memory_id for one in batch.memories})


async def forget(world: World, expected: Expected, org: ExpectedOrg, scope: str, which: int) -> None:
    """Forget a memory, or all of an agent or a session; from then on nobody may see it, whatever happens."""
    forgetting = world.services.forgetting
    if scope == "memory":
        known = org.certain()
        if not known:
            return
        order = await forgetting.memory(org.org_id, known[which % len(known)].memory_id)
    elif scope == "session":
        order = await forgetting.session(org.org_id, "s1")
    else:
        order = await forgetting.agent(org.org_id, scope)
    expected.last = order.made_at
    org.forget(order.what)


async def delete_org(world: World, org: ExpectedOrg, *, discard: bool) -> bool:
    """Delete an org, and tell whether it was: not while memories would be lost, unless that is wished."""
    await come_to_rest(world.calls)
    tenants = world.services.tenants
    held = await tenants.holdings(org.org_id)
    try:
        await tenants.delete_org(org.org_id, discard_pending=discard)
    except Conflict:
        assert held.undelivered > 0
        assert not discard
        assert await tenants.holdings(org.org_id) == held
        return False
    assert discard or not held.undelivered
    world.arc.wipe(org.org_id)
    return True
