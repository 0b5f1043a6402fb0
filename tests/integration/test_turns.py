"""Locks between processes: turns to write, and the ownership of a journal."""

import asyncio
import fcntl
import os
import stat
import subprocess
import sys
import threading
from contextlib import ExitStack
from functools import partial

import pytest
from builders import draft, instance, run
from e2e.processes import eventually

from memtrace_core.errors import StorageUnavailable
from memtrace_core.testing import ManualClock
from memtrace_sqlite import JournalOwnership, SqliteJournal
from memtrace_sqlite.turns import Turns

HOLDER = """
import sys; from pathlib import Path
from memtrace_sqlite import JournalOwnership; from memtrace_sqlite.turns import Turns
path = Path(sys.argv[1])
ownership, turn = JournalOwnership(path), Turns(path).take()
assert ownership.take() if sys.argv[2] == "own" else turn.__enter__() is None
print("held", flush=True); sys.stdin.read()
"""


@pytest.fixture
def journal(tmp_path):
    """Return the path of a database; what is in it does not matter here."""
    path = tmp_path / "journal.db"
    path.touch(0o600)
    return path


def is_locked(path):
    """Tell whether somebody holds the lock of a file."""
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def test_who_waits_is_next_though_the_other_comes_back_at_once(journal):
    """A process that has its turn and wants the next one lets whoever waits go first."""
    ours, theirs, order = Turns(journal), Turns(journal), []
    with theirs.take():
        pass  # its files are there

    def other():
        with theirs.take():
            order.append("other")

    thread = threading.Thread(target=other)
    with ours.take():
        thread.start()
        eventually(lambda: is_locked(f"{journal}-next"), what="the other waits")
        order.append("first")
    with ours.take():
        order.append("second")
    thread.join()
    assert order == ["first", "other", "second"]
    ours.close()
    theirs.close()


def test_a_commit_waits_for_its_turn(tmp_path):
    """A journal writes nothing while another process has the turn, and does so right after."""

    async def body():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        turns = Turns(tmp_path / "journal.db")
        with turns.take():
            waiting = asyncio.create_task(journal.append(instance(), [draft()]))
            waits = partial(is_locked, tmp_path / "journal.db-next")
            await asyncio.to_thread(eventually, waits, what="the writer waits")
            assert await journal.pending_orgs() == []
            assert not waiting.done()
        await waiting
        turns.close()
        await journal.close()

    run(body())


@pytest.mark.parametrize("what", ["own", "turn"])
def test_a_lock_goes_with_its_process(journal, what):
    """When the process that holds a lock is killed, another one has it."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(journal), what], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        ownership, turns = JournalOwnership(journal), Turns(journal)
        if what == "own":
            assert not ownership.take()
        else:
            assert is_locked(f"{journal}-turn")
        holder.kill()
        holder.wait()
        assert ownership.take()
        with turns.take():
            pass
    ownership.release()
    turns.close()


def test_the_files_of_the_locks_are_as_private_as_the_database(journal):
    """They get the mode of the database, whatever the umask; nothing is ever in them."""
    journal.chmod(0o640)
    former = os.umask(0)
    try:
        turns, ownership = Turns(journal), JournalOwnership(journal)
        with turns.take():
            assert ownership.take()
    finally:
        os.umask(former)
    for suffix in ("-turn", "-next", "-delivery"):
        found = journal.with_name(journal.name + suffix).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_size) == (0o640, 0)
    turns.close()
    ownership.release()


def test_a_lock_that_cannot_be_made_is_told_in_one_sentence(journal):
    """A folder in the place of the lock's file is an error that names it."""
    journal.with_name("journal.db-delivery").mkdir()
    with pytest.raises(StorageUnavailable, match=r"journal\.db-delivery cannot be used"):
        JournalOwnership(journal).take()


def test_the_version_of_a_journal_moves_with_what_another_process_writes(tmp_path):
    """It stays while nothing is written, and moves with an append by another connection."""

    async def body():
        one, other = (SqliteJournal(tmp_path / "journal.db", ManualClock()) for _ in range(2))
        before = one.version()
        assert one.version() == before
        await other.append(instance(), [draft()])
        assert one.version() != before
        await one.close()
        await other.close()

    run(body())


def test_what_comes_while_another_process_has_its_turn_shares_one_transaction(tmp_path):
    """A group is closed when its turn begins, not when it begins to wait."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        await journal.append(instance(), [draft("before")])
        commits = []
        journal._connection.set_commit_hook(lambda: bool(commits.append(1)))
        with Turns(tmp_path / "journal.db").take():
            appends = [asyncio.create_task(journal.append(instance(), [draft("first")]))]
            await asyncio.sleep(0)  # it is handed over
            await asyncio.to_thread(eventually, journal._writer._jobs.empty)  # the writer has it, and waits
            appends += [asyncio.create_task(journal.append(instance(), [draft(str(n))])) for n in range(20)]
            closing = asyncio.create_task(journal.close())
            await asyncio.sleep(0)
        await asyncio.gather(*appends, closing)
        assert commits == [1]

    run(scenario())


def test_who_shares_a_transaction_with_a_loop_that_is_closed_is_answered(tmp_path):
    """Each loop is told of its own jobs."""
    journal = SqliteJournal(tmp_path / "journal.db", ManualClock())

    async def handed_over(content):
        append = asyncio.create_task(journal.append(instance(), [draft(content)]))
        await asyncio.sleep(0)  # it is handed over
        return append

    async def leave():
        await handed_over("nobody waits")
        await asyncio.to_thread(eventually, journal._writer._jobs.empty)  # the writer has it, and waits

    async def wait():
        append = await handed_over("awaited")
        turn.close()
        (stored,) = await asyncio.wait_for(append, 20)
        assert stored.content == "awaited"
        await journal.close()

    with ExitStack() as turn:
        turn.enter_context(Turns(tmp_path / "journal.db").take())
        run(leave())
        run(wait())
