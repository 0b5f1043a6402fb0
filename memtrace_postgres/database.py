"""Statements against the database of a node: when it may be asked, on which connection, and what errors mean."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import psycopg
from psycopg import AsyncConnection

from memtrace_core.errors import Conflict, InvalidInput, NotFound, StorageUnavailable
from memtrace_core.metadata_rows import Row, Value
from memtrace_core.opening import Mode
from memtrace_core.ports import KeyVault
from memtrace_postgres.address import SCHEMA, Address
from memtrace_postgres.connections import Connection, Connections
from memtrace_postgres.opening import know_journal, prepare
from memtrace_postgres.trouble import reporting
from memtrace_postgres.watch import Watch

MOST_CONNECTIONS = 8


class Database:
    """One schema of a PostgreSQL database that nodes and commands may use at once.

    Args:
        url: of the database, as libpq takes it.
        vault: must open what was sealed with the master key of this database.
        mode: whether older tables are migrated or refused.
        schema: where the tables are, made if it is not there.
        monotonic: seconds that never run backwards.

    Raises:
        StorageUnavailable: the database is not there, not ours, or cannot be used.
        WrongMasterKey: the database was begun with another master key.
        SealBroken: its check value is damaged.
    """

    def __init__(
        self,
        url: str,
        vault: KeyVault,
        *,
        mode: Mode = Mode.AS_IT_IS,
        schema: str = SCHEMA,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = Address(url, schema)
        self._journals = prepare(self.address, vault, mode)
        self._connections = Connections(self._connect, MOST_CONNECTIONS)
        self._watch = Watch(self.address, self._connect, self._connections.discard, monotonic)
        self._closed = False

    def version(self) -> int:
        """Return the version of orgs, instances and keys; see `memtrace_postgres.watch` for what it promises."""
        return self._watch.version()

    def known_journals(self) -> dict[str, str]:
        """Return the journals of all nodes as they were known when this was opened: node id → place."""
        return self._journals

    def know_journal(self, node: str, place: str) -> None:
        """Remember that a journal belongs to this database, and where it lies."""
        if self._journals.get(node) != place:
            know_journal(self.address, node, place)
            self._journals[node] = place

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        await self._watch.close()
        await self._connections.close()

    def release(self) -> None:
        """Let go of the database at once, for who never ran anything on it."""
        self._closed = True

    async def rows(self, sql: str, *values: Value) -> list[Row]:
        """Return the rows of one statement; none if a value is a text that the database cannot hold."""
        if not all(map(_storable, values)):
            return []
        async with self._one() as connection:
            return await (await connection.execute(sql, values)).fetchall()

    async def change(self, sql: str, *values: Value) -> bool:
        """Run one statement that changes no org, instance or key, and tell whether it changed anything."""
        if not all(map(_storable, values)):
            return False
        async with self._one() as connection:
            return (await connection.execute(sql, values)).rowcount > 0

    async def configure(self, sql: str, *values: Value) -> bool:
        """Run one statement that changes orgs, instances or keys, and tell whether it changed anything."""
        if not all(map(_storable, values)):
            return False
        async with self.configuring() as connection:
            return (await connection.execute(sql, values)).rowcount > 0

    async def insert(self, into: str, row: Sequence[Value], taken: Conflict) -> None:
        """Insert one row that is no org, instance or key; see `insert_row`."""
        async with self._one() as connection:
            await insert_row(connection, into, row, taken)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Run several statements in one transaction, none of which changes an org, instance or key."""
        async with self._one() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def configuring(self) -> AsyncIterator[Connection]:
        """Run statements that change orgs, instances or keys in a transaction, and come back when all nodes know.

        Such transactions come one after another, whichever node they are from.
        """
        async with self._one() as connection:
            async with connection.transaction():
                before = await _version(connection, "SELECT version FROM config_version FOR UPDATE")
                yield connection
                after = await _version(connection, "SELECT version FROM config_version")
            if after != before:
                await self._watch.heeded(after, connection)

    @asynccontextmanager
    async def _one(self) -> AsyncIterator[Connection]:
        if self._closed:
            raise StorageUnavailable(f"{self.address} is closed")
        await self._watch.ready()
        with reporting(self.address):
            async with self._connections.one() as connection:
                yield connection

    async def _connect(self) -> Connection:
        return await AsyncConnection.connect(autocommit=True, **self.address.parameters)  # type: ignore[arg-type]


async def insert_row(
    connection: AsyncConnection[Row], into: str, row: Sequence[Value], taken: Conflict, otherwise: str = ""
) -> None:
    """Insert a row.

    Raises:
        InvalidInput: a text holds what the database cannot.
        NotFound: the org that it names does not exist.
        Conflict: the one given, for what is there already.
    """
    if not all(map(_storable, row)):
        raise InvalidInput("a text must not contain NUL characters or lone surrogates")
    places = ", ".join(["%s"] * len(row))
    try:
        done = await connection.execute(f"INSERT INTO {into} VALUES ({places}) {otherwise}", row)
    except psycopg.errors.ForeignKeyViolation:
        raise NotFound("the organization does not exist (any more)", code="org_not_found") from None
    except psycopg.errors.UniqueViolation:
        raise taken from None
    if not done.rowcount:
        raise taken


async def _version(connection: Connection, sql: str) -> int:
    found = await (await connection.execute(sql)).fetchone()
    if found is None:
        raise psycopg.DataError("the configuration has no version")
    version: int = found[0]
    return version


def _storable(value: Value) -> bool:
    if not isinstance(value, str):
        return True
    if "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
