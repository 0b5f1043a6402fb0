"""What an operator sees of the journal and does to it, over the in-memory adapters."""

from datetime import timedelta

import pytest
from builders import ORG, OTHER_ORG, bound, draft, in_memory, instance, org, run, settle

from memtrace_core import backlog as backlog_module
from memtrace_core.confirmation import ConfirmationPolicy
from memtrace_core.delivery import DeliveryPolicy
from memtrace_core.entries import EntryState, OrgHoldings
from memtrace_core.errors import NotFound
from memtrace_core.memories import NewMemory
from memtrace_core.query import MemoryQuery
from memtrace_core.testing import InMemoryJournal, ManualClock

ALL = tuple(EntryState)
PENDING, DELIVERED, SET_ASIDE = EntryState.PENDING, EntryState.DELIVERED, EntryState.SET_ASIDE
ARC, OTHER_ARC = instance(ORG), instance(OTHER_ORG)
MANY = 1 << 30
SETTLE = timedelta(minutes=2)


@pytest.fixture(autouse=True)
def small_portions(monkeypatch):
    """Let three entries be a portion, so that a few memories are many portions."""
    monkeypatch.setattr(backlog_module, "PORTION", 3)


async def opened(**others):
    """Return services with two orgs, each bound to an Arc."""
    return await bound(in_memory(**others), ARC, OTHER_ARC)


async def append(services, *contents, one=ARC):
    """Put memories into the journal, without waking anybody."""
    return await services.journal.append(one, [draft(content) for content in contents])


async def deliver(services, count):
    """Mark the oldest pending memories as delivered."""
    batch = await services.journal.next_batch(ORG, count, MANY)
    await services.journal.mark_delivered(batch, durable=False)


async def set_aside(services, count, answer="bad column"):
    """Set the oldest pending memories aside."""
    await services.journal.set_aside(await services.journal.next_batch(ORG, count, MANY), answer)


async def in_three_states(services):
    """Return an org's memories: two set aside, two delivered, two pending; a foreign one is pending, too."""
    kept = await append(services, "s1", "s2", "d1", "d2", "p1", "p2")
    await append(services, "foreign", one=OTHER_ARC)
    await set_aside(services, 2)
    await deliver(services, 2)
    return kept


async def contents(services, *states, org_id=ORG):
    """Return the contents that the journal shows for an org, in their order."""
    return [entry.memory.content async for entry in services.backlog.entries(org_id, states or ALL)]


def ids(memories):
    """Return the ids of memories."""
    return [memory.memory_id for memory in memories]


def test_the_status_names_every_org_and_counts_where_something_waits():
    """The oldest org comes first, and one that waits for nothing has no backlog."""

    async def body():
        services = await opened()
        await services.repo.create_org(org("org_idle", created_at=org().created_at - timedelta(days=1)))
        _, _, delivered, *_ = await in_three_states(services)
        idle, one, other = await services.backlog.status()
        assert (idle[0].id, idle[1]) == ("org_idle", None)
        assert [one[0].id, other[0].id] == [ORG, OTHER_ORG]
        assert (one[1].pending, one[1].delivered, one[1].set_aside) == (2, 2, 2)
        assert one[1].oldest == delivered.time
        assert (other[1].pending, other[1].delivered, other[1].set_aside) == (1, 0, 0)

    run(body())


def test_the_status_of_a_new_installation_is_empty():
    """Without orgs there is nothing to tell."""
    assert run(in_memory().backlog.status()) == []


def test_entries_come_whole_and_in_order_though_they_are_read_in_portions():
    """Every memory of the org comes once, the oldest first, whatever the size of a portion."""

    async def body():
        services = await opened()
        written = [f"m{number}" for number in range(10)]
        kept = await append(services, *written)
        await append(services, "foreign", one=OTHER_ARC)
        found = [entry async for entry in services.backlog.entries(ORG, ALL)]
        assert [entry.memory for entry in found] == kept
        assert {entry.state for entry in found} == {PENDING}

    run(body())


