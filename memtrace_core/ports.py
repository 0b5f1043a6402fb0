"""What the core needs of the outside world.

Whoever implements a port keeps the promises written here; the suites in `tests/contracts` check them on every
implementation, the in-memory ones of `memtrace_core.testing` included.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
from memtrace_core.forgotten import ForgetOrder, Forgotten, OrderReason
from memtrace_core.model import (
    Agent,
    AgentCounts,
    APIKey,
    ArcInstance,
    Memory,
    Org,
    SealedSecret,
    Session,
    SessionStatus,
)
from memtrace_core.query import AgentCountQuery, Horizon, MemoryQuery, OwnSpan, Position

__all__ = ["ArcGateway", "Clock", "FormerKeys", "Journal", "KeyVault", "MetadataRepo", "OrderBook", "Ownership"]


class Clock(Protocol):
    """Time, so that no test sleeps to make it pass."""

    def now(self) -> datetime:
        """Return the time of day, aware and in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Come back after so many seconds on this clock."""
        ...


class KeyVault(Protocol):
    """Seals secrets for storage, each bound to its place."""

    def seal(self, secret: str, context: str) -> bytes:
        """Return `secret` encrypted; it opens only with an equal `context`."""
        ...

    def key_ids(self) -> Sequence[str]:
        """Return the ids of the master keys that values may be sealed with; it seals with the first."""
        ...

    def key_id(self, sealed: bytes) -> str:
        """Return the id of the master key that a value was sealed with.

        Raises:
            SealBroken: it is no sealed value, or of an unknown version.
        """
        ...

    def open(self, sealed: bytes, context: str) -> str:
        """Return the secret.

        Raises:
            WrongMasterKey: it was sealed with a master key that is not at hand.
            SealBroken: it was altered, cut short, moved, or is of an unknown version.
        """
        ...


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

    async def confirm(self, org_id: str, keys: Sequence[int]) -> None:
        """Let delivered memories go: they were seen in their instance."""
        ...

    async def resend(self, org_id: str, keys: Sequence[int]) -> None:
        """Let delivered memories wait for delivery again: they were not seen in their instance."""
        ...

    async def move_pending(self, instance: ArcInstance) -> int:
        """Let what waits in the journal of the instance's org be delivered to `instance`; return how many.

        Also what was delivered elsewhere without confirmation, but not what is set aside. For an embedded instance
        they are stored there at once, those set aside, too.
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


class Ownership(Protocol):
    """Makes one of the processes that share a journal the one that delivers what is in it.

    When the owner ends, in whatever way, another one can take its place. Which one is owner matters to nobody who
    writes or reads.
    """

    @property
    def held(self) -> bool:
        """Whether this process is the owner; once it is, it remains so until `release`."""
        ...

    def take(self) -> bool:
        """Become the owner unless another process is, and tell whether this one is now. Does not wait."""
        ...

    def release(self) -> None:
        """Let another process be the owner."""
        ...


