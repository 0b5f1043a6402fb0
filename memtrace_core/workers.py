"""Background work, org by org: at most one task for each org that has something to do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

import msgspec

from memtrace_core.ports import Clock

_log = logging.getLogger("memtrace.workers")


class Pause(msgspec.Struct, frozen=True):
    """How long a step's work has nothing to do; `wakeable` if news of the org may end it early."""

    seconds: float
    wakeable: bool = True


Step = Callable[[], Awaitable[Pause | None]]
"""Do one piece of work. Return a pause before the next, or None if there is nothing left."""


class OrgWorkers:
    """Runs a step after another for each org that was woken, until the step says that nothing is left.

    A wake-up is never lost: one that comes while the last step looks makes it look again.
    """

    def __init__(self, clock: Clock, begin: Callable[[str], Step]) -> None:
        self._clock = clock
        self._begin = begin
        self._bells: dict[str, asyncio.Event] = {}
        self._resting: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._hurry = asyncio.Event()

    def wake(self, org_id: str) -> None:
        """Say that there is work for an org. Cheap."""
        bell = self._bells.get(org_id)
        if bell is not None:
            bell.set()
            return
        bell = self._bells[org_id] = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._run(org_id, bell))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def rouse(self, org_id: str) -> None:
        """Say that there may be work for an org; one that rests looks for it when its pause is over."""
        if org_id not in self._resting:
            self.wake(org_id)

    async def finish(self, within: timedelta) -> None:
        """End all pauses, now and to come, and wait for the work to end; what does not end in time is cancelled."""
        self._hurry.set()
        tasks = list(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=within.total_seconds())
        await self.cancel()

    async def cancel(self) -> None:
        """End all work where it stands."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, org_id: str, bell: asyncio.Event) -> None:
        step = self._begin(org_id)
        try:
            while True:
                bell.clear()
                pause = await step()
                if pause is not None:
                    self._resting.add(org_id)
                    await self._rest(pause, bell)
                    self._resting.discard(org_id)
                elif not bell.is_set():
                    return
        finally:
            # No await between the last look at the bell and this: who wakes from here on starts a new task.
            del self._bells[org_id]
            self._resting.discard(org_id)

    async def _rest(self, pause: Pause, bell: asyncio.Event) -> None:
        if pause.seconds <= 0 or self._hurry.is_set():
            await asyncio.sleep(0)
            return
        ends = [asyncio.ensure_future(self._clock.sleep(pause.seconds)), asyncio.ensure_future(self._hurry.wait())]
        if pause.wakeable:
            ends.append(asyncio.ensure_future(bell.wait()))
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background work for an org has stopped", exc_info=error)
