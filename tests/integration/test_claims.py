from datetime import timedelta

import apsw
import msgspec
import pytest
from builders import MICROSECOND, draft, embedded_instance, instance, memory, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memtrace_core.dedup import DedupPolicy
from memtrace_core.forgotten import Forgotten
from memtrace_core.identifiers import memory_id
from memtrace_core.model import Memory
from memtrace_core.testing import ManualClock
from memtrace_core.timewindow import to_us
from memtrace_sqlite import SqliteJournal, claims
from memtrace_sqlite.database import Mode, open_database
from memtrace_sqlite.schema import JOURNAL

ARC = instance()
HOUR = timedelta(hours=1)
DAY = 24 * HOUR
EMBEDDED = embedded_instance()
WINDOWS = [HOUR, 2 * HOUR, 23 * HOUR, DAY, 25 * HOUR, 720 * HOUR, 87_600 * HOUR]


class World:
    """One journal file, a clock, and whoever opens it in turn."""

    def __init__(self, folder, window=DAY):
        self.path = folder / "journal.db"
        self.clock = ManualClock()
        self.window = window
        self._journal = None

    def store(self, *keys, target=ARC):
        """Append memories with these keys together; tell which were stored."""

        async def work(journal):
            outcomes = await journal.append(target, [draft(key, dedup_key=key) for key in keys])
            return [isinstance(outcome, Memory) for outcome in outcomes]

        return self.with_journal(work)

    def with_journal(self, work):
        """Open the file afresh, as after a restart, and do something with it."""

        async def scenario():
            journal = SqliteJournal(self.path, self.clock, DedupPolicy(True, self.window))
            try:
                return await work(journal)
            finally:
                await journal.close()

        return run(scenario())

    def tables(self):
        """Return how many claims each table by key has, and then how many are not in one yet."""
        connection = apsw.Connection(str(self.path))
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE name GLOB 'claims_[0-9]*'")
        ]
        counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in sorted(names)}
        listed = [
            f"claims_{start}" for (start,) in connection.execute("SELECT start FROM claim_tables ORDER BY start")
        ]
        ((recent,),) = connection.execute("SELECT count(*) FROM recent_claims WHERE memory_id <> ''")
        connection.close()
        assert listed == sorted(names)
        return [*counts.values(), recent]


@pytest.mark.parametrize("window", WINDOWS)
def test_the_window_ends_to_the_microsecond(tmp_path, window):
    """A key is taken until one microsecond before its window is over, and free when it is."""
    world = World(tmp_path, window)
    assert world.store("k") == [True]
    world.clock.advance(window - MICROSECOND)
    assert world.store("k") == [False]
    world.clock.advance(MICROSECOND)
    assert world.store("k") == [True]
    assert world.store("k") == [False]


def test_a_duplicate_does_not_prolong_the_window(tmp_path):
    """The window counts from the first copy: asking again and again does not move its end."""
    world = World(tmp_path)
    world.store("k")
    for _ in range(24):
        world.clock.advance(HOUR - MICROSECOND)
        assert world.store("k") == [False]
    world.clock.advance(24 * MICROSECOND)
    assert world.store("k") == [True]


def test_claims_lie_in_hourly_tables_and_old_ones_go_whole(tmp_path):
    """Each hour has a small table of its own; past the window it disappears, so their number stays bounded."""
    world = World(tmp_path)
    most = 0
    for number in range(75):
        world.store(f"a{number}")
        world.store(f"b{number}", f"c{number}")
        most = max(most, len(world.tables()) - 1)
        world.clock.advance(HOUR)
    *closed, newest, recent = world.tables()
    assert (set(closed), newest, recent) == ({3}, 0, 3)
    assert 24 <= most <= 26


def test_claims_of_one_hour_share_a_table(tmp_path):
    """Within one stretch nothing but rows is added."""
    world = World(tmp_path)
    for number in range(6):
        world.store(str(number))
        world.clock.advance(timedelta(minutes=10) - MICROSECOND)
    assert world.tables() == [0, 6]


def test_claims_move_into_their_table_in_portions(tmp_path, monkeypatch):
    """Of many new claims the older half moves at once; all hold their keys, wherever they are."""
    monkeypatch.setattr(claims, "PORTION", 4)
    world = World(tmp_path)
    found = []
    for number in range(14):
        assert world.store(f"k{number}") == [True]
        found.append(world.tables())
    assert found[7:9] == [[0, 8], [4, 5]]
    assert found[-1] == [8, 6]
    assert world.store(*(f"k{number}" for number in range(14))) == [False] * 14


def test_a_large_table_takes_no_more(tmp_path, monkeypatch):
    """Many claims in one hour come into several tables, which become larger before there are too many."""
    monkeypatch.setattr(claims, "PORTION", 2)
    monkeypatch.setattr(claims, "LARGE_TABLE", 4)
    monkeypatch.setattr(claims, "MOST_LARGE_TABLES", 3)
    world = World(tmp_path)
    keys = [f"k{number}" for number in range(40)]
    for key in keys:
        world.store(key)
    *tables, newest, recent = world.tables()
    assert tables == [4, 4, 4, 6, 8]
    assert sum(tables) + newest + recent == len(keys)
    assert world.store(*keys) == [False] * len(keys)
    world.clock.advance(DAY)
    assert world.store(*keys) == [True] * len(keys)


