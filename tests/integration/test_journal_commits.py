import asyncio
import threading

import apsw
import pytest
from builders import draft, embedded_instance, instance, run

from memtrace_core.entries import Duplicate, PendingBatch
from memtrace_core.errors import JournalFull, OrgClosing, StorageUnavailable
from memtrace_core.model import Memory
from memtrace_core.query import MemoryQuery
from memtrace_core.testing import ManualClock
from memtrace_sqlite import SqliteEmbeddedGateway, SqliteJournal
from memtrace_sqlite import claims as claims_module
from memtrace_sqlite import journal as journal_module
from memtrace_sqlite.writer import MOST_IN_GROUP

ARC = instance()
EMBEDDED = embedded_instance()


def rows(path, sql):
    """Read a journal's file from outside."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def numbered(count):
    """Return as many drafts that differ."""
    return [draft(f"memory {number}", dedup_key=f"k{number}") for number in range(count)]


class Gate:
    """Holds up the writing thread, so that jobs gather behind it; counts the transactions that commit.

    The writer must be idle when a gate is made.
    """

    def __init__(self, journal):
        self.commits = 0
        self._journal = journal
        self._held, self._let_go = threading.Event(), threading.Event()
        journal._connection.set_commit_hook(self._committed)

    def _committed(self):
        self.commits += 1
        return False

    async def __aenter__(self):
        def wait(_):
            self._held.set()
            assert self._let_go.wait(30)

        self._task = asyncio.create_task(self._journal._writer.run(wait))
        assert await asyncio.to_thread(self._held.wait, 30)
        self.commits = 0
        return self

    async def __aexit__(self, *_):
        self.open()
        await self._task

    def open(self):
        """Let the writer go on."""
        self._let_go.set()


async def gathered(works):
    """Start works, and return them as tasks once each has handed its job over."""
    tasks = [asyncio.create_task(work) for work in works]
    await asyncio.sleep(0)
    return tasks


@pytest.mark.parametrize("target", [ARC, EMBEDDED], ids=["arc", "embedded"])
def test_appends_that_wait_together_share_one_commit(tmp_path, target):
    """Two hundred appends that gather behind a busy writer go to disk in one transaction, not in two hundred."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        gate = Gate(journal)
        async with gate:
            tasks = await gathered(journal.append(target, [one]) for one in numbered(200))
            gate.open()
            outcomes = await asyncio.gather(*tasks)
        assert all(isinstance(outcome, Memory) for (outcome,) in outcomes)
        assert gate.commits == 2  # the gate's own, and one for all
        await journal.close()

    run(scenario())
    table = "embedded" if target is EMBEDDED else "journal"
    assert rows(tmp_path / "journal.db", f"SELECT count(*) FROM {table}") == [(200,)]


def test_a_group_has_a_greatest_size(tmp_path):
    """However many appends wait, one transaction takes a bounded number of them."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        gate = Gate(journal)
        async with gate:
            tasks = await gathered(journal.append(ARC, [one]) for one in numbered(MOST_IN_GROUP * 2 + 1))
            gate.open()
            await asyncio.gather(*tasks)
        assert gate.commits == 1 + 3
        await journal.close()

    run(scenario())


def test_nobody_is_answered_before_the_commit(tmp_path):
    """At the moment of the commit no append has been answered: what is acknowledged is on disk."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        answered_at_commit = []
        async with Gate(journal) as gate:
            tasks = await gathered(journal.append(ARC, [one]) for one in numbered(10))
            futures = list(tasks)

            def committing():
                answered_at_commit.append(sum(future.done() for future in futures))
                return False

            journal._connection.set_commit_hook(committing)
            gate.open()
            await asyncio.gather(*tasks)
        await journal.close()
        assert answered_at_commit[1:] == [0]

    run(scenario())


