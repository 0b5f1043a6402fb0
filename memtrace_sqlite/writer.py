"""Group commit: one thread writes, and requests that wait together share one transaction and one fsync."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

import apsw

from memtrace_core.errors import JournalFull, MemtraceError, StorageUnavailable
from memtrace_sqlite.database import reporting, transaction
from memtrace_sqlite.presence import Presence
from memtrace_sqlite.turns import Turns

MOST_IN_GROUP = 512

State = TypeVar("State", bound="GroupState")
Result = TypeVar("Result")


class GroupState(Protocol):
    """What the jobs of one transaction share."""

    def begin(self) -> None:
        """Start afresh: the transaction has just begun, and an earlier one may have been rolled back."""
        ...

    def finish(self) -> None:
        """Write what the jobs have only collected; the transaction is about to commit."""
        ...

    def committed(self) -> None:
        """Remember what was written, as the transaction is on disk; a failure of this has no consequences."""
        ...


class _Job(Generic[State, Result]):
    __slots__ = ("error", "future", "result", "work")

    def __init__(self, work: Callable[[State], Result]) -> None:
        self.work = work
        self.future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.result: Result | None = None
        self.error: Exception | None = None

    def settle(self) -> None:
        if self.future.cancelled():
            return
        if self.error is None:
            self.future.set_result(cast(Result, self.result))
        else:
            self.future.set_exception(self.error)


class GroupWriter(Generic[State]):
    """Runs jobs on one connection, many to a transaction, in turn with other processes that write the file.

    A job's result is given out only when its transaction is on disk. A job may refuse by a MemtraceError as long
    as it has written nothing. When one fails in any other way, the transaction is rolled back and every job of
    the group is run again in one of its own, so that a bad one fails alone: a job must do nothing but write
    through `state`.
    """

    def __init__(self, path: Path, connection: apsw.Connection, state: State) -> None:
        self._path = path
        self._connection = connection
        self._state = state
        self._presence = Presence(path)
        self._turns = Turns(path)
        self._jobs: queue.SimpleQueue[_Job[State, object] | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"writer of {path.name}", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[State], Result]) -> Result:
        """Run a job, and return its result once it is on disk.

        Raises:
            StorageUnavailable: the file cannot be written, or the writer is closed; nothing was stored.
            MemtraceError: what the job raised; nothing of it was stored.
        """
        job: _Job[State, Result] = _Job(work)
        with self._lock:
            if self._closed:
                raise StorageUnavailable(f"{self._path} is closed")
            self._jobs.put(cast("_Job[State, object]", job))
        return await job.future

    async def close(self) -> None:
        """Finish the jobs that wait, and end the thread."""
        await asyncio.get_running_loop().run_in_executor(None, self.end)

    def end(self) -> None:
        """Close, and wait for it."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._jobs.get()) is not None:
            group = [first]
            self._commit(group, growing=True)
            self._give_out(group)
        self._turns.close()

    def _add_waiting(self, group: list[_Job[State, object]]) -> None:
        """Let the jobs that wait by now join a group."""
        with suppress(queue.Empty):
            while len(group) < MOST_IN_GROUP:
                job = self._jobs.get_nowait()
                if job is None:
                    self._jobs.put(None)  # still the last: there are no more jobs once the writer is closed
                    return
                group.append(job)

    def _commit(self, group: list[_Job[State, object]], *, growing: bool = False) -> None:
        try:
            with reporting(self._path), self._full_disk(), self._turns.take():
                if growing:
                    # Only now: while another process had its turn, more came.
                    self._add_waiting(group)
                self._presence.check()
                with transaction(self._connection):
                    self._state.begin()
                    for job in group:
                        self._attempt(job)
                    self._state.finish()
        except MemtraceError as error:  # the file cannot be used: nothing was stored, for nobody
            for job in group:
                job.error = error
        except Exception as error:  # some job's own fault, whatever it is; this thread must live on
            if len(group) == 1:
                group[0].error = error
                return
            for job in group:
                self._commit([job])
        else:
            # Whatever happens here, what is on disk must not be run again.
            with suppress(Exception):
                self._state.committed()

    def _attempt(self, job: _Job[State, object]) -> None:
        job.error = None
        try:
            job.result = job.work(self._state)
        except MemtraceError as error:  # refused before it wrote anything
            job.error = error

    @contextmanager
    def _full_disk(self) -> Iterator[None]:
        try:
            yield
        except apsw.FullError:
            raise JournalFull("the disk that holds the journal is full") from None

    @staticmethod
    def _give_out(group: Sequence[_Job[State, object]]) -> None:
        # Nearly always one, which is told once of all.
        for loop in {job.future.get_loop() for job in group}:
            with suppress(RuntimeError):  # closed: nobody waits any more, and what was written stays written
                loop.call_soon_threadsafe(_settle, [job for job in group if job.future.get_loop() is loop])


def _settle(group: Sequence[_Job[State, object]]) -> None:
    for job in group:
        job.settle()
