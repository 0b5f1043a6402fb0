"""A short life of the two databases, recorded, with everything that a crash must not undo."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import apsw
from builders import agent, api_key, draft, embedded_instance, instance, memory, org, session

from memtrace_core.entries import DeliveredRun, Draft, Duplicate, PendingBatch
from memtrace_core.model import ArcInstance, Memory
from memtrace_core.testing import ManualClock, TransparentVault
from memtrace_sqlite import SqliteJournal, SqliteMetadataRepo
from power_loss.disk import Operation
from power_loss.recorder import Recorder

ARC = instance("org_arc")
ARC_AFTER = instance("org_arc", id="arc_after_the_move", url="http://elsewhere.example:8000")
ARC_AT_LAST = embedded_instance("org_arc", id="arc_at_last")
EMBEDDED = embedded_instance("org_embedded")
LEAVING = instance("org_leaving")

# So few pages that the WAL is folded into the database again and again on the way.
CHECKPOINT_PAGES = 24
HOUR = timedelta(hours=1)
JOURNAL, METADATA = "journal.db", "memtrace.db"

Row = tuple[object, ...]
State = dict[tuple[str, str], frozenset[Row]]


@dataclass(frozen=True)
class Began:
    """A mark: from here on, this step may have happened."""

    step: int


@dataclass(frozen=True)
class Done:
    """A mark: from here on, this step must have happened."""

    step: int


@dataclass(frozen=True)
class Acknowledged:
    """A mark: this memory is safe from here on."""

    memory: Memory


@dataclass(frozen=True)
class Step:
    """One thing that is done. One that is `whole` is a single transaction: after a crash, all of it or nothing."""

    name: str
    whole: bool
    work: Callable[[], Awaitable[object]]


@dataclass
class Story:
    """What was recorded: `states[n]` is what the databases held after n steps."""

    operations: list[Operation]
    steps: list[Step]
    states: list[State]
    foreign: set[str]

    def gone(self, begun: int, done: int) -> set[str]:
        """Return the memories that have left, or may have: they were seen in the databases, and no longer are."""
        seen = {memory_id for state in self.states[1 : done + 1] for memory_id in memories_in(state)}
        kept = [memories_in(self.states[number]).keys() for number in {begun, done} if number]
        return seen - set.intersection(*map(set, kept)) if kept else set()


def dump(folder: Path) -> State:
    """Read every row of both databases, past whatever records their files."""
    state: State = {}
    for name in (JOURNAL, METADATA):
        connection = apsw.Connection(str(folder / name), flags=apsw.SQLITE_OPEN_READONLY, vfs="unix")
        try:
            tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
            for (table,) in tables:
                state[name, table] = frozenset(connection.execute(f"SELECT * FROM {table}"))
        finally:
            connection.close()
    return state


def memories_in(state: State) -> dict[str, str]:
    """Return the contents of all memories by their ids."""
    journaled = [(row[9], row[14]) for row in state.get((JOURNAL, "journal"), ())]
    embedded = [(row[3], row[8]) for row in state.get((JOURNAL, "embedded"), ())]
    assert len(set(journaled + embedded)) == len(journaled) + len(embedded), "a memory is there twice"
    return {str(memory_id): str(content) for memory_id, content in journaled + embedded}


class Workload:
    """The databases at work. Each step is marked when it begins and when it is acknowledged."""

    def __init__(self, folder: Path, recorder: Recorder) -> None:
        self._folder = folder
        self._recorder = recorder
        self._clock = ManualClock()
        self._foreign = memory(org_id="org_arc", dedup_key="came another way")

    async def run(self) -> Story:
        """Live through all steps, and return what to expect."""
        self._recorder.listen_to(asyncio.get_running_loop())
        steps = list(self._steps())
        states: list[State] = [{}]
        for number, step in enumerate(steps):
            self._recorder.mark(Began(number))
            await step.work()
            self._recorder.mark(Done(number))
            states.append(dump(self._folder))
        await self._close()
        return Story(self._recorder.operations, steps, states, {self._foreign.memory_id})

    def _steps(self) -> Iterable[Step]:
        def whole(name: str, work: Callable[[], Awaitable[object]]) -> Step:
            return Step(name, True, work)

        def parts(name: str, work: Callable[[], Awaitable[object]]) -> Step:
            return Step(name, False, work)

        yield parts("open from nothing", self._open)
        for bound in (ARC, EMBEDDED, LEAVING):
            yield whole("create an org", lambda one=bound: self._repo.create_org(org(one.org_id)))
            yield whole("bind it", lambda one=bound: self._repo.bind_instance(one))
        yield whole("create a key", lambda: self._repo.create_key(api_key(ARC.org_id)))
        yield whole("one memory for Arc", lambda: self._append(ARC, "alone", 1))
        yield whole("a batch for Arc", lambda: self._append(ARC, "batch", 4))
        yield whole("a batch for the embedded store", lambda: self._append(EMBEDDED, "batch", 3))
        yield whole("a batch for the org that will go", lambda: self._append(LEAVING, "batch", 2))
        yield whole("deliver", lambda: self._deliver(3, durable=False))
        yield whole("a new table of claims", lambda: self._append(ARC, "hours later", 2, later=2 * HOUR))
        yield parts("many at once", self._many_at_once)
        yield whole("confirm what was seen", self._confirm_one)
        yield whole("send again what was not", self._resend_one)
        yield whole("set aside", self._set_aside)
        yield whole("a memory of many pages", lambda: self._append(ARC, "long " * 6000, 1))
        yield whole("move to another Arc", lambda: self._repo.rebind_instance(ARC_AFTER))
        yield whole("move what waits", lambda: self._journal.move_pending(ARC_AFTER))
        yield parts("stop and start", self._restart)
        yield whole("old claims are dropped", lambda: self._append(ARC_AFTER, "new day", 2, later=27 * HOUR))
        yield whole("load claims", lambda: self._journal.load_claims(ARC_AFTER, [self._foreign]))
        yield whole("claims are loaded", lambda: self._journal.mark_claims_loaded(ARC_AFTER))
        yield whole("deliver for good", lambda: self._deliver(2, durable=True))
        yield whole("the clock is set back", self._append_in_the_past)
        yield whole("an agent", lambda: self._repo.create_agent(agent(ARC.org_id)))
        yield whole("a session", lambda: self._repo.create_session(session(ARC.org_id)))
        yield whole("close the session", self._close_session)
        yield whole("revoke the key", lambda: self._repo.revoke_key(api_key().id, self._clock.now()))
        yield whole("record a key's use", lambda: self._journal.record_key_use({"key_1": self._clock.now()}))
        yield whole("close an org", lambda: self._journal.close_org(LEAVING.org_id))
        yield parts("purge it", lambda: self._journal.purge_org(LEAVING.org_id))
        yield whole("delete it", lambda: self._repo.delete_org(LEAVING.org_id))
        yield whole("move to the embedded store", lambda: self._repo.rebind_instance(ARC_AT_LAST))
        yield whole("move what waits there", lambda: self._journal.move_pending(ARC_AT_LAST))
        yield whole("the last memory", lambda: self._append(ARC_AT_LAST, "last", 1))

    async def _open(self) -> None:
        self._repo = SqliteMetadataRepo(self._folder / METADATA, TransparentVault())
        self._journal = SqliteJournal(self._folder / JOURNAL, self._clock)
        for connection in (self._repo._connection, self._journal._connection):
            connection.pragma("wal_autocheckpoint", CHECKPOINT_PAGES)

    async def _close(self) -> None:
        await self._journal.close()
        await self._repo.close()

    async def _restart(self) -> None:
        await self._close()
        await self._open()

    async def _append(self, instance: ArcInstance, name: str, count: int, later: timedelta = timedelta(0)) -> None:
        self._clock.advance(later)
        drafts = numbered(name, count)
        outcomes = await self._journal.append(instance, drafts)
        for outcome in outcomes:
            assert not isinstance(outcome, Duplicate)
            self._recorder.mark(Acknowledged(outcome))

    async def _append_in_the_past(self) -> None:
        self._clock.set_back(3 * HOUR)
        await self._append(EMBEDDED, "back", 2)

    async def _many_at_once(self) -> None:
        targets = (ARC, EMBEDDED, LEAVING)
        await asyncio.gather(*(self._append(targets[n % 3], f"group {n}", 1 + n % 2) for n in range(9)))

    async def _waiting(self, most: int) -> PendingBatch:
        batch = await self._journal.next_batch(ARC.org_id, most, 1 << 20)
        assert batch is not None
        assert len(batch.keys) == most
        return batch

    async def _deliver(self, most: int, *, durable: bool) -> None:
        await self._journal.mark_delivered(await self._waiting(most), durable=durable)

    async def _delivered(self) -> DeliveredRun:
        run = await self._journal.next_delivered(ARC.org_id, timedelta(0), 10)
        assert isinstance(run, DeliveredRun)
        return run

    async def _confirm_one(self) -> None:
        run = await self._delivered()
        await self._journal.confirm(run, run.keys[:1])

    async def _resend_one(self) -> None:
        run = await self._delivered()
        await self._journal.resend(run, run.keys[:1])

    async def _set_aside(self) -> None:
        await self._journal.set_aside(await self._waiting(1), "arc will never take this")

    async def _close_session(self) -> None:
        at = self._clock.now()
        await self._repo.update_session(
            ARC.org_id, session().id, status="closed", metadata={"why": "it is over"}, at=at
        )


def numbered(name: str, count: int) -> list[Draft]:
    """Return drafts of one batch; each tells how many belong together."""
    return [
        draft(f"{name[:40]}|{number}|{count}|{name}", dedup_key=f"{name[:40]} {number}", tags=("a", "b"))
        for number in range(count)
    ]


def record(root: Path) -> Story:
    """Record the workload on two databases in `root/data`."""
    folder = root / "data"
    folder.mkdir()
    with Recorder(root) as recorder:
        return asyncio.run(Workload(folder, recorder).run())
