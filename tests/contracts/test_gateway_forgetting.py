"""What every gateway deletes, and what it leaves out of answers while something is to be forgotten."""

from datetime import timedelta

import msgspec
import pytest
from builders import ORG, START, draft, run

from memtrace_core.dedup import DedupPolicy
from memtrace_core.forgotten import Forgotten
from memtrace_core.query import AgentCountQuery, Horizon, MemoryQuery, position_of

OFF = DedupPolicy(enabled=False)
EVERYTHING = MemoryQuery(org_id=ORG, limit=1000)
SECOND = timedelta(seconds=1)
LATER = START + timedelta(days=1)
NOBODY = "000000"

SCOPES = {
    "agent": Forgotten(agent_id="ada", before=LATER),
    "session": Forgotten(session_id="s1", before=LATER),
    "both": Forgotten(agent_id="bob", session_id="s1", before=LATER),
    "time": Forgotten(before=START + 3 * SECOND),
    "agent and time": Forgotten(agent_id="ada", before=START + 3 * SECOND),
    "an agent whose name Arc would not take": Forgotten(agent_id="load-set", before=LATER),
    "a session whose name Arc would not take": Forgotten(session_id="a--b", before=LATER),
    "nobody": Forgotten(agent_id="eve", before=LATER),
}
PLACED = list(enumerate(SCOPES))


def timed():
    """Return drafts of several agents and sessions, a second apart."""
    made = [
        draft("0", agent_id="ada", session_id="s1"),
        draft("1", agent_id="ada"),
        draft("2", agent_id="bob", session_id="s1"),
        draft("3", agent_id="bob"),
        draft("4", agent_id="load-set", session_id="a--b"),
        draft("5", agent_id="load-set"),
        draft("6", agent_id="ada"),
    ]
    return [(START + (number + 1) * SECOND, each) for number, each in enumerate(made)]


async def erase_all(held, one, what):
    """Delete until nothing is left to be deleted; return how many copies that were."""
    deleted = 0
    while await held.gateway.covered(one, what):
        deleted += await held.gateway.erase(one, what)
    return deleted


def test_what_is_to_be_forgotten_is_deleted_and_nothing_else(writing_harness):
    """Of one org alone, and also where the names are such that a store does not take them."""

    async def body():
        async with writing_harness(dedup=OFF) as held:
            kept = {name: await held.keep(held.instance_of(f"org_{place}"), timed()) for place, name in PLACED}
            left = dict(kept)
            for place, name in PLACED:
                one, what = held.instance_of(f"org_{place}"), SCOPES[name]
                left[name] = [memory for memory in kept[name] if not what.covers(memory)]
                gone = len(kept[name]) - len(left[name])
                assert await held.gateway.covered(one, [what]) == gone, name
                assert await erase_all(held, one, [what]) == gone, name
            for place, name in PLACED:
                asked = MemoryQuery(org_id=f"org_{place}", limit=1000)
                assert await held.gateway.query(held.instance_of(f"org_{place}"), asked) == asked.page(
                    left[name]
                ), name

    run(body())


def test_single_memories_are_deleted_together(writing_harness):
    """Several in one go, one that is not there among them."""

    async def body():
        async with writing_harness(dedup=OFF) as held:
            one = held.instance_of(ORG)
            kept = await held.keep(one, timed())
            what = [Forgotten.one(kept[number].memory_id) for number in (0, 3)]
            missing = Forgotten.one("mem_" + "0" * 24)
            assert await erase_all(held, one, [*what, missing]) == 2
            left = [memory for number, memory in enumerate(kept) if number not in (0, 3)]
            assert await held.gateway.query(one, EVERYTHING) == EVERYTHING.page(left)

    run(body())


def test_nothing_is_deleted_where_nobody_has_written(writing_harness):
    """A store that has no such measurement yet is as good as one that has nothing to forget."""

    async def body():
        async with writing_harness(dedup=OFF) as held:
            one = held.instance_of(ORG)
            assert await held.gateway.covered(one, [SCOPES["agent"]]) == 0
            assert await held.gateway.erase(one, [SCOPES["agent"]]) == 0

    run(body())


@pytest.mark.parametrize("others", [0, 120], ids=["alone", "among many"])
def test_answers_leave_out_what_is_forgotten(writing_harness, others):
    """Pages with offset and cursor, and counts: also while more is forgotten than a statement has room for."""

    async def body():
        async with writing_harness(dedup=OFF) as held:
            one = held.instance_of(ORG)
            kept = await held.keep(one, timed())
            many = [Forgotten.one(f"mem_{number:024x}") for number in range(others)]
            single = Forgotten.one(kept[5].memory_id)
            pages = ({}, {"offset": 1, "limit": 2}, {"after": position_of(kept[4])}, {"order": "asc", "limit": 1})
            for number, what in enumerate(SCOPES.values()):
                horizon = Horizon(NOBODY, LATER, forgotten=(what, *many, single))
                left = [each for each in kept if not what.covers(each) and each is not kept[5]]
                page = msgspec.structs.replace(EVERYTHING, **pages[number % len(pages)])
                asked = msgspec.structs.replace(page, horizon=horizon)
                assert await held.gateway.query(one, asked) == page.page(left)
                agent_id = ("ada", "load-set")[number % 2]
                count = AgentCountQuery(org_id=ORG, agent_id=agent_id, recent_since=START, horizon=horizon)
                counts = await held.gateway.count(one, count)
                assert counts.total == counts.recent == sum(each.agent_id == agent_id for each in left)

    run(body())


def test_counts_begin_where_memories_are_still_kept(gateway_harness):
    """What is older than `since` is not counted, what is of that moment is."""

    async def body():
        async with gateway_harness(dedup=OFF) as held:
            one = held.instance_of(ORG)
            kept = await held.keep(one, timed())
            for since, total in ((kept[1].time, 2), (kept[1].time + SECOND, 1), (START, 3)):
                asked = AgentCountQuery(org_id=ORG, agent_id="ada", recent_since=START, since=since)
                assert (await held.gateway.count(one, asked)).total == total

    run(body())
