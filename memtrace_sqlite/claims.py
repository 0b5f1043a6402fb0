"""Dedup claims: one small table per stretch of time, so that old ones go whole and inserts stay fast.

A single table of ten million random keys would more than halve the rate of writing. Keys are inserted into the
newest table and looked for in all.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from itertools import pairwise

import apsw

SHORTEST_STRETCH = timedelta(hours=1)
MOST_STRETCHES = 24
FEWEST_STRETCHES = 4
MANY_CLAIMS = 250_000

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
        # Every table makes each look-up longer, a large one each insert: so a stretch is long unless it is full.
        self._shortest = max(SHORTEST_STRETCH, window / MOST_STRETCHES) // _MICROSECOND
        self._longest = max(SHORTEST_STRETCH, window / FEWEST_STRETCHES) // _MICROSECOND
        self._starts: list[int] = []
        self._lookup = ""
        self._newest = 0
        """How many claims are in the newest table, but for those that other processes have added meanwhile."""

    def begin(self) -> None:
        """See which tables there are; other processes add and drop some, too."""
        self._use([start for (start,) in self._connection.execute("SELECT start FROM claim_tables ORDER BY start")])

    def prepare(self, now: int) -> None:
        """Drop the tables that are past the window at `now` (in µs), and add one for it if need be."""
        starts = self._starts
        # A table's claims are all older than the next table, whatever stretch was in force when it was made.
        past = [start for start, following in pairwise(starts) if following + self._window <= now]
        for start in past:
            self._connection.execute(f"DROP TABLE {_table(start)}")
            self._connection.execute("DELETE FROM claim_tables WHERE start = ?", (start,))
        starts = starts[len(past) :]
        stretch = self._shortest if self._newest >= MANY_CLAIMS else self._longest
        if not starts or starts[-1] + stretch <= now:
            self._connection.execute(
                f"""
                CREATE TABLE {_table(now)} (
                    org_id TEXT NOT NULL, dedup_key TEXT NOT NULL, memory_id TEXT NOT NULL, time INTEGER NOT NULL,
                    PRIMARY KEY (org_id, dedup_key)
                ) STRICT, WITHOUT ROWID
                """
            )
            self._connection.execute("INSERT INTO claim_tables VALUES (?)", (now,))
            starts = [*starts, now]
        self._use(starts)

    def _use(self, starts: list[int]) -> None:
        if starts != self._starts:
            if starts and starts[-1:] != self._starts[-1:]:
                ((self._newest,),) = self._connection.execute(f"SELECT count(*) FROM {_table(starts[-1])}")
            self._starts = starts
            self._lookup = " UNION ALL ".join(
                f"SELECT time, memory_id FROM {_table(start)} WHERE org_id = ?1 AND dedup_key = ?2"
                for start in starts
            )

    def find(self, org_id: str, dedup_key: str, now: int) -> str | None:
        """Return the id of the memory that holds this key within the window before `now`."""
        newest = max(self._connection.execute(self._lookup, (org_id, dedup_key)), default=None)
        if newest is None or now - newest[0] >= self._window:
            return None
        return str(newest[1])

    def add(self, claims: Iterable[Claim]) -> None:
        """Claim keys for memories (org id, key, memory id, time); a claim past the window gives way."""
        self._insert("REPLACE", claims)

    def add_absent(self, claims: Iterable[Claim]) -> None:
        """Claim keys that are not claimed in the newest table; `find` prefers whatever claim is younger."""
        self._insert("INSERT OR IGNORE", claims)

    def _insert(self, how: str, claims: Iterable[Claim]) -> None:
        before = self._connection.total_changes()
        self._connection.executemany(f"{how} INTO {_table(self._starts[-1])} VALUES (?, ?, ?, ?)", claims)
        self._newest += self._connection.total_changes() - before

    def free(self, org_id: str, dedup_key: str, memory_id: str) -> None:
        """Drop the claim of one memory, if it still holds it."""
        for start in self._starts:
            self._connection.execute(
                f"DELETE FROM {_table(start)} WHERE org_id = ? AND dedup_key = ? AND memory_id = ?",
                (org_id, dedup_key, memory_id),
            )

    def free_org(self, org_id: str) -> None:
        """Drop all claims of an org."""
        for start in self._starts:
            self._connection.execute(f"DELETE FROM {_table(start)} WHERE org_id = ?", (org_id,))


def _table(start: int) -> str:
    return f"claims_{start:d}"
