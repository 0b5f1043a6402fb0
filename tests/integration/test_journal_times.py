import asyncio
import multiprocessing
from datetime import timedelta

from builders import MICROSECOND, START, draft, embedded_instance, instance, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memtrace_core.identifiers import parse_memory_id
from memtrace_core.model import Memory
from memtrace_core.query import MemoryQuery
from memtrace_core.testing import ManualClock
from memtrace_core.timewindow import from_us
from memtrace_sqlite import SqliteJournal

ARC = instance()
EMBEDDED = embedded_instance("org_b")


async def appended(journal, *contents, target=ARC):
    """Append memories in one go, and return them."""
    return await journal.append(target, [draft(content) for content in contents])


async def session(path, clock, work):
    """Open a journal, do some work with it, and close it."""
    journal = SqliteJournal(path, clock)
    try:
        return await work(journal)
    finally:
        await journal.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.integers(0, 3), st.booleans(), st.booleans()), min_size=2, max_size=12
    )
)
def test_times_only_ever_increase(new_folder, steps):
    """Over restarts, with the clock standing still or set back, in both stores, no time comes twice or late."""
    path = new_folder() / "journal.db"
    clock = ManualClock()
    memories = []

    async def scenario():
        journal = SqliteJournal(path, clock)
        for moved, count, embedded, restart in steps:
            if restart:
                await journal.close()
                journal = SqliteJournal(path, clock)
            if moved < 0:
                clock.set_back(-moved * timedelta(days=400))
            else:
                clock.advance(moved * MICROSECOND)
            memories.extend(await appended(journal, *"x" * count, target=EMBEDDED if embedded else ARC))
        await journal.close()

    run(scenario())
    times = [memory.time for memory in memories]
    assert times == sorted(set(times))
    ids = [memory.memory_id for memory in memories]
    assert ids == sorted(set(ids))


def test_a_time_is_the_clocks_when_that_has_moved_on(tmp_path):
    """A memory is stamped with the time of day to the microsecond, and its id tells that time and the node."""
    clock = ManualClock()

    async def work(journal):
        (first,) = await appended(journal, "first")
        clock.advance(timedelta(seconds=5))
        (second, third) = await appended(journal, "second", "third")
        return journal.node, [first, second, third]

    node, memories = run(session(tmp_path / "journal.db", clock, work))
    later = START + timedelta(seconds=5)
    assert [memory.time for memory in memories] == [START, later, later + MICROSECOND]
    for memory in memories:
        us, writer = parse_memory_id(memory.memory_id)
        assert from_us(us) == memory.time
        assert writer == node


def test_a_refused_duplicate_uses_up_no_time(tmp_path):
    """Only stored memories take a time, so ids and times have no holes that a duplicate made."""

    async def work(journal):
        same = [draft(dedup_key="k"), draft(dedup_key="k"), draft("other")]
        return await journal.append(ARC, same)

    first, _, other = run(session(tmp_path / "journal.db", ManualClock(), work))
    assert other.time == first.time + MICROSECOND


def test_the_time_survives_a_restart_with_nothing_left_in_the_journal(tmp_path):
    """The last time is kept beside the rows: with every row delivered and the clock behind, time goes on."""
    clock = ManualClock()

    async def before(journal):
        memories = await appended(journal, "first", "second")
        await journal.mark_delivered(await journal.next_batch(ARC.org_id, 10, 1 << 20), durable=True)
        return memories

    first = run(session(tmp_path / "journal.db", clock, before))
    clock.set_back(timedelta(days=1))
    (later,) = run(session(tmp_path / "journal.db", clock, lambda journal: appended(journal, "later")))
    assert later.time == first[-1].time + MICROSECOND


def test_the_node_is_the_files_and_stays(tmp_path):
    """A journal keeps its node id over restarts; another file has another."""

    async def node(journal):
        return journal.node

    nodes = [run(session(tmp_path / name, ManualClock(), node)) for name in ("a.db", "a.db", "b.db")]
    assert nodes[0] == nodes[1] != nodes[2]


def test_two_writers_on_one_file_never_share_a_time_or_a_claim(tmp_path):
    """Two open journals stamp one increasing order of times, and of equal memories one is stored between them."""

    async def scenario():
        clock = ManualClock()
        journals = [SqliteJournal(tmp_path / "journal.db", clock) for _ in range(2)]
        outcomes = await asyncio.gather(
            *(
                journals[(number + turn) % 2].append(ARC, [draft(f"{number}", dedup_key=f"k{number}")])
                for number in range(60)
                for turn in range(2)
            )
        )
        view = await journals[0].view(MemoryQuery(org_id=ARC.org_id, order="asc", limit=1000))
        assert journals[0].node == journals[1].node
        for journal in journals:
            await journal.close()
        return [outcome for (outcome,) in outcomes], view.memories

    outcomes, on_disk = run(scenario())
    for first, second in zip(outcomes[::2], outcomes[1::2], strict=True):
        assert {isinstance(first, Memory), isinstance(second, Memory)} == {True, False}
        assert first.memory_id == second.memory_id
    stored = sorted((one for one in outcomes if isinstance(one, Memory)), key=lambda memory: memory.time)
    assert len({memory.time for memory in stored}) == 60
    assert on_disk == stored


def write_many(arguments):
    """Append to a journal from a process of its own; return times and what was stored."""
    path, worker = arguments

    async def scenario():
        journal = SqliteJournal(path, ManualClock())
        outcomes = []
        for number in range(25):
            outcomes += await journal.append(ARC, [draft(f"{worker} {number}"), draft("x", dedup_key=f"k{number}")])
        await journal.close()
        return [(outcome.memory_id, isinstance(outcome, Memory)) for outcome in outcomes]

    return asyncio.run(scenario())


def test_processes_on_one_file_never_share_a_time_or_a_claim(tmp_path):
    """Three processes that write at once with clocks that stand still store every key once and every time once."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(write_many, [(tmp_path / "journal.db", worker) for worker in range(3)])
    stored = [identity for outcomes in found for identity, was_stored in outcomes if was_stored]
    assert len(stored) == 3 * 25 + 25
    assert len({parse_memory_id(identity)[0] for identity in stored}) == len(stored)
    for outcomes in found:
        mine = [identity for identity, was_stored in outcomes if was_stored]
        assert mine == sorted(mine)


def test_what_one_instance_closes_the_other_refuses(tmp_path):
    """Closing an org in one process fences the appends of every other, at once, until it is reopened."""

    async def scenario():
        clock = ManualClock()
        server, cli = (SqliteJournal(tmp_path / "journal.db", clock) for _ in range(2))
        await appended(server, "before")
        await cli.close_org(ARC.org_id)
        refused = await asyncio.gather(appended(server, "too late"), return_exceptions=True)
        others = await appended(server, "of another org", target=EMBEDDED)
        held = await cli.holdings(ARC.org_id)
        await cli.reopen_org(ARC.org_id)
        await appended(server, "after")
        again = await cli.holdings(ARC.org_id)
        await server.close()
        await cli.close()
        return refused, others, held, again

    refused, others, held, again = run(scenario())
    assert [type(error).__name__ for error in refused] == ["OrgClosing"]
    assert len(others) == 1
    assert (held.pending, again.pending) == (1, 2)
