"""Erasing: what is forgotten is deleted in Arc, too, and looked for until nothing of it is left.

Readers do not wait for this: to them it is gone since the order was taken.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from memtrace_core.errors import ArcTimeout, ArcUnreachable, MemtraceError
from memtrace_core.forgotten import ForgetOrder
from memtrace_core.meter import SILENT, Meter
from memtrace_core.model import ArcInstance
from memtrace_core.ports import ArcGateway, Clock, Journal, MetadataRepo
from memtrace_core.query import MemoryQuery, position_of
from memtrace_core.workers import OrgWorkers, Pause

_log = logging.getLogger("memtrace.erasing")


class ErasingPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long after an order Arc is told, and how long one that does not get on waits.

    `settle` is how long rows may take from their delivery until Arc shows, and so can delete them. An attempt is
    followed by another after `first_retry`, later ones at most `longest_retry` apart. So many single memories as
    `most_together` are deleted at once, and so many orders as `most_orders` looked at. What was done within
    `look_again` of the order is looked for once more then; whether there is such an order is asked
    `look_again_every`.
    """

    settle: timedelta = timedelta(seconds=120)
    window: timedelta = timedelta(hours=24)
    first_retry: timedelta = timedelta(seconds=2)
    longest_retry: timedelta = timedelta(minutes=5)
    most_together: int = 40
    look_again: timedelta = timedelta(days=1)
    look_again_every: timedelta = timedelta(minutes=10)
    most_orders: int = 200
    page: int = 1000


class Erasing:
    """Carries out orders to forget in Arc, one task per org, so that no org and no delivery waits for another.

    An order may be begun again at any point. It is done when, some time after nothing from before it was on its way
    to Arc any more, Arc shows nothing that it covers. A day later Arc is asked once more: it may have been restored
    or have read its own log again after a crash, and another node or an import that was killed may have brought
    something late.

    Args:
        journal: holds the orders.
        repo: names the orgs' instances.
        gateway: deletes.
        clock: for pauses.
        policy: when what is done.
        carries_since: tells since when (as the clock's `monotonic`) a batch of an org is on its way, if one is.
        meter: is told how much was deleted.
    """

    def __init__(
        self,
        journal: Journal,
        repo: MetadataRepo,
        gateway: ArcGateway,
        clock: Clock,
        policy: ErasingPolicy,
        carries_since: Callable[[str], float | None],
        meter: Meter = SILENT,
    ) -> None:
        self.journal = journal
        self.repo = repo
        self.gateway = gateway
        self.clock = clock
        self.policy = policy
        self.carries_since = carries_since
        self.meter = meter
        self._workers = OrgWorkers(clock, lambda org_id: _Eraser(self, org_id).step)
        self._looks_again_at = 0.0

    async def start(self) -> None:
        """Take up the orders that are not done."""
        for org_id in await self.journal.forgetting_orgs():
            self.wake(org_id)

    async def look(self) -> None:
        """Take up orders that another process may have taken; who rests is left to rest."""
        for org_id in await self.journal.forgetting_orgs():
            self._workers.rouse(org_id)

    async def look_again(self) -> None:
        """Take up orders that were done some time ago, for a second look. Cheap while that is not due."""
        now = self.clock.monotonic()
        if now >= self._looks_again_at:
            for org_id in await self.journal.orgs_to_look_at_again(self.policy.look_again):
                self._workers.rouse(org_id)
            self._looks_again_at = now + self.policy.look_again_every.total_seconds()

    def wake(self, org_id: str) -> None:
        """Say that an org has an order. Cheap."""
        self._workers.wake(org_id)

    async def stop(self) -> None:
        """End; what is not done is taken up another time."""
        await self._workers.cancel()


class _Course(msgspec.Struct):
    """What is remembered of an order: since when it is known, since when nothing older is on its way, its rest."""

    seen: float
    clear: float | None = None
    rests_until: float = 0.0
    attempts: int = 0


