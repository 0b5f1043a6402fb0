"""Out of one org and into another: exports and imports over every kind of store."""

import asyncio
import itertools
from datetime import timedelta

import msgspec
import pytest
from builders import (
    MICROSECOND,
    ORG,
    OTHER_ORG,
    START,
    agent,
    bound,
    embedded_instance,
    in_memory,
    instance,
    memory,
    run,
    session,
    settle,
)

from memtrace_core import NewMemory
from memtrace_core.errors import (
    ArcFailed,
    ArcRejected,
    ArcUnreachable,
    Conflict,
    InvalidInput,
    NoArcInstance,
    NotFound,
)
from memtrace_core.export_lines import MOST_LINE_BYTES, End, Head, encode_line
from memtrace_core.exporting import Behind
from memtrace_core.forgotten import Forgotten
from memtrace_core.identifiers import parse_memory_id
from memtrace_core.importing import Imported
from memtrace_core.model import Memory
from memtrace_core.query import MemoryQuery, position_of
from memtrace_core.testing import InMemoryOwnership

HOUR = timedelta(hours=1)
HEAD = Head(memtrace_export=1, org_id=ORG, org_name="acme", began_at=START)
KINDS = pytest.mark.parametrize(
    "into", [instance(OTHER_ORG), embedded_instance(OTHER_ORG)], ids=["arc", "embedded"]
)


async def exported(services, org_id=ORG, **options):
    """Return the lines of an export."""
    return [line async for portion in services.exporting.export(org_id, **options) for line in portion]


def file_of(*memories, end=True, **others):
    """Return the lines of a file with these memories, in bytes."""
    lines = [HEAD, *memories]
    if end:
        lines.append(End(memories=len(memories), agents=0, sessions=0, until=START))
    return [encode_line(line).encode() for line in lines]


async def imported(services, lines, org_id=OTHER_ORG):
    """Import lines while the clock runs; return what became of them, and the troubles by line."""
    troubles = {}
    work = asyncio.ensure_future(
        services.importing.run(org_id, lines, on_trouble=lambda number, why: troubles.update({number: why}))
    )
    for _ in range(2_000):
        await settle()
        if work.done():
            break
        services.clock.advance(timedelta(seconds=1))
    return await work, troubles


async def everything(services, org_id=OTHER_ORG):
    """Return what readers are shown, oldest first; all ways of looking must agree."""
    page = await services.memories.find(MemoryQuery(org_id=org_id, order="asc", limit=1000))
    count = await services.memories.count(org_id, "ada")
    assert count.total == len(page.memories)
    return page.memories


def old(count, **fields):
    """Return memories of long ago."""
    return [memory(START - 100 * HOUR + number * HOUR, content=f"m{number}", **fields) for number in range(count)]


def contents(memories):
    """Return what memories say."""
    return [one.content for one in memories]


@KINDS
@pytest.mark.parametrize("source", [instance(), embedded_instance()], ids=["from arc", "from embedded"])
def test_an_org_is_moved_whole(source, into):
    """Memories with all fields, agents and sessions are in the other org afterwards, with their ids and times."""

    async def body():
        services = await bound(in_memory(), source, into)
        new = [NewMemory(agent_id="ada", content=f"m{number}", tags=["a"], importance=0.5) for number in range(120)]
        stored = await services.memories.remember(ORG, new)
        await services.agents.register(ORG, "ada", "an agent", {"n": 1})
        opened = await services.sessions.create(ORG, "ada", {"task": "x"})
        await services.sessions.update(ORG, opened.id, status="closed")
        head, *lines, end = await exported(services)
        assert (head.org_id, [one for one in lines if isinstance(one, Memory)]) == (ORG, stored)
        assert (end.memories, end.agents, end.sessions) == (120, 1, 1)

        elsewhere = await bound(in_memory(clock=services.clock), into)
        file = [encode_line(line).encode() for line in (head, *lines, end)]
        first, troubles = await imported(elsewhere, file)
        assert (first, troubles) == (Imported(stored=120, agents=1, sessions=1, complete=True), {})
        moved = await everything(elsewhere)
        assert [(one.memory_id, one.time, one.content, one.tags) for one in moved] == [
            (one.memory_id, one.time, one.content, one.tags) for one in stored
        ]
        assert (await elsewhere.agents.get(OTHER_ORG, "ada")).config == {"n": 1}
        kept = await elsewhere.sessions.get(OTHER_ORG, opened.id)
        assert (kept.status, kept.metadata, kept.created_at) == ("closed", {"task": "x"}, opened.created_at)

        again, troubles = await imported(elsewhere, file)
        assert (again, troubles) == (Imported(present=120, complete=True), {})
        assert await everything(elsewhere) == moved

    run(body())


