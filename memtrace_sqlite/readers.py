"""Reads that never wait for the writer: short ones on the event loop's own thread, all others on a few threads."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar, cast

import apsw

from memtrace_core.errors import StorageUnavailable
from memtrace_sqlite.database import keeps_its_snapshot, open_reader, reporting, snapshot
from memtrace_sqlite.presence import Presence
from memtrace_sqlite.rows import prepare
from memtrace_sqlite.short_reader import ShortReader, TooLong

MOST_THREADS = 4
SHORT_READ_SECONDS = 0.005
# SQLite forgets these pages with each commit of anybody, and the system has them: more would only be memory.
CACHE_KIB = 512

Result = TypeVar("Result")


class _Question(Generic[Result]):
    __slots__ = ("answer", "loop", "work")

    def __init__(self, work: Callable[[apsw.Connection], Result]) -> None:
        self.work = work
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Result] = self.loop.create_future()

    def settle(self, result: Result | None, error: BaseException | None) -> None:
        """Hand over what a thread has found; from that thread."""
        try:
            self.loop.call_soon_threadsafe(self._settle, result, error)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    def _settle(self, result: Result | None, error: BaseException | None) -> None:
        if self.answer.cancelled():
            return
        if error is None:
            self.answer.set_result(cast(Result, result))
        else:
            self.answer.set_exception(error)


class Readers:
    """A small pool of reading threads over one database file.

    The standard library's executor costs a read 20 µs of the event loop's thread, with its two futures for each
    call; this has one, and hands the result straight to it. Short reads go one after another: at once they would
    only take the interpreter from each other, row by row, for twice the CPU. Those that take longer are overtaken.
    """

    def __init__(self, path: Path, threads: int = MOST_THREADS) -> None:
        self._path = path
        self._presence = Presence(path, ("",))
        self._questions: queue.SimpleQueue[_Question[object] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._most_threads = threads
        self._turn = threading.Lock()
        self._short = ShortReader(path, CACHE_KIB)
        self._closed = False

    async def run(self, work: Callable[[apsw.Connection], Result]) -> Result:
        """Run `work` on a connection, within one snapshot, and return its result.

        Raises:
            StorageUnavailable: the file cannot be read, or the readers are closed.
        """
        if self._closed:
            raise StorageUnavailable(f"{self._path} is closed")
        if len(self._threads) < self._most_threads:
            self._start_thread()
        question: _Question[Result] = _Question(work)
        self._questions.put(question)  # type: ignore[arg-type]  # whoever answers it does not look at the result
        return await question.answer

    async def run_short(self, work: Callable[[apsw.Connection], Result]) -> Result:
        """Do what `run` does, for work that is nearly always short: at once, on the event loop's own thread.

        The hop to another thread and back would cost as much again as a page of memories. What turns out to be long
        is begun anew on a thread, in a snapshot of its own, so `work` may run twice. What is short is done without
        giving others their turn.

        Raises:
            StorageUnavailable: the file cannot be read, or the readers are closed.
        """
        if not self._closed:
            self._presence.check()
            with contextlib.suppress(TooLong):
                return self._short.read(work)
        return await self.run(work)

    async def close(self) -> None:
        """Finish what is being read, and close all connections."""
        if not self._closed:
            self._closed = True
            for _ in self._threads:
                self._questions.put(None)
            await asyncio.get_running_loop().run_in_executor(None, self._join)
            self._short.close()

    def release(self) -> None:
        """Close at once, for who never read anything."""
        self._closed = True
        self._short.close()

    def _start_thread(self) -> None:
        name = f"reader of {self._path.name} {len(self._threads)}"
        thread = threading.Thread(target=self._answer_all, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has none left
            if not self._threads:
                raise StorageUnavailable(f"{self._path} cannot be read: no thread can be started") from None
            return
        self._threads.append(thread)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _answer_all(self) -> None:
        connection: apsw.Connection | None = None
        while question := self._questions.get():
            result, error = None, None
            in_turn = self._turn.acquire(timeout=SHORT_READ_SECONDS)
            try:
                self._presence.check()
                with reporting(self._path):
                    if connection is None:
                        connection = prepare(open_reader(self._path))
                        connection.pragma("cache_size", -CACHE_KIB)
                    with snapshot(connection):
                        result = question.work(connection)
            except BaseException as raised:  # whoever asked is told, whatever it is; this thread must live on
                error = raised
            finally:
                if in_turn:
                    self._turn.release()
                if connection is not None and keeps_its_snapshot(connection):
                    connection.close(True)
                    connection = None
            question.settle(result, error)
            del question, result, error  # not until the next one comes
        if connection is not None:
            connection.close()
