"""Threads that read: one short read after another, and nobody waits for a long one."""

import asyncio
import threading

import pytest
from builders import run

from memtrace_core.errors import StorageUnavailable
from memtrace_core.testing import ManualClock
from memtrace_sqlite import SqliteJournal
from memtrace_sqlite import readers as module

A_MILLISECOND_OR_SO = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 3000)
SELECT sum(n) FROM numbers
"""

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def reading(tmp_path):
    """Run an async function on the readers of a journal."""

    def with_readers(use):
        async def scenario():
            journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
            try:
                await use(journal.readers)
            finally:
                await journal.close()

        run(scenario())

    return with_readers


def test_short_reads_go_one_after_another(reading, monkeypatch):
    """However many are asked for at once, and though there are threads for several."""
    monkeypatch.setattr(module, "SHORT_READ_SECONDS", 60)  # so that all of them are short
    at_once = []
    inside = threading.Semaphore(1)

    def work(connection):
        alone = inside.acquire(blocking=False)
        found = connection.execute(A_MILLISECOND_OR_SO).fetchall()
        if alone:
            inside.release()
        at_once.append(not alone)
        return found

    async def use(readers):
        answers = await asyncio.gather(*(readers.run(work) for _ in range(32)))
        assert answers == [[(4_501_500,)]] * 32

    reading(use)
    assert at_once == [False] * 32


def test_a_long_read_is_overtaken(reading):
    """As long as there is a thread left, and each gets its own answer."""
    over = threading.Event()

    def long(connection):
        assert over.wait(30)
        return "long"

    async def use(readers):
        waiting = [asyncio.create_task(readers.run(long)) for _ in range(module.MOST_THREADS - 1)]
        for number in range(5):
            assert await readers.run(lambda connection, number=number: number) == number
        assert not any(task.done() for task in waiting)
        over.set()
        assert await asyncio.gather(*waiting) == ["long"] * len(waiting)

    reading(use)


def test_a_read_that_fails_leaves_its_turn(reading):
    """The error goes to who asked, whatever it is, and the next ones are answered."""

    def fail(connection):
        raise ZeroDivisionError("a defect")

    async def use(readers):
        for _ in range(2 * module.MOST_THREADS):
            with pytest.raises(ZeroDivisionError):
                await readers.run(fail)
            assert await readers.run(lambda connection: "next") == "next"

    reading(use)


def test_a_read_that_nobody_waits_for_any_more_hurts_nobody(reading):
    """A cancelled question is answered all the same, to nobody."""
    begun, over = threading.Event(), threading.Event()

    def slow(connection):
        begun.set()
        assert over.wait(30)

    async def use(readers):
        asked = asyncio.create_task(readers.run(slow))
        await asyncio.to_thread(begun.wait, 30)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        over.set()
        assert await readers.run(lambda connection: "next") == "next"

    reading(use)


def test_a_reader_keeps_few_pages(reading):
    """Each of its connections has a small cache of its own, on every thread."""
    together = threading.Barrier(module.MOST_THREADS, timeout=30)

    def work(connection):
        together.wait()
        return connection.pragma("cache_size")

    async def use(readers):
        sizes = await asyncio.gather(*(readers.run(work) for _ in range(module.MOST_THREADS)))
        assert sizes == [-module.CACHE_KIB] * module.MOST_THREADS

    reading(use)


def test_a_thread_that_cannot_be_started_is_told_or_done_without(reading, monkeypatch):
    """The first one is needed, so that its read fails, and the next one tries again; others are not."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    async def use(readers):
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            for _ in range(2 * module.MOST_THREADS):
                with pytest.raises(StorageUnavailable, match="no thread can be started"):
                    await readers.run(lambda connection: 1)
        assert await readers.run(lambda connection: 2) == 2
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert await readers.run(lambda connection: 3) == 3
        monkeypatch.undo()

    reading(use)
