from datetime import timedelta

import apsw
import msgspec
import pytest
from builders import MICROSECOND, draft, drafts, embedded_instance, instance, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memtrace_core.entries import DeliveredRun
from memtrace_core.errors import JournalFull, OrgClosing
from memtrace_core.model import Memory
from memtrace_core.query import MemoryQuery
from memtrace_core.testing import ManualClock
from memtrace_sqlite import SqliteEmbeddedGateway, SqliteJournal
from memtrace_sqlite.ledger import PURGE_ROWS, ROW_OVERHEAD_BYTES

ARC = instance()
NEW_ARC = instance(id="arc_new", url="http://new.example")
OTHER = instance("org_b")
EMBEDDED = embedded_instance()
EVERYTHING = 1 << 40


def rows(path, sql):
    """Read a journal's file from outside."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def ledger_is_exact(path):
    """Check that the kept sum of pending bytes is what the pending rows sum up to."""
    ((kept, summed),) = rows(
        path,
        "SELECT pending_bytes, (SELECT coalesce(sum(bytes), 0) FROM journal WHERE state = 0) FROM ledger",
    )
    assert kept == summed
    return kept


def test_a_memory_weighs_what_its_texts_do_in_utf8(tmp_path):
    """A row's bytes are the UTF-8 bytes of its texts and a constant for the rest."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        await journal.append(ARC, [draft("x" * 1000), draft("🙂" * 1000), draft("x" * 1000, metadata={"k": "v"})])
        await journal.close()

    run(scenario())
    plain, wide, more = (
        size for (size,) in rows(tmp_path / "journal.db", "SELECT bytes FROM journal ORDER BY seq")
    )
    assert plain == ROW_OVERHEAD_BYTES + 1000 + len("mem_") + 24 + len("ada") + len("episodic") + len("general")
    assert wide - plain == 3000
    assert more - plain == len('{"k":"v"}')


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from([ARC, OTHER, EMBEDDED]), st.lists(drafts(), max_size=4)),
        st.tuples(
            st.just("deliver"), st.sampled_from([ARC, OTHER]), st.integers(1, 3), st.booleans(), st.booleans()
        ),
        st.tuples(st.just("set aside"), st.sampled_from([ARC, OTHER]), st.integers(1, 3)),
        st.tuples(st.just("confirm"), st.sampled_from([ARC, OTHER]), st.booleans()),
        st.tuples(st.just("move"), st.sampled_from([ARC, NEW_ARC, EMBEDDED])),
        st.tuples(st.just("purge"), st.sampled_from([ARC, OTHER])),
        st.tuples(st.just("restart")),
    ),
    max_size=10,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_the_pending_bytes_are_exact_whatever_happens(new_folder, steps):
    """Over appends, deliveries (twice, too), refusals, confirmations, resends, moves, purges and restarts,
    the kept sum of pending bytes is the sum over the pending rows, and no memory is in two places.
    """
    path = new_folder() / "journal.db"
    clock = ManualClock()

    async def scenario():
        journal = SqliteJournal(path, clock)
        for kind, *values in steps:
            if kind == "append":
                target, some = values
                await journal.append(target, some)
            elif kind == "deliver":
                target, limit, durable, twice = values
                batch = await journal.next_batch(target.org_id, limit, EVERYTHING)
                for _ in range(1 + twice):
                    if batch is not None:
                        await journal.mark_delivered(batch, durable=durable)
            elif kind == "set aside":
                target, limit = values
                batch = await journal.next_batch(target.org_id, limit, EVERYTHING)
                if batch is not None:
                    await journal.set_aside(batch, "no")
            elif kind == "confirm":
                target, there = values
                found = await journal.next_delivered(target.org_id, timedelta(), 3)
                if isinstance(found, DeliveredRun):
                    await (journal.confirm if there else journal.resend)(target.org_id, found.keys)
            elif kind == "move":
                await journal.move_pending(*values)
            elif kind == "purge":
                await journal.purge_org(values[0].org_id)
            else:
                await journal.close()
                journal = SqliteJournal(path, clock)
            ledger_is_exact(path)
        await journal.close()

    run(scenario())
    ledger_is_exact(path)
    assert rows(path, "SELECT count(*) FROM journal JOIN embedded USING (memory_id)") == [(0,)]
    assert rows(path, "SELECT memory_id FROM embedded GROUP BY memory_id HAVING count(*) > 1") == []