def test_entries_are_not_read_before_they_are_wanted():
    """Who stops after the first has made the journal read one portion."""

    async def body():
        services = await opened()
        await append(services, *(f"m{number}" for number in range(10)))
        limits = []
        entries = services.journal.entries

        async def watched(org_id, states, limit, after=0):
            limits.append(limit)
            return await entries(org_id, states, limit, after)

        services.journal.entries = watched
        async for _ in services.backlog.entries(ORG, ALL):
            break
        assert limits == [3]

    run(body())


def test_entries_can_be_of_some_states_only():
    """Each state by itself, several together in the order of time, and none for no state."""

    async def body():
        services = await opened()
        await in_three_states(services)
        assert await contents(services) == ["s1", "s2", "d1", "d2", "p1", "p2"]
        assert await contents(services, PENDING) == ["p1", "p2"]
        assert await contents(services, DELIVERED) == ["d1", "d2"]
        assert await contents(services, PENDING, SET_ASIDE) == ["s1", "s2", "p1", "p2"]
        assert [entry async for entry in services.backlog.entries(ORG, ())] == []

    run(body())


def test_what_was_set_aside_can_be_retried_all_at_once():
    """Without names every one of the org goes; a second time there is none left."""

    async def body():
        services = await opened()
        await in_three_states(services)
        assert await services.backlog.retry(OTHER_ORG) == 0
        assert await services.backlog.retry(ORG) == 2
        assert await contents(services, PENDING) == ["s1", "s2", "p1", "p2"]
        assert await services.backlog.retry(ORG) == 0

    run(body())


def test_only_the_named_memories_are_retried():
    """The others stay set aside, and a name given twice counts once."""

    async def body():
        services = await opened()
        _, second, *_ = await in_three_states(services)
        assert await services.backlog.retry(ORG, [second.memory_id, second.memory_id]) == 1
        assert await contents(services, SET_ASIDE) == ["s1"]

    run(body())


@pytest.mark.parametrize("wrong", ["unknown", "pending", "delivered", "foreign"])
def test_nothing_is_retried_when_one_name_is_wrong(wrong):
    """An id that is unknown, not set aside, or of another org is named in the error, and none is sent."""

    async def body():
        services = await opened()
        aside, _, delivered, _, pending, _ = await in_three_states(services)
        (foreign,) = await append(services, "also foreign", one=OTHER_ARC)
        bad = {"unknown": "mem_x", "pending": pending, "delivered": delivered, "foreign": foreign}[wrong]
        bad_id = getattr(bad, "memory_id", bad)
        with pytest.raises(NotFound, match=rf"not set aside .*: {bad_id}$"):
            await services.backlog.retry(ORG, [aside.memory_id, bad_id])
        assert await contents(services, SET_ASIDE) == ["s1", "s2"]

    run(body())


def test_a_retried_memory_is_delivered_by_services_that_run():
    """Those that were started before notice it at their next look, and the journal is empty in the end."""

    async def body():
        services = await opened()
        kept = await append(services, "refused once")
        await set_aside(services, 1)
        await services.start()
        await services.backlog.retry(ORG)
        for _ in range(3):
            services.clock.advance(timedelta(seconds=5))
            await settle()
        assert services.gateway.written == [kept]
        assert await services.journal.holdings(ORG) == OrgHoldings()
        await services.stop()

    run(body())


def test_the_named_memories_are_dropped():
    """Whatever their states, and no others."""

    async def body():
        services = await opened()
        kept = await in_three_states(services)
        assert await services.backlog.drop(ORG, ids(kept[::2])) == 3
        assert await contents(services) == ["s2", "d2", "p2"]
        assert await contents(services, org_id=OTHER_ORG) == ["foreign"]

    run(body())


@pytest.mark.parametrize("state", ALL)
def test_all_memories_in_a_state_are_dropped(state):
    """Over many portions, and nothing in another state."""

    async def body():
        services = await opened()
        await append(services, *(f"s{number}" for number in range(7)))
        await set_aside(services, 7)
        await append(services, *(f"d{number}" for number in range(7)))
        await deliver(services, 7)
        await append(services, *(f"p{number}" for number in range(7)))
        others = [one for one in ALL if one is not state]
        before = await contents(services, *others)
        assert await services.backlog.drop(ORG, (), [state]) == 7
        assert await contents(services) == before
        assert len(before) == 14

    run(body())