def test_a_window_of_ten_years_stays_within_sqlites_limits(tmp_path):
    """With the longest window that can be set, the number of tables to look in stays far below SQLite's 500."""
    world = World(tmp_path, 87_600 * HOUR)
    for number in range(120):
        assert world.store(f"k{number}", f"k{number}") == [True, False]
        world.clock.advance(world.window / 96)
    assert 24 <= len(world.tables()) - 1 <= 26


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), min_size=2, max_size=25))
def test_dedup_agrees_with_a_dictionary(new_folder, steps):
    """For any sequence of keys and pauses, with restarts between, a key is refused exactly when it should be."""
    world = World(new_folder(), 3 * HOUR)
    first = {}
    pauses = [timedelta(), MICROSECOND, timedelta(minutes=59), HOUR, 3 * HOUR - MICROSECOND, 3 * HOUR]
    last = world.clock.now() - MICROSECOND
    for key, pause in steps:
        world.clock.advance(pauses[pause])
        now = max(world.clock.now(), last + MICROSECOND)
        free = key not in first or now - first[key] >= world.window
        assert world.store(key) == [free]
        if free:
            first[key] = last = now


def test_a_claim_outlives_its_delivered_memory_and_a_restart(tmp_path):
    """A memory that has left the journal still holds its key."""
    world = World(tmp_path)

    async def store_and_deliver(journal):
        await journal.append(ARC, [draft(dedup_key="k")])
        await journal.mark_delivered(await journal.next_batch(ARC.org_id, 10, 1 << 20), durable=True)
        assert (await journal.holdings(ARC.org_id)).pending == 0

    world.with_journal(store_and_deliver)
    assert world.store("k") == [False]


def test_claims_stamped_past_their_stretch_keep_their_whole_window(tmp_path):
    """A transaction that begins in one hour and stamps into the next frees none of its keys early."""
    world = World(tmp_path)
    world.store("a")
    world.clock.advance(HOUR - MICROSECOND)
    assert world.store("b", "c", "d") == [True] * 3
    world.clock.advance(DAY + MICROSECOND)  # one microsecond before d's window is over
    assert world.store("d") == [False]
    assert world.store("b") == [True]


@pytest.mark.parametrize(("before", "after"), [(720 * HOUR, DAY), (DAY, 720 * HOUR), (HOUR, 2 * HOUR)])
def test_another_window_after_a_restart_counts_from_the_first_copy_too(tmp_path, before, after):
    """A changed window holds for the claims that are there: none is forgotten that is younger."""
    world = World(tmp_path, before)
    world.store("old")
    world.clock.advance(before / 24 - 2 * timedelta(minutes=1))
    world.store("young")
    world.clock.advance(timedelta(minutes=1))
    world.window = after
    for _ in range(3):
        assert world.store("young") == [False]
        world.clock.advance(HOUR / 4)
    world.clock.advance(after)
    assert world.store("young") == [True]


def test_a_clock_that_is_set_back_forgets_no_claim(tmp_path):
    """The window counts in the journal's own time, which never runs backwards."""
    world = World(tmp_path)
    world.store("k")
    world.clock.set_back(timedelta(days=300))
    assert world.store("k") == [False]
    world.clock.advance(timedelta(days=300) + DAY - MICROSECOND)
    assert world.store("k") == [False]
    world.clock.advance(MICROSECOND)
    assert world.store("k") == [True]


@pytest.fixture(params=["among the newest", "in a table by key"])
def anywhere(request, monkeypatch):
    """Have claims stay where they are made, or move as soon as they can."""
    if request.param == "in a table by key":
        monkeypatch.setattr(claims, "PORTION", 0)


def test_a_forgotten_memorys_claim_is_freed(tmp_path, anywhere):
    """Wherever it lies, by an order or when Arc names its memory; another agent's stays."""
    world = World(tmp_path)

    async def store(journal):
        outcomes = [
            await journal.append(EMBEDDED, [draft(key, dedup_key=key, agent_id=agent_id)])
            for key, agent_id in (("ordered", "ada"), ("named", "ada"), ("another", "bob"))
        ]
        world.clock.advance(HOUR)
        return outcomes[1]

    async def name(journal):
        order = Forgotten(agent_id="eve", before=world.clock.now())
        taken = await journal.forget(EMBEDDED.org_id, order, in_arc=True)
        await journal.free_claims(taken, named, all_of_them=True)

    async def forget(journal):
        order = Forgotten(agent_id="ada", before=world.clock.now())
        await journal.forget(EMBEDDED.org_id, order, in_arc=False)

    named = world.with_journal(store)
    world.with_journal(name)
    assert world.store("ordered", "named", "another", target=EMBEDDED) == [False, True, False]
    world.clock.advance(HOUR)
    world.with_journal(forget)
    assert world.store("ordered", "named", "another", target=EMBEDDED) == [True, True, False]


