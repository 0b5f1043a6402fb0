"""Keys that several memories have had, some of them forgotten: whoever is left holds the key."""

from datetime import timedelta

import pytest
from builders import ORG, draft, embedded_instance, instance, memory, run

from memtrace_core.entries import Duplicate
from memtrace_core.forgotten import Forgotten
from memtrace_core.testing import ManualClock
from memtrace_sqlite import SqliteJournal, forgetting
from memtrace_sqlite import claims as claims_module

ARC = instance()
EMBEDDED = embedded_instance()
MINUTE = timedelta(minutes=1)


class Held:
    """A journal, with the means to store, bring in and forget memories with the key k."""

    def __init__(self, folder, one):
        self.clock = ManualClock()
        self.journal = SqliteJournal(folder / "journal.db", self.clock)
        self.one = one

    async def store(self):
        (outcome,) = await self.journal.append(self.one, [draft(dedup_key="k")])
        return outcome

    async def arrive_in_arc(self):
        await self.journal.mark_delivered(await self.journal.next_batch(ORG, 10, 1 << 20), durable=True)

    async def bring(self, age):
        brought = memory(self.clock.now() - age, org_id=ORG, dedup_key="k", agent_id="bob")
        if self.one.embedded:
            await self.journal.admit(self.one, [brought])
        else:
            await self.journal.note_arrivals(self.one, [brought])
        return brought

    async def forget(self, **what):
        scope = Forgotten(**({"before": self.clock.now() + MINUTE} | what))
        return await self.journal.forget(ORG, scope, in_arc=not self.one.embedded)

    async def forget_one(self, one):
        return await self.journal.forget(ORG, Forgotten.one(one.memory_id), in_arc=not self.one.embedded)

    async def find_in_arc(self, order, memories=()):
        await self.journal.free_claims(order, list(memories), all_of_them=True)
        await self.journal.note_progress(ORG, [order], deleted=len(memories), trouble=None, done=True)

    async def let_claims_move(self):
        for number in range(6):
            await self.journal.append(self.one, [draft(dedup_key=f"other {number}", agent_id="eve")])


@pytest.fixture(params=[False, True], ids=["newest", "by key"])
def moving(request, monkeypatch):
    """Tell whether claims move to their tables by key at once."""
    if request.param:
        monkeypatch.setattr(claims_module, "PORTION", 1)
    return request.param


@pytest.fixture
def slowly(monkeypatch):
    """Remove one forgotten memory at a time."""
    monkeypatch.setattr(forgetting, "SWEPT_AT_ONCE", 1)


def check(folder, one, scenario):
    """Run a scenario, which returns the memory that must hold the key in the end."""

    async def body():
        held = Held(folder, one)
        holder = await scenario(held)
        assert await held.store() == Duplicate(holder.memory_id)
        await held.journal.close()

    run(body())


@pytest.mark.parametrize("age", [20 * MINUTE, -MINUTE], ids=["older", "younger"])
def test_what_is_brought_holds_the_key_of_what_was_forgotten_in_arc(tmp_path, moving, age):
    """The claim of a memory that an order names goes with it, wherever the memory was."""

    async def scenario(held):
        first = await held.store()
        await held.arrive_in_arc()
        if moving:
            await held.let_claims_move()
        await held.find_in_arc(await held.forget_one(first))
        return await held.bring(age)

    check(tmp_path, ARC, scenario)


@pytest.mark.usefixtures("slowly")
@pytest.mark.parametrize("swept", [False, True])
def test_what_is_brought_holds_the_key_of_what_waits_to_be_removed(tmp_path, moving, swept):
    """It may be older than that, and another agent's."""

    async def scenario(held):
        await held.journal.append(EMBEDDED, [draft(dedup_key=key) for key in "ab"])
        await held.store()
        if moving:
            await held.let_claims_move()
        order = await held.forget(agent_id="ada")
        assert not order.swept
        brought = await held.bring(20 * MINUTE)
        while swept and await held.journal.sweep(ORG):
            continue
        return brought

    check(tmp_path, EMBEDDED, scenario)


def test_what_came_from_a_clock_ahead_and_was_forgotten_hides_no_claim(tmp_path, monkeypatch):
    """Of several claims the youngest comes first, and if that is forgotten the next."""
    monkeypatch.setattr(claims_module, "PORTION", 1)

    async def scenario(held):
        ahead = await held.bring(-4 * MINUTE)
        await held.let_claims_move()
        await held.forget_one(ahead)
        return await held.store()

    check(tmp_path, ARC, scenario)


def test_what_is_brought_beside_an_order_takes_no_key_of_what_is_kept(tmp_path):
    """When it is forgotten, the one that Arc has kept holds the key as before."""

    async def scenario(held):
        kept = await held.store()
        await held.arrive_in_arc()
        order = await held.forget(session_id="s1")
        held.clock.advance(20 * MINUTE)
        brought = await held.bring(timedelta())
        await held.find_in_arc(order)
        held.clock.advance(MINUTE)
        await held.forget_one(brought)
        return kept

    check(tmp_path, ARC, scenario)


def test_a_copy_that_was_stored_beside_an_order_and_forgotten_hides_no_claim(tmp_path, monkeypatch):
    """The first, whose claim has moved by then, holds the key again."""
    monkeypatch.setattr(claims_module, "PORTION", 1)

    async def scenario(held):
        kept = await held.store()
        await held.let_claims_move()
        await held.arrive_in_arc()
        order = await held.forget(session_id="s1")
        copy = await held.store()
        assert not isinstance(copy, Duplicate)
        await held.find_in_arc(order)
        await held.arrive_in_arc()
        await held.forget_one(copy)
        return kept

    check(tmp_path, ARC, scenario)
