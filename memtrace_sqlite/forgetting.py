"""Orders to forget, in the journal's file: taken, carried out here, and asked for within its transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import apsw

from memtrace_core.dedup import generated_key
from memtrace_core.entries import Draft
from memtrace_core.forgotten import ForgetOrder, Forgotten, OrderReason
from memtrace_core.identifiers import parse_memory_id
from memtrace_core.model import Memory
from memtrace_core.query import MemoryQuery
from memtrace_core.timewindow import from_us, to_us
from memtrace_sqlite.claims import Claims
from memtrace_sqlite.rows import Value, conditions

_MICROSECOND = timedelta(microseconds=1)
SWEPT_AT_ONCE = 1_000  # a few dozen milliseconds of a transaction

_EMBEDDED_OWNER = "store IN (SELECT store FROM stores WHERE org_id = ?)"
_SCOPE = "memory_id, agent_id, session_id, cutoff"
_ORDER = f"number, org_id, {_SCOPE}, reason, made_at, swept, claims_freed, done_at, removed, deleted, trouble"


class Orders:
    """The orders of one journal, within one write transaction at a time.

    `count_bytes` is told of an org and by how much the bytes that wait for its delivery change.
    """

    def __init__(
        self, connection: apsw.Connection, claims: Claims, count_bytes: Callable[[str, int], None], pending: int
    ) -> None:
        self._connection = connection
        self._claims = claims
        self._count_bytes = count_bytes
        self._pending = pending

    def take(self, org_id: str, what: Forgotten, now: int, *, in_arc: bool, reason: OrderReason) -> ForgetOrder:
        """Record an order that is made at `now` (in µs), and covers nothing from then on."""
        scope = (what.memory_id, what.agent_id, what.session_id)
        # A memory's own order is as good at any time.
        cutoff = to_us(what.before) if what.memory_id else min(to_us(what.before), now)
        # A claim tells its memory's id and time, and so whether such an order covers it.
        known = not in_arc or scope[0] is not None or scope[1:] == (None, None)
        self._connection.execute(
            f"""
            INSERT INTO forget_orders (org_id, {_SCOPE}, reason, made_at, in_arc, swept, claims_freed)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?)
            """,
            (org_id, *scope, cutoff, reason, now, in_arc, known),
        )
        number = self._connection.last_insert_rowid()
        # What it replaces goes after it has its number, which is no other's so. The oldest that waits is under way;
        # whoever asks again and again must not hold it up.
        self._connection.execute(
            """
            DELETE FROM forget_orders WHERE org_id = ?1 AND memory_id IS ?2 AND agent_id IS ?3 AND session_id IS ?4
            AND cutoff <= ?5 AND number < ?6 AND (done_at IS NOT NULL OR number > (
                SELECT min(number) FROM forget_orders WHERE org_id = ?1 AND memory_id IS ?2 AND agent_id IS ?3
                AND session_id IS ?4 AND done_at IS NULL
            ))
            """,
            (org_id, *scope, cutoff, number),
        )
        self._sweep(org_id, number, now, _condition(scope, cutoff))
        return self._get(number)

    def sweep_some(self, org_id: str, now: int) -> bool:
        """Remove a portion of what the oldest unfinished order covers here; False if there was none."""
        found = self._connection.execute(
            f"SELECT number, {_SCOPE} FROM forget_orders WHERE org_id = ? AND done_at IS NULL AND NOT swept "
            "ORDER BY number LIMIT 1",
            (org_id,),
        ).fetchone()
        if found is None:
            return False
        number, *scope, cutoff = found
        self._sweep(org_id, number, now, _condition(scope, cutoff))
        return True

    def _sweep(self, org_id: str, number: int, now: int, condition: tuple[str, list[Value]]) -> None:
        where, values = condition
        removed = 0
        for table, owner, columns in (
            ("journal", "org_id = ?", "state, bytes"),
            ("embedded", _EMBEDDED_OWNER, "NULL, 0"),
        ):
            gone = self._connection.execute(
                f"""
                DELETE FROM {table} WHERE seq IN (
                    SELECT seq FROM {table} WHERE {owner}{where} LIMIT {SWEPT_AT_ONCE}
                )
                RETURNING time, memory_id, dedup_key, {columns}
                """,
                (org_id, *values),
            )
            for time, memory_id, dedup_key, was, held in list(gone):
                removed += 1
                if was == self._pending:
                    self._count_bytes(org_id, -held)
                if dedup_key is not None and self._claims.counts(time, now):
                    self._claims.free(org_id, dedup_key, memory_id)
        self._connection.execute(
            "UPDATE forget_orders SET removed = removed + ? WHERE number = ?", (removed, number)
        )
        if removed < SWEPT_AT_ONCE:  # or else of one table there may be more
            self._connection.execute(
                """
                UPDATE forget_orders SET swept = 1, done_at = CASE WHEN in_arc THEN NULL ELSE ? END WHERE number = ?
                """,
                (now, number),
            )

    def frees(self, org_id: str, memory_id: str, draft: Draft | None = None) -> bool:
        """Tell whether the claim of a memory does not count: it is forgotten, or, for a draft, may be."""
        parsed = parse_memory_id(memory_id)
        if parsed is None:
            return False
        if self._connection.execute(
            "SELECT 1 FROM forget_orders WHERE org_id = ? AND memory_id = ?", (org_id, memory_id)
        ).fetchone():
            return True
        broad = self._connection.execute(
            """
            SELECT agent_id, session_id, swept, claims_freed FROM forget_orders
            WHERE org_id = ? AND memory_id IS NULL AND cutoff > ?
            """,
            (org_id, parsed[0]),
        )
        for agent_id, session_id, swept, claims_freed in list(broad):
            if agent_id is None and session_id is None:
                return True
            if swept and claims_freed:
                continue
            here = self._whose(org_id, parsed[0], memory_id)
            if here is not None:
                if agent_id in (None, here[0]) and session_id in (None, here[1]):
                    return True
            elif draft and not (claims_freed or (agent_id and agent_id != draft.agent_id and _tells_agent(draft))):
                # Only Arc knows whose it was, and a write does not wait for Arc: rather one copy too many than a
                # memory refused for the sake of one that nobody can see.
                return True
        return False

    def _whose(self, org_id: str, time: int, memory_id: str) -> tuple[str, str | None] | None:
        for table, owner in (("journal", "org_id = ?"), ("embedded", _EMBEDDED_OWNER)):
            found = self._connection.execute(
                f"SELECT agent_id, session_id FROM {table} WHERE {owner} AND time = ? AND memory_id = ?",
                (org_id, time, memory_id),
            ).fetchone()
            if found is not None:
                agent_id, session_id = found
                return agent_id, session_id
        return None

    def free_claims(self, order: ForgetOrder, memories: Sequence[Memory], *, all_of_them: bool) -> None:
        """Free the claims of memories that an order covers, and note when these were all."""
        for memory in memories:
            if memory.dedup_key is not None and memory.org_id == order.org_id:
                self._claims.free(order.org_id, memory.dedup_key, memory.memory_id)
        if all_of_them:
            self._connection.execute(
                "UPDATE forget_orders SET claims_freed = 1 WHERE org_id = ? AND number = ? AND made_at = ?",
                (order.org_id, order.key, to_us(order.made_at)),
            )

    def note(
        self, org_id: str, orders: Sequence[ForgetOrder], *, deleted: int, trouble: str | None, done_at: int | None
    ) -> None:
        """Record how far orders are; rows that were deleted for several are counted for the first."""
        for place, order in enumerate(sorted(orders, key=lambda one: one.key)):
            self._connection.execute(
                """
                UPDATE forget_orders SET deleted = deleted + ?, trouble = ?, done_at = coalesce(?, done_at)
                WHERE org_id = ? AND number = ? AND made_at = ? AND done_at IS NULL
                """,
                (0 if place else deleted, trouble, done_at, org_id, order.key, to_us(order.made_at)),
            )

    def note_second_look(self, org_id: str, orders: Sequence[ForgetOrder], done_at: int | None) -> None:
        """Record that orders are done now after all, or, without a time, let them wait for Arc again."""
        for order in orders:
            self._connection.execute(
                """
                UPDATE forget_orders SET done_at = ?1, trouble = NULL, made_at = made_at + (?1 IS NULL)
                WHERE org_id = ?2 AND number = ?3 AND made_at = ?4 AND done_at IS NOT NULL
                """,
                (done_at, org_id, order.key, to_us(order.made_at)),
            )

    def reopen(self, org_id: str) -> None:
        """Let all orders of an org wait for Arc again."""
        # Who is at work on one must not call it done for having looked before: by its time it is another one now.
        self._connection.execute(
            """
            UPDATE forget_orders SET in_arc = 1, done_at = NULL, trouble = NULL, made_at = made_at + 1
            WHERE org_id = ?
            """,
            (org_id,),
        )

    def left(self, memories: Sequence[Memory]) -> list[Memory]:
        """Return those memories that no order covers."""
        return [memory for memory in memories if not covers(self._connection, memory)]

    def purge(self, org_id: str) -> None:
        """Remove all orders of an org."""
        self._connection.execute("DELETE FROM forget_orders WHERE org_id = ?", (org_id,))

    def _get(self, number: int) -> ForgetOrder:
        found = self._connection.execute(f"SELECT {_ORDER} FROM forget_orders WHERE number = ?", (number,))
        return _order_of(next(found))


def orders(connection: apsw.Connection, org_id: str, *, waiting: bool, limit: int, after: int) -> list[ForgetOrder]:
    """Return an org's orders, oldest first."""
    state = "done_at IS NULL" if waiting else "TRUE"
    rows = connection.execute(
        f"SELECT {_ORDER} FROM forget_orders WHERE org_id = ? AND number > ? AND {state} ORDER BY number LIMIT ?",
        (org_id, after, limit),
    )
    return [_order_of(row) for row in rows]


