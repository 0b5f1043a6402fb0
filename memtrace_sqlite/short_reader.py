"""Short reads on the thread of whoever asks, which the event loop can afford; what takes longer is given up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import apsw

from memtrace_sqlite.database import keeps_its_snapshot, open_reader, reporting, snapshot
from memtrace_sqlite.rows import prepare

# SQLite's virtual machine takes some 20 steps for a row that is shown, 20,000 for the largest page, and 5 for one
# that is passed over: 2 ms, unless contents are large.
MOST_STEPS = 25_000
STEPS_BETWEEN_LOOKS = 40
# Reached by waiting, for a disk first of all.
LIMIT_SECONDS = 0.02
# After that none is tried for this many times what it took: most of the loop's time is not lost to it.
REST_FACTOR = 5

Result = TypeVar("Result")


class TooLong(Exception):
    """A read was given up, or not begun, since it might hold its thread for too long."""


class ShortReader:
    """One read-only connection that gives a read up when it exceeds the limits above.

    They are looked at every other row: a single row of megabytes, or a disk that does not answer, ends no sooner.

    Work is counted in steps, not in time: beside busy threads a short read takes long, and were it given up, there
    would be one more of them.

    It may be asked from several threads, each with its loop: who finds another reading is not made to wait.
    """

    def __init__(self, path: Path, cache_kib: int) -> None:
        self._path = path
        self._cache_kib = cache_kib
        self._reading = threading.Lock()
        self._limited = False
        self._looks_left = 0
        self._ends_at = 0.0
        self._rests_until = float("-inf")
        self._connection: apsw.Connection | None = self._opened()

    def read(self, work: Callable[[apsw.Connection], Result]) -> Result:
        """Run `work` within one snapshot, and return its result.

        Raises:
            TooLong: it takes too long or must wait for a lock, one before it waited for long, another thread is
                reading, or the reader is closed; `work` may have run in part.
            StorageUnavailable: the file cannot be read.
        """
        if perf_counter() < self._rests_until or not self._reading.acquire(blocking=False):
            raise TooLong
        try:
            if self._connection is None:
                raise TooLong
            with reporting(self._path):
                return self._within_limits(self._connection, work)
        finally:
            self._reading.release()

    def close(self) -> None:
        """Close the connection, once nobody is reading, and read no more."""
        with self._reading:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _within_limits(self, connection: apsw.Connection, work: Callable[[apsw.Connection], Result]) -> Result:
        began_at = perf_counter()
        self._looks_left = MOST_STEPS // STEPS_BETWEEN_LOOKS
        self._ends_at = began_at + LIMIT_SECONDS
        try:
            with snapshot(connection):
                self._limited = True
                try:
                    return work(connection)
                finally:
                    # The end of the snapshot must not be given up: the next read would begin within this one.
                    self._limited = False
        except (apsw.InterruptError, apsw.BusyError, apsw.ProtocolError):
            raise TooLong from None
        finally:
            now = perf_counter()
            if now > self._ends_at:
                self._rests_until = now + (now - began_at) * REST_FACTOR
            if keeps_its_snapshot(connection):
                self._connection = None
                connection.close(True)
                self._connection = self._opened()

    def _opened(self) -> apsw.Connection:
        connection = prepare(open_reader(self._path))
        connection.pragma("cache_size", -self._cache_kib)
        connection.set_busy_timeout(0)
        connection.set_progress_handler(self._is_over, STEPS_BETWEEN_LOOKS)
        return connection

    def _is_over(self) -> bool:
        self._looks_left -= 1
        return self._limited and (self._looks_left < 0 or perf_counter() > self._ends_at)
