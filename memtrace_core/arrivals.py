"""Arrivals: memories of other origin written to a gateway, and looked for until readers would be shown them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta

import msgspec

from memtrace_core.errors import ArcFailed, ArcRejected, ArcUnreachable, MemtraceError
from memtrace_core.model import ArcInstance, Memory
from memtrace_core.patience import Patience
from memtrace_core.ports import ArcGateway, Journal

LOOK_EVERY = timedelta(seconds=1)
LEAST_SETTLE = timedelta(seconds=60)  # an Arc may know of a new hour's files that late
MOST_UNSEEN_BYTES = 64 << 20
MOST_RESENDS = 5

Numbered = tuple[int, Memory]
"""A memory, and the number of the line that it stands in."""


class _Suspected(MemtraceError):
    """Arc failed a batch several times and can be talked to otherwise: it may be one memory's fault."""


class _Sent(msgspec.Struct, frozen=True):
    batch: list[Numbered]
    bytes: int
    at: float


class Arrivals:
    """Brings memories into one instance, each once, however often the same are brought.

    What was written is kept in mind until it is seen; not more than so much that memory does not grow with what is
    brought. `stored` counts memories that were seen after they had been written, `present` those that were there
    before. `on_refused` is told the line of a memory that Arc will never take, and Arc's answer.
    """

    def __init__(
        self,
        gateway: ArcGateway,
        journal: Journal,
        instance: ArcInstance,
        settle: timedelta,
        patience: Patience,
        on_refused: Callable[[int, str], None],
    ) -> None:
        self.stored = 0
        self.present = 0
        self._gateway = gateway
        self._journal = journal
        self._instance = instance
        self._settle = max(settle, LEAST_SETTLE).total_seconds()
        self._patience = patience
        self._clock = patience.clock
        self._on_refused = on_refused
        self._unseen: deque[_Sent] = deque()
        self._unseen_bytes = 0

    async def bring(self, batch: Sequence[Numbered]) -> None:
        """Write those memories of a batch that are not there.

        Returning does not mean that they are seen; `finish` does.

        Raises:
            ArcUnreachable, ArcTimeout: the instance has failed for too long.
        """
        known = await self._known(batch)
        there = [memory for _, memory in batch if memory.memory_id in known]
        if there:
            # Whoever brought them may have ended before the claims were made.
            await self._journal.note_arrivals(self._instance, there)
            self.present += len(there)
        absent = [one for one in batch if one[1].memory_id not in known]
        taken, durable = await self._taken(absent) if absent else ([], False)
        if durable:
            await self._arrived(taken)
        elif taken:
            sent = _Sent(taken, sum(len(memory.content) for _, memory in taken), self._clock.monotonic())
            self._unseen.append(sent)
            self._unseen_bytes += sent.bytes
        while self._unseen_bytes > MOST_UNSEEN_BYTES:
            await self._see_first()

    async def finish(self) -> None:
        """Return when everything that was taken is seen.

        Raises:
            ArcUnreachable, ArcTimeout: the instance has failed for too long, or does not show what it takes.
        """
        while self._unseen:
            await self._see_first()

    async def keep_out(self, memories: Sequence[Memory]) -> None:
        """Make sure that forgotten memories are gone, though an import that ended early may have brought them."""
        numbered = [(0, memory) for memory in memories]
        if await self._known(numbered):
            await self._journal.reopen_orders(self._instance.org_id)

    async def _see_first(self) -> None:
        sent = self._unseen.popleft()
        self._unseen_bytes -= sent.bytes
        missing, at, resends = sent.batch, sent.at, 0
        while True:
            known = await self._known(missing)
            await self._arrived([one for one in missing if one[1].memory_id in known])
            missing = [one for one in missing if one[1].memory_id not in known]
            if not missing:
                return
            if self._clock.monotonic() - at < self._settle:
                await self._clock.sleep(LOOK_EVERY.total_seconds())
            elif resends == MOST_RESENDS:
                raise ArcUnreachable(f"arc takes memories and does not show them; {len(missing)} are missing")
            else:
                missing, _ = await self._taken(missing)
                at, resends = self._clock.monotonic(), resends + 1

    async def _arrived(self, batch: Sequence[Numbered]) -> None:
        if not batch:
            return
        memories = [memory for _, memory in batch]
        if await self._journal.forgotten(memories):
            # The order was taken after these had been admitted: it must look at Arc once more.
            await self._journal.reopen_orders(self._instance.org_id)
        await self._journal.note_arrivals(self._instance, memories)
        self.stored += len(batch)

    async def _known(self, batch: Sequence[Numbered]) -> set[str]:
        ids = {memory.memory_id for _, memory in batch}
        return await self._patience.with_(lambda: self._gateway.known_ids(self._instance, ids))

    async def _taken(self, batch: Sequence[Numbered]) -> tuple[list[Numbered], bool]:
        """Write a batch; return what Arc has taken of it, and whether that is durable."""
        try:
            return list(batch), await self._write(batch)
        except ArcRejected as error:
            await self._patience.with_(lambda: self._gateway.ping(self._instance))
            if len(batch) == 1:
                self._on_refused(batch[0][0], str(error))
                return [], False
        except _Suspected:
            return await self._patience.with_(lambda: self._search(batch)), False
        middle = len(batch) // 2
        first, durable = await self._taken(batch[:middle])
        second, also = await self._taken(batch[middle:])
        return first + second, (durable or not first) and (also or not second)

    async def _write(self, batch: Sequence[Numbered]) -> bool:
        failures = 0

        async def attempt() -> bool:
            nonlocal failures
            try:
                return await self._send(batch)
            except ArcFailed as error:
                failures += 1
                if failures < self._patience.policy.suspect_after:
                    raise
                await self._gateway.ping(self._instance)
                raise _Suspected(str(error)) from error

        return await self._patience.with_(attempt)

    async def _search(self, batch: Sequence[Numbered]) -> list[Numbered]:
        """Find the memories that fail while their neighbours pass, and return those that passed.

        Raises:
            ArcFailed: not one of them passed, so that the fault is Arc's own.
        """
        passed: list[Numbered] = []
        failed: list[Numbered] = []
        parts = [batch]
        while parts and (passed or len(failed) < self._patience.policy.most_suspects):
            part = parts.pop(0)
            try:
                await self._send(part)
                passed += part
            except (ArcFailed, ArcRejected):
                middle = len(part) // 2
                if middle:
                    parts[:0] = [part[:middle], part[middle:]]
                else:
                    failed += part
        if not passed:
            raise ArcFailed("arc takes not one memory of a batch")
        # Arc may have recovered on the way: only what fails again beside neighbours that pass is to blame.
        for one in failed:
            try:
                await self._send([one])
                passed.append(one)
            except (ArcFailed, ArcRejected) as error:
                self._on_refused(one[0], str(error))
        return passed

    async def _send(self, batch: Sequence[Numbered]) -> bool:
        return await self._gateway.write(self._instance, [memory for _, memory in batch])