def test_imported_memories_claim_their_keys_once(tmp_path, anywhere):
    """Whatever is imported again and again: a key that is taken keeps its first claim, a free one is taken."""
    world = World(tmp_path)
    assert world.store("taken", target=EMBEDDED) == [True]
    at = world.clock.now() - HOUR
    came = [memory(at, salt=number, dedup_key=key) for number, key in enumerate(("taken", "free", "free"))]

    async def admit(journal):
        return len((await journal.admit(EMBEDDED, came)).stored)

    async def first_of(journal):
        outcomes = await journal.append(EMBEDDED, [draft(dedup_key=key) for key in ("taken", "free")])
        return [outcome.memory_id for outcome in outcomes]

    assert [world.with_journal(admit) for _ in range(3)] == [3, 0, 0]
    taken, free = world.with_journal(first_of)
    assert taken not in {one.memory_id for one in came}
    assert free == came[1].memory_id
    world.clock.advance(world.window - HOUR)
    assert world.store("taken", "free", target=EMBEDDED) == [False, True]


def test_a_large_group_of_claims_does_not_stay_behind(tmp_path, monkeypatch):
    """However many claims one transaction makes, the next moves all but the youngest."""
    monkeypatch.setattr(claims, "PORTION", 4)
    world = World(tmp_path)
    keys = [f"k{number}" for number in range(100)]
    assert world.store(*keys) == [True] * 100
    assert world.store("next") == [True]
    assert world.tables() == [96, 5]
    assert world.store(*keys) == [False] * 100


@pytest.mark.parametrize("version", [1, 2, 3])
def test_claims_of_a_former_schema_are_kept(tmp_path, version):
    """A journal whose claims all went straight into hourly tables is brought up to date, and none is forgotten."""
    world = World(tmp_path)
    former = msgspec.structs.replace(JOURNAL, migrations=JOURNAL.migrations[:version])
    connection = open_database(world.path, former, Mode.MIGRATE)
    starts = [to_us(world.clock.now() - hours * HOUR) for hours in (5, 2)]
    for start in starts:
        connection.execute(
            f"""
            CREATE TABLE claims_{start} (
                org_id TEXT NOT NULL, dedup_key TEXT NOT NULL, memory_id TEXT NOT NULL, time INTEGER NOT NULL,
                PRIMARY KEY (org_id, dedup_key)
            ) STRICT, WITHOUT ROWID
            """
        )
        connection.execute("INSERT INTO claim_tables VALUES (?)", (start,))
        claim = (ARC.org_id, f"k{start}", memory_id(start, "aabbcc", "0000"), start)
        connection.execute(f"INSERT INTO claims_{start} VALUES (?, ?, ?, ?)", claim)
    connection.close()
    open_database(world.path, JOURNAL, Mode.MIGRATE).close()
    assert world.store(*(f"k{start}" for start in starts), "new", "new") == [False, False, True, False]
    assert world.tables() == [1, 1, 0, 1]
    world.clock.advance(22 * HOUR)
    assert world.store(*(f"k{start}" for start in starts)) == [True, True]


def test_orgs_and_stores_have_claims_of_their_own(tmp_path):
    """A key that one org has taken is free for another; the embedded store is no exception."""
    world = World(tmp_path)
    assert world.store("k") == [True]
    assert world.store("k", target=embedded_instance("org_b")) == [True]
    assert world.store("k", target=embedded_instance("org_b")) == [False]
    assert world.store("k", target=instance("org_c")) == [True]


def test_purging_an_org_frees_its_claims_and_nobody_elses(tmp_path):
    """A purged org's keys are gone from every table; another org's stay taken."""
    world = World(tmp_path)
    for number in range(3):
        world.store(f"k{number}")
        world.store(f"k{number}", target=instance("org_b"))
        world.clock.advance(HOUR)

    async def purge(journal):
        await journal.close_org(ARC.org_id)
        await journal.purge_org(ARC.org_id)
        await journal.reopen_org(ARC.org_id)

    world.with_journal(purge)
    assert world.store("k0", "k1", "k2", target=instance("org_b")) == [False] * 3
    assert world.store("k0", "k1", "k2") == [True] * 3


def test_without_dedup_no_key_is_claimed(tmp_path):
    """With dedup off equal memories are stored as often as they come, and leave no claims."""
    world = World(tmp_path)

    async def scenario():
        journal = SqliteJournal(world.path, world.clock, DedupPolicy(enabled=False))
        outcomes = await journal.append(ARC, [draft(dedup_key="k")] * 3)
        await journal.close()
        return outcomes

    assert all(isinstance(outcome, Memory) for outcome in run(scenario()))
    assert sum(world.tables()) == 0
