"""Dedup claims: the newest in a table that they are appended to, the others in small tables by key that go whole.

A claim that went straight to its place among random keys would cost a page of its own, and a single table of ten
million of them would more than halve the rate of writing. So claims move into the newest of the tables by key in
portions, and a table takes no more when its stretch of time is over, or when it is large. A key is looked for among
the newest claims and in those tables that may hold it.

Dedup is exact all the same. A claim is made with its memory, freed with it and moved whole, each in one
transaction: wherever a process or its machine stops, every claim is in one place. Writers take turns, and each
transaction first reads what others have claimed and moved since this process last looked. What is kept in memory
only tells where to look: after a start, a move by others or a transaction that was rolled back, the newest claims
are read at once, and every key is looked for in each table that is not yet known again. A claim that has outlived
its window counts nowhere, since its time is compared, and a table goes when none of its claims can count any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from itertools import pairwise

import apsw

from memtrace_sqlite.claim_filter import ClaimFilter, table_of
from memtrace_sqlite.recent_claims import Claim, RecentClaims

SHORTEST_STRETCH = timedelta(hours=1)
MOST_STRETCHES = 24
LEARNED_AT_ONCE = 1_000  # about two milliseconds of a transaction
PORTION = 8_192  # claims that move at once; as many stay behind, see `prepare`
LARGE_TABLE = 65_536
MOST_LARGE_TABLES = 64  # with more claims than these can hold, tables become larger

_MICROSECOND = timedelta(microseconds=1)


class Claims:
    """The claims of one journal, within one transaction at a time.

    Every method belongs inside a write transaction; `begin` comes first in each, and `prepare` before claims are
    looked for or added. A command that adds none leaves the tables as they are, whatever window its settings have.
    What is added is on disk after `write`.
    """

    def __init__(self, connection: apsw.Connection, window: timedelta) -> None:
        self._connection = connection
        self._window = window // _MICROSECOND
        self._stretch = max(SHORTEST_STRETCH, window / MOST_STRETCHES) // _MICROSECOND
        self._recent = RecentClaims(connection)
        self._filter = ClaimFilter(connection)
        self._counts: dict[int, int] = {}
        self._moved_up_to = 0
        self._open = 0
        self._added = 0
        self._starts: list[int] = []
        self._lookup = self._lookup_in_known = ""

    def begin(self) -> None:
        """See what other processes have done since: they claim keys, move claims, add tables and drop some."""
        tables = list(
            self._connection.execute("SELECT start, claims, moved_up_to FROM claim_tables ORDER BY start")
        )
        self._counts = {start: count for start, count, _ in tables}
        starts = list(self._counts)
        self._moved_up_to = tables[-1][2] if tables else 0
        missed = not self._recent.begin(self._moved_up_to)
        # Until `_use` nothing is read: an error must not keep some of this from being known.
        self._filter.note(self._recent.new)
        if missed:
            # Some claims have moved that this process never saw, into the table that was open then or a newer one.
            self._filter.doubt(self._open)
        self._open = starts[-1] if starts else 0
        if missed or starts != self._starts:
            self._use(starts)
        # Before anything is written: what is learned now holds even if the transaction is rolled back.
        rows = max(LEARNED_AT_ONCE, 2 * self._added)  # never slower than claims are made
        self._added = 0
        if self._filter.learn(starts, rows, self._recent.keys):
            self._use(starts)

    def committed(self) -> None:
        """Know by heart what was added: the transaction is on disk."""
        # Noted before it is known, or it would not be noted if this ends half way.
        self._filter.note(self._recent.added)
        self._recent.committed()

    def prepare(self, now: int) -> None:
        """Drop the tables past the window at `now` (in µs), add one if need be, and move a portion there."""
        starts = self._starts
        # A table's claims are all older than the next table, whatever stretch was in force when it was made.
        past = [start for start, following in pairwise(starts) if following + self._window <= now]
        for start in past:
            self._connection.execute(f"DROP TABLE {table_of(start)}")
            self._connection.execute("DELETE FROM claim_tables WHERE start = ?", (start,))
            del self._counts[start]
        starts = starts[len(past) :]
        over = bool(starts) and starts[-1] + self._stretch <= now
        if over:
            # What belongs to a stretch goes with its table.
            self._move(len(self._recent))
        # Claims from elsewhere take no time: what they fill may have begun at this very moment.
        if not starts or over or (starts[-1] < now and self._is_large(starts[-1])):
            self._connection.execute(
                f"""
                CREATE TABLE {table_of(now)} (
                    org_id TEXT NOT NULL, dedup_key TEXT NOT NULL, memory_id TEXT NOT NULL, time INTEGER NOT NULL,
                    PRIMARY KEY (org_id, dedup_key)
                ) STRICT, WITHOUT ROWID
                """
            )
            self._connection.execute("INSERT INTO claim_tables VALUES (?, 0, ?)", (now, self._moved_up_to))
            self._counts[now] = 0
            starts = [*starts, now]
        if starts != self._starts:
            self._use(starts)
        if len(self._recent) >= 2 * PORTION:
            # The youngest stay, for other processes to have seen them when they move.
            self._move(len(self._recent) - PORTION)

    def _is_large(self, start: int) -> bool:
        return self._counts[start] >= max(LARGE_TABLE, sum(self._counts.values()) // MOST_LARGE_TABLES)

    def _move(self, most: int) -> None:
        newest = max(self._counts)
        count, self._moved_up_to = self._recent.move(most, table_of(newest))
        self._connection.execute(
            "UPDATE claim_tables SET claims = claims + ?, moved_up_to = ? WHERE start = ?",
            (count, self._moved_up_to, newest),
        )

    def _use(self, starts: list[int]) -> None:
        self._starts = starts
        known = self._filter.known
        self._lookup = _lookup(start for start in starts if start not in known)
        self._lookup_in_known = _lookup(start for start in starts if start in known)

    def find(self, org_id: str, dedup_key: str, now: int) -> list[str]:
        """Return the ids of the memories that hold this key within the window before `now`, the youngest first.

        There are several where one was stored although another's claim was there: that was, or may have been, gone.
        """
        key = org_id, dedup_key
        recent = self._recent.find(key)
        claims = [] if recent is None else [recent]
        if self._lookup:
            claims += self._connection.execute(self._lookup, key)
        if self._lookup_in_known and self._filter.may_hold(key):
            claims += self._connection.execute(self._lookup_in_known, key)
        if not claims:  # nearly always
            return []
        return [memory_id for time, memory_id in sorted(claims, reverse=True) if self.counts(time, now)]

    def add(self, claim: Claim) -> None:
        """Claim a key for a memory; a claim past the window gives way."""
        self._recent.add(claim)
        self._added += 1

    def add_absent(self, claim: Claim, now: int, is_gone: Callable[[str], bool]) -> None:
        """Claim a key for a memory of any age unless a recent claim holds it at `now`; `find` prefers the younger.

        `is_gone` tells whether the memory that holds the key is surely gone: then its claim gives way.
        """
        held = self._recent.find(claim[:2])
        if held is None or not self.counts(held[0], now) or is_gone(held[1]):
            self.add(claim)

    def write(self) -> None:
        """Write what was added."""
        self._recent.write()

    def counts(self, time: int, now: int) -> bool:
        """Tell whether a claim of that time is within the window before `now`."""
        return now - time < self._window

    def free(self, org_id: str, dedup_key: str, memory_id: str) -> None:
        """Drop the claim of one memory, if it still holds it; what was added must be written."""
        self._recent.free(org_id, dedup_key, memory_id)
        for start in self._starts:
            self._connection.execute(
                f"DELETE FROM {table_of(start)} WHERE org_id = ? AND dedup_key = ? AND memory_id = ?",
                (org_id, dedup_key, memory_id),
            )

    def free_org(self, org_id: str) -> None:
        """Drop all claims of an org; what was added must be written."""
        self._recent.free_org(org_id)
        for start in self._starts:
            self._connection.execute(f"DELETE FROM {table_of(start)} WHERE org_id = ?", (org_id,))


def _lookup(starts: Iterable[int]) -> str:
    return " UNION ALL ".join(
        f"SELECT time, memory_id FROM {table_of(start)} WHERE org_id = ?1 AND dedup_key = ?2" for start in starts
    )
