"""The durable queue that every memory goes through, and what it remembers of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

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
from memtrace_core.model import AgentCounts, ArcInstance, Memory
from memtrace_core.ports.order_book import OrderBook
from memtrace_core.query import AgentCountQuery, Horizon, MemoryQuery


class Journal(OrderBook, Protocol):
    """The durable queue in front of every gateway; it also keeps dedup claims and activity.

    Times that it stamps are strictly increasing over its whole life, over restarts and processes, whatever the
    clock does; commit order is time order.
    """

    def version(self) -> int:
        """Return a number that has changed if anything was written since it was asked for, by any process.

        It is asked for again and again: microseconds, and no waiting. That it has changed need not mean anything.
        """
        ...

    async def append(self, instance: ArcInstance, drafts: Sequence[Draft]) -> list[Memory | Duplicate]:
        """Store all drafts or none, and return what became of each, in their order.

        On return everything is on disk: memories, dedup claims and activity, in one transaction. Memories for an
        embedded instance are then in the embedded store itself; others wait here for delivery. Returning does
        not mean that Arc has seen them.

        Raises:
            JournalFull: the size limit is reached or the disk is nearly full; nothing was stored.
            OrgClosing: the org is being deleted; nothing was stored.
            StorageUnavailable: the file cannot be written; nothing was acknowledged.
        """
        ...

    async def view(self, query: MemoryQuery, instance: ArcInstance | None = None) -> JournalView:
        """Return the org's journaled memories that match, and the horizon for its gateway, in one snapshot.

        A caller asks this *before* the gateway: a memory moves only from here to there. Told of an embedded
        instance, whose store lies in the same file, the journal may answer for that, too: one hop less for a read.
        """
        ...

    async def count(self, query: AgentCountQuery) -> tuple[Horizon, AgentCounts]:
        """Count the org's journaled memories of one agent, and return the horizon for its gateway."""
        ...

    async def agent_activity(self, org_id: str, agent_ids: Iterable[str]) -> dict[str, datetime]:
        """Return when each of these agents last stored a memory; agents that never did are left out."""
        ...

    async def pending_orgs(self) -> list[str]:
        """Return the orgs that have memories waiting for delivery."""
        ...

    async def next_batch(
        self, org_id: str, limit: int, max_bytes: int, skipping: Collection[str] = ()
    ) -> PendingBatch | None:
        """Return the oldest memories of an org that wait for delivery, all for one instance.

        Args:
            org_id: the org.
            limit: the most there may be.
            max_bytes: the most bytes they may have together; a single larger one comes alone.
            skipping: ids of instances to leave out.
        """
        ...

    async def mark_delivered(self, batch: PendingBatch, *, durable: bool) -> None:
        """Record that the gateway took a batch; a durable delivery need not settle.

        One that nothing older of the org stands before leaves the journal at once, another when its turn to be
        confirmed comes, so that what the journal holds of an org is always all of it from one time on. Memories
        that were moved to another instance meanwhile go on waiting there.
        """
        ...

    async def set_aside(self, batch: PendingBatch, answer: str) -> None:
        """Keep memories that their instance refuses, with its answer; they stay readable and hold nobody up."""
        ...

    async def unconfirmed_orgs(self) -> list[str]:
        """Return the orgs that have delivered memories waiting to be confirmed."""
        ...

    async def next_delivered(self, org_id: str, settle: timedelta, limit: int) -> DeliveredRun | datetime | None:
        """Return the org's oldest memories if they are delivered long enough ago to be confirmed.

        Long enough is `settle`, doubled with each time that a memory had to be sent again. Otherwise return when
        they will be, or None if the oldest is not delivered or there is none.
        """
        ...

    async def confirm(self, run: DeliveredRun, keys: Sequence[int]) -> None:
        """Let memories of a run go: they were seen in its instance. What was moved to another meanwhile stays."""
        ...

    async def resend(self, run: DeliveredRun, keys: Sequence[int]) -> None:
        """Let memories of a run wait for delivery again: they were not seen in its instance."""
        ...

    async def move_pending(self, instance: ArcInstance) -> int:
        """Let what waits in the journal of the instance's org be delivered to `instance`; return how many.

        Also what was delivered elsewhere without confirmation. What is set aside stays so, to be retried with this
        instance. For an embedded instance they are stored there at once, those set aside, too.
        """
        ...

    async def backlogs(self) -> list[OrgBacklog]:
        """Return how far delivery is, for each org that has memories here, the embedded store apart."""
        ...

    async def entries(
        self, org_id: str, states: Collection[EntryState], limit: int, after: int = 0
    ) -> list[JournalEntry]:
        """Return an org's memories in these states, oldest first, beginning behind the key `after`."""
        ...

    async def retry(self, org_id: str, memory_ids: Collection[str] | None = None) -> int:
        """Let memories that are set aside be sent again, all of them if none is named; return how many.

        They stay out of line: what is younger may have left the journal already. At most 100 of an org are on
        their way at a time, so that readers can tell each of them from its copy in Arc; the others follow.
        """
        ...

    async def drop(self, org_id: str, memory_ids: Collection[str]) -> int:
        """Remove memories for good, whatever their state, and free their dedup claims; return how many."""
        ...

    async def admit(self, instance: ArcInstance, memories: Sequence[Memory]) -> Admission:
        """Take memories in that come from elsewhere, with the ids and times that they have; each stays one.

        Those of an embedded instance are stored, and their dedup keys claimed, in one transaction. Those of another
        are the caller's to write to the gateway, who then calls `note_arrivals`. Where a time of this node's own
        lies ahead of the journal's, the journal's catches up: nothing is ever stamped with it, or an earlier one.

        Every imported memory passes here, so what is forgotten is kept out here. An order that is taken before the
        caller has written does not see that: who writes asks `forgotten` afterwards, and calls `reopen_orders`.

        Raises:
            OrgClosing: the org is being deleted; nothing was stored.
            JournalFull: the disk is nearly full; nothing was stored.
            StorageUnavailable: the file cannot be written; nothing was stored.
        """
        ...

    async def note_arrivals(self, instance: ArcInstance, memories: Sequence[Memory]) -> None:
        """Claim the keys of admitted memories that are in the gateway now, and note their agents' activity."""
        ...

    async def claims_loaded(self, instance: ArcInstance) -> bool:
        """Tell whether `mark_claims_loaded` was called for an instance."""
        ...

    async def load_claims(self, instance: ArcInstance, memories: Sequence[Memory]) -> None:
        """Claim the dedup keys of memories that came into an instance by another way, at their times.

        A key that is claimed already keeps its claim; a memory past the window claims none.
        """
        ...

    async def mark_claims_loaded(self, instance: ArcInstance) -> None:
        """Remember that the claims of an instance are all here."""
        ...

    async def record_key_use(self, used: Mapping[str, datetime]) -> None:
        """Keep the times at which API keys were last used, by key id."""
        ...

    async def key_uses(self, key_ids: Iterable[str]) -> dict[str, datetime]:
        """Return when keys were last used; those never used are left out."""
        ...

    async def close_org(self, org_id: str) -> None:
        """Refuse every append of the org from now on, also those already on their way."""
        ...

    async def reopen_org(self, org_id: str) -> None:
        """Undo `close_org`."""
        ...

    async def holdings(self, org_id: str) -> OrgHoldings:
        """Count what the local files hold of an org."""
        ...

    async def purge_org(self, org_id: str) -> None:
        """Remove all memories, claims and activity of a closed org; it stays closed."""
        ...

    async def close(self) -> None:
        """Finish what was accepted and release the file. Later calls raise StorageUnavailable."""
        ...
