"""Delivery, confirmation and erasing in one process alone, of those that share a journal."""

from __future__ import annotations

import logging
from datetime import timedelta

from memtrace_core.confirmation import Confirmation
from memtrace_core.delivery import Delivery
from memtrace_core.erasing import Erasing
from memtrace_core.errors import MemtraceError
from memtrace_core.ports import Clock, Journal, Ownership
from memtrace_core.retention import Retention

SHORTEST_LOOK = 0.02
LONGEST_LOOK = 0.25
RETRY_SECONDS = 5.0
LOOKING_SHARE = 0.1  # of the time, at most, however many orgs there are to look through

_log = logging.getLogger("memtrace.duty")


class SoleOwner:
    """The ownership of a journal that one process has to itself."""

    held = True

    def take(self) -> bool:
        """Be the owner."""
        return True

    def release(self) -> None:
        """Do nothing: nobody waits for it."""


class Duty:
    """Delivers, confirms and erases while this process owns the journal, and waits for that while another one does.

    Whoever is on duty also takes up what others have appended: it looks whether the journal has changed, several
    times within the delivery's flush interval, and whose memories wait only if it has.
    """

    def __init__(
        self,
        ownership: Ownership,
        journal: Journal,
        delivery: Delivery,
        confirmation: Confirmation,
        erasing: Erasing,
        retention: Retention,
        clock: Clock,
    ) -> None:
        self._ownership = ownership
        self._journal = journal
        self._delivery = delivery
        self._confirmation = confirmation
        self._erasing = erasing
        self._retention = retention
        self._clock = clock
        flush = delivery.policy.flush_interval.total_seconds()
        self._look_every = min(max(flush / 4, SHORTEST_LOOK), LONGEST_LOOK)
        self._on_duty = False
        self._seen: int | None = None

    def wake(self, org_id: str) -> None:
        """Say that memories of an org wait here; whoever is on duty elsewhere finds them."""
        if self._ownership.held:
            self._delivery.wake(org_id)

    def wake_eraser(self, org_id: str) -> None:
        """Say that an org has an order to forget; whoever is on duty elsewhere finds it."""
        if self._ownership.held:
            self._erasing.wake(org_id)

    async def start(self) -> None:
        """Go on duty, unless another process is.

        Raises:
            StorageUnavailable: the journal cannot be read.
        """
        if self._ownership.take():
            await self._go_on_duty()

    async def run(self) -> None:
        """Look after the journal, or for the end of its owner, again and again."""
        pause = self._look_every
        while True:
            await self._clock.sleep(pause)
            began = self._clock.monotonic()
            try:
                await self._look()
            except MemtraceError as error:
                _log.warning("background work failed, will be repeated: %s", error)
                pause = RETRY_SECONDS
            except Exception:
                # A defect; but without this loop nobody would deliver, for no other process can become the owner.
                _log.exception("background work failed, will be repeated")
                pause = RETRY_SECONDS
            else:
                pause = max(self._look_every, (self._clock.monotonic() - began) / LOOKING_SHARE)

    async def take_up(self) -> None:
        """Look after everything, if on duty: an admin command may have changed what waits for what."""
        if self._on_duty:
            await self._delivery.start()
            await self._confirmation.start()
            await self._erasing.look()
            await self._erasing.look_again()
            await self._retention.enforce()

    async def end(self, drain_within: timedelta) -> None:
        """Go off duty after a last delivery; it is this process's, too, if the owner has just ended."""
        await self._erasing.stop()
        try:
            if self._ownership.take():
                await self._delivery.drain(drain_within)
        finally:
            await self._confirmation.stop()  # last, as what is delivered wakes it

    async def _look(self) -> None:
        if self._on_duty:
            version = self._journal.version()
            if version != self._seen:
                await self._delivery.look()
                await self._erasing.look()
                self._seen = version
        elif self._ownership.take():
            await self._go_on_duty()
            _log.info("another process has ended, delivery goes on in this one")

    async def _go_on_duty(self) -> None:
        await self._delivery.start()
        await self._confirmation.start()
        await self._erasing.start()
        self._on_duty = True
