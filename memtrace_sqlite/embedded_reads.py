"""What is read from the embedded store, within a snapshot of the file."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from memtrace_core.identifiers import parse_memory_id
from memtrace_core.model import ArcInstance, Memory
from memtrace_core.query import MemoryQuery
from memtrace_sqlite.forgetting import visible
from memtrace_sqlite.rows import COLUMNS, Value, memories_of, ordering

OF_STORE = "store = (SELECT store FROM stores WHERE org_id = ? AND database = ? AND measurement = ?)"
"""The condition for the rows of one instance; its values are those of `store_of`."""

# The blocks are those of the index embedded_dedup: from each to the one before that has rows of the store.
_WITH_KEY = """ AND seq IN (
    WITH RECURSIVE
        owned(owner) AS (SELECT store FROM stores WHERE org_id = ? AND database = ? AND measurement = ?),
        blocks(number) AS (
            SELECT (SELECT max(seq >> 12) FROM embedded WHERE store = owner AND dedup_key IS NOT NULL) FROM owned
            UNION ALL
            SELECT (
                SELECT max(seq >> 12) FROM embedded
                WHERE store = owner AND dedup_key IS NOT NULL AND seq >> 12 < number
            ) FROM blocks, owned WHERE number IS NOT NULL
        )
    SELECT seq FROM owned CROSS JOIN blocks CROSS JOIN embedded INDEXED BY embedded_dedup
    ON store = owner AND seq >> 12 = number AND dedup_key = ?
)"""


def store_of(instance: ArcInstance) -> tuple[Value, Value, Value]:
    """Return the values of `OF_STORE`."""
    return instance.org_id, instance.database, instance.measurement


def find(connection: apsw.Connection, instance: ArcInstance, query: MemoryQuery) -> list[Memory]:
    """Return the memories in an instance's embedded store that match."""
    return find_visible(connection, instance, query, *visible(connection, query))


def find_visible(
    connection: apsw.Connection, instance: ArcInstance, query: MemoryQuery, where: str, values: Sequence[Value]
) -> list[Memory]:
    """Do what `find` does, with what `visible` has returned for the query."""
    table = "embedded"
    if query.memory_id is not None and (parsed := parse_memory_id(query.memory_id)):
        # The id tells the time, and there is an index by time.
        where, values = f"{where} AND time = ?", [*values, parsed[0]]
    if query.dedup_key is not None:
        table = "embedded NOT INDEXED"  # by row
        where, values = f"{where}{_WITH_KEY}", [*values, *store_of(instance), query.dedup_key]
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM {table} WHERE {OF_STORE}{where}{ordering(query)} LIMIT ? OFFSET ?",
        (*store_of(instance), *values, query.limit, query.offset),
    )
    return memories_of(query.org_id, rows)
