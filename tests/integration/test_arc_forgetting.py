"""Forgetting over an Arc with all its traps: hidden at once, deleted in the end, and nothing else with it."""

from datetime import timedelta

import pytest
from arc_double import ArcDouble
from builders import START, run
from integration.test_arc_delivery import TICK, World, names
from integration.test_arc_foreign import NOW, go_row, opened

from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import Duplicate
from memtrace_core.errors import ErasureRefused
from memtrace_core.forgotten import Forgotten
from memtrace_core.memories import NewMemory
from memtrace_core.tenants import Binding

ADAS = Forgotten(agent_id="ada", before=NOW + timedelta(days=1))


@pytest.fixture
def arc():
    """An Arc that flushes at once."""
    with ArcDouble(max_buffer_age_ms=0) as double:
        yield double


class Forgetful(World):
    """A server whose org's key in Arc is an admin's."""

    async def admins_org(self):
        """Create an org that may delete in Arc."""
        org_id = await self.org()
        await self.services.tenants.rebind(org_id, Binding(api_key=self.arc.admin_token))
        return org_id

    async def until_done(self, org_id):
        """Let time pass until every order is carried out."""

        async def done():
            return not await self.services.journal.orders(org_id, waiting=True)

        await self.until(done)


def test_a_forgotten_agent_is_never_seen_and_in_the_end_nowhere(tmp_path, arc):
    """While deliveries fail, answers are lost and batches arrive late; others' memories stay, each once."""

    async def body():
        arc.faults.next_writes = ["ok", "reset", "error_after", "ok"]
        async with Forgetful(tmp_path, arc).running() as world:
            org_id = await world.admins_org()
            await world.remember(org_id, *names(12))
            kept = [NewMemory(agent_id="bob", content=name) for name in names(6, 12)]
            await world.services.memories.remember(org_id, kept)
            await world.until(lambda: _some_stored(world))
            order = await world.services.forgetting.agent(org_id, "ada")
            assert order.removed == 12
            assert await world.seen(org_id) == names(18)[:11:-1]
            await world.until_done(org_id)
            await world.until_empty(org_id)
            assert world.stored() == names(6, 12)
            assert await world.seen(org_id) == names(18)[:11:-1]
            assert (await world.services.memories.count(org_id, "ada")).total == 0

    run(body())


async def _some_stored(world):
    return len(world.stored()) >= 10


def test_a_batch_that_arrives_after_the_order_is_deleted_as_well(tmp_path, arc):
    """It was on its way when the order was taken, so the order waits for it."""

    async def body():
        async with Forgetful(tmp_path, arc).running() as world:
            org_id = await world.admins_org()
            arc.faults.write_latency = 0.3
            await world.remember(org_id, *names(5))
            await world.until(lambda: _writes_begun(arc), timedelta(seconds=1))
            await world.services.forgetting.agent(org_id, "ada")
            await world.until(lambda: _writes_ended(arc))
            assert world.stored() == names(5)
            assert await world.seen(org_id) == []
            await world.until_done(org_id)
            assert world.stored() == []

    run(body())


async def _writes_begun(arc):
    return arc.concurrent > 0


async def _writes_ended(arc):
    return bool(arc.writes)


def test_a_key_that_is_not_an_admins_is_named_as_the_trouble(tmp_path, arc):
    """The order waits, hidden from readers; with another key it goes on."""

    async def body():
        async with Forgetful(tmp_path, arc).running() as world:
            org_id = await world.org()
            await world.remember(org_id, *names(3))
            await world.until_empty(org_id)
            await world.services.forgetting.agent(org_id, "ada")

            async def trouble():
                (order,) = await world.services.forgetting.orders(org_id)
                return order.trouble

            await world.until(trouble)
            assert (await trouble()).startswith("Arc refuses to delete: this org's key is not an admin token")
            assert (await world.seen(org_id), world.stored()) == ([], names(3))
            await world.services.tenants.rebind(org_id, Binding(api_key=arc.admin_token))
            await world.until_done(org_id)
            assert world.stored() == []

    run(body())


def test_an_order_survives_the_end_of_the_server_at_any_point(tmp_path, arc):
    """Taken by one process, begun by a second, finished by a third; what readers see never changes."""

    async def body():
        world = Forgetful(tmp_path, arc)
        async with world.running():
            org_id = await world.admins_org()
            await world.remember(org_id, *names(4))
            await world.until_empty(org_id)
            await world.services.forgetting.agent(org_id, "ada")
        async with world.running():
            assert await world.seen(org_id) == []

            async def deleted():
                return not world.stored()

            await world.until(deleted)
        async with world.running():
            assert await world.seen(org_id) == []
            await world.until_done(org_id)

    run(body())


