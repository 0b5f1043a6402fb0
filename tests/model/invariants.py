"""What is compared between a server and what it promised, after every step and at the end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import timedelta

import pytest
from builders import AGENTS, walk

from memtrace_core.errors import NotFound
from memtrace_core.memories import Page
from memtrace_core.model import Memory
from memtrace_core.query import MemoryQuery, Order, position_of
from model.expected import Expected, ExpectedOrg, is_embedded
from model.worlds import World, come_to_rest

ALL = 1000
LIMITS = (1, 2, 3, 5, 8)
HOUR = timedelta(hours=1)


async def check(world: World, expected: Expected, step: int) -> None:
    """Compare everything that can be seen of every org; `step` varies what is asked."""
    for number, org in enumerate(expected.orgs):
        await check_journal(world, expected, org)
        if world.arc.away is not None and not is_embedded(org.place):
            await check_silence(world, org)
            continue
        await check_reads(world, org, step + number)
        await check_tenancy(world, org, expected.orgs[number - 1])
    check_order(world, expected)


async def check_journal(world: World, expected: Expected, org: ExpectedOrg) -> None:
    """Whatever has left the journal is safe where it belongs, and Arc answers for it."""
    view = await world.services.journal.view(MemoryQuery(org_id=org.org_id, order="asc", limit=ALL))
    arc = {place: world.arc.ids(place, org.org_id) for place in {one.place for one in org.held}}
    held = {one.memory_id for one in view.memories}
    assert [position_of(one) for one in view.memories] == sorted(map(position_of, view.memories))
    assert view.memories == [one.memory for one in org.held if one.memory.memory_id in held]
    for one in org.held:
        memory = one.memory
        if is_embedded(one.place):
            assert memory.memory_id not in held, "the embedded store holds it"
        elif memory.memory_id not in held:
            assert memory.memory_id in arc[one.place], f"{memory} has left the journal, and is not in Arc"
            assert view.horizon.before > memory.time, "Arc may not answer for a memory that only it has"
    # What was set aside was refused when it was alone.
    for memory_id in view.horizon.set_aside:
        assert world.arc.blamed[memory_id] > 0, "a memory was set aside that Arc has not refused"
    if expected.last >= world.clock.now() - HOUR:
        assert view.horizon.before <= expected.last + timedelta(microseconds=1)


async def check_silence(world: World, org: ExpectedOrg) -> None:
    """Without Arc there is no answer, rather than half of one."""
    assert world.arc.away is not None
    memories = world.services.memories
    with pytest.raises(world.arc.away):
        await memories.find(MemoryQuery(org_id=org.org_id))
    with pytest.raises(world.arc.away):
        await memories.count(org.org_id, AGENTS[0])


async def check_reads(world: World, org: ExpectedOrg, step: int) -> None:
    """Every read sees exactly what it must: all at once, page by page both ways, counted, and one by one."""
    memories = world.services.memories
    page = await memories.find(MemoryQuery(org_id=org.org_id, order="asc", limit=ALL))
    assert page.next is None
    check_seen(org, page.memories, "asc")
    enough = len(org.possible()) // 8  # a long list in pages of one would take most of the time
    turns: tuple[tuple[Order, int], ...] = (("desc", step), ("asc", step + 2))
    for order, turn in turns:
        limit = LIMITS[turn % len(LIMITS)] + enough
        check_seen(org, await page_by_page(world, MemoryQuery(org_id=org.org_id, order=order, limit=limit)), order)
    skipped = step % 7
    page = await memories.find(MemoryQuery(org_id=org.org_id, limit=ALL, offset=skipped))
    if org.possible() == org.certain():
        assert page.memories == org.certain()[::-1][skipped:]
    agent_id = AGENTS[step % 2]
    fewest, most = ([one for one in some() if one.agent_id == agent_id] for some in (org.certain, org.possible))
    counts = await memories.count(org.org_id, agent_id)
    assert len(fewest) <= counts.total <= len(most)
    assert counts.total == sum(counts.by_type.values())
    if certain := org.certain():
        one = certain[step % len(certain)]
        assert await memories.get(org.org_id, one.memory_id) == one


async def page_by_page(world: World, query: MemoryQuery) -> list[Memory]:
    """Return all memories that match, a page after another."""
    found: list[Memory] = []
    page: Page = await world.services.memories.find(query)
    while page.next is not None:
        assert len(page.memories) == query.limit
        found += page.memories
        page = await world.services.memories.find(query.following(page.next))
    return found + page.memories


def check_seen(org: ExpectedOrg, seen: Sequence[Memory], order: Order) -> None:
    """Compare memories with what must and what may be seen: each once, in order, and nothing else."""
    seen = list(seen) if order == "asc" else list(seen)[::-1]
    places = [position_of(one) for one in seen]
    assert all(one < other for one, other in itertools.pairwise(places)), "out of order, or twice"
    certain, possible = org.certain(), org.possible()
    missing = [one for one in certain if one not in seen]
    strange = [one for one in seen if one not in possible]
    assert (missing, strange) == ([], [])


async def check_query(world: World, org: ExpectedOrg, query: MemoryQuery) -> None:
    """A filtered read is answered as the query's own definition says."""
    if world.arc.away is not None and not is_embedded(org.place):
        return
    certain = org.certain()
    if certain != org.possible():
        return
    wanted = walk(query, certain)
    assert await page_by_page(world, query) == wanted[query.offset :]