def test_identical_appends_in_one_group_are_one_memory(tmp_path):
    """Of fifty equal appends in one transaction one is stored, and the others name it."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        async with Gate(journal) as gate:
            tasks = await gathered(journal.append(ARC, [draft(dedup_key="same")]) for _ in range(50))
            gate.open()
            outcomes = [outcome for (outcome,) in await asyncio.gather(*tasks)]
        await journal.close()
        assert [type(outcome).__name__ for outcome in outcomes] == ["Memory"] + ["Duplicate"] * 49
        assert {outcome.memory_id for outcome in outcomes} == {outcomes[0].memory_id}

    run(scenario())


def bad_in(kind):
    """Return a job that fails in one of the ways that a job may."""
    if kind == "a bug":
        return lambda ledger: 1 / 0
    if kind == "a refusal":
        return refusing
    # A lone surrogate passes no rule of ours; SQLite cannot take it, and only notices when the rows are written.
    return lambda ledger: ledger.append(ARC, [draft("\ud800")])


def refusing(_):
    """Refuse before anything is written."""
    raise OrgClosing("no")


@pytest.mark.parametrize("kind", ["a bug", "a refusal", "a row that cannot be written"])
def test_a_job_that_fails_does_so_alone(tmp_path, kind):
    """A bad job in the middle of a group gets its error; all its neighbours are stored, once each and in order."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        async with Gate(journal) as gate:
            before = await gathered(journal.append(ARC, [one]) for one in numbered(5))
            bad = await gathered([journal._writer.run(bad_in(kind))])
            after = await gathered(journal.append(ARC, [draft(f"after {number}")]) for number in range(5))
            gate.open()
            outcomes = await asyncio.gather(*before, *bad, *after, return_exceptions=True)
        (again,) = await journal.append(ARC, [draft("and on it goes")])
        await journal.close()
        return outcomes, again

    outcomes, again = run(scenario())
    assert isinstance(outcomes.pop(5), Exception)
    stored = [memory.content for (memory,) in outcomes]
    assert stored == [f"memory {number}" for number in range(5)] + [f"after {number}" for number in range(5)]
    on_disk = [content for (content,) in rows(tmp_path / "journal.db", "SELECT content FROM journal ORDER BY seq")]
    assert on_disk == [*stored, again.content]
    sums = "SELECT pending_bytes, (SELECT sum(bytes) FROM journal) FROM ledger"
    assert len({*rows(tmp_path / "journal.db", sums)[0]}) == 1


def test_a_caller_that_gives_up_does_not_undo_its_neighbours(tmp_path):
    """An append whose caller is cancelled while it waits may be stored; the others of its group are."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        async with Gate(journal) as gate:
            tasks = await gathered(journal.append(ARC, [one]) for one in numbered(3))
            tasks[1].cancel()
            gate.open()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await journal.close()
        return [type(outcome).__name__ for outcome in outcomes]

    assert run(scenario()) == ["list", "CancelledError", "list"]


@pytest.mark.parametrize("target", [ARC, EMBEDDED], ids=["arc", "embedded"])
def test_a_full_disk_refuses_and_loses_nothing_older(tmp_path, target):
    """When SQLite finds no room the append is refused as JournalFull; all acknowledged memories stay, and with
    room again appends go on.
    """

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        connection = journal._connection
        acknowledged = [(await journal.append(target, [one]))[0] for one in numbered(20)]
        connection.pragma("max_page_count", connection.pragma("page_count"))
        big = [draft("x" * 100_000, dedup_key=f"big {number}") for number in range(3)]
        for one in big:
            with pytest.raises(JournalFull, match=r"the disk that holds the journal is full"):
                await journal.append(target, [one])
        query = MemoryQuery(org_id=target.org_id, order="asc")
        assert await all_of(journal, query, target) == acknowledged
        connection.pragma("max_page_count", 1 << 30)
        acknowledged += await journal.append(target, big)
        assert all(isinstance(memory, Memory) for memory in acknowledged)
        assert await all_of(journal, query, target) == acknowledged
        await journal.close()
        return acknowledged

    acknowledged = run(scenario())
    reopened = SqliteJournal(tmp_path / "journal.db", ManualClock())

    async def again():
        found = await all_of(reopened, MemoryQuery(org_id=target.org_id, order="asc"), target)
        await reopened.close()
        return found

    assert run(again()) == acknowledged


async def all_of(journal, query, target):
    """Return what the journal and the embedded store hold."""
    if target.embedded:
        return await SqliteEmbeddedGateway(journal).query(target, query)
    return (await journal.view(query)).memories


def test_a_full_disk_refuses_a_whole_group_and_keeps_no_part_of_it(tmp_path):
    """Appends that share a transaction without room are all refused, and none of them is on disk."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        await journal.append(ARC, [draft("older")])
        journal._connection.pragma("max_page_count", journal._connection.pragma("page_count"))
        async with Gate(journal) as gate:
            tasks = await gathered(
                journal.append(ARC, [draft("x" * 50_000, dedup_key=str(number))]) for number in range(10)
            )
            gate.open()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [JournalFull] * 10
        await journal.close()

    run(scenario())
    assert rows(tmp_path / "journal.db", "SELECT content FROM journal") == [("older",)]
    assert rows(tmp_path / "journal.db", "SELECT count(*) FROM claim_tables") == [(1,)]


def test_a_nearly_full_disk_refuses_before_sqlite_notices(tmp_path, monkeypatch):
    """With less than 64 MiB free nothing is accepted any more; what is there stays readable."""

    class Disk:
        f_bavail, f_frsize = journal_module.LEAST_FREE_BYTES, 1

    async def scenario():
        monkeypatch.setattr(journal_module.os, "statvfs", lambda _: Disk)
        monkeypatch.setattr(journal_module, "DISK_LOOK_SECONDS", 0)
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        kept = await journal.append(ARC, [draft("older")])
        Disk.f_bavail -= 1
        with pytest.raises(JournalFull, match="the disk is nearly full"):
            await journal.append(ARC, [draft("newer")])
        assert (await journal.view(MemoryQuery(org_id=ARC.org_id))).memories == kept
        Disk.f_bavail += 1
        await journal.append(ARC, [draft("newer")])
        await journal.close()

    run(scenario())


