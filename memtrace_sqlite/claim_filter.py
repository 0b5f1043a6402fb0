"""A Bloom filter over old dedup claims: most keys are new, and need not be looked for in table after table.

Only tables that take no more claims are learned, whoever wrote them, so that the filter never misses one; a claim
that was freed meanwhile is merely looked for in vain.
"""

from __future__ import annotations

from collections.abc import Collection

import apsw

FILTER_BITS = 1 << 24  # right for 4 million claims; with more, ever more keys are looked for in vain
PROBES = 4


class ClaimFilter:
    """What this process knows of the tables that are closed; asked within one transaction at a time.

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

    def may_hold(self, org_id: str, dedup_key: str) -> bool:
        """Tell whether any known table may hold a key; False is certain, True is not."""
        return self._older.may_hold((org_id, dedup_key))

    def learn(self, closed: Collection[int], rows: int) -> bool:
        """Read on by some rows in the tables that are closed for good; tell whether one has become known.

        Nothing may have been written in this transaction: if it were rolled back, what was freed in it is there.
        """
        learned = self._read_on(closed, rows)
        self._succeed(set(closed))
        return learned

    def _read_on(self, closed: Collection[int], most: int) -> bool:
        start = next((one for one in closed if one not in self._older.starts), None)
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
        rows: list[tuple[str, str]] = list(found)
        for generation in (self._older, self._younger):
            generation.add(rows)
        if len(rows) == most:
            self._position = rows[-1]
            return False
        for generation in (self._older, self._younger):
            generation.starts.add(start)
        self._learning = None
        return True

    def _succeed(self, closed: set[int]) -> None:
        """Let the younger generation take over if the older holds what is gone, and it all that is there."""
        if closed <= self._younger.starts and not self._older.starts <= closed:
            self._older, self._younger = self._younger, _Generation()


class _Generation:
    """A Bloom filter, and the tables whose claims are all in it."""

    def __init__(self) -> None:
        self.starts: set[int] = set()
        self._bits = bytearray()

    def add(self, claims: Collection[tuple[str, str]]) -> None:
        if not self._bits:  # a command that only looks at a journal never comes here
            self._bits = bytearray(FILTER_BITS // 8)
        bits, mask = self._bits, FILTER_BITS - 1
        for claim in claims:
            code = hash(claim)
            place, step = code & mask, code >> 32 | 1
            for _ in range(PROBES):
                bits[place >> 3] |= 1 << (place & 7)
                place = place + step & mask

    def may_hold(self, claim: tuple[str, str]) -> bool:
        if not self._bits:
            return False
        bits, mask = self._bits, FILTER_BITS - 1
        code = hash(claim)
        place, step = code & mask, code >> 32 | 1
        for _ in range(PROBES):
            if not bits[place >> 3] >> (place & 7) & 1:
                return False
            place = place + step & mask
        return True


def table_of(start: int) -> str:
    """Return the name of the table whose claims begin at `start` (in µs)."""
    return f"claims_{start:d}"
