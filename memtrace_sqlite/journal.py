"""The journal in SQLite: one file for undelivered memories, the embedded store, dedup claims and activity."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import apsw

from memtrace_core.dedup import DedupPolicy
from memtrace_core.errors import JournalFull
from memtrace_core.model import AgentCounts, ArcInstance, Memory
from memtrace_core.ports import Clock, Draft, Duplicate, JournalView, OrgHoldings, PendingBatch
from memtrace_core.query import AgentCountQuery, Horizon, MemoryQuery
from memtrace_core.timewindow import from_us
from memtrace_sqlite.database import Mode, open_database
from memtrace_sqlite.ledger import DELIVERED, PENDING, SET_ASIDE, Ledger
from memtrace_sqlite.readers import Readers
from memtrace_sqlite.rows import COLUMNS, Value, conditions, counts_of, memory_of, ordering, prepare
from memtrace_sqlite.schema import JOURNAL
from memtrace_sqlite.writer import GroupWriter

DEFAULT_MAX_BYTES = 1 << 30
LEAST_FREE_BYTES = 64 << 20
DISK_LOOK_SECONDS = 1.0
MOST_PLACES = 500


class SqliteJournal:
    """A journal in one SQLite file; several processes may use it at once.

    Args:
        path: the file, made if it is not there.
        clock: stamps times.
        dedup: which memories are the same one.
        max_bytes: how many bytes of memories may wait for delivery.
        mode: whether an older schema is migrated or refused.

    Raises:
        StorageUnavailable: the file is not ours or cannot be used.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        dedup: DedupPolicy | None = None,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        mode: Mode = Mode.AS_IT_IS,
    ) -> None:
        connection = prepare(open_database(path, JOURNAL, mode))
        ((self.node,),) = connection.execute("SELECT node FROM ledger")
        ledger = Ledger(connection, self.node, clock, dedup or DedupPolicy(), max_bytes)
        self._path = path
        self._connection = connection
        self._writer = GroupWriter(path, connection, ledger)
        self.readers = Readers(path)
        self._disk_looked_at = float("-inf")
        self._disk_is_full = False

    async def append(self, instance: ArcInstance, drafts: Sequence[Draft]) -> list[Memory | Duplicate]:
        """Store all drafts or none; on return they are on disk."""
        if self._nearly_full():
            raise JournalFull("the disk is nearly full")
        return await self._writer.run(lambda ledger: ledger.append(instance, drafts))

    async def view(self, query: MemoryQuery, instance: ArcInstance) -> JournalView:
        """Return the first journaled memories that match, and the horizon."""
        return await self.readers.run(lambda connection: self._view(connection, query, instance))

    async def count(self, query: AgentCountQuery, instance: ArcInstance) -> tuple[Horizon, AgentCounts]:
        """Count one agent's journaled memories, and return the horizon."""

        def work(connection: apsw.Connection) -> tuple[Horizon, AgentCounts]:
            horizon = self._horizon(connection, instance)
            return horizon, counts_of(connection, "journal", "org_id = ?", (query.org_id,), query)

        return await self.readers.run(work)

    async def agent_activity(self, org_id: str, agent_ids: Iterable[str]) -> dict[str, datetime]:
        """Return when agents last stored a memory."""
        wanted = list(agent_ids)

        def work(connection: apsw.Connection) -> dict[str, datetime]:
            sql = "SELECT agent_id, time FROM agent_activity WHERE org_id = ? AND agent_id IN ({})"
            return _times(connection, sql, wanted, (org_id,))

        return await self.readers.run(work) if wanted else {}

    async def pending_orgs(self) -> list[str]:
        """Return the orgs with undelivered memories, by skipping from org to org."""

        def work(connection: apsw.Connection) -> list[str]:
            orgs: list[str] = []
            sql = (
                f"SELECT min(org_id) FROM journal INDEXED BY journal_pending WHERE state = {PENDING} AND org_id > ?"
            )
            while (found := connection.execute(sql, (orgs[-1] if orgs else "",)).fetchone()) and found[0]:
                orgs.append(found[0])
            return orgs

        return await self.readers.run(work)

    async def next_batch(self, org_id: str, limit: int, max_bytes: int) -> PendingBatch | None:
        """Return the oldest undelivered memories of an org for one instance."""
        return await self.readers.run(lambda connection: _batch(connection, org_id, limit, max_bytes))

    async def mark_delivered(self, batch: PendingBatch, *, durable: bool) -> None:
        """Record a delivery."""
        await self._writer.run(lambda ledger: ledger.mark_delivered(batch, durable))

    async def move_pending(self, instance: ArcInstance) -> int:
        """Let everything of the org go to one instance."""
        return await self._writer.run(lambda ledger: ledger.move_pending(instance))

    async def record_key_use(self, used: Mapping[str, datetime]) -> None:
        """Keep the latest use of each key."""
        await self._writer.run(lambda ledger: ledger.record_key_use(used))

    async def key_uses(self, key_ids: Iterable[str]) -> dict[str, datetime]:
        """Return when keys were last used."""
        wanted = list(key_ids)
        sql = "SELECT key_id, time FROM key_use WHERE key_id IN ({})"
        return await self.readers.run(lambda connection: _times(connection, sql, wanted)) if wanted else {}

    async def close_org(self, org_id: str) -> None:
        """Refuse appends of the org from now on, by any process."""
        await self._writer.run(lambda ledger: ledger.close_org(org_id))

    async def reopen_org(self, org_id: str) -> None:
        """Take appends of the org again."""
        await self._writer.run(lambda ledger: ledger.reopen_org(org_id))

    async def holdings(self, org_id: str) -> OrgHoldings:
        """Count what the file holds of an org."""

        def work(connection: apsw.Connection) -> OrgHoldings:
            states: dict[int, int] = dict(
                connection.execute("SELECT state, count(*) FROM journal WHERE org_id = ? GROUP BY state", (org_id,))
            )
            ((embedded,),) = connection.execute(
                "SELECT count(*) FROM embedded WHERE store IN (SELECT store FROM stores WHERE org_id = ?)",
                (org_id,),
            )
            return OrgHoldings(
                pending=states.get(PENDING, 0),
                delivered=states.get(DELIVERED, 0),
                set_aside=states.get(SET_ASIDE, 0),
                embedded=embedded,
            )

        return await self.readers.run(work)

    async def purge_org(self, org_id: str) -> None:
        """Remove an org's memories, claims and activity."""
        while await self._writer.run(lambda ledger: ledger.purge_some(org_id)):
            pass

    async def close(self) -> None:
        """Finish the writes that were accepted, and close the file."""
        await self._writer.close()
        await self.readers.close()
        self._connection.close()

    def _view(self, connection: apsw.Connection, query: MemoryQuery, instance: ArcInstance) -> JournalView:
        where, values = conditions(query)
        rows = connection.execute(
            f"SELECT {COLUMNS} FROM journal WHERE org_id = ?{where}{ordering(query)} LIMIT ?",
            (query.org_id, *values, query.offset + query.limit),
        )
        return JournalView(self._horizon(connection, instance), [memory_of(query.org_id, row) for row in rows])

    def _horizon(self, connection: apsw.Connection, instance: ArcInstance) -> Horizon:
        ((before,),) = connection.execute(
            f"""
            SELECT coalesce(
                (SELECT min(time) FROM journal WHERE org_id = ? AND instance_id = ? AND state <> {SET_ASIDE}),
                (SELECT last_time + 1 FROM ledger)
            )
            """,
            (instance.org_id, instance.id),
        )
        return Horizon(self.node, from_us(before))

    def _nearly_full(self) -> bool:
        now = time.monotonic()
        if now - self._disk_looked_at >= DISK_LOOK_SECONDS:
            self._disk_looked_at = now
            self._disk_is_full = shutil.disk_usage(self._path.parent).free < LEAST_FREE_BYTES
        return self._disk_is_full


def _batch(connection: apsw.Connection, org_id: str, limit: int, max_bytes: int) -> PendingBatch | None:
    rows = connection.execute(
        f"""
        SELECT seq, instance_id, bytes, {COLUMNS} FROM journal
        WHERE org_id = ? AND state = {PENDING} ORDER BY seq LIMIT ?
        """,
        (org_id, limit),
    )
    keys: list[int] = []
    memories: list[Memory] = []
    batch_instance, total = "", 0
    for seq, instance_id, size, *row in rows:
        total += size
        if keys and (instance_id != batch_instance or total > max_bytes):
            break
        batch_instance = instance_id
        keys.append(seq)
        memories.append(memory_of(org_id, tuple(row)))
    return PendingBatch(org_id, batch_instance, tuple(keys), memories) if keys else None


def _times(
    connection: apsw.Connection, sql: str, names: Sequence[str], before: tuple[Value, ...] = ()
) -> dict[str, datetime]:
    found: dict[str, datetime] = {}
    for start in range(0, len(names), MOST_PLACES):
        some = names[start : start + MOST_PLACES]
        places = ", ".join("?" * len(some))
        found.update((name, from_us(us)) for name, us in connection.execute(sql.format(places), (*before, *some)))
    return found