def test_closing_finishes_what_was_accepted(tmp_path):
    """Appends that were handed over before `close` are stored and answered; `close` waits for them."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        async with Gate(journal) as gate:
            tasks = await gathered(journal.append(ARC, [one]) for one in numbered(30))
            closing = asyncio.create_task(journal.close())
            await asyncio.sleep(0)
            assert not closing.done()
            gate.open()
            await closing
            outcomes = await asyncio.gather(*tasks)
        assert all(isinstance(outcome, Memory) for (outcome,) in outcomes)

    run(scenario())
    assert rows(tmp_path / "journal.db", "SELECT count(*) FROM journal") == [(30,)]


def test_a_closed_journal_says_so(tmp_path):
    """Every kind of call after `close` raises StorageUnavailable; closing again does nothing."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        await journal.close()
        await journal.close()
        for call in (
            journal.append(ARC, [draft()]),
            journal.view(MemoryQuery(org_id=ARC.org_id)),
            journal.next_batch(ARC.org_id, 1, 1),
            journal.mark_delivered(PendingBatch(ARC.org_id, ARC.id, (1,), []), durable=True),
            journal.close_org(ARC.org_id),
        ):
            with pytest.raises(StorageUnavailable, match=r"journal\.db is closed"):
                await call

    run(scenario())


def test_a_closed_journal_leaves_one_file_and_its_locks(tmp_path):
    """After `close` the WAL is folded into the database, and no thread of the journal lives on."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        await journal.append(ARC, [draft()])
        await journal.view(MemoryQuery(org_id=ARC.org_id))
        await journal.close()

    run(scenario())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.db", "journal.db-next", "journal.db-turn"]
    assert [one.name for one in threading.enumerate() if "journal.db" in one.name] == []


def test_a_memory_is_either_in_the_journal_or_in_the_embedded_store(tmp_path):
    """Embedded memories are stored once, in their own table; the others only in the queue."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        waiting = await journal.append(ARC, numbered(3))
        stored = await journal.append(embedded_instance("org_b"), numbered(4))
        await journal.close()
        return waiting, stored

    waiting, stored = run(scenario())
    path = tmp_path / "journal.db"
    in_journal = {one for (one,) in rows(path, "SELECT memory_id FROM journal")}
    in_store = {one for (one,) in rows(path, "SELECT memory_id FROM embedded")}
    assert in_journal == {memory.memory_id for memory in waiting}
    assert in_store == {memory.memory_id for memory in stored}
    assert rows(path, "SELECT pending_bytes = (SELECT sum(bytes) FROM journal) FROM ledger") == [(1,)]


def test_what_a_process_claims_itself_is_not_read_back(tmp_path):
    """A transaction reads only the claims that others have made since the last; its own are known."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        other = SqliteJournal(tmp_path / "journal.db", ManualClock())
        recent = journal._writer._state._claims._recent
        await journal.append(ARC, numbered(3))
        await journal.append(ARC, [draft(dedup_key="k3")])
        assert (recent.new, len(recent)) == ([], 4)
        await other.append(ARC, [draft(dedup_key="k4")])
        await journal.append(ARC, [draft(dedup_key="k5")])
        assert recent.new == [(ARC.org_id, "k4")]
        for one in (journal, other):
            outcomes = await one.append(ARC, numbered(6))
            assert all(isinstance(outcome, Duplicate) for outcome in outcomes)
            await one.close()

    run(scenario())


@pytest.mark.parametrize("at", ["first", "last"])
def test_a_failure_to_remember_claims_has_no_consequences(tmp_path, monkeypatch, at):
    """What is on disk is not run again; its claims are read from there, and found wherever they move."""
    monkeypatch.setattr(claims_module, "PORTION", 2)

    def fail(*given):
        if given != ([],):  # nothing was read when the transaction began
            raise ZeroDivisionError

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        claims = journal._writer._state._claims
        for key in "abcdefgh":  # the table that they move to is known by now
            await journal.append(ARC, [draft(dedup_key=key)])
        failing = {"first": (claims._filter, "note"), "last": (claims._recent, "committed")}[at]
        with monkeypatch.context() as patch:
            patch.setattr(*failing, fail)
            (stored,) = await journal.append(ARC, [draft(dedup_key="k")])
        assert isinstance(stored, Memory)
        for key in "stuvwxyz":
            assert await journal.append(ARC, [draft(dedup_key="k")]) == [Duplicate(stored.memory_id)]
            await journal.append(ARC, [draft(dedup_key=key)])
        await journal.close()

    run(scenario())
    assert rows(tmp_path / "journal.db", "SELECT count(*) FROM journal") == [(17,)]
