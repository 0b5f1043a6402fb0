"""Patience with an Arc that fails: asking it again for a while, and then giving up."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import msgspec

from memtrace_core.delivery import DeliveryPolicy
from memtrace_core.errors import REFUSES_KEY, ArcTimeout, ArcUnreachable
from memtrace_core.ports import Clock

_log = logging.getLogger("memtrace.patience")

Answer = TypeVar("Answer")
OnFailure = Callable[[str], None]


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long an Arc that fails is asked again, with pauses as those of a delivery; `on_failure` is told why."""

    clock: Clock
    give_up_after: timedelta = timedelta(minutes=10)
    policy: DeliveryPolicy = DeliveryPolicy()
    on_failure: OnFailure | None = None

    async def with_(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return what asking gives, however often it takes.

        Raises:
            ArcUnreachable, ArcTimeout: it has failed for too long, or refuses the key, which no waiting mends.
        """
        began = self.clock.monotonic()
        failures = 0
        while True:
            try:
                return await ask()
            except (ArcUnreachable, ArcTimeout) as error:
                failures += 1
                wait = self.policy.retry_after(failures)
                waited = self.clock.monotonic() - began
                if error.code == REFUSES_KEY or waited + wait > self.give_up_after.total_seconds():
                    raise
                _log.debug("arc failed, will be asked again: %s", error)
                if failures == 1 and self.on_failure is not None:
                    self.on_failure(str(error))
                await self.clock.sleep(wait)
