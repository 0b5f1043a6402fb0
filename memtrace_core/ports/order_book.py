"""The orders to forget: what no reader may be shown, and how far it is gone from Arc."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from memtrace_core.forgotten import ForgetOrder, Forgotten, OrderReason
from memtrace_core.model import Memory


class OrderBook(Protocol):
    """The orders to forget, kept beside the memories that they are about, and for as long as their org is.

    What an order covers is hidden from the moment in which it is taken: the local files show nothing of it, and the
    horizon that they give names it until Arc, too, was seen to have nothing of it.
    """

    async def forget(
        self, org_id: str, what: Forgotten, *, in_arc: bool, reason: OrderReason = "asked"
    ) -> ForgetOrder:
        """Take an order, and begin to remove what the local files hold of it, all in one transaction.

        On return it is on disk. An order covers nothing that is stored after it, whatever its `before` says. What
        it covers gives its dedup claims back. It takes the place of former ones of the same scope that are done.

        Args:
            org_id: the org.
            what: the memories.
            in_arc: whether they may be in an Arc, too; else the order is done when nothing of it is left here.
            reason: why they are forgotten.
        """
        ...

    async def sweep(self, org_id: str) -> bool:
        """Remove some more of what the local files hold of an org's orders; tell whether something may be left."""
        ...

    async def orders(
        self, org_id: str, *, waiting: bool = False, limit: int = 1000, after: int = 0
    ) -> list[ForgetOrder]:
        """Return an org's orders, or only those that are not done, in the order of their keys, behind `after`."""
        ...

    async def forgetting_orgs(self) -> list[str]:
        """Return the orgs that have orders which are not done."""
        ...

    async def free_claims(self, order: ForgetOrder, memories: Sequence[Memory], *, all_of_them: bool) -> None:
        """Free the dedup claims of memories that an Arc has and an order covers.

        Until it was told `all_of_them`, a claim that may be one of the order's counts as free.
        """
        ...

    async def note_progress(
        self,
        org_id: str,
        orders: Sequence[ForgetOrder],
        *,
        deleted: int = 0,
        trouble: str | None = None,
        done: bool = False,
    ) -> None:
        """Record how far orders are: `deleted` rows more, the present trouble, and whether they are done.

        An order that was replaced or reopened since it was read is left as it is: what is known of it is old.
        """
        ...

    async def reopen_orders(self, org_id: str) -> None:
        """Let all orders of an org wait again: its store may have what they cover.

        Those that wait do so from the beginning, as by their `made_at` they are others now.
        """
        ...

    async def orgs_to_look_at_again(self, after: timedelta) -> list[str]:
        """Return the orgs that have orders to look at again: made so long ago, and done sooner than that."""
        ...

    async def orders_to_look_at_again(self, org_id: str, after: timedelta, limit: int) -> list[ForgetOrder]:
        """Return such orders of an org, the oldest first."""
        ...

    async def note_second_look(self, org_id: str, orders: Sequence[ForgetOrder], *, found: bool) -> None:
        """Record that Arc was seen to have nothing of some orders after all that time, or let them wait again."""
        ...

    async def covered(self, org_id: str, what: Forgotten) -> int:
        """Count the memories in the local files that an order would remove."""
        ...

    async def forgotten(self, memories: Sequence[Memory]) -> set[str]:
        """Return the ids of those memories that some order covers, done or not: they must never come back."""
        ...
