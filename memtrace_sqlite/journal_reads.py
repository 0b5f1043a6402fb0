"""What is read from the journal, each in one snapshot."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import apsw
import msgspec

from memtrace_core.entries import DeliveredRun, EntryState, JournalEntry, JournalView, OrgBacklog, PendingBatch
from memtrace_core.model import ArcInstance, Memory
from memtrace_core.query import Horizon, MemoryQuery, OwnSpan
from memtrace_core.timewindow import from_us, to_us
from memtrace_sqlite.embedded_reads import find_visible
from memtrace_sqlite.forgetting import hidden_in_arc, touches, visible
from memtrace_sqlite.ledger import DELIVERED, MAX_TIME, MOST_OUT_OF_LINE, PENDING, SET_ASIDE
from memtrace_sqlite.rows import COLUMNS, Value, memories_of, memory_of, ordering

MOST_PLACES = 500
MOST_DOUBLINGS = 5

_RUN_COLUMNS = "seq, memory_id, time, instance_id, state, delivered_at, resent, answer"

_STATES = {EntryState.PENDING: PENDING, EntryState.DELIVERED: DELIVERED, EntryState.SET_ASIDE: SET_ASIDE}
_NAMES = {number: state for state, number in _STATES.items()}


def view(connection: apsw.Connection, node: str, query: MemoryQuery, instance: ArcInstance | None) -> JournalView:
    """Return the first memories that match, and either the horizon or what an embedded store holds beside them."""
    where, values = visible(connection, query)
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM journal WHERE org_id = ?{where}{ordering(query)} LIMIT ?",
        (query.org_id, *values, query.offset + query.limit),
    )
    memories = memories_of(query.org_id, rows)
    if instance is not None and instance.embedded:
        rest = query.beside(len(memories))  # of the same conditions
        return JournalView(None, memories, find_visible(connection, instance, rest, where, values))
    return JournalView(horizon(connection, node, query.org_id), memories)


def horizon(connection: apsw.Connection, node: str, org_id: str) -> Horizon:
    """Return what of an org the gateway may answer for."""
    ((before,),) = connection.execute(
        """
        SELECT coalesce(
            (SELECT time FROM journal INDEXED BY journal_time WHERE org_id = ? AND answer IS NULL
             ORDER BY time LIMIT 1),
            (SELECT last_time + 1 FROM ledger)
        )
        """,
        (org_id,),
    )
    refused = connection.execute(
        f"""
        SELECT memory_id FROM journal INDEXED BY journal_aside
        WHERE org_id = ? AND answer IS NOT NULL AND time < ? ORDER BY state, seq DESC LIMIT {MOST_OUT_OF_LINE}
        """,
        (org_id, before),
    )
    set_aside = frozenset(memory_id for (memory_id,) in refused)
    return Horizon(node, from_us(before), set_aside, hidden_in_arc(connection, org_id))


def due_run(
    connection: apsw.Connection, node: str, org_id: str, settle: timedelta, limit: int, now: int
) -> DeliveredRun | datetime | None:
    """Return the memories whose turn to be confirmed it is, or when it will be, None if none is delivered."""
    settle_us = settle // timedelta(microseconds=1)
    in_line = connection.execute(
        f"""
        SELECT {_RUN_COLUMNS} FROM journal INDEXED BY journal_time WHERE org_id = ? AND time >= coalesce((
            SELECT time FROM journal INDEXED BY journal_time WHERE org_id = ? AND answer IS NULL
            ORDER BY time LIMIT 1
        ), 0) ORDER BY time LIMIT ?
        """,
        (org_id, org_id, limit),
    )
    gaps = [
        time for (time,) in connection.execute("SELECT time FROM gaps WHERE org_id = ? ORDER BY time", (org_id,))
    ]
    due = _run(node, org_id, _until_gap(itertools.takewhile(_in_line, in_line), gaps), settle_us, now)
    if isinstance(due, DeliveredRun):
        forgotten = touches(connection, org_id, to_us(due.span.first), to_us(due.span.last))
        return msgspec.structs.replace(due, whole=not forgotten)
    # What lost its place in line is looked for one by one, but not before all that is older and in line has left:
    # from there on the journal alone answers, and the runs in line must find nothing between them but themselves.
    moments = [due] if due else []
    retried = connection.execute(
        f"""
        SELECT {_RUN_COLUMNS} FROM journal INDEXED BY journal_aside
        WHERE org_id = ? AND answer IS NOT NULL AND state = {DELIVERED} AND time < coalesce((
            SELECT time FROM journal INDEXED BY journal_time WHERE org_id = ? AND answer IS NULL
            ORDER BY time LIMIT 1
        ), {MAX_TIME}) ORDER BY seq
        """,
        (org_id, org_id),
    )
    for row in retried:
        due = _run(node, org_id, [row], settle_us, now)
        if isinstance(due, DeliveredRun):
            return due
        moments += [due] if due else []
    return min(moments, default=None)


def _run(
    node: str, org_id: str, rows: Iterable[tuple[Any, ...]], settle_us: int, now: int
) -> DeliveredRun | datetime | None:
    """Return as much of the beginning of rows as is due, or when it will be, None if it is not delivered."""
    keys: list[int] = []
    ids: list[str] = []
    first = last = 0
    run_instance = ""
    for seq, memory_id, time_us, instance_id, state, delivered_at, resent, _ in rows:
        if state != DELIVERED:
            break
        # The clock may have been set back since; and 0 means durable, due at any time.
        known = 0 < delivered_at <= now
        due = delivered_at + settle_us * (1 << min(resent, MOST_DOUBLINGS)) if known else 0
        if not keys:
            if due > now:
                return from_us(due)
            run_instance, first = instance_id, time_us
        elif due > now or instance_id != run_instance:
            break
        keys.append(seq)
        ids.append(memory_id)
        last = time_us
    if not keys:
        return None
    span = OwnSpan(org_id, node, from_us(first), from_us(last))
    return DeliveredRun(run_instance, tuple(keys), tuple(ids), span)


def orgs(connection: apsw.Connection, index: str, state: int) -> list[str]:
    """Return the orgs that have rows in a state, which has an index of its own."""
    return list(
        _orgs_from(
            connection, f"SELECT min(org_id) FROM journal INDEXED BY {index} WHERE state = {state} AND org_id > ?"
        )
    )


def _orgs_from(connection: apsw.Connection, next_org: str) -> Iterator[str]:
    """Yield orgs by skipping along an index from one to the next."""
    org_id = ""
    while (found := connection.execute(next_org, (org_id,)).fetchone()) and found[0]:
        org_id = found[0]
        yield org_id


def _until_gap(rows: Iterable[tuple[Any, ...]], gaps: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """Yield rows of `_RUN_COLUMNS` up to the first gap behind the first of them."""
    end: float | None = None
    for row in rows:
        time = row[2]
        if end is None:
            end = next((gap for gap in gaps if gap > time), math.inf)
        if time > end:
            return
        yield row


def _in_line(row: tuple[Any, ...]) -> bool:
    """Tell whether a row of `_RUN_COLUMNS` was never set aside."""
    return row[-1] is None


def counts(connection: apsw.Connection, org_id: str) -> dict[int, int]:
    """Return how many of an org's memories are in each state."""
    found = {}
    for state, index, where in (
        (PENDING, "journal_pending", f"state = {PENDING}"),
        (DELIVERED, "journal_delivered", f"state = {DELIVERED}"),
        (SET_ASIDE, "journal_aside", f"answer IS NOT NULL AND state = {SET_ASIDE}"),
    ):
        sql = f"SELECT count(*) FROM journal INDEXED BY {index} WHERE org_id = ? AND {where}"
        ((found[state],),) = connection.execute(sql, (org_id,))
    return found


