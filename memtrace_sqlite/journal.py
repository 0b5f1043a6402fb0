"""The journal in SQLite: one file for undelivered memories, the embedded store, dedup claims and activity."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import apsw

from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import (
    Admission,
    DeliveredRun,
    Draft,
    Duplicate,
    EntryState,
    JournalEntry,
    JournalView,
    OrgBacklog,
    OrgHoldings,
    PendingBatch,
)
from memtrace_core.errors import JournalFull, StorageUnavailable
from memtrace_core.model import AgentCounts, ArcInstance, Memory
from memtrace_core.opening import Mode
from memtrace_core.ports import Clock
from memtrace_core.query import AgentCountQuery, Horizon, MemoryQuery
from memtrace_core.timewindow import to_us
from memtrace_sqlite import journal_reads as reads
from memtrace_sqlite.database import open_database, open_reader, reporting
from memtrace_sqlite.forgetting import hidden_here
from memtrace_sqlite.ledger import DELIVERED, PENDING, SET_ASIDE, Ledger
from memtrace_sqlite.order_book import SqliteOrderBook
from memtrace_sqlite.readers import Readers
from memtrace_sqlite.rows import counts_of, prepare
from memtrace_sqlite.schema import JOURNAL
from memtrace_sqlite.writer import GroupWriter

DEFAULT_MAX_BYTES = 1 << 30
LEAST_FREE_BYTES = 64 << 20
DISK_LOOK_SECONDS = 1.0


class SqliteJournal(SqliteOrderBook):
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
        with reporting(path):
            found = connection.execute("SELECT node, last_time FROM ledger").fetchone()
        if found is None:
            raise StorageUnavailable(f"{path} is damaged (its ledger is empty); restore it from a backup")
        self.node: str = found[0]
        # When it was opened, it had given no memory a time yet.
        self.unused: bool = not found[1]
        ledger = Ledger(connection, self.node, clock, dedup or DedupPolicy(), max_bytes)
        self._path = path
        self._clock = clock
        self._connection = connection
        self._writer = GroupWriter(path, connection, ledger)
        self.readers = Readers(path)
        # `data_version` moves when another connection commits, so this one must never write.
        self._watch = open_reader(path)
        self._disk_looked_at = float("-inf")
        self._disk_is_full = False

    def version(self) -> int:
        """Return a number that moves with every commit, by whatever process, in about two microseconds."""
        with reporting(self._path):
            return int(str(self._watch.pragma("data_version")))

    async def append(self, instance: ArcInstance, drafts: Sequence[Draft]) -> list[Memory | Duplicate]:
        """Store all drafts or none; on return they are on disk."""
        if self._nearly_full():
            raise JournalFull("the disk is nearly full")
        return await self._writer.run(lambda ledger: ledger.append(instance, drafts))

    async def view(self, query: MemoryQuery, instance: ArcInstance | None = None) -> JournalView:
        """Return the first journaled memories that match, and the horizon or the embedded store's answer."""
        # A search looks into the contents of all memories that it passes.
        run = self.readers.run_short if query.content_contains is None else self.readers.run
        return await run(lambda connection: reads.view(connection, self.node, query, instance))

    async def count(self, query: AgentCountQuery) -> tuple[Horizon, AgentCounts]:
        """Count one agent's journaled memories, and return the horizon."""

        def work(connection: apsw.Connection) -> tuple[Horizon, AgentCounts]:
            horizon = reads.horizon(connection, self.node, query.org_id)
            hidden, values = hidden_here(connection, query.org_id)
            owned = (query.org_id, *values)
            return horizon, counts_of(connection, "journal", f"org_id = ?{hidden}", owned, query)

        return await self.readers.run(work)

    async def agent_activity(self, org_id: str, agent_ids: Iterable[str]) -> dict[str, datetime]:
        """Return when agents last stored a memory."""
        wanted = list(agent_ids)

        def work(connection: apsw.Connection) -> dict[str, datetime]:
            sql = "SELECT agent_id, time FROM agent_activity WHERE org_id = ? AND agent_id IN ({})"
            return reads.times(connection, sql, wanted, (org_id,))

        return await self.readers.run(work) if wanted else {}

    async def pending_orgs(self) -> list[str]:
        """Return the orgs with undelivered memories."""
        return await self.readers.run(lambda connection: reads.orgs(connection, "journal_pending", PENDING))

    async def unconfirmed_orgs(self) -> list[str]:
        """Return the orgs with delivered memories."""
        return await self.readers.run(lambda connection: reads.orgs(connection, "journal_delivered", DELIVERED))

    async def next_batch(
        self, org_id: str, limit: int, max_bytes: int, skipping: Collection[str] = ()
    ) -> PendingBatch | None:
        """Return the oldest undelivered memories of an org for one instance."""
        return await self.readers.run(
            lambda connection: reads.batch(connection, org_id, limit, max_bytes, skipping)
        )

    async def mark_delivered(self, batch: PendingBatch, *, durable: bool) -> None:
        """Record a delivery."""
        await self._writer.run(lambda ledger: ledger.mark_delivered(batch, durable))

    async def set_aside(self, batch: PendingBatch, answer: str) -> None:
        """Keep what an instance refuses."""
        await self._writer.run(lambda ledger: ledger.set_aside(batch, answer))

    async def next_delivered(self, org_id: str, settle: timedelta, limit: int) -> DeliveredRun | datetime | None:
        """Return the org's oldest memories if they are due to be confirmed, or when they will be."""
        now = to_us(self._clock.now())
        return await self.readers.run(
            lambda connection: reads.due_run(connection, self.node, org_id, settle, limit, now)
        )

    async def confirm(self, run: DeliveredRun, keys: Sequence[int]) -> None:
        """Let delivered memories go."""
        await self._writer.run(lambda ledger: ledger.confirm(run, keys))

    async def resend(self, run: DeliveredRun, keys: Sequence[int]) -> None:
        """Let delivered memories wait again."""
        await self._writer.run(lambda ledger: ledger.resend(run, keys))

    async def move_pending(self, instance: ArcInstance) -> int:
        """Let everything of the org go to one instance."""
        return await self._writer.run(lambda ledger: ledger.move_pending(instance))

    async def backlogs(self) -> list[OrgBacklog]:
        """Return how far delivery is, org by org."""
        return await self.readers.run(reads.backlogs)

    async def entries(
        self, org_id: str, states: Collection[EntryState], limit: int, after: int = 0
    ) -> list[JournalEntry]:
        """Return memories with what became of them."""
        return await self.readers.run(lambda connection: reads.entries(connection, org_id, states, limit, after))

    async def retry(self, org_id: str, memory_ids: Collection[str] | None = None) -> int:
        """Let memories that are set aside be sent again."""
        return await self._writer.run(lambda ledger: ledger.retry(org_id, memory_ids))

    async def drop(self, org_id: str, memory_ids: Collection[str]) -> int:
        """Remove memories for good."""
        return await self._writer.run(lambda ledger: ledger.drop(org_id, memory_ids))

    async def admit(self, instance: ArcInstance, memories: Sequence[Memory]) -> Admission:
        """Take in what comes from elsewhere; on return what is stored is on disk."""
        if self._nearly_full():
            raise JournalFull("the disk is nearly full")
        return await self._writer.run(lambda ledger: ledger.admit(instance, memories))

    async def note_arrivals(self, instance: ArcInstance, memories: Sequence[Memory]) -> None:
        """Claim the dedup keys of memories that have come to an instance, and note their agents' activity."""
        await self._writer.run(lambda ledger: ledger.note_arrivals(instance, memories))

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
        return await self.readers.run(lambda connection: reads.times(connection, sql, wanted)) if wanted else {}

    async def close_org(self, org_id: str) -> None:
        """Refuse appends of the org from now on, by any process."""
        await self._writer.run(lambda ledger: ledger.close_org(org_id))

    async def reopen_org(self, org_id: str) -> None:
        """Take appends of the org again."""
        await self._writer.run(lambda ledger: ledger.reopen_org(org_id))

    async def holdings(self, org_id: str) -> OrgHoldings:
        """Count what the file holds of an org."""

        def work(connection: apsw.Connection) -> OrgHoldings:
            states = reads.counts(connection, org_id)
            ((embedded,),) = connection.execute(
                "SELECT count(*) FROM embedded WHERE store IN (SELECT store FROM stores WHERE org_id = ?)",
                (org_id,),
            )
            return OrgHoldings(
                pending=states[PENDING], delivered=states[DELIVERED], set_aside=states[SET_ASIDE], embedded=embedded
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
        self._watch.close()
        self._connection.close()

    def release(self) -> None:
        """Close the file at once, for who never ran anything on it."""
        self._writer.end()
        self.readers.release()
        self._watch.close()
        self._connection.close()

    def _nearly_full(self) -> bool:
        now = time.monotonic()
        if now - self._disk_looked_at >= DISK_LOOK_SECONDS:
            self._disk_looked_at = now
            with reporting(self._path):
                disk = os.statvfs(self._path.parent)
            self._disk_is_full = disk.f_bavail * disk.f_frsize < LEAST_FREE_BYTES
        return self._disk_is_full
