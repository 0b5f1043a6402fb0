"""Health: which orgs' Arc instances can be used, as of the last check."""

from __future__ import annotations

import asyncio
import logging

from memtrace_core.directory import Directory
from memtrace_core.errors import MemtraceError
from memtrace_core.model import ArcInstance
from memtrace_core.ports import ArcGateway

MOST_AT_ONCE = 16

_log = logging.getLogger("memtrace.health")


class Health:
    """Pings instances, a bounded number at a time, and remembers how that went."""

    def __init__(self, directory: Directory, gateway: ArcGateway) -> None:
        self._directory = directory
        self._gateway = gateway
        self._reachable: dict[ArcInstance, bool] = {}
        self._places = asyncio.Semaphore(MOST_AT_ONCE)

    async def check_all(self) -> None:
        """Ping every bound instance."""
        instances = await self._directory.instances()
        await asyncio.gather(*map(self._check, instances))
        for gone in self._reachable.keys() - set(instances):
            del self._reachable[gone]

    async def reachable(self) -> dict[str, bool]:
        """Return org id → whether its instance was reachable at the last check; a new binding is checked now."""
        instances = await self._directory.instances()
        await asyncio.gather(*(self._check(one) for one in instances if one not in self._reachable))
        # A check of all that ran meanwhile may have forgotten an instance of ours that is gone by now.
        return {one.org_id: self._reachable[one] for one in instances if one in self._reachable}

    async def _check(self, instance: ArcInstance) -> None:
        async with self._places:
            try:
                await self._gateway.ping(instance)
            except MemtraceError as error:
                if self._reachable.get(instance, True):
                    _log.warning("arc instance unreachable: %s", error, extra={"org": instance.org_id})
                self._reachable[instance] = False
            else:
                self._reachable[instance] = True
