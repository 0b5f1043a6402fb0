"""The orders to forget as the journal's callers see them; see `memtrace_sqlite.forgetting`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from memtrace_core.forgotten import ForgetOrder, Forgotten, OrderReason
from memtrace_core.model import Memory
from memtrace_core.ports import Clock
from memtrace_sqlite import forgetting
from memtrace_sqlite.ledger import Ledger
from memtrace_sqlite.readers import Readers
from memtrace_sqlite.writer import GroupWriter


class SqliteOrderBook:
    """The part of a journal that keeps the orders: they are written in turn with the memories they are about."""

    readers: Readers
    _clock: Clock
    _writer: GroupWriter[Ledger]

    async def forget(
        self, org_id: str, what: Forgotten, *, in_arc: bool, reason: OrderReason = "asked"
    ) -> ForgetOrder:
        """Take an order; on return it is on disk."""
        return await self._writer.run(lambda ledger: ledger.forget(org_id, what, in_arc=in_arc, reason=reason))

    async def sweep(self, org_id: str) -> bool:
        """Remove some more of what is forgotten."""
        return await self._writer.run(lambda ledger: ledger.sweep(org_id))

    async def orders(
        self, org_id: str, *, waiting: bool = False, limit: int = 1000, after: int = 0
    ) -> list[ForgetOrder]:
        """Return an org's orders."""
        return await self.readers.run(
            lambda connection: forgetting.orders(connection, org_id, waiting=waiting, limit=limit, after=after)
        )

    async def forgetting_orgs(self) -> list[str]:
        """Return the orgs whose orders are not all done."""
        return await self.readers.run(forgetting.orgs)

    async def free_claims(self, order: ForgetOrder, memories: Sequence[Memory], *, all_of_them: bool) -> None:
        """Free the claims of memories that only Arc has."""
        await self._writer.run(lambda ledger: ledger.free_claims(order, memories, all_of_them=all_of_them))

    async def note_progress(
        self,
        org_id: str,
        orders: Sequence[ForgetOrder],
        *,
        deleted: int = 0,
        trouble: str | None = None,
        done: bool = False,
    ) -> None:
        """Record how far orders are."""
        await self._writer.run(
            lambda ledger: ledger.note_progress(org_id, orders, deleted=deleted, trouble=trouble, done=done)
        )

    async def reopen_orders(self, org_id: str) -> None:
        """Let all orders of an org wait again."""
        await self._writer.run(lambda ledger: ledger.reopen_orders(org_id))

    async def orgs_to_look_at_again(self, after: timedelta) -> list[str]:
        """Return the orgs that have orders to look at again."""
        now = self._clock.now()
        return await self.readers.run(lambda connection: forgetting.orgs_done_early(connection, now, after))

    async def orders_to_look_at_again(self, org_id: str, after: timedelta, limit: int) -> list[ForgetOrder]:
        """Return orders to look at again."""
        now = self._clock.now()
        return await self.readers.run(
            lambda connection: forgetting.done_early(connection, org_id, now, after, limit)
        )

    async def note_second_look(self, org_id: str, orders: Sequence[ForgetOrder], *, found: bool) -> None:
        """Record what a second look at Arc has shown."""
        await self._writer.run(lambda ledger: ledger.note_second_look(org_id, orders, found=found))

    async def covered(self, org_id: str, what: Forgotten) -> int:
        """Count what an order would remove here."""
        return await self.readers.run(lambda connection: forgetting.covered(connection, org_id, what))

    async def forgotten(self, memories: Sequence[Memory]) -> set[str]:
        """Return which memories must never come back."""
        return await self.readers.run(lambda connection: set(forgetting.forgotten_among(connection, memories)))