def test_an_export_is_of_the_moment_at_which_it_began():
    """What is stored meanwhile is not in it, what is delivered and confirmed meanwhile is in it once."""

    async def body():
        services = await bound(in_memory(durable=False))
        await services.start()
        before = await services.memories.remember(
            ORG, [NewMemory(agent_id="ada", content=f"m{number}") for number in range(400)]
        )
        found = []
        async for portion in services.exporting.export(ORG):
            found += [line for line in portion if isinstance(line, Memory)]
            await services.memories.remember(ORG, [NewMemory(agent_id="ada", content=f"late {len(found)}")])
            services.clock.advance(timedelta(seconds=45))
            await settle()
        assert found == before
        assert (await services.journal.holdings(ORG)).delivered < 300
        await services.stop()

    run(body())


def test_an_export_has_what_was_stored_before_the_clock_was_set_back():
    """The journal's time is ahead of the machine's then, and still everything that was acknowledged is in it."""

    async def body():
        services = await bound(in_memory(), embedded_instance())
        stored = await services.memories.remember(ORG, [NewMemory(agent_id="ada", content="a")])
        services.clock.advance(-HOUR)
        assert [one for one in await exported(services) if isinstance(one, Memory)] == stored

    run(body())


def test_an_export_goes_on_where_it_was_left():
    """Behind a memory come those that follow it, without a head, and the end counts both parts."""

    async def body():
        services = await bound(in_memory(), embedded_instance())
        stored = await services.memories.remember(
            ORG, [NewMemory(agent_id="ada", content=f"m{number}") for number in range(130)]
        )
        rest = await exported(services, behind=Behind(HEAD, 77, position_of(stored[76])))
        assert rest[:-1] == stored[77:]
        assert rest[-1].memories == 130

    run(body())


def test_an_export_has_bounds():
    """`since` is inclusive, `until` exclusive, and one that is still to come means now."""

    async def body():
        services = await bound(in_memory(), embedded_instance())
        kept = [memory(START + number * MICROSECOND, ORG) for number in range(4)]
        services.clock.advance(HOUR)
        await services.journal.admit(embedded_instance(), kept)
        head, *some, end = await exported(services, since=kept[1].time, until=kept[3].time)
        assert (head.since, some, end.until) == (kept[1].time, kept[1:3], kept[3].time)
        _, *all_of_them, end = await exported(services, until=START + 9 * HOUR)
        assert (all_of_them, end.until) == (kept, services.clock.now())

    run(body())


def test_an_export_can_be_of_a_former_instance():
    """An org that was bound to another store still gives out what lies in the first."""

    async def body():
        services = await bound(in_memory(), embedded_instance())
        stored = await services.memories.remember(ORG, [NewMemory(agent_id="ada", content="a")])
        await services.repo.rebind_instance(instance(id="arc_new"))
        assert len(await exported(services)) == 2
        assert (await exported(services, instance_id=embedded_instance().id))[1:-1] == stored
        with pytest.raises(NotFound):
            await exported(services, instance_id="arc_unknown")
        await services.repo.unbind_instance(ORG)
        with pytest.raises(NoArcInstance):
            await exported(services)
        with pytest.raises(NotFound):
            await exported(services, "org_unknown")

    run(body())


@KINDS
def test_lines_that_cannot_be_taken_are_named_and_the_rest_is_imported(into):
    """A bad line, one of another org, one of the future: each by its number, and nothing else is lost by it."""

    async def body():
        services = await bound(in_memory(), into)
        good = old(3)
        lines = file_of(good[0], memory(org_id="org_x"), good[1], memory(START + HOUR, ORG), good[2])
        lines.insert(2, b"no json\n")
        lines[-1] = encode_line(End(memories=6, agents=0, sessions=0, until=START)).encode()
        counted, troubles = await imported(services, lines)
        assert counted == Imported(stored=3, refused=3, complete=True)
        assert not counted.whole
        assert sorted(troubles) == [3, 4, 6]
        assert "another organization" in troubles[4]
        assert "still to come" in troubles[6]
        assert contents(await everything(services)) == ["m0", "m1", "m2"]

    run(body())


