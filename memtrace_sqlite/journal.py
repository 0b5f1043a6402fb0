"""The journal in SQLite: one file for undelivered memories, the embedded store, dedup claims and activity."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import apsw

from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import DeliveredRun, Draft, Duplicate, JournalView, OrgHoldings, PendingBatch
from memtrace_core.errors import JournalFull
from memtrace_core.model import AgentCounts, ArcInstance, Memory
from memtrace_core.ports import Clock
from memtrace_core.query import AgentCountQuery, Horizon, MemoryQuery, OwnSpan
from memtrace_core.timewindow import from_us, to_us
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
MOST_DOUBLINGS = 5
MOST_SET_ASIDE = 100  # in one horizon: a statement for Arc has room for no more


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
        self._clock = clock
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

    async def view(self, query: MemoryQuery) -> JournalView:
        """Return the first journaled memories that match, and the horizon."""
        return await self.readers.run(lambda connection: self._view(connection, query))

    async def count(self, query: AgentCountQuery) -> tuple[Horizon, AgentCounts]:
        """Count one agent's journaled memories, and return the horizon."""

        def work(connection: apsw.Connection) -> tuple[Horizon, AgentCounts]:
            horizon = self._horizon(connection, query.org_id)
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
        """Return the orgs with undelivered memories."""
        return await self.readers.run(lambda connection: _orgs(connection, "journal_pending", PENDING))

    async def unconfirmed_orgs(self) -> list[str]:
        """Return the orgs with delivered memories."""
        return await self.readers.run(lambda connection: _orgs(connection, "journal_delivered", DELIVERED))

    async def next_batch(
        self, org_id: str, limit: int, max_bytes: int, skipping: Collection[str] = ()
    ) -> PendingBatch | None:
        """Return the oldest undelivered memories of an org for one instance."""
        return await self.readers.run(lambda connection: _batch(connection, org_id, limit, max_bytes, skipping))

    async def mark_delivered(self, batch: PendingBatch, *, durable: bool) -> None:
        """Record a delivery."""
        await self._writer.run(lambda ledger: ledger.mark_delivered(batch, durable))

    async def set_aside(self, batch: PendingBatch, answer: str) -> None:
        """Keep what an instance refuses."""
        await self._writer.run(lambda ledger: ledger.set_aside(batch, answer))

    async def next_delivered(self, org_id: str, settle: timedelta, limit: int) -> DeliveredRun | datetime | None:
        """Return the org's oldest memories if they are due to be confirmed, or when they will be."""
        now = to_us(self._clock.now())
        return await self.readers.run(lambda connection: self._run(connection, org_id, settle, limit, now))

    async def confirm(self, org_id: str, keys: Sequence[int]) -> None:
        """Let delivered memories go."""
        await self._writer.run(lambda ledger: ledger.confirm(org_id, keys))

    async def resend(self, org_id: str, keys: Sequence[int]) -> None:
        """Let delivered memories wait again."""
        await self._writer.run(lambda ledger: ledger.resend(org_id, keys))

    async def move_pending(self, instance: ArcInstance) -> int:
        """Let everything of the org go to one instance."""
        return await self._writer.run(lambda ledger: ledger.move_pending(instance))

    async def claims_loaded(self, instance: ArcInstance) -> bool:
        """Tell whether an instance's claims are all here."""
        sql = "SELECT 1 FROM loaded_claims WHERE org_id = ? AND instance_id = ?"
        found = await self.readers.run(
            lambda connection: connection.execute(sql, (instance.org_id, instance.id)).fetchone()
        )
        return found is not None

    async def load_claims(self, instance: ArcInstance, memories: Sequence[Memory]) -> None:
        """Claim the dedup keys of memories that were stored elsewhere."""
        await self._writer.run(lambda ledger: ledger.load_claims(instance, memories))

    async def mark_claims_loaded(self, instance: ArcInstance) -> None:
        """Remember that an instance's claims are all here."""
        await self._writer.run(lambda ledger: ledger.mark_claims_loaded(instance))

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

    def _view(self, connection: apsw.Connection, query: MemoryQuery) -> JournalView:
        where, values = conditions(query)
        rows = connection.execute(
            f"SELECT {COLUMNS} FROM journal WHERE org_id = ?{where}{ordering(query)} LIMIT ?",
            (query.org_id, *values, query.offset + query.limit),
        )
        memories = [memory_of(query.org_id, row) for row in rows]
        return JournalView(self._horizon(connection, query.org_id), memories)

    def _horizon(self, connection: apsw.Connection, org_id: str) -> Horizon:
        ((before,),) = connection.execute(
            f"""
            SELECT coalesce(
                (SELECT time FROM journal INDEXED BY journal_time WHERE org_id = ? AND state <> {SET_ASIDE}
                 ORDER BY time LIMIT 1),
                (SELECT last_time + 1 FROM ledger)
            )
            """,
            (org_id,),
        )
        refused = connection.execute(
            f"""
            SELECT memory_id FROM journal INDEXED BY journal_set_aside
            WHERE org_id = ? AND state = {SET_ASIDE} AND time < ? ORDER BY seq DESC LIMIT {MOST_SET_ASIDE}
            """,
            (org_id, before),
        )
        return Horizon(self.node, from_us(before), frozenset(memory_id for (memory_id,) in refused))

    def _run(
        self, connection: apsw.Connection, org_id: str, settle: timedelta, limit: int, now: int
    ) -> DeliveredRun | datetime | None:
        rows = connection.execute(
            f"""
            SELECT seq, memory_id, time, instance_id, state, delivered_at, resent
            FROM journal INDEXED BY journal_time WHERE org_id = ? AND time >= coalesce((
                SELECT time FROM journal INDEXED BY journal_time WHERE org_id = ? AND state <> {SET_ASIDE}
                ORDER BY time LIMIT 1
            ), 0) ORDER BY time LIMIT ?
            """,
            (org_id, org_id, limit),
        )
        settle_us = settle // timedelta(microseconds=1)
        keys: list[int] = []
        ids: list[str] = []
        first = last = 0
        run_instance = ""
        for seq, memory_id, time_us, instance_id, state, delivered_at, resent in rows:
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
        span = OwnSpan(org_id, self.node, from_us(first), from_us(last))
        return DeliveredRun(run_instance, tuple(keys), tuple(ids), span)

    def _nearly_full(self) -> bool:
        now = time.monotonic()
        if now - self._disk_looked_at >= DISK_LOOK_SECONDS:
            self._disk_looked_at = now
            self._disk_is_full = shutil.disk_usage(self._path.parent).free < LEAST_FREE_BYTES
        return self._disk_is_full


def _orgs(connection: apsw.Connection, index: str, state: int) -> list[str]:
    """Return the orgs that have rows in a state, by skipping from org to org."""
    orgs: list[str] = []
    sql = f"SELECT min(org_id) FROM journal INDEXED BY {index} WHERE state = {state} AND org_id > ?"
    while (found := connection.execute(sql, (orgs[-1] if orgs else "",)).fetchone()) and found[0]:
        orgs.append(found[0])
    return orgs


def _batch(
    connection: apsw.Connection, org_id: str, limit: int, max_bytes: int, skipping: Collection[str]
) -> PendingBatch | None:
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


def _times(
    connection: apsw.Connection, sql: str, names: Sequence[str], before: tuple[Value, ...] = ()
) -> dict[str, datetime]:
    found: dict[str, datetime] = {}
    for start in range(0, len(names), MOST_PLACES):
        some = names[start : start + MOST_PLACES]
        places = ", ".join("?" * len(some))
        found.update((name, from_us(us)) for name, us in connection.execute(sql.format(places), (*before, *some)))
    return found
