"""Dedup claims: one small table per stretch of time, so that old ones go whole and inserts stay fast.

A single table of ten million random keys would more than halve the rate of writing. Keys are inserted into the
newest table, and looked for in that one and in those older ones that may hold them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import timedelta
from itertools import pairwise

import apsw

from memtrace_sqlite.bulk import insert
from memtrace_sqlite.claim_filter import ClaimFilter, table_of

SHORTEST_STRETCH = timedelta(hours=1)
MOST_STRETCHES = 24
LEARNED_AT_ONCE = 1_000  # about two milliseconds of a transaction

_MICROSECOND = timedelta(microseconds=1)

Claim = tuple[str, str, str, int]


class Claims:
    """The claims of one journal, within one transaction at a time.

    Every method belongs inside a write transaction; `begin` comes first in each, and `prepare` before claims are
    looked for or added. A command that adds none leaves the tables as they are, whatever window its settings have.
    """

    def __init__(self, connection: apsw.Connection, window: timedelta) -> None:
        self._connection = connection
        self._window = window // _MICROSECOND
        self._stretch = max(SHORTEST_STRETCH, window / MOST_STRETCHES) // _MICROSECOND
        self._filter = ClaimFilter(connection)
        self._added = 0
        self._starts: list[int] = []
        self._lookup = self._lookup_in_known = ""

    def begin(self) -> None:
        """See which tables there are; other processes add and drop some, too."""
        starts = [start for (start,) in self._connection.execute("SELECT start FROM claim_tables ORDER BY start")]
        # Before anything is written: what is learned now holds even if the transaction is rolled back. Whoever sees
        # a table's successor adds no more to it.
        rows = max(LEARNED_AT_ONCE, 2 * self._added)  # never slower than claims are made
        self._added = 0
        if self._filter.learn(starts[:-1], rows) or starts != self._starts:
            self._use(starts)

    def prepare(self, now: int) -> None:
        """Drop the tables that are past the window at `now` (in µs), and add one for it if need be."""
        starts = self._starts
        # A table's claims are all older than the next table, whatever stretch was in force when it was made.
        past = [start for start, following in pairwise(starts) if following + self._window <= now]
        for start in past:
            self._connection.execute(f"DROP TABLE {table_of(start)}")
            self._connection.execute("DELETE FROM claim_tables WHERE start = ?", (start,))
        starts = starts[len(past) :]
        if not starts or starts[-1] + self._stretch <= now:
            self._connection.execute(
                f"""
                CREATE TABLE {table_of(now)} (
                    org_id TEXT NOT NULL, dedup_key TEXT NOT NULL, memory_id TEXT NOT NULL, time INTEGER NOT NULL,
                    PRIMARY KEY (org_id, dedup_key)
                ) STRICT, WITHOUT ROWID
                """
            )
            self._connection.execute("INSERT INTO claim_tables VALUES (?)", (now,))
            starts = [*starts, now]
        if starts != self._starts:
            self._use(starts)

    def _use(self, starts: list[int]) -> None:
        self._starts = starts
        known = self._filter.known
        self._lookup = _lookup(start for start in starts if start not in known)
        self._lookup_in_known = _lookup(start for start in starts if start in known)

    def find(self, org_id: str, dedup_key: str, now: int) -> str | None:
        """Return the id of the memory that holds this key within the window before `now`."""
        claims = list(self._connection.execute(self._lookup, (org_id, dedup_key)))
        if self._lookup_in_known and self._filter.may_hold(org_id, dedup_key):
            claims += self._connection.execute(self._lookup_in_known, (org_id, dedup_key))
        if not claims:  # nearly always
            return None
        time, memory_id = max(claims)
        return str(memory_id) if self.counts(time, now) else None

    def add(self, claims: Collection[Claim]) -> None:
        """Claim keys for memories (org id, key, memory id, time); a claim past the window gives way."""
        self._insert("REPLACE", claims)

    def add_absent(self, claims: Collection[Claim]) -> None:
        """Claim keys that are not claimed in the newest table; `find` prefers whatever claim is younger."""
        self._insert("INSERT OR IGNORE", claims)

    def _insert(self, how: str, claims: Collection[Claim]) -> None:
        if claims:
            insert(self._connection, f"{how} INTO {table_of(self._starts[-1])}", "?, ?, ?, ?", claims)
        self._added += len(claims)

    def counts(self, time: int, now: int) -> bool:
        """Tell whether a claim of that time is within the window before `now`."""
        return now - time < self._window

    def free(self, org_id: str, dedup_key: str, memory_id: str) -> None:
        """Drop the claim of one memory, if it still holds it."""
        for start in self._starts:
            self._connection.execute(
                f"DELETE FROM {table_of(start)} WHERE org_id = ? AND dedup_key = ? AND memory_id = ?",
                (org_id, dedup_key, memory_id),
            )

    def free_org(self, org_id: str) -> None:
        """Drop all claims of an org."""
        for start in self._starts:
            self._connection.execute(f"DELETE FROM {table_of(start)} WHERE org_id = ?", (org_id,))


def _lookup(starts: Iterable[int]) -> str:
    return " UNION ALL ".join(
        f"SELECT time, memory_id FROM {table_of(start)} WHERE org_id = ?1 AND dedup_key = ?2" for start in starts
    )