class ArcGateway(Protocol):
    """A store of memories for many orgs, each behind its own Arc instance."""

    async def write(self, instance: ArcInstance, memories: Sequence[Memory]) -> bool:
        """Hand memories over, and tell whether they are durable there on return.

        False means: accepted, not yet confirmed. Any error but `ArcRejected` leaves it open whether the memories
        arrived.

        Raises:
            ArcUnreachable: no answer, or the instance does not let us in.
            ArcFailed: it failed, and does not say whether the data are to blame.
            ArcRejected: the instance will never take this batch.
        """
        ...

    async def query(self, instance: ArcInstance, query: MemoryQuery) -> list[Memory]:
        """Return the memories that match, in the query's order, one per `memory_id`.

        Raises:
            ArcUnreachable, ArcTimeout: there is no answer; an empty list always means "none".
        """
        ...

    async def count(self, instance: ArcInstance, query: AgentCountQuery) -> AgentCounts:
        """Count one agent's memories, each `memory_id` once."""
        ...

    async def own_count(self, instance: ArcInstance, span: OwnSpan) -> int:
        """Count the distinct memories of a span that readers would be shown."""
        ...

    async def own_ids(self, instance: ArcInstance, span: OwnSpan) -> set[str]:
        """Return the ids of the memories of a span that readers would be shown."""
        ...

    async def covered(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Count what is stored of the org's memories that are to be forgotten, every copy.

        Args:
            instance: of the org.
            forgotten: one of them, or several single memories.
        """
        ...

    async def erase(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Delete some or all of what `covered` counts and nothing else, and return how many copies it were.

        To be repeated until nothing is left; 0 need not mean that.

        Raises:
            ArcUnreachable: no answer, or we may not delete there.
            ErasureRefused: it cannot be made sure that nothing else would go; nothing was deleted.
        """
        ...

    async def known_ids(self, instance: ArcInstance, memory_ids: Collection[str]) -> set[str]:
        """Return those of these memories, whoever wrote them, that readers would be shown; up to 10,000 of them.

        Raises:
            ArcUnreachable, ArcTimeout: there is no answer.
        """
        ...

    async def ping(self, instance: ArcInstance) -> None:
        """Return if the instance can be used now.

        Raises:
            ArcUnreachable: with the reason.
        """
        ...

    async def server_version(self, instance: ArcInstance) -> str | None:
        """Return the version of the instance's server, if it tells."""
        ...

    async def close(self) -> None:
        """Release connections and files."""
        ...


class FormerKeys(Protocol):
    """API keys from before Memtrace, of which its metadata do not have the whole SHA-256 yet."""

    async def find(self, api_key: str, digest: bytes) -> APIKey | None:
        """Return the key if it is one of them, revoked and expired ones included, and keep its SHA-256 for good.

        It is asked about every key that the metadata do not know, whoever sends it. So what is no such key must
        cost next to nothing; and what does cost something happens once for each key, and not on the event loop.
        """
        ...


class MetadataRepo(Protocol):
    """Orgs, Arc instances, API keys, agents and sessions. Every method of one org names the org.

    Methods that create raise `Conflict` where a name or an id is taken and `NotFound` where the org does not exist.
    """

    def version(self) -> int:
        """Return a number that changes whenever orgs, instances or keys change, made anywhere.

        It is asked on every request: microseconds, and no waiting.
        """
        ...

    async def create_org(self, org: Org) -> None:
        """Store a new org."""
        ...

    async def get_org(self, org_id: str) -> Org | None:
        """Return an org."""
        ...

    async def list_orgs(self) -> list[Org]:
        """Return all orgs, oldest first."""
        ...

    async def set_retention(self, org_id: str, retention: timedelta | None) -> bool:
        """Set how long an org's memories are kept, None for ever; False if there is no such org."""
        ...

    async def delete_org(self, org_id: str) -> bool:
        """Delete an org with its instances, keys, agents and sessions; False if there is none."""
        ...

    async def bind_instance(self, instance: ArcInstance) -> None:
        """Bind an org that has no Arc instance to one.

        Raises:
            Conflict: the org has an instance already.
        """
        ...

    async def rebind_instance(self, instance: ArcInstance) -> None:
        """Replace the org's instance in one step.

        The same id changes it in place; another id retires the former, which stays readable by its id while
        memories wait for it.
        """
        ...

    async def unbind_instance(self, org_id: str) -> bool:
        """Take an org's instance away (it is retired, not forgotten); False if it had none."""
        ...

    async def instance_of(self, org_id: str) -> ArcInstance | None:
        """Return the instance an org is bound to."""
        ...

    async def get_instance(self, org_id: str, instance_id: str) -> ArcInstance | None:
        """Return one of an org's instances, retired ones included."""
        ...

    async def list_instances(self) -> list[ArcInstance]:
        """Return every instance that an org is bound to."""
        ...

    async def create_key(self, key: APIKey) -> None:
        """Store a key; names are unique among an org's active keys."""
        ...

    async def get_key(self, key_id: str) -> APIKey | None:
        """Return a key by its id, revoked and expired ones included."""
        ...

    async def rotate_key(self, former_id: str, key: APIKey, until: datetime) -> bool:
        """Store a key under the name of another one of the org, in one step; False if that one is not active.

        The former is superseded, and works until its own end or `until`, whichever comes first.
        """
        ...

    async def sealed_secrets(self) -> list[SealedSecret]:
        """Return every sealed secret there is, those of retired instances included."""
        ...

    async def reseal(self, reseal: Callable[[SealedSecret], bytes]) -> int:
        """Replace every sealed secret by what the function makes of it, all or none; return how many changed.

        What the function raises is passed on, and nothing is changed.
        """
        ...

    async def key_digests(self) -> frozenset[bytes]:
        """Return the SHA-256 of every key, revoked and expired ones included."""
        ...

    async def find_key(self, digest: bytes) -> APIKey | None:
        """Return the key with this SHA-256, revoked and expired ones included."""
        ...

    async def list_keys(self, org_id: str) -> list[APIKey]:
        """Return an org's keys, oldest first, revoked ones included."""
        ...

    async def revoke_key(self, key_id: str, at: datetime) -> bool:
        """Revoke a key for good; False if there is none (revoking twice keeps the first time)."""
        ...

    async def create_agent(self, agent: Agent) -> None:
        """Store an agent; names are unique within an org."""
        ...

    async def find_agent(self, org_id: str, id_or_name: str) -> Agent | None:
        """Return an agent by its id, else by its name."""
        ...

    async def list_agents(self, org_id: str, limit: int, after: Position | None) -> list[Agent]:
        """Return agents, newest first."""
        ...

    async def delete_agent(self, org_id: str, agent_id: str) -> bool:
        """Delete an agent by its id; False if there is none."""
        ...

    async def create_session(self, session: Session) -> None:
        """Store a session."""
        ...

    async def get_session(self, org_id: str, session_id: str) -> Session | None:
        """Return a session."""
        ...

    async def list_sessions(
        self, org_id: str, agent_id: str | None, limit: int, after: Position | None
    ) -> list[Session]:
        """Return sessions, newest first."""
        ...

    async def update_session(
        self,
        org_id: str,
        session_id: str,
        *,
        status: SessionStatus | None,
        metadata: Mapping[str, object] | None,
        at: datetime,
    ) -> Session | None:
        """Set a session's status and merge its metadata key by key, atomically; None if there is none.

        Closing sets `closed_at` once, reopening clears it.

        Raises:
            InvalidInput: the merged metadata would break the rule for JSON objects.
        """
        ...

    async def count_sessions(self, org_id: str, agent_id: str) -> tuple[int, int]:
        """Return how many sessions an agent has, and how many of them are active."""
        ...

    async def close(self) -> None:
        """Release the database."""
        ...
