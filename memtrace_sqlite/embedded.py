"""The embedded store: memories of small installations, in the journal's own file.

They come in with the transaction that acknowledges them (`SqliteJournal.append`); this gateway answers for them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import apsw

from memtrace_core.errors import ArcRejected
from memtrace_core.forgotten import Forgotten
from memtrace_core.identifiers import parse_memory_id
from memtrace_core.model import AgentCounts, ArcInstance, Memory
from memtrace_core.query import AgentCountQuery, MemoryQuery, OwnSpan
from memtrace_core.timewindow import to_us
from memtrace_sqlite import embedded_reads
from memtrace_sqlite.embedded_reads import OF_STORE, store_of
from memtrace_sqlite.forgetting import hidden_here
from memtrace_sqlite.journal import SqliteJournal
from memtrace_sqlite.rows import counts_of


class SqliteEmbeddedGateway:
    """Answers for instances whose URL is `embedded:`."""

    def __init__(self, journal: SqliteJournal) -> None:
        self._readers = journal.readers

    async def write(self, instance: ArcInstance, memories: Sequence[Memory]) -> bool:
        """Refuse: the journal has stored them already, in one transaction with the acknowledgement.

        Raises:
            ArcRejected: always.
        """
        raise ArcRejected(
            f"{len(memories)} memories for the embedded store of {instance.org_id} were never pending"
        )

    async def query(self, instance: ArcInstance, query: MemoryQuery) -> list[Memory]:
        """Return the memories that match."""
        return await self._readers.run(lambda connection: embedded_reads.find(connection, instance, query))

    async def count(self, instance: ArcInstance, query: AgentCountQuery) -> AgentCounts:
        """Count one agent's memories."""

        def work(connection: apsw.Connection) -> AgentCounts:
            hidden, values = hidden_here(connection, instance.org_id)
            return counts_of(connection, "embedded", OF_STORE + hidden, (*store_of(instance), *values), query)

        return await self._readers.run(work)

    async def own_count(self, instance: ArcInstance, span: OwnSpan) -> int:
        """Count what is stored of a span; nothing here ever waits to be confirmed."""
        return len(await self.own_ids(instance, span))

    async def own_ids(self, instance: ArcInstance, span: OwnSpan) -> set[str]:
        """Return what is stored of a span."""

        def work(connection: apsw.Connection) -> set[str]:
            rows = connection.execute(
                f"""
                SELECT memory_id FROM embedded
                WHERE {OF_STORE} AND time BETWEEN ? AND ? AND substr(memory_id, 19, 6) = ?
                """,
                (*store_of(instance), to_us(span.first), to_us(span.last), span.node),
            )
            return {memory_id for (memory_id,) in rows}

        return await self._readers.run(work)

    async def covered(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Return 0: what is forgotten here leaves the file by the journal's own transactions."""
        return 0

    async def erase(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Do nothing, for the same reason."""
        return 0

    async def known_ids(self, instance: ArcInstance, memory_ids: Collection[str]) -> set[str]:
        """Return which of these memories are stored."""

        def work(connection: apsw.Connection) -> set[str]:
            sql = f"SELECT 1 FROM embedded WHERE {OF_STORE} AND time = ? AND memory_id = ?"
            return {
                memory_id
                for memory_id in memory_ids
                if (parsed := parse_memory_id(memory_id))
                and connection.execute(sql, (*store_of(instance), parsed[0], memory_id)).fetchone()
            }

        return await self._readers.run(work)

    async def ping(self, instance: ArcInstance) -> None:
        """Read once from the file."""
        await self._readers.run(lambda connection: connection.execute("SELECT node FROM ledger").fetchone())

    async def server_version(self, instance: ArcInstance) -> str | None:
        """Return SQLite's version."""
        return f"SQLite {apsw.sqlite_lib_version()}"

    async def close(self) -> None:
        """Do nothing: the journal owns the file."""
