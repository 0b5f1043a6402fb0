"""Deleting in Arc what is to be forgotten, and nothing else.

Arc's endpoint takes a predicate, and deletes more and less than one thinks: rows for which the predicate is unknown
go, too; a predicate that names a column which a file lacks passes that file over; parentheses and the words of SQL
are refused, in texts as well. So every part of a predicate says that its column is known, a name that cannot be
written down plainly is not written at all (then rows are named one by one), and before anything is deleted, Arc
must say that it would delete no more rows than a query, which has no such traps, counts.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from memtrace_arc.sql import quoted_id
from memtrace_arc.wire import CoveredRow
from memtrace_core.errors import ErasureRefused
from memtrace_core.forgotten import Forgotten
from memtrace_core.timewindow import from_us

MOST_ROWS = 500_000  # of one deletion; Arc's own limit is a million as shipped
MOST_NAMED = 40  # rows named one by one in a predicate

# No word of SQL may stand alone in a name, nor what Arc's rewriter takes for its own.
_PLAIN = re.compile(r"[A-Za-z0-9_.:-]+", re.ASCII)
_WORDS = re.compile(
    r"--|__STR_|read_parquet|(?<![A-Za-z0-9_])(?:select|drop|delete|insert|update|alter|create|truncate|union|exec"
    r"|execute|set|reset|load|call|copy|attach|detach|install|pragma|grant|revoke|merge|replace|export|import)"
    r"(?![A-Za-z0-9_])",
    re.I,
)


class Delete(Protocol):
    """Deletes by a predicate, or counts what it would delete."""

    async def __call__(self, predicate: str, *, dry_run: bool) -> int:
        """Return how many rows."""
        ...


class Erasure:
    """Deletes in the measurement of one org.

    Args:
        org_id: the org.
        covered: counts the rows that are to be forgotten.
        rows: returns the oldest of them, at most so many.
        moment: returns the time (in µs) of the one that so many are older than, None if there are no more.
        delete: deletes.
    """

    def __init__(
        self,
        org_id: str,
        covered: Callable[[Sequence[Forgotten]], Awaitable[int]],
        rows: Callable[[int], Awaitable[Sequence[CoveredRow]]],
        moment: Callable[[int], Awaitable[int | None]],
        delete: Delete,
    ) -> None:
        self._org = _is("org_id", org_id)
        self._covered = covered
        self._rows = rows
        self._moment = moment
        self._delete = delete

    async def go(self, forgotten: Sequence[Forgotten]) -> int:
        """Delete, and return how many rows that were.

        Raises:
            ErasureRefused: Arc would delete other rows as well.
            ArcUnreachable: it does not answer, or deletes nothing for us.
        """
        if len(forgotten) == 1 and (predicate := self._broad(forgotten[0])) is not None:
            (one,) = forgotten
            if await self._covered([one]) > MOST_ROWS and (bound := await self._moment(MOST_ROWS)) is not None:
                one = msgspec.structs.replace(one, before=from_us(bound))
                predicate = self._broad(one)
            if predicate is not None and (deleted := await self._if_sure(predicate, [one])):
                return deleted
        return await self._one_by_one(forgotten)

    async def _one_by_one(self, forgotten: Sequence[Forgotten]) -> int:
        rows = await self._rows(MOST_NAMED)
        named = {row.memory_id for row in rows if row.memory_id}
        if named:
            some = [one for name in sorted(named) if (one := Forgotten.one(name)) is not None]
            if not some:
                raise ErasureRefused("rows cannot be named to Arc: their ids are not of Memtrace's form")
            known = "memory_id IS NOT NULL"
            clauses = [self._and_org(f"{known} AND memory_id = {quoted_id(one.memory_id or '')}") for one in some]
            return await self._if_sure(" OR ".join(clauses), some)
        deleted = 0
        for row in rows:
            deleted += await self._nameless(row, forgotten)
        return deleted

    def _and_org(self, predicate: str) -> str:
        return f"{self._org} AND {predicate}" if self._org else predicate

    async def _nameless(self, row: CoveredRow, forgotten: Sequence[Forgotten]) -> int:
        """Delete a row of a writer that gives no ids: by its time, and whatever else of it can be written down."""
        names = (("agent_id", row.agent_id), ("session_id", row.session_id), ("event_type", row.event_type))
        parts = [self._org, *(_is(name, value) for name, value in names if value)]
        moment = _quoted_moment(from_us(row.time_us))
        predicate = " AND ".join([f"time IS NOT NULL AND time = {moment}", *filter(None, parts)])
        return await self._if_sure(predicate, forgotten, at=row.time_us)

    async def _if_sure(self, predicate: str, forgotten: Sequence[Forgotten], at: int | None = None) -> int:
        expected = await self._expected(forgotten, at)
        would = await self._delete(predicate, dry_run=True)
        if would > expected:
            # Some may have turned up in between.
            expected = await self._expected(forgotten, at)
        if would > expected:
            raise ErasureRefused(
                f"Arc would delete {would} rows where {expected} are to be forgotten; nothing was deleted"
            )
        return await self._delete(predicate, dry_run=False) if would else 0

    async def _expected(self, forgotten: Sequence[Forgotten], at: int | None) -> int:
        if at is None:
            return await self._covered(forgotten)
        return sum(row.time_us == at for row in await self._rows(MOST_NAMED))

    def _broad(self, one: Forgotten) -> str | None:
        """Return the predicate for all that is covered; None if it cannot be written down."""
        if one.memory_id is not None or self._org is None:
            return None
        parts = [self._org, f"time IS NOT NULL AND time < {_quoted_moment(one.before)}"]
        for name, value in (("agent_id", one.agent_id), ("session_id", one.session_id)):
            if value is not None:
                part = _is(name, value)
                if part is None:
                    return None
                parts.append(part)
        return " AND ".join(parts)


def _is(column: str, value: str) -> str | None:
    """Return the predicate for a column that is a text; None if Arc would not take the text."""
    if not _PLAIN.fullmatch(value) or _WORDS.search(value):
        return None
    plain = f"'{value}'"
    return f"{column} IS NOT NULL AND {column} = {plain}"


def _quoted_moment(moment: datetime) -> str:
    return f"TIMESTAMPTZ '{moment:%Y-%m-%d %H:%M:%S.%f}+00'"