def backlogs(connection: apsw.Connection) -> list[OrgBacklog]:
    """Return how far delivery is, org by org."""
    sql = """
        SELECT (
            SELECT time FROM journal INDEXED BY journal_time WHERE org_id = ?1 AND answer IS NULL
            ORDER BY time LIMIT 1
        ), coalesce((SELECT bytes FROM backlog WHERE org_id = ?1), 0)
    """
    found = []
    for org_id in _orgs_from(
        connection, "SELECT min(org_id) FROM journal INDEXED BY journal_time WHERE org_id > ?"
    ):
        states = counts(connection, org_id)
        ((oldest, pending_bytes),) = connection.execute(sql, (org_id,))
        found.append(
            OrgBacklog(
                org_id=org_id,
                pending=states[PENDING],
                delivered=states[DELIVERED],
                set_aside=states[SET_ASIDE],
                oldest=None if oldest is None else from_us(oldest),
                oldest_pending=_oldest_pending(connection, org_id),
                pending_bytes=pending_bytes,
            )
        )
    return found


def _oldest_pending(connection: apsw.Connection, org_id: str) -> datetime | None:
    # Times and keys rise together.
    first = min((seq for _, seq in _heads(connection, org_id)), default=None)
    found = connection.execute("SELECT time FROM journal WHERE seq = ?", (first,)).fetchone()
    return from_us(found[0]) if found else None