def orgs(connection: apsw.Connection) -> list[str]:
    """Return the orgs with orders that are not done."""
    found = connection.execute("SELECT DISTINCT org_id FROM forget_orders WHERE done_at IS NULL ORDER BY org_id")
    return [org_id for (org_id,) in found]


_DONE_EARLY = "in_arc AND made_at <= ?1 - ?2 AND done_at < made_at + ?2"


def orgs_done_early(connection: apsw.Connection, now: datetime, after: timedelta) -> list[str]:
    """Return the orgs with orders that are older than `after`, and were done when they were not."""
    found = connection.execute(
        f"SELECT DISTINCT org_id FROM forget_orders WHERE {_DONE_EARLY} ORDER BY org_id",
        (to_us(now), after // _MICROSECOND),
    )
    return [org_id for (org_id,) in found]


def done_early(
    connection: apsw.Connection, org_id: str, now: datetime, after: timedelta, limit: int
) -> list[ForgetOrder]:
    """Return such orders of an org, the oldest first."""
    rows = connection.execute(
        f"SELECT {_ORDER} FROM forget_orders WHERE org_id = ?3 AND {_DONE_EARLY} ORDER BY number LIMIT ?4",
        (to_us(now), after // _MICROSECOND, org_id, limit),
    )
    return [_order_of(row) for row in rows]


def hidden_in_arc(connection: apsw.Connection, org_id: str) -> tuple[Forgotten, ...]:
    """Return what of an org Arc may still have though it is forgotten."""
    rows = connection.execute(
        f"SELECT {_SCOPE} FROM forget_orders INDEXED BY forget_waiting "
        "WHERE org_id = ? AND done_at IS NULL AND in_arc",
        (org_id,),
    )
    return tuple(_what(row) for row in rows)


def hidden_here(connection: apsw.Connection, org_id: str) -> tuple[str, list[Value]]:
    """Return the condition ` AND …` that leaves out what is forgotten and not yet removed, and its values."""
    rows = connection.execute(
        f"SELECT {_SCOPE} FROM forget_orders INDEXED BY forget_waiting "
        "WHERE org_id = ? AND done_at IS NULL AND NOT swept",
        (org_id,),
    )
    text = ""
    values: list[Value] = []
    for *scope, cutoff in rows:
        part, more = _condition(scope, cutoff)
        text += f" AND NOT (TRUE{part})"
        values += more
    return text, values


def visible(connection: apsw.Connection, query: MemoryQuery) -> tuple[str, list[Value]]:
    """Return the condition ` AND …` for what matches a query and is not forgotten, and its values."""
    where, values = conditions(query)
    hidden, more = hidden_here(connection, query.org_id)
    return where + hidden, [*values, *more]


def covered(connection: apsw.Connection, org_id: str, what: Forgotten) -> int:
    """Count what an order would remove here."""
    where, values = _condition((what.memory_id, what.agent_id, what.session_id), to_us(what.before))
    hidden, more = hidden_here(connection, org_id)
    total = 0
    for table, owner in (("journal", "org_id = ?"), ("embedded", _EMBEDDED_OWNER)):
        ((count,),) = connection.execute(
            f"SELECT count(*) FROM {table} WHERE {owner}{where}{hidden}", (org_id, *values, *more)
        )
        total += count
    return total


def covers(connection: apsw.Connection, memory: Memory) -> bool:
    """Tell whether any order, done or not, covers a memory."""
    # Four ways to name agent and session, each a look into the index.
    found = connection.execute(
        """
        SELECT 1 FROM forget_orders WHERE org_id = ?1 AND memory_id = ?2 UNION ALL
        SELECT 1 FROM (VALUES (?3, ?4), (?3, NULL), (NULL, ?4), (NULL, NULL)) AS scope WHERE EXISTS (
            SELECT 1 FROM forget_orders WHERE org_id = ?1 AND memory_id IS NULL
            AND agent_id IS scope.column1 AND session_id IS scope.column2 AND cutoff > ?5
        ) LIMIT 1
        """,
        (memory.org_id, memory.memory_id, memory.agent_id, memory.session_id, to_us(memory.time)),
    )
    return found.fetchone() is not None


def touches(connection: apsw.Connection, org_id: str, first: int, last: int) -> bool:
    """Tell whether something may have been forgotten of what an org stored between two times, both included."""
    found = connection.execute(
        """
        SELECT 1 FROM forget_orders
        WHERE org_id = ? AND cutoff > ? AND (memory_id IS NULL OR cutoff <= ? + 1) LIMIT 1
        """,
        (org_id, first, last),
    )
    return found.fetchone() is not None


def _condition(scope: Sequence[str | None], cutoff: int) -> tuple[str, list[Value]]:
    memory_id, agent_id, session_id = scope
    if memory_id is not None:
        return " AND time = ? AND memory_id = ?", [cutoff - 1, memory_id]
    named = [(column, value) for column, value in (("agent_id", agent_id), ("session_id", session_id)) if value]
    # A session that is absent is not the one, and not unknown either: hence IS.
    parts = "".join(f" AND {column} IS ?" for column, _ in named)
    return f" AND time < ?{parts}", [cutoff, *(value for _, value in named)]


def _what(row: Sequence[Any]) -> Forgotten:
    memory_id, agent_id, session_id, cutoff = row
    return Forgotten(before=from_us(cutoff), memory_id=memory_id, agent_id=agent_id, session_id=session_id)


def _order_of(row: Sequence[Any]) -> ForgetOrder:
    number, org_id, *scope, reason, made_at, swept, claims_freed, done_at, removed, deleted, trouble = row
    return ForgetOrder(
        key=number,
        org_id=org_id,
        what=_what(scope),
        reason=reason,
        made_at=from_us(made_at),
        swept=bool(swept),
        claims_freed=bool(claims_freed),
        done_at=None if done_at is None else from_us(done_at),
        removed=removed,
        deleted=deleted,
        trouble=trouble,
    )


def _tells_agent(draft: Draft) -> bool:
    """Tell whether a draft's key can only be one of its own agent's."""
    return draft.dedup_key == generated_key(draft.agent_id, draft.event_type, draft.content)


def forgotten_among(connection: apsw.Connection, memories: Sequence[Memory]) -> Iterator[str]:
    """Yield the ids of those memories that some order covers."""
    return (memory.memory_id for memory in memories if covers(connection, memory))