async def check_tenancy(world: World, org: ExpectedOrg, other: ExpectedOrg) -> None:
    """One org's id opens nothing in another."""
    if other is not org and other.held:
        with pytest.raises(NotFound):
            await world.services.memories.get(org.org_id, other.held[-1].memory.memory_id)


def check_order(world: World, expected: Expected) -> None:
    """Arc is offered an org's memories in their order, each for the first time."""
    unmoved = {org.org_id for org in expected.orgs if not org.moved}
    for (org_id, _), offered in world.arc.first_attempts.items():
        if org_id in unmoved:
            times = [one.time for one in offered.values()]
            assert times == sorted(times), f"{org_id} was delivered out of order"


async def bring_everything_home(world: World, expected: Expected) -> None:
    """Let time pass, with an Arc that is well, until nothing waits any more."""
    journal = world.services.journal
    for _ in range(300):
        await come_to_rest(world.calls)
        waiting = [journal.pending_orgs(), journal.unconfirmed_orgs(), journal.forgetting_orgs()]
        if not any([await one for one in waiting]):
            return
        world.clock.advance(timedelta(minutes=10))
    left = {org.org_id: await journal.holdings(org.org_id) for org in expected.orgs}
    oldest = [await journal.next_batch(org_id, 9, 1 << 30) for org_id in await journal.pending_orgs()]
    raise AssertionError(f"some of this still waits: {left}; the oldest are {oldest}")


async def check_end(world: World, expected: Expected) -> None:
    """Everything is where it belongs, once, but for what Arc refuses: that is in the journal."""
    for org in expected.orgs:
        view = await world.services.journal.view(MemoryQuery(org_id=org.org_id, limit=ALL))
        aside = {one.memory_id for one in view.memories}
        assert {one.memory.memory_id for one in org.held if one.stays} <= aside
        assert all(world.arc.blamed[memory_id] for memory_id in aside)
        for place in {one.place for one in org.held}:
            wanted = {one.memory.memory_id for one in org.held if one.place == place} - aside
            if is_embedded(place):
                continue
            assert wanted <= world.arc.ids(place, org.org_id)
        everywhere = {place for one in org.held for place in one.places}
        known = {one.memory.memory_id for one in org.held}
        for place in everywhere:
            if not is_embedded(place):
                # What was forgotten may be left where the org was once.
                assert world.arc.ids(place, org.org_id) <= known | (org.gone if place != org.place else set())
        holdings = await world.services.tenants.holdings(org.org_id)
        embedded = sum(is_embedded(one.place) for one in org.held)
        assert (holdings.undelivered, holdings.set_aside, holdings.embedded) == (len(aside), len(aside), embedded)
