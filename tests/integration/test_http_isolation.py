"""To the holder of a key it makes no difference which other orgs there are, whatever they store."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from urllib.parse import quote, urlencode

import pytest
from builders import AGENTS, EVENTS, SESSIONS, TAGS
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from integration.twin_worlds import ORGS, Step, comparable, no_chance, over_memory, over_sqlite, world

from memtrace_core.model import MEMORY_TYPES, Permission
from memtrace_http.endpoints import endpoint_of
from memtrace_http.routes import HANDLERS

pytestmark = pytest.mark.slow

# Small on purpose: every org is to use what the others use.
CONTENTS = ("found it", "FOUND", "lost", "é")
KEYS = ("k1", "k/2")
METADATA = ({"a": 1}, {"b": None})
GAPS = (timedelta(seconds=1), timedelta(minutes=50), timedelta(hours=13))


def api(*parts):
    """Return a path of parts that are quoted."""
    return "/".join(("/api/v1", *(quote(part, safe="") for part in parts)))


def ids_in(answers, kind):
    """Return all ids of a kind that were ever answered, whoever got them."""
    found = dict.fromkeys(
        match
        for answer in answers
        if answer
        for match in re.findall(rf"{kind}_[0-9a-f]{{24}}", answer.body.decode())
    )
    return list(found) or [f"{kind}_none"]


def cursors_in(answers):
    """Return all cursors that were ever answered."""
    found = [answer.json.get("next_cursor") for answer in answers if answer and answer.status == 200]
    return [cursor for cursor in found if cursor]


@st.composite
def memories(draw):
    """Draw what a memory is stored as."""
    optional = {
        "session_id": st.sampled_from(SESSIONS),
        "memory_type": st.sampled_from(MEMORY_TYPES),
        "event_type": st.sampled_from(EVENTS),
        "tags": st.lists(st.sampled_from(TAGS), max_size=2, unique=True),
        "dedup_key": st.sampled_from(KEYS),
        "metadata": st.sampled_from(METADATA),
        "importance": st.sampled_from((0.0, 0.5, 1.0)),
    }
    chosen = draw(st.fixed_dictionaries({}, optional=optional))
    return {"agent_id": draw(st.sampled_from(AGENTS)), "content": draw(st.sampled_from(CONTENTS)), **chosen}


@st.composite
def steps(draw):
    """Draw what some org does: write, or reach for an agent or a session, which may be another org's."""
    kind = draw(st.sampled_from(("memory", "memory", "batch", "agent", "session", "page", "change", "delete")))
    which = draw(st.integers(0, 50))

    def request(said):
        sessions, agents = ids_in(said, "sess"), ids_in(said, "agent")
        match kind:
            case "memory":
                return "POST", api("memories"), body
            case "batch":
                return "POST", api("memories"), {"memories": body}
            case "agent":
                return "POST", api("agents"), {"name": body, "description": kind}
            case "session":
                return "POST", api("sessions"), {"agent_id": body}
            case "page":
                return "GET", api(body) + "?limit=1", None
            case "change":
                change = {"status": body, "metadata": {"by": body}}
                return "PUT", api("sessions", sessions[which % len(sessions)]), change
            case _:
                return "DELETE", api("agents", [*agents, *AGENTS][which % (len(agents) + 3)]), None

    body = draw(
        {
            "memory": memories(),
            "batch": st.lists(memories(), min_size=1, max_size=3),
            "page": st.sampled_from(("memories", "agents", "sessions")),
            "change": st.sampled_from(("closed", "active")),
        }.get(kind, st.sampled_from(AGENTS))
    )
    return Step(draw(st.sampled_from(ORGS)), draw(st.sampled_from(GAPS)), request)


FILTERS = {
    "memory_type": st.sampled_from(MEMORY_TYPES),
    "event_type": st.sampled_from(EVENTS),
    "tags": st.sampled_from(TAGS),
    "since": st.sampled_from(("1h", "1d", "1w", "2025-12-31")),
    "until": st.sampled_from(("now", "1h", "2026-01-02T00:00:00Z")),
    "limit": st.integers(1, 5),
    "offset": st.integers(0, 3),
    "order": st.sampled_from(("asc", "desc")),
}
SEARCHES = {
    "agent_id": st.sampled_from(AGENTS),
    "session_id": st.sampled_from(SESSIONS),
    "memory_types": st.lists(st.sampled_from(MEMORY_TYPES), min_size=1, max_size=2, unique=True),
    "event_types": st.lists(st.sampled_from(EVENTS), min_size=1, max_size=2, unique=True),
    "tags": st.lists(st.sampled_from(TAGS), min_size=1, max_size=1),
    "content_contains": st.sampled_from(("found", "É", "t")),
    "min_importance": st.sampled_from((0.0, 0.5)),
    "max_importance": st.sampled_from((0.5, 1.0)),
    **{name: FILTERS[name] for name in ("since", "until", "limit", "offset", "order")},
}
CONTEXTS = {
    "since": FILTERS["since"],
    "include_types": SEARCHES["event_types"],
    "max_tokens": st.integers(1, 100),
    "order": FILTERS["order"],
}