def test_a_full_journal_refuses_and_takes_memories_again_when_delivery_has_caught_up(tmp_path):
    """At `max_bytes` of pending memories appends are refused; delivery makes room, and what is older stays."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock(), max_bytes=3000)
        stored = []
        for number in range(4):  # the one that reaches the limit is still taken
            stored += await journal.append(ARC, [draft("x" * 700, dedup_key=str(number))])
        with pytest.raises(JournalFull, match="the journal is full of memories that Arc has not taken yet"):
            await journal.append(ARC, [draft("one too many")])
        # Another org, which waits for next to nothing, is not made to pay for it.
        others = await journal.append(OTHER, [draft("another org's"), draft("and one more")])
        with pytest.raises(JournalFull):
            await journal.append(OTHER, [draft("but not without end")])
        view = await journal.view(MemoryQuery(org_id=ARC.org_id, order="asc"))
        assert view.memories == stored
        (kept,) = await journal.append(EMBEDDED, [draft("the embedded store has no queue")])
        assert isinstance(kept, Memory)

        batch = await journal.next_batch(ARC.org_id, 1, EVERYTHING)
        await journal.mark_delivered(batch, durable=False)
        batch = await journal.next_batch(ARC.org_id, 1, EVERYTHING)
        await journal.mark_delivered(batch, durable=False)
        (taken,) = await journal.append(ARC, [draft("room again")])
        assert isinstance(taken, Memory)
        assert (await journal.holdings(OTHER.org_id)).pending == len(others) == 2
        await journal.close()

    run(scenario())
    ledger_is_exact(tmp_path / "journal.db")


def test_memories_that_must_be_sent_again_weigh_again(tmp_path):
    """Delivered memories weigh nothing; those that Arc turned out not to have wait again, with all their bytes."""
    path = tmp_path / "journal.db"

    async def scenario():
        journal = SqliteJournal(path, ManualClock())
        await journal.append(ARC, [draft("a"), draft("b" * 100)])
        before = ledger_is_exact(path)
        await journal.mark_delivered(await journal.next_batch(ARC.org_id, 9, EVERYTHING), durable=False)
        assert ledger_is_exact(path) == 0
        found = await journal.next_delivered(ARC.org_id, timedelta(), 9)
        await journal.resend(found, found.keys)
        assert ledger_is_exact(path) == before
        await journal.resend(found, found.keys)
        await journal.confirm(found, found.keys)
        assert ledger_is_exact(path) == before
        assert (await journal.holdings(ARC.org_id)).pending == 2
        await journal.close()

    run(scenario())


def test_a_refused_append_claims_no_key(tmp_path):
    """What a full journal has refused can be stored later: its dedup key is free."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock(), max_bytes=1)
        await journal.append(ARC, [draft("first")])
        with pytest.raises(JournalFull):
            await journal.append(ARC, [draft("second", dedup_key="k")])
        await journal.mark_delivered(await journal.next_batch(ARC.org_id, 9, EVERYTHING), durable=True)
        (again,) = await journal.append(ARC, [draft("second", dedup_key="k")])
        await journal.close()
        return again

    assert isinstance(run(scenario()), Memory)


