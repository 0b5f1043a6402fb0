"""Threads that read, each with a read-only connection of its own, so that reads never wait for the writer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import apsw

from memtrace_core.errors import StorageUnavailable
from memtrace_sqlite.database import open_reader, reporting, snapshot
from memtrace_sqlite.presence import Presence
from memtrace_sqlite.rows import prepare

MOST_THREADS = 4

Result = TypeVar("Result")


class Readers:
    """A small pool of reading threads over one database file."""

    def __init__(self, path: Path, threads: int = MOST_THREADS) -> None:
        self._path = path
        self._presence = Presence(path, ("",))
        self._local = threading.local()
        self._connections: list[apsw.Connection] = []
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"reader of {path.name}")
        self._closed = False

    async def run(self, work: Callable[[apsw.Connection], Result]) -> Result:
        """Run `work` on a connection, within one snapshot, and return its result.

        Raises:
            StorageUnavailable: the file cannot be read, or the readers are closed.
        """
        if self._closed:
            raise StorageUnavailable(f"{self._path} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, work)

    async def close(self) -> None:
        """Finish what is being read, and close all connections."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)
            for connection in self._connections:
                connection.close()

    def _read(self, work: Callable[[apsw.Connection], Result]) -> Result:
        self._presence.check()
        with reporting(self._path):
            connection: apsw.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = prepare(open_reader(self._path))
                self._connections.append(connection)
            with snapshot(connection):
                return work(connection)
