"""Health: which orgs' Arc instances can be used, as of the last check."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import timedelta

from memtrace_core.directory import Directory
from memtrace_core.errors import MemtraceError
from memtrace_core.model import ArcInstance
from memtrace_core.ports import ArcGateway, Clock

MOST_AT_ONCE = 16
MOST_PER_SECOND = 50
CHECK_EVERY = timedelta(seconds=15)
FIRST_CHECK_WITHIN = 2.0

_log = logging.getLogger("memtrace.health")


class Health:
    """Pings instances, a bounded number at a time and spread over the interval, and remembers how that went."""

    def __init__(self, directory: Directory, gateway: ArcGateway, clock: Clock) -> None:
        self._directory = directory
        self._gateway = gateway
        self._clock = clock
        self._reachable: dict[ArcInstance, bool] = {}
        self._before: dict[str, bool] = {}
        """How the last check of an instance ended, whatever its key was then."""
        self._refusing: dict[str, str] = {}
        self._checks: dict[ArcInstance, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(MOST_AT_ONCE)

    async def run(self) -> None:
        """Check every bound instance again and again, evenly over each interval."""
        while True:
            instances = await self._instances()
            for instance in instances:
                # Thousands of instances are checked less often rather than faster.
                await self._clock.sleep(max(CHECK_EVERY.total_seconds() / len(instances), 1 / MOST_PER_SECOND))
                self._check(instance)
            if not instances:
                await self._clock.sleep(CHECK_EVERY.total_seconds())
            self._forget_all_but(await self._instances())

    async def check_all(self) -> None:
        """Ping every bound instance now."""
        instances = await self._directory.instances()
        await asyncio.gather(*map(self._check, instances))
        self._forget_all_but(instances)

    def _forget_all_but(self, instances: Iterable[ArcInstance]) -> None:
        kept = set(instances)
        for gone in self._reachable.keys() - kept:
            del self._reachable[gone]
        for former in self._before.keys() - {one.id for one in kept}:
            del self._before[former]

    async def reachable(self) -> dict[str, bool]:
        """Return org id → whether its instance was reachable at the last check, and takes what it is sent.

        A binding that is new or has changed is checked now. One that does not answer soon counts as before, or as
        unreachable if there is no before: its key may only have been sealed anew.
        """
        instances = await self._directory.instances()
        unknown = [self._check(one) for one in instances if one not in self._reachable]
        if unknown:
            await asyncio.wait(unknown, timeout=FIRST_CHECK_WITHIN)
        stuck = self.refusing()
        return {one.org_id: self._verdict(one) and one.org_id not in stuck for one in instances}

    async def seen(self) -> dict[str, bool | None]:
        """Return org id → the same as far as it is known, without waiting; None before the first check is over.

        The embedded store, which is not away, is left out.
        """
        instances = [one for one in await self._directory.instances() if not one.embedded]
        stuck = self.refusing()
        known = {one.org_id: self._reachable.get(one, self._before.get(one.id)) for one in instances}
        return {org_id: False if org_id in stuck else verdict for org_id, verdict in known.items()}

    def refusing(self) -> frozenset[str]:
        """Return the orgs that have an instance, perhaps a former one, which refuses our key."""
        return frozenset(self._refusing.values())

    def _verdict(self, instance: ArcInstance) -> bool:
        return self._reachable.get(instance, self._before.get(instance.id, False))

    def note_delivery(self, instance: ArcInstance, *, refused: bool) -> None:
        """Take note that an instance, perhaps a former one, lets our writes in, or does not."""
        if refused:
            self._refusing[instance.id] = instance.org_id
        else:
            self._refusing.pop(instance.id, None)

    def stop(self) -> None:
        """End the checks under way."""
        for check in list(self._checks.values()):
            check.cancel()

    async def _instances(self) -> list[ArcInstance]:
        try:
            return await self._directory.instances()
        except MemtraceError as error:
            _log.warning("bindings cannot be read: %s", error)
            return []

    def _check(self, instance: ArcInstance) -> asyncio.Task[None]:
        """Return the check of an instance that is under way, or begin one."""
        check = self._checks.get(instance)
        if check is None:
            check = self._checks[instance] = asyncio.get_running_loop().create_task(self._ping(instance))
            check.add_done_callback(lambda _: self._checks.pop(instance, None))
        return check

    async def _ping(self, instance: ArcInstance) -> None:
        async with self._places:
            try:
                await self._gateway.ping(instance)
            except MemtraceError as error:
                if self._reachable.get(instance, True):
                    _log.warning("arc instance unreachable: %s", error, extra={"org": instance.org_id})
                self._reachable[instance] = False
            else:
                self._reachable[instance] = True
            self._before[instance.id] = self._reachable[instance]
