"""The newest dedup claims: on disk in the order in which they were made, and known by heart to find them by key."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

import apsw

from memtrace_sqlite.bulk import insert

Key = tuple[str, str]
"""An org's id and a dedup key."""

Claim = tuple[str, str, str, int]
"""An org's id, a dedup key, the id of the memory that holds it, and the time of that memory (in µs)."""

# Rows only leave by being moved, so that no number is used twice: by them other processes tell what is new.
_EMPTY = "UPDATE recent_claims SET org_id = '', dedup_key = '', memory_id = ''"


class RecentClaims:
    """The claims that were not moved to a table by key yet, within one write transaction at a time.

    What is known by heart is what was on disk when the transaction began. It is only a hint where to look: a claim
    that was freed since is looked for in vain.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._numbers: dict[Key, int] = {}  # the oldest first
        self._seen = 0
        self._moved = 0
        self._next = 1
        self._fresh: dict[Key, tuple[int, Claim]] = {}
        self._unwritten: list[tuple[int, str, str, str, int]] = []
        self._given_way: list[int] = []
        self.new: list[Key] = []
        """What this process did not know before the transaction began."""

    @property
    def keys(self) -> Collection[Key]:
        """What was claimed when the transaction began."""
        return self._numbers.keys()

    def begin(self, moved_up_to: int) -> bool:
        """Read what was claimed since the last transaction.

        Args:
            moved_up_to: the number of the youngest claim that was moved to a table by key, by whatever process.

        Returns:
            Whether this process has seen every claim that was moved.
        """
        rolled_back = moved_up_to < self._moved  # what this process had moved
        seen = moved_up_to if rolled_back else max(self._seen, moved_up_to)
        # All of it, before anything here is changed: a read that fails half way must leave nothing half known.
        found = list(
            self._connection.execute(
                "SELECT number, org_id, dedup_key FROM recent_claims WHERE number > ? ORDER BY number", (seen,)
            )
        )
        complete = self._seen >= moved_up_to
        if rolled_back:
            self._numbers = {}
        elif moved_up_to > self._moved:
            self._numbers = {key: number for key, number in self._numbers.items() if number > moved_up_to}
        self._seen, self._moved = seen, moved_up_to
        self._fresh, self._unwritten, self._given_way, self.new = {}, [], [], []
        for number, org_id, dedup_key in found:
            key = org_id, dedup_key
            self._numbers.pop(key, None)  # a dictionary would leave it in its former place
            self._numbers[key] = self._seen = number
            self.new.append(key)
        self._next = self._seen + 1
        return complete

    @property
    def added(self) -> Collection[Key]:
        """What this transaction has claimed."""
        return self._fresh.keys()

    def committed(self) -> None:
        """Know by heart what was added: the transaction is on disk. Else the next would read it from there."""
        for key, (number, _) in self._fresh.items():
            self._numbers.pop(key, None)
            self._numbers[key] = number
        self._seen = self._next - 1

    def find(self, key: Key) -> tuple[int, str] | None:
        """Return the time and the id of the memory that holds a key."""
        if key in self._fresh:
            _, (_, _, memory_id, time) = self._fresh[key]
            return time, memory_id
        number = self._numbers.get(key)
        if number is None:  # nearly always
            return None
        sql = "SELECT time, memory_id FROM recent_claims WHERE number = ? AND org_id = ? AND dedup_key = ?"
        found: tuple[int, str] | None = self._connection.execute(sql, (number, *key)).fetchone()
        return found

    def add(self, claim: Claim) -> None:
        """Claim a key; whoever held it gives way."""
        key = claim[:2]
        held = self._number_of(key)
        if held is not None:
            self._given_way.append(held)
        self._fresh.pop(key, None)  # a dictionary would leave it in its former place
        self._fresh[key] = self._next, claim
        self._unwritten.append((self._next, *claim))
        self._next += 1

    def write(self) -> None:
        """Write what was added."""
        insert(self._connection, "INSERT OR FAIL INTO recent_claims", "?, ?, ?, ?, ?", self._unwritten)
        for number in self._given_way:
            self._connection.execute(f"{_EMPTY} WHERE number = ?", (number,))
        self._unwritten, self._given_way = [], []

    def free(self, org_id: str, dedup_key: str, memory_id: str) -> None:
        """Drop the claim of one memory, if it still holds it; what was added must be written."""
        key = org_id, dedup_key
        self._connection.execute(
            f"{_EMPTY} WHERE number = ? AND org_id = ? AND memory_id = ?",
            (self._number_of(key), org_id, memory_id),
        )
        if key in self._fresh and self._fresh[key][1][2] == memory_id:
            del self._fresh[key]

    def free_org(self, org_id: str) -> None:
        """Drop all claims of an org; what was added must be written."""
        self._fresh = {key: claim for key, claim in self._fresh.items() if key[0] != org_id}
        self._connection.execute(f"{_EMPTY} WHERE org_id = ?", (org_id,))

    def move(self, most: int, table: str) -> tuple[int, int]:
        """Move the oldest to a table by key; nothing was added yet.

        Returns:
            How many there were, and the number of the youngest that was ever moved.
        """
        portion = list(islice(self._numbers.values(), most))
        if not portion:
            return 0, self._moved
        self._moved = portion[-1]
        # In the order of their keys, so that those that share a page come to it together. Where the table has the
        # same key, the younger claim wins.
        self._connection.execute(
            f"""
            INSERT OR FAIL INTO {table} SELECT org_id, dedup_key, memory_id, time FROM recent_claims
            WHERE number <= ? AND memory_id <> '' ORDER BY org_id, dedup_key
            ON CONFLICT DO UPDATE SET memory_id = excluded.memory_id, time = excluded.time
            WHERE excluded.time > time
            """,
            (self._moved,),
        )
        self._connection.execute("DELETE FROM recent_claims WHERE number <= ?", (self._moved,))
        self._numbers = dict(islice(self._numbers.items(), most, None))
        return len(portion), self._moved

    def _number_of(self, key: Key) -> int | None:
        return self._fresh[key][0] if key in self._fresh else self._numbers.get(key)

    def __len__(self) -> int:
        """Return how many claims there were when the transaction began, less those that were moved."""
        return len(self._numbers)
