"""A Bloom filter over dedup claims: most keys are new, and need not be looked for in table after table.

A table is learned by reading it once. What comes into one later was a recent claim before, and noted then, whoever
made it; where this process has missed some, the table is in doubt and read again. So the filter never misses a
claim; one that was freed meanwhile is merely looked for in vain.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable

import apsw

from memtrace_sqlite.recent_claims import Key

FILTER_BITS = 1 << 24  # right for 4 million claims; with more, ever more keys are looked for in vain


class ClaimFilter:
    """What this process knows of the tables by key; asked within one transaction at a time.

    Two generations, as nothing can be taken out of a filter: both learn every table, and when all that there are
    is known to the younger, it succeeds the older, which still holds the claims of tables long dropped.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._older, self._younger = _Generation(), _Generation()
        self._learning: int | None = None
        self._position = ("", "")

    @property
    def known(self) -> Collection[int]:
        """The starts of the tables that need only be looked in for keys that `may_hold` lets pass."""
        return self._older.starts

    def may_hold(self, key: Key) -> bool:
        """Tell whether any known table may hold a key; False is certain, True is not."""
        return self._older.may_hold(*_mark(key))

    def note(self, keys: Iterable[Key]) -> None:
        """Add what any table may come to hold."""
        for key in keys:
            place, bits = _mark(key)
            self._older.add(place, bits)
            self._younger.add(place, bits)

    def doubt(self, since: int) -> None:
        """Forget that the tables from one on are known: they may hold what was never noted."""
        for generation in (self._older, self._younger):
            generation.starts = {start for start in generation.starts if start < since}
        if self._learning is not None and self._learning >= since:
            self._learning = None

    def learn(self, starts: Collection[int], rows: int, recent: Collection[Key]) -> bool:
        """Read on by some rows in the tables that there are; tell whether one has become known.

        Nothing may have been written in this transaction: if it were rolled back, what was freed in it is there.
        `recent` is what was noted and may be in no table yet.
        """
        learned = self._read_on(starts, rows)
        self._succeed(set(starts), recent)
        return learned

    def _read_on(self, starts: Collection[int], most: int) -> bool:
        start = next((one for one in starts if one not in self._older.starts), None)
        if start is None:
            return False
        if start != self._learning:
            self._learning, self._position = start, ("", "")
        found = self._connection.execute(
            f"""
            SELECT org_id, dedup_key FROM {table_of(start)} WHERE (org_id, dedup_key) > (?, ?)
            ORDER BY org_id, dedup_key LIMIT ?
            """,
            (*self._position, most),
        )
        rows: list[Key] = list(found)
        self.note(rows)
        if len(rows) == most:
            self._position = rows[-1]
            return False
        for generation in (self._older, self._younger):
            generation.starts.add(start)
        self._learning = None
        return True

    def _succeed(self, starts: set[int], recent: Collection[Key]) -> None:
        """Let the younger generation take over if the older holds what is gone, and it all that is there."""
        if starts <= self._younger.starts and not self._older.starts <= starts:
            self._older, self._younger = self._younger, _Generation()
            for key in recent:
                self._younger.add(*_mark(key))


class _Generation:
    """A Bloom filter, and the tables whose claims are all in it."""

    def __init__(self) -> None:
        self.starts: set[int] = set()
        self._words = array("Q")

    def add(self, place: int, bits: int) -> None:
        if not self._words:  # a command that only looks at a journal never comes here
            self._words = array("Q", bytes(FILTER_BITS // 8))
        self._words[place] |= bits

    def may_hold(self, place: int, bits: int) -> bool:
        return bool(self._words) and self._words[place] & bits == bits


def _mark(key: Key) -> tuple[int, int]:
    """Return the word that a key has its bits in, and the bits: one word, as memory far apart is slow to reach."""
    code = hash(key)
    bits = 1 << (code >> 32 & 63) | 1 << (code >> 38 & 63) | 1 << (code >> 44 & 63)
    return code % (FILTER_BITS // 64), bits


def table_of(start: int) -> str:
    """Return the name of the table whose claims begin at `start` (in µs)."""
    return f"claims_{start:d}"