@pytest.mark.parametrize(
    ("spoil", "stored", "trouble"),
    [
        (lambda lines: lines[:-1], 3, None),
        (lambda lines: [*lines[:-2], lines[-2][:40]], 2, "ends in the middle"),
        (lambda lines: [*lines[:2], *lines[3:]], 2, "3 lines before its end, and here are 2"),
        (lambda lines: [*lines, lines[0]], 3, "behind the end"),
        (lambda lines: [*lines, *lines], 3, "behind the end"),
    ],
    ids=["no end", "half a line", "a line lost", "something behind", "two files"],
)
def test_a_file_that_is_not_whole_is_noticed(spoil, stored, trouble):
    """What is whole in it is imported, and the report says that it was not all."""

    async def body():
        services = await bound(in_memory(), embedded_instance(OTHER_ORG))
        counted, troubles = await imported(services, spoil(file_of(*old(3))))
        assert (counted.stored, counted.whole) == (stored, False)
        assert [trouble in why for why in troubles.values()] == ([True] if trouble else [])

    run(body())


def test_a_file_of_another_kind_is_refused_before_anything_is_stored():
    """The first line decides; an empty file is none, either."""

    async def body():
        services = await bound(in_memory(), embedded_instance(OTHER_ORG))
        for lines in ([], file_of(*old(1))[1:]):
            with pytest.raises(InvalidInput, match="not an export"):
                await imported(services, lines)
        assert await everything(services) == []

    run(body())


@KINDS
def test_a_memory_that_stands_twice_in_a_file_is_stored_once(into):
    """Twice in a portion or in two: one memory, and the count says so."""

    async def body():
        services = await bound(in_memory(), into)
        counted, _ = await imported(services, file_of(*old(2), *old(2)))
        assert (counted.stored, counted.present) == (2, 2)
        assert len(await everything(services)) == 2

    run(body())


@KINDS
@pytest.mark.parametrize("portion", [1, 10], ids=["in two portions", "in one"])
def test_the_first_of_two_lines_with_one_id_stays(into, portion, monkeypatch):
    """As what is there already does, however they differ and wherever portions end."""
    monkeypatch.setattr("memtrace_core.importing.EMBEDDED_ROWS", portion)
    monkeypatch.setattr("memtrace_core.importing.ARC_ROWS", portion)

    async def body():
        services = await bound(in_memory(), into)
        (first,) = old(1)
        counted, _ = await imported(services, file_of(first, msgspec.structs.replace(first, content="other")))
        assert (counted.stored, counted.present) == (1, 1)
        assert contents(await everything(services)) == ["m0"]

    run(body())


def test_a_line_that_is_far_too_long_is_named_as_that():
    """Only its beginning is read, and yet the file does not end there."""

    async def body():
        services = await bound(in_memory(), embedded_instance(OTHER_ORG))
        head, *rest = file_of(*old(1))
        counted, troubles = await imported(services, [head, b"x" * (MOST_LINE_BYTES + 1), *rest])
        assert troubles[2] == "the line is longer than 16 MiB"
        assert (counted.stored, counted.refused) == (1, 1)

    run(body())


@KINDS
@pytest.mark.parametrize("after", range(4))
def test_an_import_that_was_interrupted_is_finished_by_another(into, after, monkeypatch):
    """Wherever the first one ends, the second adds what is missing and changes nothing of the rest."""
    monkeypatch.setattr("memtrace_core.importing.EMBEDDED_ROWS", 2)
    monkeypatch.setattr("memtrace_core.importing.ARC_ROWS", 2)

    def interrupted(lines):
        yield from lines[: 1 + 2 * after + 1]
        raise KeyError("the power went")

    async def body():
        services = await bound(in_memory(), into)
        lines = file_of(*old(7))
        with pytest.raises(KeyError):
            await imported(services, interrupted(lines))
        before = len(await everything(services))
        counted, _ = await imported(services, lines)
        assert (counted.present, counted.stored, counted.whole) == (before, 7 - before, True)
        assert contents(await everything(services)) == [f"m{number}" for number in range(7)]

    run(body())


def test_what_arc_takes_and_loses_is_written_again():
    """Nothing counts as imported before readers would be shown it."""

    async def body():
        services = await bound(in_memory(durable=False), instance(OTHER_ORG))
        write, losses = services.gateway.write, iter([True, False])

        async def lossy(one, memories):
            return False if next(losses, False) else await write(one, memories)

        services.gateway.write = lossy
        counted, troubles = await imported(services, file_of(*old(3)))
        assert (counted.stored, counted.whole, troubles) == (3, True, {})
        assert len(await everything(services)) == 3

    run(body())


