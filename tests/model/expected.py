"""What must be true of a server, as plain lists: every memory that was acknowledged, and every claim on a key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import Duplicate
from memtrace_core.forgotten import Forgotten
from memtrace_core.memories import NewMemory
from memtrace_core.model import EMBEDDED_URL, ArcInstance, Memory
from memtrace_core.timewindow import EPOCH

MICROSECOND = timedelta(microseconds=1)

# Arc says no to contents with this; to those with the second it says no and keeps them all the same; to those with
# the third it says that something failed, every time.
REFUSED, REFUSED_AND_KEPT, FAILING = "(refused)", "(refused and kept)", "(failing)"
BAD = (REFUSED, REFUSED_AND_KEPT, FAILING)

Outcome = Memory | Duplicate
Place = tuple[str, str, str]


def place_of(instance: ArcInstance) -> Place:
    """Return where an instance's memories are, whatever its id and key."""
    return instance.url, instance.database, instance.measurement


def is_embedded(place: Place) -> bool:
    """Tell whether a place is in the embedded store."""
    return place[0] == EMBEDDED_URL


@dataclass
class Held:
    """An acknowledged memory: the place that it belongs to, and every place that may have a copy of it."""

    memory: Memory
    place: Place
    places: set[Place]

    @property
    def stays(self) -> bool:
        """Whether no Arc ever takes it, so that it stays in the journal, whatever the org is bound to."""
        return not is_embedded(self.place) and any(bad in self.memory.content for bad in BAD)


@dataclass
class ExpectedOrg:
    """An org: what it is bound to, and what it was promised."""

    org_id: str
    instance: ArcInstance
    held: list[Held] = field(default_factory=list)
    claims: dict[tuple[str, ...], Memory] = field(default_factory=dict)
    moved: bool = False
    gone: set[str] = field(default_factory=set)
    doubtful: set[tuple[str, ...]] = field(default_factory=set)
    """Keys whose claims may be those of memories that were forgotten, for all that the journal knows."""

    @property
    def place(self) -> Place:
        """Where its memories go now."""
        return place_of(self.instance)

    def certain(self) -> list[Memory]:
        """Return the memories that every read must see, oldest first."""
        return [one.memory for one in self.held if one.place == self.place or one.stays]

    def possible(self) -> list[Memory]:
        """Return the memories that a read may see: also those on their way to a former place, or left there."""
        return [
            one.memory
            for one in self.held
            if one.place == self.place or not is_embedded(one.place) or self.place in one.places
        ]

    def forget(self, what: Forgotten) -> None:
        """Note that memories are to be seen no more, and that their claims are free."""
        self.gone |= {one.memory.memory_id for one in self.held if what.covers(one.memory)}
        self.held = [one for one in self.held if not what.covers(one.memory)]
        self.claims = {key: memory for key, memory in self.claims.items() if not what.covers(memory)}
        if what.memory_id is None:
            # A key that was not given tells the agent, and nothing tells the session.
            self.doubtful |= {key for key in self.claims if what.session_id or key[0] == "given"}

    def move(self, memory_ids: set[str]) -> None:
        """Note that what waits was given to the present place."""
        for one in self.held:
            if one.memory.memory_id in memory_ids:
                one.place = self.place
                one.places.add(self.place)
        self.moved = True


@dataclass
class Request:
    """What a caller asked one org to remember."""

    org: ExpectedOrg
    memories: Sequence[NewMemory]


class Expected:
    """All orgs of a server."""

    def __init__(self, dedup: DedupPolicy) -> None:
        self.orgs: list[ExpectedOrg] = []
        self.last = EPOCH
        self._window = dedup.window

    def take(self, now: datetime, requests: Sequence[Request], answers: Sequence[Sequence[Outcome]]) -> None:
        """Check what became of requests made at once, and remember it."""
        first = max(now, self.last + MICROSECOND)
        stored = sorted((one for answer in answers for one in answer if isinstance(one, Memory)), key=_time)
        assert [one.time for one in stored] == [first + number * MICROSECOND for number in range(len(stored))]
        for answer in answers:
            times = [one.time for one in answer if isinstance(one, Memory)]
            assert times == sorted(times), "a request's memories are in its order"
        by_key: dict[tuple[str, tuple[str, ...]], list[Outcome]] = defaultdict(list)
        for request, answer in zip(requests, answers, strict=True):
            for new, outcome in zip(request.memories, answer, strict=True):
                assert isinstance(outcome, Duplicate) or _fits(outcome, new, request.org.org_id)
                by_key[request.org.org_id, _key(new)].append(outcome)
        orgs = {request.org.org_id: request.org for request in requests}
        for (org_id, key), outcomes in by_key.items():
            self._check_claim(orgs[org_id], key, outcomes, first, first + len(stored) * MICROSECOND)
        for one in stored:
            org = orgs[one.org_id]
            org.held.append(Held(one, org.place, {org.place}))
            self.last = one.time

    def _check_claim(
        self, org: ExpectedOrg, key: tuple[str, ...], outcomes: list[Outcome], first: datetime, last: datetime
    ) -> None:
        """Writes with one key are copies of the claim's memory within the window, else of the first of them.

        They came at times from `first` to `last`: where the window ends between the two, either may be.
        """
        claim = org.claims.get(key)
        fresh = [one for one in outcomes if isinstance(one, Memory)]
        assert len(fresh) <= 1, f"{fresh} are copies of each other"
        claimed_to_the_end = claim is not None and last - claim.time < self._window
        free_from_the_start = claim is None or first - claim.time >= self._window
        doubtful = key in org.doubtful
        assert doubtful or not (fresh and claimed_to_the_end), f"{fresh} should be a copy of {claim}"
        assert fresh or not free_from_the_start, f"{outcomes} should be new, beside {claim}"
        originals = set() if claim is None or free_from_the_start else {claim.memory_id}
        if fresh:
            originals.add(fresh[0].memory_id)
            org.claims[key] = fresh[0]
            org.doubtful.discard(key)
        copies = {one.memory_id for one in outcomes if isinstance(one, Duplicate)}
        assert copies <= originals, f"copies of {copies} should be of {originals}"


def _key(new: NewMemory) -> tuple[str, ...]:
    if new.dedup_key is not None:
        return ("given", new.dedup_key)
    return (new.agent_id, new.event_type or "general", new.content)


def _fits(memory: Memory, new: NewMemory, org_id: str) -> bool:
    return (memory.org_id, memory.agent_id, memory.content, memory.session_id) == (
        org_id,
        new.agent_id,
        new.content,
        new.session_id,
    )


def _time(memory: Memory) -> datetime:
    return memory.time
