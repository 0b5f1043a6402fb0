"""What tests are made of: values with sensible defaults, random ones, and a way to run a coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import Draft
from memtrace_core.identifiers import memory_id
from memtrace_core.model import (
    EMBEDDED_URL,
    MEMORY_TYPES,
    Agent,
    APIKey,
    ArcInstance,
    Memory,
    Org,
    Permission,
    Session,
)
from memtrace_core.query import MemoryQuery, position_of
from memtrace_core.services import Services, build_services
from memtrace_core.testing import (
    InMemoryGateway,
    InMemoryJournal,
    InMemoryMetadataRepo,
    ManualClock,
    TransparentVault,
)
from memtrace_core.timewindow import to_us

Result = TypeVar("Result")

# How long drawing takes says more about the machine than about the code.
settings.register_profile("memtrace", max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("memtrace")

START = datetime(2026, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
ORG = "org_a"
OTHER_ORG = "org_b"
OTHER_NODE = "0a0b0c"


def run(coro: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in an event loop of its own."""
    return asyncio.run(coro)


async def settle() -> None:
    """Let every task that can go on do so, without any time passing."""
    for _ in range(100):
        await asyncio.sleep(0)


def in_memory(
    *,
    dedup: DedupPolicy | None = None,
    durable: bool = True,
    repo: InMemoryMetadataRepo | None = None,
    **others: Any,
) -> Services:
    """Return services over the in-memory adapters; others of their arguments are those of `build_services`."""
    clock = others.pop("clock", None) or ManualClock()
    journal = others.pop("journal", None) or InMemoryJournal(clock, dedup)
    gateway = others.pop("gateway", None) or InMemoryGateway(journal, durable=durable)
    return build_services(
        repo=repo or InMemoryMetadataRepo(),
        journal=journal,
        gateway=gateway,
        vault=TransparentVault(),
        clock=clock,
        dedup=dedup,
        **others,
    )


async def bound(services: Services, *instances: ArcInstance) -> Services:
    """Create the orgs of instances and bind each to its own; return the services."""
    for one in instances or (instance(),):
        await services.repo.create_org(org(one.org_id))
        await services.repo.bind_instance(one)
    return services


def org(org_id: str = ORG, **changes: Any) -> Org:
    """Return an org."""
    return msgspec.structs.replace(Org(id=org_id, name=f"The {org_id}", created_at=START), **changes)


def instance(org_id: str = ORG, **changes: Any) -> ArcInstance:
    """Return an Arc instance that is reached over HTTP."""
    made = ArcInstance(
        id=f"arc_of_{org_id}",
        org_id=org_id,
        url="http://arc.example:8000",
        database="memory",
        measurement="events",
        sealed_api_key=b"sealed",
        created_at=START,
        updated_at=START,
    )
    return msgspec.structs.replace(made, **changes)


def embedded_instance(org_id: str = ORG, **changes: Any) -> ArcInstance:
    """Return an instance of the embedded store."""
    return instance(org_id, **{"url": EMBEDDED_URL, "sealed_api_key": None, **changes})


def api_key(org_id: str = ORG, number: int = 1, **changes: Any) -> APIKey:
    """Return an API key as it is kept; its number makes its id, name and digest."""
    made = APIKey(
        id=f"key_{number:012x}",
        org_id=org_id,
        name=f"key {number}",
        digest=number.to_bytes(32, "big"),
        permissions=Permission.READ | Permission.WRITE,
        created_at=START + timedelta(seconds=number),
    )
    return msgspec.structs.replace(made, **changes)


def agent(org_id: str = ORG, number: int = 1, **changes: Any) -> Agent:
    """Return an agent; its number makes its id, name and time."""
    made = Agent(
        id=f"agent_{number:024x}",
        org_id=org_id,
        name=f"agent {number}",
        created_at=START + timedelta(seconds=number),
    )
    return msgspec.structs.replace(made, **changes)


def session(org_id: str = ORG, number: int = 1, **changes: Any) -> Session:
    """Return an active session; its number makes its id and time."""
    at = START + timedelta(seconds=number)
    made = Session(
        id=f"sess_{number:024x}",
        org_id=org_id,
        agent_id="ada",
        status="active",
        created_at=at,
        updated_at=at,
    )
    return msgspec.structs.replace(made, **changes)


def draft(content: str = "something happened", **changes: Any) -> Draft:
    """Return a valid memory without time and id; `metadata_json` follows `metadata`."""
    made = Draft(
        agent_id="ada",
        session_id=None,
        memory_type="episodic",
        event_type="general",
        content=content,
        metadata=None,
        metadata_json="",
        tags=(),
        dedup_key=None,
        importance=0.0,
        parent_id=None,
    )
    made = msgspec.structs.replace(made, **changes)
    encoded = msgspec.json.encode(made.metadata).decode() if made.metadata else ""
    return msgspec.structs.replace(made, metadata_json=encoded)


