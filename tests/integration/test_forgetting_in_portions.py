"""What is much is removed in portions: hidden at once all the same, and its claims free."""

from datetime import timedelta

import pytest
from builders import ORG, START, draft, embedded_instance, instance, memory, run

from memtrace_core.entries import Duplicate, OrgHoldings
from memtrace_core.forgotten import Forgotten
from memtrace_core.query import AgentCountQuery, MemoryQuery
from memtrace_core.testing import ManualClock
from memtrace_sqlite import SqliteEmbeddedGateway, SqliteJournal, forgetting

ADAS = Forgotten(agent_id="ada", before=START + timedelta(days=1))
ALL = MemoryQuery(org_id=ORG)
COUNT = AgentCountQuery(org_id=ORG, agent_id="ada", recent_since=START)


@pytest.mark.parametrize("one", [instance(), embedded_instance()], ids=["arc", "embedded"])
def test_what_waits_to_be_removed_is_seen_by_nobody(tmp_path, monkeypatch, one):
    """In no page and no count, also after the file was closed; then it goes, portion by portion, and its bytes."""
    monkeypatch.setattr(forgetting, "SWEPT_AT_ONCE", 3)

    async def body():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        same = draft("m7", agent_id="ada", dedup_key="k")
        others = [draft(f"m{number}", agent_id="ada") for number in range(7)]
        await journal.append(one, [*others, same, draft("bob's", agent_id="bob")])
        order = await journal.forget(ORG, ADAS, in_arc=not one.embedded)
        assert (order.removed, order.swept) == (3, False)
        await journal.close()
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        gateway = SqliteEmbeddedGateway(journal)
        shown = [*(await journal.view(ALL)).memories, *await gateway.query(one, ALL)]
        assert [each.content for each in shown] == ["bob's"]
        assert (await journal.count(COUNT))[1].total + (await gateway.count(one, COUNT)).total == 0
        assert await journal.covered(ORG, ADAS) == 0
        (again,) = await journal.append(one, [same])
        assert not isinstance(again, Duplicate)
        while await journal.sweep(ORG):
            pass
        (order,) = await journal.orders(ORG)
        assert (order.removed, order.swept, order.done_at is None) == (8, True, not one.embedded)
        left = await journal.holdings(ORG)
        assert left == (OrgHoldings(embedded=2) if one.embedded else OrgHoldings(pending=2))
        assert await journal.append(one, [same]) == [Duplicate(again.memory_id)]
        backlogs = await journal.backlogs()
        batch = await journal.next_batch(ORG, 10, 1 << 20)
        assert len(backlogs) == (not one.embedded)
        assert (batch is None) == one.embedded
        await journal.close()

    run(body())


@pytest.mark.parametrize("one", [instance(), embedded_instance()], ids=["arc", "embedded"])
def test_a_key_of_what_waits_to_be_removed_is_free_for_what_is_brought(tmp_path, monkeypatch, one):
    """A memory from elsewhere that is younger than the order holds its key, and no copy is stored beside it."""
    monkeypatch.setattr(forgetting, "SWEPT_AT_ONCE", 1)

    async def body():
        clock = ManualClock()
        journal = SqliteJournal(tmp_path / "journal.db", clock)
        await journal.append(one, [draft(dedup_key=key) for key in ("a", "b", "k")])
        what = Forgotten(agent_id="ada", before=clock.now() + timedelta(minutes=1))
        order = await journal.forget(ORG, what, in_arc=not one.embedded)
        assert not order.swept
        clock.advance(timedelta(minutes=20))
        brought = memory(clock.now(), org_id=ORG, dedup_key="k")
        if one.embedded:
            assert (await journal.admit(one, [brought])).stored == [brought]
        else:
            await journal.note_arrivals(one, [brought])
        assert await journal.append(one, [draft(dedup_key="k")]) == [Duplicate(brought.memory_id)]
        while await journal.sweep(ORG):
            pass
        assert await journal.append(one, [draft(dedup_key="k")]) == [Duplicate(brought.memory_id)]
        await journal.close()

    run(body())


def test_a_key_of_what_may_be_forgotten_stays_with_it_beside_an_older_memory(tmp_path):
    """Whether an order covers a memory that only Arc has is not known; what comes may be older."""

    async def body():
        clock = ManualClock()
        journal = SqliteJournal(tmp_path / "journal.db", clock)
        (kept,) = await journal.append(instance(), [draft(dedup_key="k")])
        await journal.mark_delivered(await journal.next_batch(ORG, 10, 1 << 20), durable=True)
        session = Forgotten(session_id="s1", before=clock.now() + timedelta(minutes=1))
        order = await journal.forget(ORG, session, in_arc=True)
        older = memory(clock.now() - timedelta(minutes=20), org_id=ORG, dedup_key="k")
        await journal.note_arrivals(instance(), [older])
        await journal.free_claims(order, [], all_of_them=True)
        assert await journal.append(instance(), [draft(dedup_key="k")]) == [Duplicate(kept.memory_id)]
        await journal.close()

    run(body())