def test_deliveries_go_on_beside_an_order_that_cannot_be_carried_out(tmp_path, arc):
    """An Arc that does not delete is still written to and read from."""

    async def body():
        async with Forgetful(tmp_path, arc).running() as world:
            org_id = await world.org()
            await world.remember(org_id, *names(2))
            await world.services.forgetting.agent(org_id, "ada")
            await world.remember(org_id, *names(3, 2))
            await world.until_empty(org_id)
            assert await world.seen(org_id) == names(5)[:1:-1]

    run(body())


def test_a_memory_of_the_go_service_is_forgotten_by_the_id_that_reads_give_it():
    """It has none in Arc: it goes by its time, and its neighbour of another agent at the same time stays."""

    async def body():
        async with opened("26.06.3") as held:
            held.go_wrote(go_row(START), go_row(START, "beside", agent_id="bob"), go_row(START + TICK, "later"))
            (first,) = [one for one in await held.ask() if one.content == "of Go"]
            what = [Forgotten.one(first.memory_id)]
            assert await held.gateway.erase(held.one, what) == 1
            assert {one.content for one in await held.ask()} == {"beside", "later"}

    run(body())


def test_what_cannot_be_told_apart_in_arc_is_not_deleted():
    """Two rows of the Go service differ in what a predicate cannot say: neither goes, and the error says why."""

    async def body():
        async with opened("26.06.3") as held:
            held.go_wrote(go_row(START, "one"), go_row(START, "other"))
            first, *_ = await held.ask()
            with pytest.raises(ErasureRefused, match="would delete 2 rows where 1"):
                await held.gateway.erase(held.one, [Forgotten.one(first.memory_id)])
            assert len(await held.ask()) == 2

    run(body())


def test_rows_with_unknown_columns_are_not_deleted_along():
    """Arc deletes rows for which a predicate is unknown; a row without agent or session is nobody's to forget."""

    async def body():
        async with opened("26.06.3") as held:
            held.go_wrote(go_row(START, session_id=None), go_row(START + TICK, "by nobody", agent_id=None))
            held.go_wrote(go_row(START + TICK, "another org's", org_id=None))
            await held.we_write(START + 2 * TICK)
            of_s1 = Forgotten(session_id="s1", agent_id="ada", before=NOW)
            await held.gateway.erase(held.one, [of_s1])
            assert len(held.arc.rows(held.one.database, held.one.measurement)) == 4
            assert await held.gateway.erase(held.one, [ADAS]) == 2
            left = held.arc.rows(held.one.database, held.one.measurement)
            assert {row["content"] for row in left} == {"by nobody", "another org's"}

    run(body())


def test_more_rows_than_one_deletion_may_take_go_in_several(monkeypatch):
    """The oldest first, so that Arc's own limit is never met."""

    async def body():
        monkeypatch.setattr("memtrace_arc.erasure.MOST_ROWS", 3)
        async with opened("26.06.3") as held:
            await held.we_write(*(START + number * TICK for number in range(8)))
            gone = []
            while count := await held.gateway.erase(held.one, [ADAS]):
                gone.append(count)
            assert gone == [3, 3, 2]
            assert await held.ask() == []

    run(body())


def test_content_may_be_stored_again_though_arc_has_it_still(tmp_path, arc):
    """The claim of a memory that only Arc has is free from the first moment, also after its name is known."""

    async def body():
        async with Forgetful(tmp_path, arc, dedup=DedupPolicy()).running() as world:
            org_id = await world.admins_org()
            same = [NewMemory(agent_id="ada", content="same")]
            others = [NewMemory(agent_id="bob", content="same")]
            await world.services.memories.remember(org_id, [*same, *others])
            await world.until_empty(org_id)
            await world.services.forgetting.agent(org_id, "ada")
            (again,) = await world.services.memories.remember(org_id, same)
            assert not isinstance(again, Duplicate)
            await world.services.forgetting.agent(org_id, "ada")
            await world.until_done(org_id)
            (third,) = await world.services.memories.remember(org_id, same)
            assert not isinstance(third, Duplicate)
            assert all(isinstance(one, Duplicate) for one in await world.services.memories.remember(org_id, others))

    run(body())