def memory(
    time: datetime = START, org_id: str = ORG, node: str = OTHER_NODE, salt: int = 0, **changes: Any
) -> Memory:
    """Return a stored memory of another node, with the id that fits its time."""
    made = draft().stamped(org_id, memory_id(to_us(time), node, f"{salt:04x}"), time)
    return msgspec.structs.replace(made, **changes)


AGENTS = ("ada", "bob", "eve")
SESSIONS = ("s1", "s2")
EVENTS = ("general", "error", "page_crawled")
TAGS = ("auth", "oauth", "a.b", "a-b", "x_y")
DEDUP_KEYS = ("k1", "k2")
# Letters that fold in unusual ways, and characters that mean something to SQL, LIKE and shells.
TRICKY = "aAbéÉßẞΣσςİiI%_\\'\"*? \n🙂"
IMPORTANCES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)

contents = st.text(alphabet=TRICKY, min_size=1, max_size=6) | st.text(
    alphabet=st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=20
)

_values = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(TRICKY, max_size=5)


@st.composite
def drafts(draw: st.DrawFn, dedup_keys: Sequence[str] = DEDUP_KEYS) -> Draft:
    """Draw drafts whose fields come from small sets, so that filters hit and miss."""
    return draft(
        draw(contents),
        agent_id=draw(st.sampled_from(AGENTS)),
        session_id=draw(st.none() | st.sampled_from(SESSIONS)),
        memory_type=draw(st.sampled_from(MEMORY_TYPES)),
        event_type=draw(st.sampled_from(EVENTS)),
        metadata=draw(st.none() | st.dictionaries(st.text(TRICKY, max_size=3), _values, min_size=1, max_size=2)),
        tags=tuple(draw(st.lists(st.sampled_from(TAGS), max_size=3, unique=True))),
        dedup_key=draw(st.none() | st.sampled_from(dedup_keys)),
        importance=draw(st.sampled_from(IMPORTANCES)),
        parent_id=draw(st.none() | st.just("mem_of_old")),
    )


class Aim(msgspec.Struct, frozen=True):
    """Which of the stored memories bound a query, by number; None bounds nothing."""

    since: int | None
    until: int | None
    after: int | None
    memory_id: int | None

    def at(self, query: MemoryQuery, stored: Sequence[Memory]) -> MemoryQuery:
        """Return the query with its bounds taken from memories; no offset beside a position."""

        def pick(number: int | None) -> Memory | None:
            return None if number is None or not stored else stored[number % len(stored)]

        since, until, after, exact = map(pick, (self.since, self.until, self.after, self.memory_id))
        return msgspec.structs.replace(
            query,
            since=since and since.time,
            until=until and until.time,
            after=after and position_of(after),
            memory_id=exact and exact.memory_id,
            offset=0 if after else query.offset,
        )


def _subset(values: Sequence[str], most: int = 2) -> st.SearchStrategy[tuple[str, ...]]:
    return st.just(()) | st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True).map(tuple)


_rarely = st.none() | st.none() | st.none()
aims = st.builds(
    Aim,
    since=_rarely | st.integers(0, 30),
    until=_rarely | st.integers(0, 30),
    after=_rarely | st.integers(0, 30),
    memory_id=_rarely | st.integers(0, 30),
)


@st.composite
def queries(draw: st.DrawFn, org_id: str = ORG, greatest_limit: int = 20) -> MemoryQuery:
    """Draw queries that set a few filters each, the ones of time and position apart (see `Aim`)."""
    filters = {
        "agent_ids": _subset(AGENTS),
        "session_ids": _subset(SESSIONS),
        "memory_types": _subset(MEMORY_TYPES, 3),
        "event_types": _subset(EVENTS),
        "tags": _subset(TAGS),
        "content_contains": st.text(TRICKY, min_size=1, max_size=2),
        "min_importance": st.sampled_from(IMPORTANCES),
        "max_importance": st.sampled_from(IMPORTANCES),
        "dedup_key": st.sampled_from(DEDUP_KEYS),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(filters)), max_size=3, unique=True))
    return MemoryQuery(
        org_id=org_id,
        order=draw(st.sampled_from(["desc", "asc"])),
        offset=draw(st.integers(0, 12)),
        limit=draw(st.integers(1, greatest_limit)),
        **{name: draw(filters[name]) for name in chosen},
    )


def texts_around(limit: int) -> tuple[str, str]:
    """Return a text of exactly so many characters, and one that is a character longer."""
    return "x" * limit, "x" * (limit + 1)


def walk(query: MemoryQuery, memories: list[Memory]) -> list[Memory]:
    """Return all the memories that match, in order, paging apart."""
    return msgspec.structs.replace(query, offset=0, limit=max(1, len(memories))).page(memories)
