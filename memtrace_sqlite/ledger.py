"""What happens inside one write transaction of the journal: times, ids, claims and rows."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

import apsw

from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import Admission, DeliveredRun, Draft, Duplicate, PendingBatch
from memtrace_core.errors import JournalFull, OrgClosing
from memtrace_core.forgotten import ForgetOrder, Forgotten, OrderReason
from memtrace_core.identifiers import memory_id, parse_memory_id
from memtrace_core.model import ArcInstance, Memory
from memtrace_core.ports import Clock
from memtrace_core.timewindow import from_us, to_us
from memtrace_sqlite.bulk import insert
from memtrace_sqlite.claims import Claims
from memtrace_sqlite.forgetting import Orders
from memtrace_sqlite.rows import COLUMNS, PLACES, MemoryRow, Value, row_of, row_of_memory

ROW_OVERHEAD_BYTES = 200
PURGE_ROWS = 5_000
MAX_TIME = (1 << 63) - 1
SHARES = 64
MICROSECOND = timedelta(microseconds=1)
MOST_OUT_OF_LINE = 100  # of an org on their way again: a statement for Arc has room for no more of their ids

PENDING, DELIVERED, SET_ASIDE = 0, 1, 2

_INTO_JOURNAL = f"INSERT OR FAIL INTO journal (org_id, instance_id, state, bytes, {COLUMNS})"
_INTO_EMBEDDED = f"INSERT OR FAIL INTO embedded (store, {COLUMNS})"


class Ledger:
    """The state that the jobs of one transaction share; see `memtrace_sqlite.writer`.

    Rows and claims are collected and written in bulk by `finish`; a job that reads tables calls `write_rows`
    first.
    """

    def __init__(
        self, connection: apsw.Connection, node: str, clock: Clock, dedup: DedupPolicy, max_bytes: int
    ) -> None:
        self._connection = connection
        self._node = node
        self._clock = clock
        self._dedup = dedup
        self._max_bytes = max_bytes
        self._claims = Claims(connection, dedup.window)
        self._orders = Orders(connection, self._claims, self._count_bytes, PENDING)

    def begin(self) -> None:
        """Read where the journal stands: another process may have written since."""
        ((self._last, self._pending_bytes),) = self._connection.execute(
            "SELECT last_time, pending_bytes FROM ledger"
        )
        self._next = max(to_us(self._clock.now()), self._last + 1)
        self._claims.begin()
        self._claims_ready = False
        self._pending: list[tuple[str | int, ...]] = []
        self._embedded: list[tuple[int | str | float | None, ...]] = []
        self._active: dict[tuple[str, str], int] = {}
        self._stores: dict[str, int] = {}
        self._backlog: dict[str, int] = {}
        self._open_orgs: set[str] = set()

    def finish(self) -> None:
        """Write everything that was collected."""
        self.write_rows()
        self._connection.execute(
            "UPDATE ledger SET last_time = ?, pending_bytes = ?", (self._last, self._pending_bytes)
        )

        if self._backlog:
            self._connection.executemany("REPLACE INTO backlog VALUES (?, ?)", self._backlog.items())

    def committed(self) -> None:
        """Remember what was claimed; the transaction is on disk."""
        self._claims.committed()

    def write_rows(self) -> None:
        """Write the rows collected so far, so that the next statement sees them."""
        insert(self._connection, _INTO_JOURNAL, f"?, ?, {PENDING}, ?, {PLACES}", self._pending)
        insert(self._connection, _INTO_EMBEDDED, f"?, {PLACES}", self._embedded)
        self._claims.write()
        insert(
            self._connection,
            "INSERT OR FAIL INTO agent_activity",
            "?, ?, ?",
            [(org_id, agent_id, time) for (org_id, agent_id), time in self._active.items()],
            "ON CONFLICT DO UPDATE SET time = max(time, excluded.time)",
        )
        self._pending, self._embedded, self._active = [], [], {}

    def append(self, instance: ArcInstance, drafts: Sequence[Draft]) -> list[Memory | Duplicate]:
        """Stamp, claim and store drafts, in their order.

        Raises:
            OrgClosing: the org is being deleted.
            JournalFull: too many bytes wait for delivery already.
        """
        self._check_open(instance.org_id)
        self._prepare_claims()
        # An org that waits for nothing much may go on while others fill the journal.
        full = self._pending_bytes >= self._max_bytes
        if full and not instance.embedded and self._backlog_of(instance.org_id) >= self._max_bytes // SHARES:
            raise JournalFull("the journal is full of memories that Arc has not taken yet")
        return [self._append_one(instance, draft) for draft in drafts]

    def _prepare_claims(self) -> None:
        if not self._claims_ready:
            self._claims.prepare(self._next)
            self._claims_ready = True

    def _append_one(self, instance: ArcInstance, draft: Draft) -> Memory | Duplicate:
        org_id, time, key = instance.org_id, self._next, draft.dedup_key
        if self._dedup.enabled and key is not None:
            for first in self._claims.find(org_id, key, time):
                if not self._orders.frees(org_id, first, draft):
                    return Duplicate(first)
        self._last, self._next = time, time + 1
        identity = memory_id(time, self._node, f"{random.getrandbits(16):04x}")
        if self._dedup.enabled and key is not None:
            self._claims.add((org_id, key, identity, time))
        self._active[org_id, draft.agent_id] = time
        row = row_of(draft, time, identity)
        if instance.embedded:
            self._embedded.append((self._store(instance), *row))
        else:
            size = _size(row)
            self._count_bytes(org_id, size)
            self._pending.append((org_id, instance.id, size, *row))  # type: ignore[arg-type]
        return draft.stamped(org_id, identity, from_us(time))

    def mark_delivered(self, batch: PendingBatch, durable: bool) -> None:
        """Mark a batch as delivered, or remove it if it is durable there; what was moved meanwhile stays."""
        self.write_rows()
        # Durable is due at any time.
        at = 0 if durable else to_us(self._clock.now())
        self._release(batch, f"UPDATE journal SET state = {DELIVERED}, delivered_at = ?", at)
        if durable:
            self._let_go(batch.org_id)

    def _let_go(self, org_id: str) -> None:
        """Remove what is durable elsewhere and has nothing older in line before it."""
        self._connection.execute(
            f"""
            DELETE FROM journal WHERE org_id = ?1 AND state = {DELIVERED} AND delivered_at = 0 AND answer IS NULL
            AND time < coalesce((
                SELECT time FROM journal INDEXED BY journal_time WHERE org_id = ?1 AND answer IS NULL
                AND NOT (state = {DELIVERED} AND delivered_at = 0) ORDER BY time LIMIT 1
            ), {MAX_TIME})
            """,
            (org_id,),
        )

    def set_aside(self, batch: PendingBatch, answer: str) -> None:
        """Mark a batch as refused by its instance."""
        self._release(batch, f"UPDATE journal SET state = {SET_ASIDE}, answer = ?", answer)
        self._send_retries(batch.org_id)

    def retry(self, org_id: str, memory_ids: Collection[str] | None) -> int:
        """Let memories that are set aside wait for delivery again, when there is room."""
        aside = f"UPDATE journal SET retry = 1 WHERE org_id = ? AND answer IS NOT NULL AND state = {SET_ASIDE}"
        if memory_ids is None:
            self._connection.execute(aside, (org_id,))
            marked = self._connection.changes()
        else:
            marked = 0
            for time, identity in _moments(memory_ids):
                self._connection.execute(f"{aside} AND time = ? AND memory_id = ?", (org_id, time, identity))
                marked += self._connection.changes()
        self._send_retries(org_id)
        return marked

    def _send_retries(self, org_id: str) -> None:
        """Put as many of the memories that shall be tried again on their way as readers can tell apart."""
        sent = self._connection.execute(
            f"""
            UPDATE journal SET state = {PENDING}, retry = 0, resent = 0 WHERE seq IN (
                SELECT seq FROM journal
                WHERE org_id = ?1 AND answer IS NOT NULL AND state = {SET_ASIDE} AND retry ORDER BY seq LIMIT max(0,
                    {MOST_OUT_OF_LINE} - (
                        SELECT count(*) FROM journal
                        WHERE org_id = ?1 AND answer IS NOT NULL AND state < {SET_ASIDE}
                    )
                )
            ) RETURNING bytes
            """,
            (org_id,),
        )
        if freed := sum(size for (size,) in sent):
            self._count_bytes(org_id, freed)

    def drop(self, org_id: str, memory_ids: Collection[str]) -> int:
        """Remove memories for good, and free their claims."""
        self.write_rows()
        dropped = 0
        sql = """
            DELETE FROM journal WHERE org_id = ? AND time = ? AND memory_id = ? RETURNING dedup_key, state, bytes
        """
        for time, identity in _moments(memory_ids):
            for dedup_key, state, size in self._connection.execute(sql, (org_id, time, identity)):
                dropped += 1
                self._connection.execute("INSERT OR IGNORE INTO gaps VALUES (?, ?)", (org_id, time))
                if state == PENDING:
                    self._count_bytes(org_id, -size)
                if dedup_key is not None:
                    self._claims.free(org_id, dedup_key, identity)
        self._send_retries(org_id)
        return dropped

    def forget(self, org_id: str, what: Forgotten, *, in_arc: bool, reason: OrderReason) -> ForgetOrder:
        """Take an order to forget, and begin with what is here."""
        self.write_rows()
        # The moment is nobody else's: what was stored before is older, what is stored after is younger.
        now = self._last = self._next
        self._next += 1
        order = self._orders.take(org_id, what, now, in_arc=in_arc, reason=reason)
        self._send_retries(org_id)
        return order

    def sweep(self, org_id: str) -> bool:
        """Remove some of what is forgotten of an org; False if nothing was left to do."""
        self.write_rows()
        more = self._orders.sweep_some(org_id, self._next)
        self._send_retries(org_id)
        return more

    def free_claims(self, order: ForgetOrder, memories: Sequence[Memory], *, all_of_them: bool) -> None:
        """Free the claims of memories that only Arc has."""
        self.write_rows()
        self._orders.free_claims(order, memories, all_of_them=all_of_them)

    def note_progress(
        self, org_id: str, orders: Sequence[ForgetOrder], *, deleted: int, trouble: str | None, done: bool
    ) -> None:
        """Record how far orders to forget are."""
        done_at = to_us(self._clock.now()) if done else None
        self._orders.note(org_id, orders, deleted=deleted, trouble=trouble, done_at=done_at)

    def note_second_look(self, org_id: str, orders: Sequence[ForgetOrder], *, found: bool) -> None:
        """Record what a second look at Arc has shown of orders to forget."""
        self._orders.note_second_look(org_id, orders, None if found else to_us(self._clock.now()))

    def reopen_orders(self, org_id: str) -> None:
        """Let an org's orders to forget wait again."""
        self._orders.reopen(org_id)

    def _release(self, batch: PendingBatch, change: str, *values: Value) -> None:
        self.write_rows()
        sql = f"{change} WHERE seq = ? AND org_id = ? AND instance_id = ? AND state = {PENDING} RETURNING bytes"
        for key in batch.keys:
            changed = self._connection.execute(sql, (*values, key, batch.org_id, batch.instance_id))
            self._count_bytes(batch.org_id, -sum(size for (size,) in changed))

    def confirm(self, run: DeliveredRun, keys: Sequence[int]) -> None:
        """Remove delivered memories; what was moved to another instance meanwhile stays."""
        org_id = run.span.org_id
        self._connection.executemany(
            f"DELETE FROM journal WHERE seq = ? AND org_id = ? AND instance_id = ? AND state = {DELIVERED}",
            [(key, org_id, run.instance_id) for key in keys],
        )
        self._connection.execute(
            """
            DELETE FROM gaps WHERE org_id = ?1 AND time < coalesce(
                (SELECT time FROM journal WHERE org_id = ?1 AND answer IS NULL ORDER BY time LIMIT 1), ?2
            )
            """,
            (org_id, self._next),
        )
        self._send_retries(org_id)

    def resend(self, run: DeliveredRun, keys: Sequence[int]) -> None:
        """Let delivered memories wait again; what was moved to another instance meanwhile does already."""
        org_id = run.span.org_id
        sql = f"""
            UPDATE journal SET state = {PENDING}, resent = resent + 1
            WHERE seq = ? AND org_id = ? AND instance_id = ? AND state = {DELIVERED} RETURNING bytes
        """
        for key in keys:
            changed = self._connection.execute(sql, (key, org_id, run.instance_id))
            self._count_bytes(org_id, sum(size for (size,) in changed))

    def move_pending(self, instance: ArcInstance) -> int:
        """Let what waits in an org's journal wait for one instance, or store it there if it is embedded."""
        self.write_rows()
        org_id = instance.org_id
        if instance.embedded:
            waiting = self._bytes_of(org_id, PENDING)
            self._connection.execute(
                f"""
                INSERT INTO embedded (store, {COLUMNS})
                SELECT ?, {COLUMNS} FROM journal WHERE org_id = ? ORDER BY seq
                """,
                (self._store(instance), org_id),
            )
            self._connection.execute("DELETE FROM journal WHERE org_id = ?", (org_id,))
            moved = self._connection.changes()
            self._count_bytes(org_id, -waiting)
            return moved
        # What is set aside stays so: newer memories may have left the journal, so it has no place in line any more.
        self._connection.execute(
            f"UPDATE journal SET instance_id = ? WHERE org_id = ? AND answer IS NOT NULL AND state = {SET_ASIDE}",
            (instance.id, org_id),
        )
        self._count_bytes(org_id, self._bytes_of(org_id, DELIVERED))
        self._connection.execute(
            f"UPDATE journal SET instance_id = ?, state = {PENDING} WHERE org_id = ? AND state <> {SET_ASIDE}",
            (instance.id, org_id),
        )
        return self._connection.changes()

    def _bytes_of(self, org_id: str, state: int) -> int:
        ((total,),) = self._connection.execute(
            f"SELECT coalesce(sum(bytes), 0) FROM journal WHERE org_id = ? AND state = {state:d}", (org_id,)
        )
        return int(total)

    def _count_bytes(self, org_id: str, change: int) -> None:
        self._pending_bytes += change
        self._backlog[org_id] = self._backlog_of(org_id) + change

    def _backlog_of(self, org_id: str) -> int:
        """Return how many bytes of an org wait for delivery."""
        if org_id not in self._backlog:
            found = self._connection.execute("SELECT bytes FROM backlog WHERE org_id = ?", (org_id,)).fetchone()
            self._backlog[org_id] = found[0] if found else 0
        return self._backlog[org_id]

    def admit(self, instance: ArcInstance, memories: Sequence[Memory]) -> Admission:
        """Store what belongs into the embedded store, and tell what becomes of the rest.

        Raises:
            OrgClosing: the org is being deleted.
        """
        self._check_open(instance.org_id)
        self.write_rows()
        left = self._orders.left(memories)
        kept = {memory.memory_id for memory in left}
        forgotten = [memory for memory in memories if memory.memory_id not in kept]
        admitted = Admission(stored=[], present=[], outward=[], waiting=[], forgotten=forgotten)
        oldest = self._oldest_in_line(instance.org_id)
        for memory in left:
            self._admit_one(instance, memory, oldest, admitted)
        self.note_arrivals(instance, admitted.stored)
        return admitted

    def _admit_one(self, instance: ArcInstance, memory: Memory, oldest: int | None, admitted: Admission) -> None:
        time, own = to_us(memory.time), parse_memory_id(memory.memory_id)
        sql = "SELECT instance_id, state FROM journal WHERE org_id = ? AND time = ? AND memory_id = ?"
        held = self._connection.execute(sql, (instance.org_id, time, memory.memory_id)).fetchone()
        if held is not None and held[0] == instance.id:
            admitted.present.append(memory)
            return
        if held is not None and held[1] != SET_ASIDE:
            # On its way to a former instance, it leaves the journal when it is seen there.
            admitted.waiting.append(memory)
            return
        if held is not None:
            self._take_over(instance, time, memory)
            admitted.present.append(memory)
            return
        if own and own[1] == self._node:
            self._last = max(self._last, time)
            self._next = max(self._next, self._last + 1)
        if instance.embedded:
            self._connection.execute(
                f"INSERT OR IGNORE INTO embedded (store, {COLUMNS}) VALUES (?, {PLACES})",
                (self._store(instance), *row_of_memory(memory)),
            )
            (admitted.stored if self._connection.changes() else admitted.present).append(memory)
        elif own and own[1] == self._node and oldest is not None and time >= oldest:
            admitted.waiting.append(memory)
        else:
            admitted.outward.append(memory)

    def _take_over(self, instance: ArcInstance, time: int, memory: Memory) -> None:
        """Let what a former instance has refused be tried again with this one, or store it if it is embedded."""
        place = (instance.org_id, time, memory.memory_id)
        if instance.embedded:
            self._connection.execute(
                f"INSERT OR IGNORE INTO embedded (store, {COLUMNS}) VALUES (?, {PLACES})",
                (self._store(instance), *row_of_memory(memory)),
            )
            self._connection.execute("DELETE FROM journal WHERE org_id = ? AND time = ? AND memory_id = ?", place)
            # The former instance may have it all the same, and be counted.
            self._connection.execute("INSERT OR IGNORE INTO gaps VALUES (?, ?)", place[:2])
        else:
            self._connection.execute(
                "UPDATE journal SET instance_id = ? WHERE org_id = ? AND time = ? AND memory_id = ?",
                (instance.id, *place),
            )

    def _oldest_in_line(self, org_id: str) -> int | None:
        found = self._connection.execute(
            """
            SELECT time FROM journal INDEXED BY journal_time WHERE org_id = ? AND answer IS NULL
            ORDER BY time LIMIT 1
            """,
            (org_id,),
        ).fetchone()
        return found[0] if found else None

    def note_arrivals(self, instance: ArcInstance, arrived: Sequence[Memory]) -> None:
        """Claim the dedup keys of memories that have come into an instance, and note their agents' activity."""
        for memory in arrived:
            time, activity = to_us(memory.time), (instance.org_id, memory.agent_id)
            self._active[activity] = max(time, self._active.get(activity, time))
        if self._dedup.enabled:
            self.load_claims(instance, arrived)

    def load_claims(self, instance: ArcInstance, found: Sequence[Memory]) -> None:
        """Claim the dedup keys of memories that were stored elsewhere, where nobody has claimed them here."""
        self._prepare_claims()
        since = self._next - self._dedup.window // MICROSECOND
        org_id = instance.org_id
        is_gone = partial(self._orders.frees, org_id)
        for memory in self._orders.left(found):
            time, key = to_us(memory.time), memory.dedup_key
            if memory.org_id == org_id and key is not None and time > since:
                self._claims.add_absent((org_id, key, memory.memory_id, time), self._next, is_gone)

    def mark_claims_loaded(self, instance: ArcInstance) -> None:
        """Remember that an instance's claims are all here."""
        self._connection.execute(
            "INSERT OR IGNORE INTO loaded_claims VALUES (?, ?)", (instance.org_id, instance.id)
        )

    def record_key_use(self, used: Mapping[str, datetime]) -> None:
        """Keep the latest use of each key."""
        self._connection.executemany(
            "INSERT INTO key_use VALUES (?, ?) ON CONFLICT DO UPDATE SET time = max(time, excluded.time)",
            [(key_id, to_us(at)) for key_id, at in used.items()],
        )

    def close_org(self, org_id: str) -> None:
        """Let no further append of this org pass, in this transaction or any later one."""
        self._open_orgs.discard(org_id)
        self._connection.execute("INSERT OR IGNORE INTO closed_orgs VALUES (?)", (org_id,))

    def reopen_org(self, org_id: str) -> None:
        """Undo `close_org`."""
        self._connection.execute("DELETE FROM closed_orgs WHERE org_id = ?", (org_id,))

    def purge_some(self, org_id: str) -> bool:
        """Remove some of an org's memories; False once there were none, and the rest is removed too.

        In portions, so that other orgs' writes get their turn in between.
        """
        self.write_rows()
        ((freed,),) = self._connection.execute(
            f"""
            SELECT coalesce(sum(bytes), 0) FROM (
                SELECT bytes FROM journal WHERE org_id = ? AND state = {PENDING} ORDER BY seq LIMIT {PURGE_ROWS}
            )
            """,
            (org_id,),
        )
        removed = 0
        for table, owner in (
            ("journal", f"org_id = ? AND state = {PENDING}"),
            ("journal", f"org_id = ? AND state <> {PENDING}"),
            ("embedded", "store IN (SELECT store FROM stores WHERE org_id = ?)"),
        ):
            portion = f"SELECT seq FROM {table} WHERE {owner} ORDER BY seq LIMIT {PURGE_ROWS}"
            self._connection.execute(f"DELETE FROM {table} WHERE seq IN ({portion})", (org_id,))
            removed += self._connection.changes()
        self._count_bytes(org_id, -freed)
        if removed:
            return True
        self._connection.execute("DELETE FROM stores WHERE org_id = ?", (org_id,))
        self._connection.execute("DELETE FROM agent_activity WHERE org_id = ?", (org_id,))
        self._connection.execute("DELETE FROM loaded_claims WHERE org_id = ?", (org_id,))
        self._connection.execute("DELETE FROM gaps WHERE org_id = ?", (org_id,))
        self._orders.purge(org_id)
        self._claims.free_org(org_id)
        self._stores.clear()
        return False

    def _check_open(self, org_id: str) -> None:
        if org_id in self._open_orgs:
            return
        if self._connection.execute("SELECT 1 FROM closed_orgs WHERE org_id = ?", (org_id,)).fetchone():
            raise OrgClosing("this org is being deleted and takes no more memories")
        self._open_orgs.add(org_id)

    def _store(self, instance: ArcInstance) -> int:
        store = self._stores.get(instance.id)
        if store is None:
            place = (instance.org_id, instance.database, instance.measurement)
            self._connection.execute(
                "INSERT OR IGNORE INTO stores (org_id, database, measurement) VALUES (?, ?, ?)", place
            )
            ((store,),) = self._connection.execute(
                "SELECT store FROM stores WHERE org_id = ? AND database = ? AND measurement = ?", place
            )
            self._stores[instance.id] = store
        return int(store)


def _moments(memory_ids: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the time of each memory, by which it is found, with its id; what is no id of ours is left out."""
    for identity in memory_ids:
        parsed = parse_memory_id(identity)
        if parsed is not None:
            yield parsed[0], identity


def _size(row: MemoryRow) -> int:
    text = "".join([value for value in row if isinstance(value, str)])
    return ROW_OVERHEAD_BYTES + (len(text) if text.isascii() else len(text.encode()))