def test_an_arc_that_never_shows_what_it_takes_fails_the_import():
    """After several rounds the import ends with an error, and counts nothing."""

    async def body():
        services = await bound(in_memory(durable=False), instance(OTHER_ORG))

        async def black_hole(one, memories):
            return False

        services.gateway.write = black_hole
        with pytest.raises(ArcUnreachable, match="does not show them; 3 are missing"):
            await imported(services, file_of(*old(3)))

    run(body())


@pytest.mark.parametrize("error", [ArcRejected, ArcFailed], ids=["rejected", "failed without a reason"])
def test_memories_that_arc_refuses_are_found_and_named(error):
    """Of a batch the bad ones are told by their lines with Arc's answer, and the others are imported."""

    async def body():
        services = await bound(in_memory(durable=False), instance(OTHER_ORG))
        write = services.gateway.write

        async def picky(one, memories):
            if {"m2", "m7"} & set(contents(memories)):
                raise error("arc answered 400: bad column")
            return await write(one, memories)

        services.gateway.write = picky
        counted, troubles = await imported(services, file_of(*old(10)))
        assert (counted.stored, counted.refused, counted.complete) == (8, 2, True)
        assert troubles == {4: "arc answered 400: bad column", 9: "arc answered 400: bad column"}
        assert len(await everything(services)) == 8

    run(body())


def test_an_arc_that_is_away_is_asked_again_for_a_while():
    """One that comes back is given everything; one that does not ends the import with its error."""

    async def body():
        services = await bound(in_memory(), instance(OTHER_ORG))
        services.gateway.unreachable.add(instance(OTHER_ORG).id)
        with pytest.raises(ArcUnreachable):
            await imported(services, file_of(*old(3)))
        assert services.clock.now() - START < timedelta(minutes=15)
        work = asyncio.ensure_future(imported(services, file_of(*old(3))))
        await settle()
        services.gateway.unreachable.clear()
        assert (await work)[0].stored == 3

    run(body())


def test_imported_memories_claim_their_keys_wherever_they_go():
    """A write like a young imported memory is a duplicate, also if the import ended before it made the claims."""

    async def body():
        services = await bound(in_memory(durable=False), instance(OTHER_ORG))
        young = memory(START - HOUR, ORG, dedup_key="k")
        await services.gateway.write(instance(OTHER_ORG), [memory(START - HOUR, OTHER_ORG, dedup_key="k")])
        await imported(services, file_of(young, memory(START - HOUR, ORG, salt=1, dedup_key="other")))
        outcomes = await services.memories.remember(
            OTHER_ORG, [NewMemory(agent_id="ada", content="x", dedup_key=key) for key in ("k", "other")]
        )
        assert [one.memory_id for one in outcomes] == [young.memory_id, memory(START - HOUR, salt=1).memory_id]
        assert not any(isinstance(one, Memory) for one in outcomes)

    run(body())


@KINDS
def test_what_is_forgotten_is_not_imported(into):
    """The file's other memories come in, and the report counts those that stay out; that is no failure."""

    async def body():
        services = await bound(in_memory(), into)
        lines = [*old(3), memory(START - HOUR, content="bob's", agent_id="bob")]
        await services.journal.forget(OTHER_ORG, Forgotten(before=START, agent_id="bob"), in_arc=not into.embedded)
        counted, troubles = await imported(services, file_of(*lines))
        assert (counted, troubles) == (Imported(stored=3, forgotten=1, complete=True), {})
        assert counted.whole
        assert len(await everything(services)) == 3

    run(body())


def test_what_is_forgotten_while_it_is_imported_is_hidden_again():
    """An order that was taken after memories were admitted, and done before they arrived, is carried out again."""

    async def body():
        services = await bound(in_memory(durable=False), instance(OTHER_ORG))
        write = services.gateway.write

        async def overtaken(one, memories):
            order = await services.journal.forget(OTHER_ORG, Forgotten(before=START, agent_id="ada"), in_arc=True)
            await services.journal.note_progress(OTHER_ORG, [order], done=True)
            return await write(one, memories)

        services.gateway.write = overtaken
        await imported(services, file_of(*old(3)))
        assert await services.journal.forgetting_orgs() == [OTHER_ORG]
        assert await everything(services) == []

    run(body())


