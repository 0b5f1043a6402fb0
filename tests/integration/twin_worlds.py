"""Two servers in process, one with several orgs and one with a single one of them, else alike to the last id.

Ids are random in production; here they come from the number of the step that makes them, and times from a clock
that moves by the same steps in both. So what one org sees must be equal byte by byte.
"""

from __future__ import annotations

import atexit
import functools
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import msgspec
from builders import bound, embedded_instance, in_memory, instance
from damage import execute
from integration.asgi import Answer, Client, lifespan

from memtrace_core import identifiers
from memtrace_core.clock import SystemClock
from memtrace_core.model import Permission
from memtrace_core.routing import GatewayByURL
from memtrace_core.services import Services, build_services
from memtrace_core.testing import InMemoryGateway, InMemoryJournal, ManualClock
from memtrace_http import create_app
from memtrace_sqlite import (
    EnvelopeVault,
    MasterKey,
    SqliteEmbeddedGateway,
    SqliteJournal,
    SqliteMetadataRepo,
    ledger,
)

# None of these files has to survive a loss of power.
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
ORGS = ("org_a", "org_b", "org_c")
INSTANCES = {"org_a": embedded_instance("org_a"), "org_b": instance("org_b"), "org_c": embedded_instance("org_c")}
VAULT = EnvelopeVault(MasterKey(bytes(32)))

# What may differ between two answers to one question.
_OWN_TO_A_REQUEST = re.compile(rb'"(request_id|query_time_ms)":("[0-9a-f]+"|\d+)')


class Step(msgspec.Struct, frozen=True):
    """Something that an org does, some time after what was done before."""

    org_id: str
    after: timedelta
    request: Callable[[Sequence[Answer]], tuple[str, str, object]]


class World:
    """A server with some of the orgs, on a clock of its own."""

    def __init__(self, clients: dict[str, Client], clock: ManualClock, chance: SimpleNamespace) -> None:
        self.clients = clients
        self._clock = clock
        self._chance = chance
        self.answers: list[Answer | None] = []

    async def take(self, step: Step, said: Sequence[Answer]) -> Answer | None:
        """Let time pass, and do what a step does if its org is here; `said` is what the full world answered."""
        self._clock.advance(step.after)
        self._chance.number = len(self.answers) + 1
        client = self.clients.get(step.org_id)
        method, target, body = step.request(said)
        answer = await client.request(method, target, body) if client else None
        self.answers.append(answer)
        return answer


def comparable(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """Return an answer without its request id and its timing."""
    headers = {
        name: value for name, value in answer.headers.items() if name not in ("x-request-id", "content-length")
    }
    return answer.status, headers, _OWN_TO_A_REQUEST.sub(b"", answer.body)


@contextmanager
def no_chance() -> Iterator[SimpleNamespace]:
    """Make ids from the `number` of what is given, in all worlds."""
    chance = SimpleNamespace(number=0)
    predictable = SimpleNamespace(
        token_hex=lambda length: chance.number.to_bytes(length, "big").hex(), token_urlsafe=secrets.token_urlsafe
    )
    with (
        mock.patch.object(identifiers, "secrets", predictable),
        mock.patch.object(ledger, "random", SimpleNamespace(getrandbits=lambda _: 0)),
    ):
        yield chance


@asynccontextmanager
async def world(
    make: Callable[[ManualClock], AbstractAsyncContextManager[Services]],
    orgs: Sequence[str],
    chance: SimpleNamespace,
) -> AsyncIterator[World]:
    """Open a world of some orgs."""
    clock, chance.number = ManualClock(), 0
    async with make(clock) as services:
        await bound(services, *(INSTANCES[org_id] for org_id in orgs))
        app = create_app(services)
        clients = {}
        async with lifespan(app):
            for chance.number, org_id in enumerate(orgs):
                _, key = await services.tenants.create_key(org_id, "key", Permission.ADMIN)
                clients[org_id] = Client(app, services, key)
            yield World(clients, clock, chance)


@asynccontextmanager
async def over_memory(clock: ManualClock) -> AsyncIterator[Services]:
    """Return services over the adapters in memory."""
    yield in_memory(clock=clock)


@functools.cache
def _fresh_files() -> Path:
    """Return a folder of new databases, whose journal has a node that is the same each time."""
    folder = Path(tempfile.mkdtemp(prefix="memtrace-twins-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    SqliteMetadataRepo(folder / "memtrace.db", VAULT).release()
    SqliteJournal(folder / "journal.db", SystemClock()).release()
    execute(folder / "journal.db", "UPDATE ledger SET node = '0a0b0c'")
    return folder


@asynccontextmanager
async def over_sqlite(clock: ManualClock) -> AsyncIterator[Services]:
    """Return services over SQLite files."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as made:
        folder = Path(made) / "data"
        shutil.copytree(_fresh_files(), folder)
        repo = SqliteMetadataRepo(folder / "memtrace.db", VAULT)
        journal = SqliteJournal(folder / "journal.db", clock)
        elsewhere = InMemoryGateway(InMemoryJournal(clock), durable=False)
        gateway = GatewayByURL(embedded=SqliteEmbeddedGateway(journal), http=lambda: elsewhere)
        yield build_services(repo=repo, journal=journal, gateway=gateway, vault=VAULT, clock=clock)
