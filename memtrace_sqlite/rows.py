"""Memories as SQLite rows, and queries as SQLite conditions. No value ever stands in the SQL text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import apsw
import msgspec

from memtrace_core.damage import UNREADABLE, DamagedRow
from memtrace_core.entries import Draft
from memtrace_core.model import UNIMPORTANT, AgentCounts, Memory, MemoryType
from memtrace_core.query import AgentCountQuery, MemoryQuery, fold
from memtrace_core.timewindow import from_us, to_us

Value = str | int | float | bytes | None
MemoryRow = tuple[
    int, str, str, str | None, MemoryType, str, str, str | None, str | None, str | None, float, str | None
]

COLUMNS = (
    "time, memory_id, agent_id, session_id, memory_type, event_type, content, metadata_json, tags_csv, "
    "dedup_key, importance, parent_id"
)
PLACES = ", ".join("?" * 12)

_METADATA = msgspec.json.Decoder(dict[str, object])


def prepare(connection: apsw.Connection) -> apsw.Connection:
    """Give a connection the function that `conditions` uses for contents."""

    def contains(*values: apsw.SQLiteValue) -> bool:
        content, folded = values
        return isinstance(content, str) and isinstance(folded, str) and folded in fold(content)

    connection.create_scalar_function("folded_contains", contains, 2, deterministic=True)
    return connection


def row_of(draft: Draft, time: int, memory_id: str) -> MemoryRow:
    """Return the values of `COLUMNS` for a draft that is stamped with time and id."""
    return (
        time,
        memory_id,
        draft.agent_id,
        draft.session_id,
        draft.memory_type,
        draft.event_type,
        draft.content,
        draft.metadata_json or None,
        ",".join(draft.tags) or None,
        draft.dedup_key,
        draft.importance,
        draft.parent_id,
    )


def row_of_memory(memory: Memory) -> MemoryRow:
    """Return the values of `COLUMNS` for a memory that has time and id already."""
    return (
        to_us(memory.time),
        memory.memory_id,
        memory.agent_id,
        memory.session_id,
        memory.memory_type,
        memory.event_type,
        memory.content,
        msgspec.json.encode(memory.metadata).decode() if memory.metadata else None,
        ",".join(memory.tags) or None,
        memory.dedup_key,
        float(memory.importance),
        memory.parent_id,
    )


def memory_of(org_id: str, row: MemoryRow) -> Memory:
    """Return the memory that the values of `COLUMNS` stand for."""
    time, memory_id, agent_id, session_id, memory_type, event_type, content, metadata, tags, key, weight, parent = (
        row
    )
    try:
        return Memory(
            memory_id=memory_id,
            time=from_us(time),
            org_id=org_id,
            agent_id=agent_id,
            session_id=session_id,
            memory_type=memory_type,
            event_type=event_type,
            content=content,
            metadata=_METADATA.decode(metadata) if metadata else None,
            tags=tuple(tags.split(",")) if tags else (),
            dedup_key=key,
            importance=weight or UNIMPORTANT,
            parent_id=parent,
        )
    except UNREADABLE as error:
        raise DamagedRow from error


def memories_of(org_id: str, rows: apsw.Cursor) -> list[Memory]:
    """Return the memories that the rows of a statement stand for."""
    # All of them first: a row's text that goes to Python between two steps of SQLite costs a tenth more.
    return [memory_of(org_id, row) for row in cast(list[MemoryRow], rows.fetchall())]


def conditions(query: MemoryQuery) -> tuple[str, list[Value]]:
    """Render the filters of a query, the org and the horizon apart, as ` AND …` and its values."""
    parts: list[str] = []
    values: list[Value] = []

    def add(part: str, *given: Value) -> None:
        parts.append(part)
        values.extend(given)

    for column, wanted in (
        ("agent_id", query.agent_ids),
        ("session_id", query.session_ids),
        ("memory_type", query.memory_types),
        ("event_type", query.event_types),
    ):
        if len(wanted) == 1:
            add(f"{column} = ?", *wanted)
        elif wanted:
            add(f"{column} IN ({', '.join('?' * len(wanted))})", *wanted)
    for tag in query.tags:
        add("instr(',' || tags_csv || ',', ?) > 0", f",{tag},")
    if query.content_contains is not None:
        add("folded_contains(content, ?)", fold(query.content_contains))
    if query.min_importance is not None:
        add("importance >= ?", query.min_importance)
    if query.max_importance is not None:
        add("importance <= ?", query.max_importance)
    if query.since is not None:
        add("time >= ?", to_us(query.since))
    if query.until is not None:
        add("time < ?", to_us(query.until))
    if query.memory_id is not None:
        add("memory_id = ?", query.memory_id)
    if query.dedup_key is not None:
        add("dedup_key = ?", query.dedup_key)
    if query.after is not None:
        comparison = "<" if query.order == "desc" else ">"
        add(f"(time, memory_id) {comparison} (?, ?)", to_us(query.after.time), query.after.id)
    return "".join(f" AND {part}" for part in parts), values


def ordering(query: MemoryQuery) -> str:
    """Render the order of a query."""
    direction = query.order.upper()
    return f" ORDER BY time {direction}, memory_id {direction}"


def counts_of(
    connection: apsw.Connection, table: str, owner: str, owned: Sequence[Value], query: AgentCountQuery
) -> AgentCounts:
    """Count one agent's memories in a table; `owner` and its values `owned` are the condition naming the org."""
    recent = to_us(query.recent_since)
    part, since = (" AND time >= ?", (to_us(query.since),)) if query.since else ("", ())
    counts = AgentCounts()
    found = connection.execute(
        f"""
        SELECT memory_type, count(*), sum(time >= ?), sum(time >= ? AND event_type = 'error')
        FROM {table} WHERE {owner} AND agent_id = ?{part} GROUP BY memory_type
        """,
        (recent, recent, *owned, query.agent_id, *since),
    )
    for memory_type, total, recently, errors in found:
        counts += AgentCounts(total=total, recent=recently, recent_errors=errors, by_type={memory_type: total})
    return counts