def test_what_an_import_brought_before_it_was_killed_is_hidden_by_the_next():
    """What is forgotten and in Arc all the same, though its order is done, is deleted there once more."""

    async def body():
        services = await bound(in_memory(durable=False), instance(OTHER_ORG))
        order = await services.journal.forget(OTHER_ORG, Forgotten(before=START, agent_id="ada"), in_arc=True)
        await services.journal.note_progress(OTHER_ORG, [order], done=True)
        await imported(services, file_of(*old(3)))
        assert await services.journal.forgetting_orgs() == []
        await services.gateway.write(instance(OTHER_ORG), [memory(one.time, OTHER_ORG) for one in old(3)])
        counted, _ = await imported(services, file_of(*old(3)))
        assert counted.forgotten == 3
        assert await services.journal.forgetting_orgs() == [OTHER_ORG]
        assert await everything(services) == []

    run(body())


def test_what_the_journal_would_hide_is_imported_when_it_does_not_any_more():
    """Restored beside memories that Arc has not confirmed, this node's are neither hidden nor seen twice."""

    async def body():
        services = await bound(in_memory(durable=False), instance(OTHER_ORG))
        first, lost, last = await services.memories.remember(
            OTHER_ORG, [NewMemory(agent_id="ada", content=content) for content in ("first", "lost", "last")]
        )
        lines = [
            encode_line(line).encode()
            for line in [line async for portion in services.exporting.export(OTHER_ORG) for line in portion]
        ]
        await services.backlog.drop(OTHER_ORG, [lost.memory_id])
        assert len(await everything(services)) == 2
        await services.start()
        counted, troubles = await imported(services, lines)
        assert (counted, troubles) == (Imported(stored=1, present=2, complete=True), {})
        assert await everything(services) == [first, lost, last]
        await services.stop()

    run(body())


def test_without_a_server_that_delivers_the_import_says_what_must_come_first():
    """It does not wait for what nobody does; what can be imported is, and the rest another time."""

    async def body():
        services = await bound(in_memory(durable=False, ownership=InMemoryOwnership()), instance(OTHER_ORG))
        _, lost = await services.memories.remember(
            OTHER_ORG, [NewMemory(agent_id="ada", content=content) for content in ("first", "lost")]
        )
        await services.backlog.drop(OTHER_ORG, [lost.memory_id])
        one = memory(lost.time, ORG, node=parse_memory_id(lost.memory_id)[1])
        counted, troubles = await imported(services, file_of(*old(1), one))
        assert (counted.stored, counted.refused) == (1, 1)
        assert "start the server" in troubles[3]

    run(body())


def test_an_import_ends_when_its_org_is_bound_elsewhere():
    """It does not go on writing to the former store."""

    def lines(services):
        for number, line in enumerate(file_of(*old(5))):
            if number == 4:
                services.repo.switched = True
            yield line

    async def body():
        services = await bound(in_memory(), embedded_instance(OTHER_ORG))
        original = services.repo.instance_of

        async def instance_of(org_id):
            found = await original(org_id)
            return instance(OTHER_ORG, id="arc_new") if getattr(services.repo, "switched", False) else found

        services.repo.instance_of = instance_of
        with pytest.raises(Conflict, match="meanwhile"):
            await imported(services, lines(services))

    run(body())


def test_agents_and_sessions_that_are_taken_are_left_as_they_are():
    """An agent of the same name and a session of another org stay; memories come all the same, and a note tells."""

    async def body():
        services = await bound(in_memory(), embedded_instance(OTHER_ORG), embedded_instance("org_c"))
        await services.repo.create_agent(agent(OTHER_ORG, 1, name="ada"))
        await services.repo.create_session(session("org_c", 1))
        lines = [HEAD, agent(ORG, 2, name="ada"), agent(ORG, 3), session(ORG, 1), session(ORG, 2)]
        lines.append(End(memories=0, agents=2, sessions=2, until=START))
        notes = []
        counted = await services.importing.run(
            OTHER_ORG,
            [encode_line(line).encode() for line in lines],
            on_trouble=lambda *_: pytest.fail("nothing is wrong"),
            on_note=notes.append,
        )
        assert counted == Imported(agents=1, sessions=1, complete=True)
        assert [note.partition(":")[0] for note in notes] == ["line 2", "line 4"]
        assert (await services.agents.get(OTHER_ORG, "ada")).id == agent(number=1).id
        assert (await services.sessions.get("org_c", session(number=1).id)).org_id == "org_c"

    run(body())


def test_an_import_needs_an_org_with_a_store():
    """An unknown org, and one without an Arc instance, are named before a line is read."""

    async def body():
        services = await bound(in_memory(), embedded_instance(OTHER_ORG))
        await services.repo.unbind_instance(OTHER_ORG)
        for org_id in ("org_unknown", OTHER_ORG):
            with pytest.raises(NotFound):
                await imported(services, itertools.count(), org_id)

    run(body())
