"""Importing: the lines of an export into an org, each memory once, with the id and the time that it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

import msgspec

from memtrace_core.arrivals import Arrivals, Numbered
from memtrace_core.errors import ArcUnreachable, Conflict, InvalidInput
from memtrace_core.export_lines import MOST_LINE_BYTES, End, Head, read_head, read_line
from memtrace_core.model import Agent, ArcInstance, Memory, Session
from memtrace_core.patience import OnFailure, Patience
from memtrace_core.ports import ArcGateway, Clock, Journal, MetadataRepo, Ownership
from memtrace_core.tenants import Tenants

EMBEDDED_ROWS = 1_000  # in one transaction, for which others wait
ARC_ROWS = 5_000
PORTION_BYTES = 4 << 20
MOST_AHEAD = timedelta(minutes=5)  # of another machine's clock
LOOK_EVERY = timedelta(seconds=1)
LONGEST_WAIT = timedelta(minutes=10)
UNCONFIRMED = "memories of this server are still on their way, and not confirmed in Arc yet"
MOVE_PENDING = "for a former instance that is gone, `memtrace org set-arc ORG_ID --move-pending`"

OnTrouble = Callable[[int, str], None]
Line = Memory | Agent | Session | End


class Imported(msgspec.Struct, kw_only=True):
    """How far an import is: how many memories are stored, were there before, and are forgotten, so that they stay
    out; how many lines were not taken; and whether the file was read to its end, where all its lines were there.
    """

    stored: int = 0
    present: int = 0
    forgotten: int = 0
    refused: int = 0
    agents: int = 0
    sessions: int = 0
    complete: bool = False

    @property
    def whole(self) -> bool:
        """Whether all that the export had is there now, what is forgotten apart."""
        return self.complete and not self.refused


class Importing:
    """Stores what was exported, from whatever org, server or kind of store.

    Interrupted at any point and run again, it stores what is missing and changes nothing else.
    """

    def __init__(
        self,
        repo: MetadataRepo,
        tenants: Tenants,
        journal: Journal,
        gateway: ArcGateway,
        ownership: Ownership,
        clock: Clock,
        settle: timedelta,
    ) -> None:
        self.repo = repo
        self.tenants = tenants
        self.journal = journal
        self.gateway = gateway
        self.ownership = ownership
        self.clock = clock
        self.settle = settle

    async def run(
        self,
        org_id: str,
        lines: Iterable[bytes],
        *,
        on_trouble: OnTrouble,
        on_note: OnFailure | None = None,
        on_progress: Callable[[Imported], None] | None = None,
    ) -> Imported:
        """Import the lines of an export, each with its line feed, and return what became of them.

        On return what is stored is on disk here, or was seen in the org's Arc.

        Args:
            org_id: the org that the memories shall be of from now on.
            lines: of the file.
            on_trouble: is told the number of a line that was not taken, and why.
            on_note: is told what is being waited for.
            on_progress: is told after each portion how far the import is.

        Raises:
            InvalidInput: this is no export; nothing was stored.
            NotFound: there is no such org, or it has no Arc instance; nothing was stored.
            Conflict: the org was bound to another instance meanwhile.
            ArcUnreachable, ArcTimeout, OrgClosing, JournalFull, StorageUnavailable: it cannot go on now; what was
                stored stays, and the same import may be run again.
        """
        instance = await self.tenants.instance_of(org_id)
        work = _Import(self, instance, on_trouble, on_note or (lambda _: None))
        return await work.run(lines, on_progress or (lambda _: None))


class _Import:
    """One import, from its first line to its last."""

    def __init__(
        self, importing: Importing, instance: ArcInstance, on_trouble: OnTrouble, on_note: OnFailure
    ) -> None:
        self._services = importing
        self._instance = instance
        self._on_trouble = on_trouble
        self._on_note = on_note
        self._imported = Imported()
        self._portion: list[Numbered] = []
        self._portion_bytes = 0
        self._most_rows = EMBEDDED_ROWS if instance.embedded else ARC_ROWS
        self._waits_since: float | None = None
        self._arrivals = Arrivals(
            importing.gateway,
            importing.journal,
            instance,
            importing.settle,
            Patience(clock=importing.clock, on_failure=lambda why: on_note(f"{why}; trying again")),
            self._refuse,
        )

    async def run(self, lines: Iterable[bytes], on_progress: Callable[[Imported], None]) -> Imported:
        head: Head | None = None
        between = 0
        for number, text in enumerate(lines, 1):
            if head is None:
                head = read_head(text)
            elif not text.strip():
                continue
            elif self._imported.complete:
                self._refuse(number, "it stands behind the end of the export; import each file by itself")
                break
            elif isinstance(line := self._read(number, text, head), End):
                told = line.memories + line.agents + line.sessions
                if between != told:
                    self._on_trouble(number, f"the export had {told} lines before its end, and here are {between}")
                    break
                self._imported.complete = True
            else:
                between += 1
                await self._take(number, line, len(text))
                if len(self._portion) >= self._most_rows or self._portion_bytes >= PORTION_BYTES:
                    await self._store_portion()
                    on_progress(self._counted())
        if head is None:
            raise InvalidInput("this is not an export of Memtrace: it is empty")
        await self._store_portion()
        await self._arrivals.finish()
        on_progress(self._counted())
        return self._counted()

    def _read(self, number: int, text: bytes, head: Head) -> Line | None:
        try:
            line = read_line(text)
            if not isinstance(line, End) and line.org_id != head.org_id:
                raise InvalidInput(f"it is of another organization than the export ({head.org_id})")
            if isinstance(line, Memory) and line.time > self._services.clock.now() + MOST_AHEAD:
                raise InvalidInput("time is still to come")
        except InvalidInput as error:
            whole = text.endswith(b"\n") or len(text) > MOST_LINE_BYTES
            cut = "" if whole else "the file ends in the middle of it: "
            self._refuse(number, f"{cut}{error}")
            return None
        return line

    async def _take(self, number: int, line: Memory | Agent | Session | None, size: int) -> None:
        if isinstance(line, Memory):
            self._portion.append((number, msgspec.structs.replace(line, org_id=self._instance.org_id)))
            self._portion_bytes += size
        elif isinstance(line, Agent):
            await self._register(number, msgspec.structs.replace(line, org_id=self._instance.org_id))
        elif line is not None:
            await self._open(number, msgspec.structs.replace(line, org_id=self._instance.org_id))

    async def _register(self, number: int, agent: Agent) -> None:
        there = await self._services.repo.find_agent(agent.org_id, agent.id)
        if there is not None and there.id == agent.id:
            return
        try:
            await self._services.repo.create_agent(agent)
            self._imported.agents += 1
        except Conflict:
            self._on_note(f"line {number}: the name or id of agent {agent.name!r} is taken already; it is left out")

    async def _open(self, number: int, session: Session) -> None:
        if await self._services.repo.get_session(session.org_id, session.id) is not None:
            return
        try:
            await self._services.repo.create_session(session)
            self._imported.sessions += 1
        except Conflict:
            self._on_note(f"line {number}: the session {session.id} is another organization's; it is left out")

    async def _store_portion(self) -> None:
        firsts: dict[str, Numbered] = {}
        for number, memory in self._portion:
            # What is there already stays as it is, in one portion as in two.
            firsts.setdefault(memory.memory_id, (number, memory))
        portion = list(firsts.values())
        self._imported.present += len(self._portion) - len(portion)
        self._portion, self._portion_bytes = [], 0
        while portion:
            await self._check_binding()
            portion = await self._admit(portion)
            if portion and not await self._wait(portion):
                return
        self._waits_since = None

    async def _admit(self, portion: Sequence[Numbered]) -> list[Numbered]:
        """Store what can be, and return what must wait."""
        numbers = {memory.memory_id: number for number, memory in portion}
        admitted = await self._services.journal.admit(self._instance, [memory for _, memory in portion])
        self._imported.stored += len(admitted.stored)
        self._imported.present += len(admitted.present)
        self._imported.forgotten += len(admitted.forgotten)
        if admitted.forgotten and not self._instance.embedded:
            await self._arrivals.keep_out(admitted.forgotten)
        if admitted.outward:
            await self._arrivals.bring([(numbers[one.memory_id], one) for one in admitted.outward])
        return [(numbers[one.memory_id], one) for one in admitted.waiting]

    async def _wait(self, portion: Sequence[Numbered]) -> bool:
        """Wait a while for older memories to be confirmed; False if nobody is there who delivers them."""
        ownership, now = self._services.ownership, self._services.clock.monotonic()
        if not ownership.held and ownership.take():
            ownership.release()
            for number, _ in portion:
                self._refuse(
                    number, f"{UNCONFIRMED}; start the server, and import again when it has confirmed them"
                )
            return False
        if self._waits_since is None:
            self._on_note(f"{UNCONFIRMED}; waiting for that")
            self._waits_since = now
        elif now - self._waits_since > LONGEST_WAIT.total_seconds():
            raise ArcUnreachable(f"{UNCONFIRMED}; import again when they have arrived", hint=MOVE_PENDING)
        await self._services.clock.sleep(LOOK_EVERY.total_seconds())
        return True

    async def _check_binding(self) -> None:
        now = await self._services.tenants.instance_of(self._instance.org_id)
        if now.id != self._instance.id:
            raise Conflict("the organization was bound to another Arc instance meanwhile; import again")

    def _refuse(self, number: int, why: str) -> None:
        self._imported.refused += 1
        self._on_trouble(number, why)

    def _counted(self) -> Imported:
        return msgspec.structs.replace(
            self._imported,
            stored=self._imported.stored + self._arrivals.stored,
            present=self._imported.present + self._arrivals.present,
        )
