"""What goes into a journal and comes out of it."""

from __future__ import annotations

import enum
from datetime import datetime

import msgspec

from memtrace_core.model import UNIMPORTANT, Memory, MemoryType
from memtrace_core.query import Horizon, OwnSpan

__all__ = [
    "Admission",
    "DeliveredRun",
    "Draft",
    "Duplicate",
    "EntryState",
    "JournalEntry",
    "JournalView",
    "OrgBacklog",
    "OrgHoldings",
    "PendingBatch",
]


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A valid memory that has no time and no id yet; the journal stamps both.

    `metadata_json` is `metadata` as JSON text, empty for none.
    """

    agent_id: str
    session_id: str | None
    memory_type: MemoryType
    event_type: str
    content: str
    metadata: dict[str, object] | None
    metadata_json: str
    tags: tuple[str, ...]
    dedup_key: str | None
    importance: float
    parent_id: str | None

    def stamped(self, org_id: str, memory_id: str, time: datetime) -> Memory:
        """Return the memory that this draft becomes."""
        return Memory(
            memory_id=memory_id,
            time=time,
            org_id=org_id,
            agent_id=self.agent_id,
            session_id=self.session_id,
            memory_type=self.memory_type,
            event_type=self.event_type,
            content=self.content,
            metadata=self.metadata,
            tags=self.tags,
            dedup_key=self.dedup_key,
            importance=self.importance or UNIMPORTANT,
            parent_id=self.parent_id,
        )


class Duplicate(msgspec.Struct, frozen=True):
    """Instead of a stored memory: the id of the one that was there first."""

    memory_id: str


class JournalView(msgspec.Struct, frozen=True):
    """What a journal holds of an org, in one snapshot.

    `memories` are the first that match, in the query's order, as many as its `offset + limit`. The gateway may
    answer only for what lies beyond `horizon`. Where the gateway is the embedded store, `stored` may be its answer
    to the query `beside` these memories, of the same snapshot: then there is nobody to ask, and no horizon.
    """

    horizon: Horizon | None
    memories: list[Memory]
    stored: list[Memory] | None = None


class EntryState(enum.Enum):
    """Where a memory in the journal stands."""

    PENDING = "pending"
    DELIVERED = "delivered"
    SET_ASIDE = "set_aside"


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A memory in the journal, and what became of it so far.

    `answer` is what Arc said when it last refused the memory. `bytes` is what it counts for in the journal.
    """

    key: int
    instance_id: str
    state: EntryState
    resent: int
    bytes: int
    answer: str | None
    memory: Memory


class OrgBacklog(msgspec.Struct, frozen=True, kw_only=True):
    """How far an org's delivery is: how many memories are in each state, the time of the oldest that is not set
    aside, the time of the oldest that waits for delivery, and the bytes of those that do.
    """

    org_id: str
    pending: int
    delivered: int
    set_aside: int
    oldest: datetime | None
    oldest_pending: datetime | None
    pending_bytes: int


class PendingBatch(msgspec.Struct, frozen=True):
    """Memories of one org and instance that wait for delivery, oldest first, with their journal keys.

    `more` tells that others wait behind them.
    """

    org_id: str
    instance_id: str
    keys: tuple[int, ...]
    memories: list[Memory]
    more: bool = False

    def halves(self) -> tuple[PendingBatch, PendingBatch]:
        """Return the batch cut in two, in order."""
        middle = len(self.keys) // 2
        return (
            PendingBatch(self.org_id, self.instance_id, self.keys[:middle], self.memories[:middle], True),
            PendingBatch(self.org_id, self.instance_id, self.keys[middle:], self.memories[middle:], self.more),
        )


class DeliveredRun(msgspec.Struct, frozen=True):
    """The oldest memories of an org, all delivered to one instance and old enough to be looked for there.

    Nothing of the org that is still in the journal, but what is set aside, is older. `memory_ids` and `keys` go
    together; `span` covers just them, or, if the run is not `whole`, also memories that were forgotten.
    """

    instance_id: str
    keys: tuple[int, ...]
    memory_ids: tuple[str, ...]
    span: OwnSpan
    whole: bool = True


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of memories that come from elsewhere, with ids and times that they have already.

    `stored` are in the embedded store now, `present` were in the local file before. `outward` belong into the
    gateway, where readers are shown them at once. `waiting` are for later: the journal has them, on their way to
    another instance, or it alone answers for their time until older memories of this node are confirmed.
    `forgotten` must not come back: an order covers them.
    """

    stored: list[Memory]
    present: list[Memory]
    outward: list[Memory]
    waiting: list[Memory]
    forgotten: list[Memory]


class OrgHoldings(msgspec.Struct, frozen=True, kw_only=True):
    """What the local files hold of an org: memories not yet delivered, delivered but unconfirmed, set aside
    (Arc refused them), and stored in the embedded store.
    """

    pending: int = 0
    delivered: int = 0
    set_aside: int = 0
    embedded: int = 0

    @property
    def undelivered(self) -> int:
        """How many exist nowhere but here, the embedded store apart."""
        return self.pending + self.delivered + self.set_aside