@st.composite
def filters(draw, possible, most=3):
    """Draw a few of the possible filters."""
    names = draw(st.lists(st.sampled_from(sorted(possible)), max_size=most, unique=True))
    return {name: draw(possible[name]) for name in names}


class Question:
    """Draws the filters of one look at everything; which things are named is decided by what there is."""

    def __init__(self, draw):
        self.listing = draw(filters({**FILTERS, "agent_id": SEARCHES["agent_id"]}))
        self.of_agent, self.of_session = draw(filters(FILTERS)), draw(filters(FILTERS))
        self.search, self.context = draw(filters(SEARCHES, 4)), draw(filters(CONTEXTS))
        self.order = draw(FILTERS["order"])

    def requests(self, answers):
        """Yield every read: with the filters, and about everything that anybody was ever told of."""
        agents = [*ids_in(answers, "agent"), *AGENTS]
        sessions = [*ids_in(answers, "sess"), *SESSIONS]
        yield "GET", f"{api('memories')}?{urlencode(self.listing)}", None
        yield "POST", api("search"), self.search
        yield "GET", api("agents"), None
        yield "GET", api("sessions"), None
        for reference in (*ids_in(answers, "mem"), *KEYS):
            yield "GET", api("memories", reference), None
        for agent in agents:
            yield "GET", api("agents", agent), None
            yield "GET", api("agents", agent, "stats"), None
            yield "GET", f"{api('agents', agent, 'memories')}?{urlencode(self.of_agent)}", None
            yield "GET", f"{api('sessions')}?{urlencode({'agent_id': agent})}", None
        for session in sessions:
            yield "GET", api("sessions", session), None
            yield "GET", f"{api('sessions', session, 'memories')}?{urlencode(self.of_session)}", None
            yield "POST", api("sessions", session, "context"), self.context
        for cursor in cursors_in(answers):
            for path in ("memories", "agents", "sessions"):
                yield "GET", f"{api(path)}?{urlencode({'cursor': cursor})}", None
            yield "POST", api("search"), {"cursor": cursor, "order": self.order}


questions = st.composite(Question)()


async def compare(make, doing, question):
    """Do everything where all orgs are, and each org's part where it is alone; compare all answers."""
    with no_chance() as chance:
        async with world(make, ORGS, chance) as full:
            said = []
            for step in doing:
                said.append(await full.take(step, list(said)))
            for org_id in ORGS:
                async with world(make, [org_id], chance) as alone:
                    for number, step in enumerate(doing):
                        answer = await alone.take(step, said[:number])
                        if answer is not None:
                            assert comparable(answer) == comparable(said[number]), number
                    for method, target, body in question.requests(said):
                        answers = [await one.clients[org_id].request(method, target, body) for one in (alone, full)]
                        assert comparable(answers[1]) == comparable(answers[0]), (org_id, method, target, body)


# An example asks some hundred questions of each world, so there are few, and a failing one is not made smaller.
thrifty = settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


@pytest.mark.parametrize("make", [over_memory, over_sqlite], ids=["in memory", "sqlite"])
def test_an_org_cannot_tell_that_there_are_others(make):
    """Every write and every read, with any filter and for anybody's ids, answers as if the org were alone."""

    @thrifty
    @given(st.lists(steps(), min_size=6, max_size=14), questions)
    def holds(doing, question):
        asyncio.run(compare(make, doing, question))

    holds()


def test_every_read_route_is_asked():
    """The routes that need `read` are those that are compared, so a new one must join them."""
    asked = set()

    @settings(max_examples=1, database=None)
    @given(questions)
    def ask(question):
        for method, target, _ in question.requests([]):
            asked.add((method, target.partition("?")[0]))

    ask()
    for handler in HANDLERS:
        endpoint = endpoint_of(handler)
        if endpoint is not None and endpoint.permission == Permission.READ:
            (path,), (method,) = handler.paths, handler.http_methods
            template = re.sub(r"{\w+:str}", "[^/]+", path)
            assert any(re.fullmatch(template, target) for verb, target in asked if verb == method), path