def test_a_journal_that_was_full_is_full_after_a_restart(tmp_path):
    """The bytes that wait are known again after a restart, without counting rows."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock(), max_bytes=1000)
        await journal.append(ARC, [draft("x" * 1000)])
        await journal.close()
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock(), max_bytes=1000)
        with pytest.raises(JournalFull):
            await journal.append(ARC, [draft("y")])
        await journal.close()

    run(scenario())


def fill(path, count):
    """Give a journal many pending, delivered and embedded rows of org_a, and a few of org_b, in one go."""
    some = [draft(f"memory {number}", dedup_key=f"k{number}") for number in range(count)]

    async def scenario():
        journal = SqliteJournal(path, ManualClock())
        await journal.append(ARC, some[:10])
        await journal.mark_delivered(await journal.next_batch(ARC.org_id, 10, EVERYTHING), durable=False)
        await journal.append(ARC, some[10:])
        changed = [msgspec.structs.replace(one, dedup_key=None) for one in some]
        await journal.append(EMBEDDED, changed)
        await journal.append(OTHER, some[:7])
        return journal

    return scenario()


def test_a_large_org_is_purged_in_portions_and_whole(tmp_path):
    """Purging many rows takes several transactions, leaves nothing of the org, and everything of the others."""
    path = tmp_path / "journal.db"
    count = PURGE_ROWS * 2 + 11

    async def scenario():
        journal = await fill(path, count)
        held = await journal.holdings(ARC.org_id)
        assert (held.pending, held.delivered, held.embedded) == (count - 10, 10, count)
        commits = []
        journal._connection.set_commit_hook(
            lambda: bool(commits.append(rows(path, "SELECT count(*) FROM embedded")))
        )
        await journal.close_org(ARC.org_id)
        await journal.purge_org(ARC.org_id)
        journal._connection.set_commit_hook(None)
        held = await journal.holdings(ARC.org_id)
        others = await journal.holdings(OTHER.org_id)
        with pytest.raises(OrgClosing):
            await journal.append(EMBEDDED, [draft()])
        activity = [await journal.agent_activity(org_id, ["ada"]) for org_id in (ARC.org_id, OTHER.org_id)]
        await journal.close()
        return len(commits), held, others, activity

    commits, held, others, activity = run(scenario())
    assert commits == 1 + 3 + 1
    assert (held.undelivered, held.embedded) == (0, 0)
    assert others.pending == 7
    assert (activity[0], len(activity[1])) == ({}, 1)
    ledger_is_exact(path)
    for table, column in (("journal", "org_id"), ("stores", "org_id"), ("agent_activity", "org_id")):
        assert rows(path, f"SELECT DISTINCT {column} FROM {table}") in ([], [(OTHER.org_id,)])
    claimed = "SELECT org_id, count(*) FROM recent_claims WHERE memory_id <> '' GROUP BY org_id"
    assert rows(path, claimed) == [(OTHER.org_id, 7)]


def test_a_delivered_batch_that_was_moved_meanwhile_goes_on_waiting(tmp_path):
    """A delivery that ends after the memories were moved to another instance does not count for that one."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        await journal.append(ARC, [draft("a"), draft("b")])
        batch = await journal.next_batch(ARC.org_id, 1, EVERYTHING)
        moved = await journal.move_pending(NEW_ARC)
        await journal.mark_delivered(batch, durable=True)
        after = await journal.next_batch(ARC.org_id, 10, EVERYTHING)
        await journal.close()
        return moved, after

    moved, after = run(scenario())
    assert moved == 2
    assert (after.instance_id, [memory.content for memory in after.memories]) == (NEW_ARC.id, ["a", "b"])


def test_memories_moved_into_the_embedded_store_are_there_once(tmp_path):
    """Moving to the embedded store takes the memories out of the queue, ids and times kept."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        stored = await journal.append(ARC, [draft("a", metadata={"k": [1]}), draft("b", tags=("x", "y"))])
        moved = await journal.move_pending(EMBEDDED)
        query = MemoryQuery(org_id=ARC.org_id, order="asc")
        found = await SqliteEmbeddedGateway(journal).query(EMBEDDED, query)
        held = await journal.holdings(ARC.org_id)
        await journal.close()
        return moved, stored, found, held

    moved, stored, found, held = run(scenario())
    assert moved == 2
    assert found == stored
    assert (held.pending, held.embedded) == (0, 2)
    assert ledger_is_exact(tmp_path / "journal.db") == 0


def test_activity_and_key_use_never_go_back(tmp_path):
    """The newest write of an agent and the latest use of a key stay, whatever is recorded after them."""

    async def scenario():
        clock = ManualClock()
        journal = SqliteJournal(tmp_path / "journal.db", clock)
        now = clock.now()
        await journal.record_key_use({"key_1": now, "key_2": now})
        await journal.record_key_use({"key_1": now - timedelta(hours=1), "key_2": now + timedelta(hours=1)})
        await journal.append(ARC, [draft("a"), draft("b")])
        uses = await journal.key_uses(["key_1", "key_2", "key_3"])
        activity = await journal.agent_activity(ARC.org_id, ["ada", "bob"])
        many = await journal.key_uses([f"key_{number}" for number in range(1200)])
        await journal.close()
        return now, uses, activity, many

    now, uses, activity, many = run(scenario())
    assert uses == many == {"key_1": now, "key_2": now + timedelta(hours=1)}
    assert activity == {"ada": now + MICROSECOND}
