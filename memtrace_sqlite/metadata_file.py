"""The metadata database as a file: opened with the right master key, watched, read and written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import apsw

from memtrace_core.errors import Conflict, NotFound, StorageUnavailable
from memtrace_core.metadata_rows import Row
from memtrace_core.opening import Mode
from memtrace_core.ports import KeyVault
from memtrace_sqlite.database import open_database, open_reader, reporting, transaction
from memtrace_sqlite.presence import Presence
from memtrace_sqlite.rows import Value
from memtrace_sqlite.schema import METADATA

CHECK_CONTEXT = "metadata|check"
CHECK_VALUE = "memtrace"
CHECK_NAME = "master_key_check"
JOURNAL_OF = "journal of "
LOOK_SECONDS = 1.0

Result = TypeVar("Result")


class MetadataFile:
    """One SQLite file that servers and CLI may use at once.

    Args:
        path: the file, made if it is not there.
        vault: must open what was sealed with the master key of this database.
        mode: whether an older schema is migrated or refused.

    Raises:
        StorageUnavailable: the file is not ours or cannot be used.
        WrongMasterKey: the database was begun with another master key.
        SealBroken: its check value is damaged.
    """

    def __init__(self, path: Path, vault: KeyVault, *, mode: Mode = Mode.AS_IT_IS) -> None:
        self._path = path
        self._connection = open_database(path, METADATA, mode)
        try:
            with reporting(path):
                self._check_master_key(vault)
            # `data_version` moves when another connection commits, so this one must never write.
            self._watch = open_reader(path)
        except BaseException:
            self._connection.close()
            raise
        self._seen: tuple[object, int] = (None, 0)
        self._looked = False
        self._presence = Presence(path)
        self._file_presence = Presence(path, ("",), every=LOOK_SECONDS)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metadata")
        self._closed = False

    def version(self) -> int:
        """Return the version of orgs, instances and keys, in microseconds when nothing changed.

        One look is enough for a turn of the event loop: whatever asks until the loop comes to what is scheduled
        from now on had been received before the look, or waits for a change that was made before it.
        """
        if self._looked:
            return self._seen[1]
        self._look()
        self._looked = True
        asyncio.get_running_loop().call_soon(self._look_again)
        return self._seen[1]

    def _look_again(self) -> None:
        self._looked = False

    def _look(self) -> None:
        self._file_presence.check()
        with reporting(self._path):
            data_version = self._watch.pragma("data_version")
            if data_version != self._seen[0]:
                ((version,),) = self._watch.execute("SELECT version FROM config_version")
                self._seen = (data_version, version)

    def known_journals(self) -> dict[str, str | None]:
        """Return the node ids of the journals that have belonged to this database, all of them in one place."""
        with reporting(self._path):
            found = self._connection.execute("SELECT name FROM meta WHERE name GLOB ?", (JOURNAL_OF + "*",))
            return {name.removeprefix(JOURNAL_OF): None for (name,) in found}

    def know_journal(self, node: str, place: str | None = None) -> None:
        """Remember that a journal belongs to this database, wherever it lies: there is one at a time."""
        with reporting(self._path), transaction(self._connection):
            self._connection.execute("INSERT OR IGNORE INTO meta VALUES (?, x'')", (JOURNAL_OF + node,))

    async def close(self) -> None:
        """Finish what was begun, and close the file."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
            self.release()

    def release(self) -> None:
        """Close the file at once, for who never ran anything on it."""
        self._closed = True
        self._watch.close()
        self._connection.close()

    def check_value(self) -> bytes | None:
        """Return the value that was sealed with this database's master key to tell another one."""
        found = self._connection.execute("SELECT value FROM meta WHERE name = ?", (CHECK_NAME,)).fetchone()
        return None if found is None else bytes(found[0])

    def _check_master_key(self, vault: KeyVault) -> None:
        """Open a value that the database's master key has sealed, so that another key is named at once."""
        if self.check_value() is None:
            with transaction(self._connection):
                self._connection.execute(
                    "INSERT OR IGNORE INTO meta VALUES (?, ?)", (CHECK_NAME, vault.seal(CHECK_VALUE, CHECK_CONTEXT))
                )
        if (check := self.check_value()) is not None:
            vault.open(check, CHECK_CONTEXT)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run work on the file's one thread, after what was asked for before."""
        if self._closed:
            raise StorageUnavailable(f"{self._path} is closed")

        def reported() -> Result:
            with reporting(self._path):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._thread, reported)

    async def write(self, work: Callable[[], Result]) -> Result:
        """Run work in a transaction of its own."""

        def transacted() -> Result:
            self._presence.check()
            with transaction(self._connection):
                return work()

        return await self.run(transacted)

    def changes(self) -> int:
        """Return how many rows the last statement has changed."""
        return self._connection.changes()

    async def change(self, sql: str, *values: Value) -> bool:
        """Run one statement, and tell whether it changed anything."""

        def work() -> bool:
            self.execute(sql, *values)
            return self.changes() > 0

        return await self.write(work)

    async def rows(self, sql: str, *values: Value) -> list[Row]:
        """Return the rows of one statement."""
        return await self.run(lambda: self.execute(sql, *values))

    def execute(self, sql: str, *values: Value) -> list[Row]:
        """Run a statement within work, and return its rows."""
        return self._connection.execute(sql, values).fetchall()

    def insert(self, into: str, row: Sequence[Value], taken: Conflict, otherwise: str = "") -> None:
        """Insert a row within work.

        Raises:
            NotFound: the org that it names does not exist.
            Conflict: the one given, for what is there already.
        """
        try:
            self.execute(f"INSERT INTO {into} VALUES ({', '.join('?' * len(row))}) {otherwise}", *row)
        except apsw.ConstraintError as error:
            if getattr(error, "extendedresult", None) == apsw.SQLITE_CONSTRAINT_FOREIGNKEY:  # not in the stubs
                raise NotFound("the organization does not exist (any more)", code="org_not_found") from None
            raise taken from None
