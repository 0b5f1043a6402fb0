"""How a node learns that orgs, instances or keys have changed, and knows when it would not learn it.

Triggers tell every node that listens, in the moment of the commit. A notification may still be lost, with the
connection that it comes over, and a lost connection may look like a silent one. So what a node has read counts for
`TRUST_SECONDS` after the last time that the database has answered it over that same connection; after that, its
version is another one each time that it is asked for, and nothing is remembered.

A node that has taken note of a version holds it as a shared advisory lock. Who has made a change waits until no
node holds an older one, or until those that do can trust no longer what they have read. So when the change returns,
it counts on every node.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable

import psycopg
from psycopg.sql import SQL, Identifier

from memtrace_core.errors import StorageUnavailable
from memtrace_postgres.address import Address
from memtrace_postgres.connections import Connection
from memtrace_postgres.trouble import DatabaseAway, reporting

BEAT_SECONDS = 1.0
TRUST_SECONDS = 5.0
LONGEST_PAUSE = 1.0

_VERSION = "SELECT version FROM config_version"
# An advisory lock of two halves: which installation (by its schema), and which version.
_OLDER = """
SELECT EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = hashtext(%s)::oid AND objid::bigint < %s
)
"""

_log = logging.getLogger("memtrace.postgres")


class Watch:
    """Listens on a connection of its own from the first time on that anybody wants to know."""

    def __init__(
        self,
        address: Address,
        connect: Callable[[], Awaitable[Connection]],
        on_lost: Callable[[], Awaitable[None]],
        monotonic: Callable[[], float],
    ) -> None:
        self._address = address
        self._connect = connect
        self._on_lost = on_lost
        self._monotonic = monotonic
        self._moves = 0
        self._known = 0
        self._held: int | None = None
        self._heard_at = -math.inf
        self._away: str | None = None
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def version(self) -> int:
        """Return a number that changes whenever orgs, instances or keys may have changed."""
        self._start()
        if self._monotonic() - self._heard_at >= TRUST_SECONDS:
            self._moves += 1
        return self._moves

    async def ready(self) -> None:
        """Return unless the database is away; wait for its first answer, but never for its return.

        Raises:
            DatabaseAway: it is.
        """
        self._start()
        await self._tried.wait()
        if self._away is not None:
            raise DatabaseAway(self._away)

    async def heeded(self, version: int, connection: Connection) -> None:
        """Wait until the change to a version counts on every node."""
        deadline = self._monotonic() + TRUST_SECONDS
        pause = 0.001
        while self._monotonic() < deadline:
            cursor = await connection.execute(_OLDER, (self._address.schema, version))
            if await cursor.fetchone() == (False,):
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.1)
        _log.warning("a node does not answer; it asks the database about every request until it does")

    async def close(self) -> None:
        """Listen no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                with reporting(self._address):
                    connection = await self._connect()
                    try:
                        await self._begin(connection)
                        failures = 0
                        await self._listen(connection)
                    finally:
                        await connection.close()
            except StorageUnavailable as error:
                await self._lost(str(error))
            except Exception as error:
                # A defect; but without this loop no change would ever be seen.
                _log.exception("listening to the metadata database failed, will be repeated")
                await self._lost(f"{self._address} cannot be listened to ({type(error).__name__})")
            failures += 1
            await asyncio.sleep(min(0.05 * 2**failures, LONGEST_PAUSE) * random.uniform(0.5, 1))  # noqa: S311 - no secret

    async def _begin(self, connection: Connection) -> None:
        self._held = None
        await connection.execute(SQL("LISTEN {}").format(Identifier(self._address.schema)))
        await self._look(connection)
        self._moves += 1
        if self._away is not None:
            _log.info("the metadata database is back")
        self._away = None
        self._tried.set()

    async def _listen(self, connection: Connection) -> None:
        while True:
            async for notification in connection.notifies(timeout=BEAT_SECONDS, stop_after=1):
                self._note(int(notification.payload))
            await self._look(connection)

    async def _look(self, connection: Connection) -> None:
        """Read the version, hold it, and read it again, until what is read is what is held."""
        while True:
            asked_at, known = self._monotonic(), self._known
            async with asyncio.timeout(TRUST_SECONDS):
                cursor = await connection.execute(_VERSION)
                found = await cursor.fetchone()
            if found is None:
                raise psycopg.DataError("the configuration has no version")
            (version,) = found
            if version < known:  # it was restored from a backup
                self._known = version
                self._moves += 1
            self._note(version)
            if version == self._held:
                self._heard_at = asked_at
                return
            await self._hold(connection, version)

    def _note(self, version: int) -> None:
        if version > self._known:
            self._known = version
            self._moves += 1

    async def _hold(self, connection: Connection, version: int) -> None:
        key = (self._address.schema, version)
        await connection.execute("SELECT pg_advisory_lock_shared(hashtext(%s), %s::int)", key)
        if self._held is not None:
            key = (self._address.schema, self._held)
            await connection.execute("SELECT pg_advisory_unlock_shared(hashtext(%s), %s::int)", key)
        self._held = version

    async def _lost(self, message: str) -> None:
        self._heard_at = -math.inf
        self._moves += 1
        if self._away is None:
            _log.warning("the metadata database is away, requests are refused until it is back: %s", message)
        self._away = message
        self._tried.set()
        await self._on_lost()