def entries(
    connection: apsw.Connection, org_id: str, states: Collection[EntryState], limit: int, after: int
) -> list[JournalEntry]:
    """Return an org's memories in some states, oldest first, with what became of them."""
    parts = " UNION ALL ".join(
        f"SELECT * FROM (SELECT seq, instance_id, state, resent, bytes, answer, {COLUMNS} FROM journal "
        f"WHERE org_id = ?1 AND state = {_STATES[state]} AND seq > ?2 ORDER BY seq LIMIT ?3)"
        for state in states
    )
    rows = connection.execute(f"{parts} ORDER BY seq LIMIT ?3", (org_id, after, limit)) if parts else ()
    return [
        JournalEntry(
            key=seq,
            instance_id=instance_id,
            state=_NAMES[state],
            resent=resent,
            bytes=size,
            answer=answer,
            memory=memory_of(org_id, tuple(row)),
        )
        for seq, instance_id, state, resent, size, answer, *row in rows
    ]


def batch(
    connection: apsw.Connection, org_id: str, limit: int, max_bytes: int, skipping: Collection[str]
) -> PendingBatch | None:
    """Return the oldest memories of an org that wait for delivery, all for one instance."""
    heads = {seq: instance for instance, seq in _heads(connection, org_id) if instance not in skipping}
    if not heads:
        return None
    first, *others = sorted(heads)
    instance_id = heads[first]
    rows = connection.execute(
        f"""
        SELECT seq, bytes, {COLUMNS} FROM journal INDEXED BY journal_pending
        WHERE org_id = ? AND instance_id = ? AND state = {PENDING} ORDER BY seq LIMIT ?
        """,
        (org_id, instance_id, limit + 1),
    )
    keys: list[int] = []
    memories: list[Memory] = []
    total, more = 0, bool(others)
    for seq, size, *row in rows:
        total += size
        # What is younger than another instance's oldest must not overtake it.
        if keys and (total > max_bytes or len(keys) == limit or (others and seq > others[0])):
            more = True
            break
        keys.append(seq)
        memories.append(memory_of(org_id, tuple(row)))
    return PendingBatch(org_id, instance_id, tuple(keys), memories, more)


def _heads(connection: apsw.Connection, org_id: str) -> Iterator[tuple[str, int]]:
    """Yield each instance that pending memories are for, and the oldest of them, by skipping along the index."""
    sql = f"""
        SELECT instance_id, seq FROM journal INDEXED BY journal_pending
        WHERE org_id = ? AND state = {PENDING} AND instance_id > ? ORDER BY instance_id, seq LIMIT 1
    """
    instance_id = ""
    while found := connection.execute(sql, (org_id, instance_id)).fetchone():
        instance_id, seq = found
        yield instance_id, seq


def times(
    connection: apsw.Connection, sql: str, names: Sequence[str], before: tuple[Value, ...] = ()
) -> dict[str, datetime]:
    """Return the times that a statement finds for names, of which `{}` in it takes many."""
    found: dict[str, datetime] = {}
    for start in range(0, len(names), MOST_PLACES):
        some = names[start : start + MOST_PLACES]
        places = ", ".join("?" * len(some))
        found.update((name, from_us(us)) for name, us in connection.execute(sql.format(places), (*before, *some)))
    return found
