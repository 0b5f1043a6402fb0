"""Deployments that are filled in bulk, in process, and kept: ten million memories are not made twice."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import apsw
import msgspec
from benchmarks import requests
from benchmarks.subjects import HOST, Subject, free_port, memtrace, serving
from builders import draft
from e2e.processes import Deployment

from memtrace_cli.composition import compose
from memtrace_cli.settings import Auth, Dedup, Journal, Settings
from memtrace_core import Binding, Permission, Services
from memtrace_core.dedup import generated_key
from memtrace_core.entries import Draft
from memtrace_core.model import EMBEDDED_URL
from memtrace_core.ports import Clock
from memtrace_core.testing import ManualClock
from memtrace_sqlite import EnvelopeVault, MasterKey, Mode, SqliteJournal

SESSION = 100
HISTORY = timedelta(days=30)
MOST_GROWN = 1.1
MAX_BYTES = 1 << 50
WINDOW = timedelta(hours=25)  # longer than the window of dedup by default: older claims are gone
# A transaction has one moment, and a stretch of claims is an hour; a day is enough for what is older. As large as
# they may be, and with their indexes in memory: then the pages of an index in random order are written dozens of
# times while millions of rows come in, not once for each of them.
STEP, STEP_IN_WINDOW = timedelta(days=1), timedelta(minutes=30)
_MOST_BYTES_AT_ONCE = 100_000_000
_CACHE_KIB = 1 << 20

Shape = dict[str, object]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to fill with: sessions of 100 memories, spread evenly over the orgs and over the last 30 days.

    Those of an org that is not `embedded` wait in the journal, for its Arc takes none.
    """

    memories: int
    orgs: int = 1
    embedded: bool = True
    content_bytes: int = 110
    tags: int = 2

    @property
    def in_a_row(self) -> int:
        """How many sessions of one org come one after the other: ten, or as many as each org has."""
        return max(1, min(10, self.memories // SESSION // self.orgs))

    def memory(self, session_id: str) -> Shape:
        """Return a memory as it is posted, its content with a place for a number."""
        tags = [f"tag_{number}" for number in range(self.tags)]
        return requests.memory(session_id, requests.long_text(self.content_bytes), tags)


class Holder(msgspec.Struct, frozen=True):
    """An org, and a key of it."""

    org_id: str
    key: str


class _Note(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder must remember to be used again; `port` is its Arc's."""

    plan: Plan
    master_key: str
    port: int
    holders: list[Holder]


class Filled:
    """A deployment in a folder, with what its plan says and what runs have added since."""

    def __init__(self, folder: Path, note: _Note) -> None:
        self.folder = folder
        self.plan = note.plan
        self.holders = note.holders
        self._note = note
        limit = str(MAX_BYTES)  # the default is far less than ten million memories
        self._deployment = Deployment(folder, MEMTRACE_MASTER_KEY=note.master_key, MEMTRACE_JOURNAL_MAX_BYTES=limit)

    @property
    def journal(self) -> Path:
        """The file that holds the memories."""
        return self._deployment.data / "journal.db"

    def memories(self) -> int:
        """Return how many there are; none is ever removed."""
        connection = apsw.Connection(str(self.journal), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            table = "embedded" if self.plan.embedded else "journal"
            return int(connection.execute(f"SELECT coalesce(max(seq), 0) FROM {table}").fetchone()[0])
        finally:
            connection.close()

    def holder(self, session: int) -> Holder:
        """Return whose a session is."""
        return self.holders[session // self.plan.in_a_row % len(self.holders)]

    @property
    def master_key(self) -> str:
        """What its secrets are sealed with."""
        return self._note.master_key

    @contextmanager
    def served(self) -> Iterator[Subject]:
        """Serve it, and the Arc that its memories wait for."""
        with ExitStack() as stack:
            if not self.plan.embedded:
                stack.enter_context(serving("benchmarks.growth.away", self._note.port))
            yield stack.enter_context(memtrace(self._deployment))


def filled(folder: Path, plan: Plan) -> Filled:
    """Return the deployment in a folder, and fill it first as far as it is not.

    It is made anew if it is another one, or if runs have made it larger by a tenth.
    """
    note = _known(folder)
    if note is not None and note.plan == plan and Filled(folder, note).memories() <= plan.memories * MOST_GROWN:
        found = Filled(folder, note)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        found = Filled(folder, asyncio.run(_founded(folder, plan)))
    asyncio.run(_fill(found))
    return found


def session_name(session: int) -> str:
    """Return the id of a session that was filled in."""
    return f"filled_{session}"


def _known(folder: Path) -> _Note | None:
    file = folder / "filled.json"
    return msgspec.json.decode(file.read_bytes(), type=_Note) if file.exists() else None


def services_of(folder: Path, master_key: str, clock: Clock | None = None, *, dedup: bool = True) -> Services:
    """Return the services over a deployment's files, for this process."""
    settings = Settings(
        auth=Auth(db_path=str(folder / "data" / "memtrace.db")),
        journal=Journal(max_bytes=MAX_BYTES),
        dedup=Dedup(enabled=dedup),
    )
    return compose(settings, EnvelopeVault(MasterKey.parse(master_key)), Mode.MIGRATE, clock)


def journal_of(services: Services) -> SqliteJournal:
    """Return the journal of services as what it is."""
    assert isinstance(services.journal, SqliteJournal)
    return services.journal


async def _founded(folder: Path, plan: Plan) -> _Note:
    """Make the orgs with their keys, and note them."""
    master_key, port = MasterKey.generate(), free_port()
    services = services_of(folder, master_key, ManualClock(datetime.now(UTC) - HISTORY))
    binding = (
        Binding(url=EMBEDDED_URL, database="memory")
        if plan.embedded
        else Binding(url=f"http://{HOST}:{port}", database="memory", api_key="of-nobody")
    )
    holders = []
    try:
        for number in range(plan.orgs):
            org = await services.tenants.create_org(f"org {number}")
            await services.tenants.bind(org.id, binding)
            _, key = await services.tenants.create_key(org.id, "growth", Permission.ADMIN)
            holders.append(Holder(org.id, key))
    finally:
        await services.close()
    note = _Note(plan=plan, master_key=master_key, port=port, holders=holders)
    (folder / "filled.json").write_bytes(msgspec.json.encode(note))
    return note


async def _fill(found: Filled) -> None:
    """Add the sessions that are missing, at the times at which they would have come."""
    plan, now = found.plan, datetime.now(UTC)
    sessions = plan.memories // SESSION
    forgotten = round(sessions * (1 - WINDOW / HISTORY))
    done = found.memories() // SESSION
    for first, end, step, dedup in (
        (done, forgotten, STEP, False),
        (max(done, forgotten), sessions, STEP_IN_WINDOW, True),
    ):
        if first < end:
            clock = ManualClock(now - HISTORY * (sessions - first) / sessions)
            services = services_of(found.folder, found.master_key, clock, dedup=dedup)
            try:
                await _append(found, services, clock, range(first, end), step)
            finally:
                await services.close()


async def _append(found: Filled, services: Services, clock: ManualClock, missing: range, step: timedelta) -> None:
    """Append sessions, those of one step in one transaction."""
    plan, journal = found.plan, journal_of(services)
    journal._connection.pragma("cache_size", -_CACHE_KIB)
    instances = {one.org_id: one for one in await services.repo.list_instances()}
    at_once = plan.memories // SESSION * step // HISTORY
    at_once = max(1, min(at_once, _MOST_BYTES_AT_ONCE // (SESSION * plan.content_bytes)))
    for first in range(missing.start, missing.stop, at_once):
        some = range(first, min(first + at_once, missing.stop))
        appends = [
            journal.append(
                instances[found.holder(start).org_id],
                [one for number in range(start, end) for one in session_drafts(plan, number)],
            )
            for start, end in pairwise(_starts(some, plan.in_a_row))
        ]
        await asyncio.gather(*appends)
        clock.advance(HISTORY * len(some) * SESSION / plan.memories)
        print(f"{found.folder.name}: {some.stop * SESSION:,} of {plan.memories:,}", file=sys.stderr, flush=True)


def _starts(sessions: range, step: int) -> list[int]:
    """Return where appends begin, and where the last one ends: each is for one org."""
    inner = range((sessions.start // step + 1) * step, sessions.stop, step)
    return [sessions.start, *inner, sessions.stop]


def session_drafts(plan: Plan, number: int) -> Sequence[Draft]:
    """Return the memories of a session."""
    shape = plan.memory(session_name(number))
    form, agent_id, tags = str(shape["content"]), f"agent_{number % 7}", tuple(map(str, shape["tags"]))
    template = draft(**{**shape, "agent_id": agent_id, "tags": tags})
    contents = (form % one for one in range(number * SESSION, (number + 1) * SESSION))
    return [
        msgspec.structs.replace(
            template, content=content, dedup_key=generated_key(agent_id, template.event_type, content)
        )
        for content in contents
    ]