def test_names_and_states_are_dropped_together():
    """A memory that is meant in both ways counts once."""

    async def body():
        services = await opened()
        kept = await in_three_states(services)
        assert await services.backlog.drop(ORG, ids([kept[0], kept[5]]), [SET_ASIDE, DELIVERED]) == 5
        assert await contents(services) == ["p1"]

    run(body())


def test_a_drop_of_nothing_drops_nothing():
    """Neither names nor states mean no memory at all, and an empty journal has none to drop."""

    async def body():
        services = await opened()
        assert await services.backlog.drop(ORG, (), ALL) == 0
        await in_three_states(services)
        assert await services.backlog.drop(ORG) == 0
        assert len(await contents(services)) == 6

    run(body())


@pytest.mark.parametrize("wrong", ["unknown", "foreign"])
def test_nothing_is_dropped_when_one_name_is_wrong(wrong):
    """An id that is not in the org's journal is named in the error, and the states are not dropped either."""

    async def body():
        services = await opened()
        kept = await in_three_states(services)
        (foreign,) = await append(services, "also foreign", one=OTHER_ARC)
        bad_id = {"unknown": "mem_x", "foreign": foreign.memory_id}[wrong]
        with pytest.raises(NotFound, match=rf"not in the journal .*: {bad_id}$"):
            await services.backlog.drop(ORG, [kept[0].memory_id, bad_id], [PENDING])
        assert len(await contents(services)) == 6
        assert await contents(services, org_id=OTHER_ORG) == ["foreign", "also foreign"]

    run(body())


class BusyJournal(InMemoryJournal):
    """A journal into which others write as fast as it is emptied."""

    drops = 0

    async def drop(self, org_id, memory_ids):
        """Drop, and let twice as many memories arrive at the same time."""
        self.drops += 1
        assert self.drops < 20, "it would never end"
        await self.append(ARC, [draft(f"new {self.drops} {number}") for number in range(2 * len(memory_ids))])
        return await super().drop(org_id, memory_ids)


def test_a_drop_takes_only_what_was_there_when_it_began():
    """What arrives meanwhile stays, and a busy writer does not keep the drop from ending."""

    async def body():
        clock = ManualClock()
        services = await opened(clock=clock, journal=BusyJournal(clock))
        await append(services, *(f"old {number}" for number in range(7)))
        assert await services.backlog.drop(ORG, (), [PENDING]) == 7
        left = await contents(services)
        assert len(left) >= 7
        assert all(content.startswith("new") for content in left)

    run(body())


def test_an_unknown_org_is_said_to_be_unknown():
    """Looking, retrying and dropping alike, with the org's id and where to find the right one."""

    async def body():
        services = await opened()
        for attempt in (
            contents(services, org_id="org_nobody"),
            services.backlog.retry("org_nobody"),
            services.backlog.drop("org_nobody", (), ALL),
        ):
            with pytest.raises(NotFound, match="no organization 'org_nobody'") as caught:
                await attempt
            assert caught.value.code == "org_not_found"
            assert "memtrace org list" in caught.value.hint

    run(body())


def test_dropping_a_delivered_memory_does_not_hide_that_arc_lost_its_neighbour():
    """What is not in Arc is sent again, though a dropped memory, which is, lies in the same stretch of time."""

    async def body():
        services = await opened(
            durable=False,
            delivery=DeliveryPolicy(batch_size=1),
            confirmation=ConfirmationPolicy(settle=SETTLE),
        )
        new = [NewMemory(agent_id="ada", content=content) for content in ("first", "dropped", "lost", "last")]
        first, dropped, lost, last = await services.memories.remember(ORG, new)
        await settle()
        await services.backlog.drop(ORG, [dropped.memory_id])
        services.gateway.forget(ARC, [lost.memory_id])
        services.clock.advance(SETTLE)
        await settle()
        found = await services.memories.find(MemoryQuery(org_id=ORG, order="asc", limit=10))
        assert [memory for memory in found.memories if memory != dropped] == [first, lost, last]
        await services.stop()

    run(body())