class _Eraser:
    """What the work for one org remembers between steps; anew, it waits as if every order had just been taken."""

    def __init__(self, erasing: Erasing, org_id: str) -> None:
        self._erasing = erasing
        self._org_id = org_id
        self._courses: dict[tuple[int, datetime], _Course] = {}
        self._failures = 0
        self._after = 0

    async def step(self) -> Pause | None:
        try:
            return await self._step()
        except MemtraceError as error:
            self._failures += 1
            _log.warning("forgetting failed, will be repeated: %s", error, extra={"org": self._org_id})
            return self._rest(self._failures)

    async def _step(self) -> Pause | None:
        journal, policy = self._erasing.journal, self._erasing.policy
        if await journal.sweep(self._org_id):
            return Pause(0)
        orders = await journal.orders(self._org_id, waiting=True, limit=policy.most_orders, after=self._after)
        if not orders:
            started_over, self._after = self._after > 0, 0
            return Pause(0) if started_over else await self._look_again()
        instance = await self._erasing.repo.instance_of(self._org_id)
        if instance is None:
            return await self._stuck(orders, "the organization has no Arc instance")
        if instance.embedded:
            await journal.note_progress(self._org_id, orders, done=True)
            return Pause(0)
        try:
            pause = await self._go_on(instance, orders)
        except (ArcUnreachable, ArcTimeout) as error:
            return await self._stuck(orders, str(error))
        self._failures = 0
        if pause.seconds > 0 and len(orders) == policy.most_orders:
            # There may be others that can be done now.
            self._after = orders[-1].key
            return Pause(min(pause.seconds, 1))
        if self._after and pause.seconds > 0:
            self._after = 0
        return pause

    async def _go_on(self, instance: ArcInstance, orders: Sequence[ForgetOrder]) -> Pause:
        for order in orders:
            if not order.claims_freed:
                await self._free_claims(instance, order)
        now = self._erasing.clock.monotonic()
        due = [(self._due(order, now), order) for order in orders]
        ready = [order for moment, order in due if moment <= now]
        if not ready:
            return Pause(min(moment for moment, _ in due) - now)
        first = ready[0]
        batch = [first]
        if first.what.memory_id is not None:
            batch = [one for one in ready if one.what.memory_id is not None][: self._erasing.policy.most_together]
        await self._erase(instance, batch)
        return Pause(0)

    def _due(self, order: ForgetOrder, now: float) -> float:
        """Return when an order may be carried out, as far as that is known."""
        course = self._courses.setdefault((order.key, order.made_at), _Course(now))
        if course.clear is None:
            # A batch that was read from the journal before the order may arrive after it.
            since = self._erasing.carries_since(self._org_id)
            if since is not None and since <= course.seen:
                return now + 1
            course.clear = now
        return max(course.clear + self._erasing.policy.settle.total_seconds(), course.rests_until)

    async def _erase(self, instance: ArcInstance, batch: Sequence[ForgetOrder]) -> None:
        journal, gateway = self._erasing.journal, self._erasing.gateway
        what = [order.what for order in batch]
        try:
            if not await gateway.covered(instance, what):
                await journal.note_progress(self._org_id, batch, done=True)
                for order in batch:
                    self._courses.pop((order.key, order.made_at), None)
                _log.info("%d orders to forget are done", len(batch), extra={"org": self._org_id})
                return
            deleted = await gateway.erase(instance, what)
        except (ArcUnreachable, ArcTimeout):
            raise
        except MemtraceError as error:
            await self._note_trouble(batch, str(error))
            self._let_rest(batch)
            return
        if deleted:
            self._erasing.meter.forgotten(self._org_id, deleted)
            await journal.note_progress(self._org_id, batch, deleted=deleted)
            for order in batch:
                self._course(order).attempts = 0
        # Whether they are gone is seen by looking; what is not there yet may turn up.
        self._let_rest(batch)

    async def _look_again(self) -> Pause | None:
        """Look once more for what orders cover that are done; None if there are none, or Arc does not answer."""
        journal, policy = self._erasing.journal, self._erasing.policy
        early = await journal.orders_to_look_at_again(self._org_id, policy.look_again, policy.most_together)
        if not early:
            return None
        orders = [one for one in early if one.what.memory_id is not None] or early[:1]
        instance = await self._erasing.repo.instance_of(self._org_id)
        if instance is None:
            return None  # a new binding lets all orders wait again
        try:
            found = await self._erasing.gateway.covered(instance, [one.what for one in orders])
        except (ArcUnreachable, ArcTimeout):
            return None  # there is another time
        if found:
            _log.warning("arc has %d rows again that were forgotten", found, extra={"org": self._org_id})
        await journal.note_second_look(self._org_id, orders, found=bool(found))
        return Pause(0)

    async def _free_claims(self, instance: ArcInstance, order: ForgetOrder) -> None:
        """Free the claims of memories that only Arc can name."""
        policy, what = self._erasing.policy, order.what
        query = MemoryQuery(
            org_id=self._org_id,
            agent_ids=(what.agent_id,) if what.agent_id else (),
            session_ids=(what.session_id,) if what.session_id else (),
            since=order.made_at - policy.window,
            until=what.before,
            order="asc",
            limit=policy.page,
        )
        while True:
            page = await self._erasing.gateway.query(instance, query)
            last = len(page) < policy.page
            await self._erasing.journal.free_claims(order, page, all_of_them=last)
            if last:
                return
            query = query.following(position_of(page[-1]))

    async def _stuck(self, orders: Sequence[ForgetOrder], trouble: str) -> Pause:
        """Let all orders rest, and tell why."""
        self._failures += 1
        await self._note_trouble(orders, trouble)
        return self._rest(self._failures)

    async def _note_trouble(self, orders: Sequence[ForgetOrder], trouble: str) -> None:
        news = [order for order in orders if order.trouble != trouble]
        if news:
            _log.warning("forgetting does not get on: %s", trouble, extra={"org": self._org_id})
            await self._erasing.journal.note_progress(self._org_id, news, trouble=trouble)

    def _let_rest(self, batch: Sequence[ForgetOrder]) -> None:
        now = self._erasing.clock.monotonic()
        for order in batch:
            course = self._course(order)
            course.attempts += 1
            course.rests_until = now + self._seconds(course.attempts)

    def _course(self, order: ForgetOrder) -> _Course:
        return self._courses[order.key, order.made_at]

    def _rest(self, attempts: int) -> Pause:
        return Pause(self._seconds(attempts), wakeable=False)

    def _seconds(self, attempts: int) -> float:
        policy = self._erasing.policy
        seconds: float = policy.first_retry.total_seconds() * 2 ** min(attempts - 1, 16)
        return min(seconds, policy.longest_retry.total_seconds())
