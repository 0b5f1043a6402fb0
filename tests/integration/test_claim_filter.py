from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import ClassVar

import apsw
import pytest
from builders import draft, instance, memory, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memtrace_core.dedup import DedupPolicy
from memtrace_core.model import Memory
from memtrace_core.testing import ManualClock
from memtrace_sqlite import SqliteJournal, claim_filter, claims
from memtrace_sqlite.claim_filter import ClaimFilter
from memtrace_sqlite.claims import Claims
from memtrace_sqlite.schema import JOURNAL

ARC = instance()
HOUR = timedelta(hours=1)
HOUR_US = 3_600_000_000


class Tables:
    """The claim tables alone, in a database of their own."""

    def __init__(self, window_hours=24):
        self.connection = apsw.Connection("")
        for script in JOURNAL.migrations:
            self.connection.execute(script)
        self.statements = []
        self.connection.exec_trace = lambda _, sql, __: self.statements.append(sql) or True
        self.claims = Claims(self.connection, window_hours * HOUR)
        self.now = HOUR_US

    def another(self):
        """Return the claims as another process sees them."""
        return Claims(self.connection, 24 * HOUR)

    def claim(self, key, process=None):
        """Claim a key in a transaction of its own, if it is free; tell whether it was."""
        claims = process or self.claims
        with self.connection:
            claims.begin()
            claims.prepare(self.now)
            free = not claims.find("org_a", key, self.now)
            if free:
                claims.add(("org_a", key, f"mem_{key}", self.now))
                claims.write()
        return free

    def load(self, key, time):
        """Claim a key for a memory from elsewhere."""
        with self.connection:
            self.claims.begin()
            self.claims.prepare(self.now)
            self.claims.add_absent(("org_a", key, "mem_loaded", time), self.now, lambda _: False)
            self.claims.write()

    @contextmanager
    def undone(self):
        """Begin a transaction, and roll it back in the end."""
        self.connection.execute("BEGIN")
        self.claims.begin()
        yield
        self.connection.execute("ROLLBACK")

    def lookups(self, key):
        """Return in how many tables a key is looked for."""
        self.claim("warm")  # whatever there was to learn is learned
        self.statements.clear()
        self.claim(key)
        return sum(sql.count("FROM claims_") for sql in self.statements if "SELECT time, memory_id" in sql)


def test_a_new_key_is_looked_for_in_no_table():
    """With a day of claims a new key costs no look; one that was claimed is still found."""
    tables = Tables()
    for hour in range(20):
        assert tables.claim(f"k{hour}")
        tables.now += HOUR_US
    assert tables.lookups("new") == 0
    assert not tables.claim("k3")


def test_a_restart_looks_everywhere_until_it_has_learned(monkeypatch):
    """What another process has claimed is found before and after this one knows the tables."""
    monkeypatch.setattr(claims, "LEARNED_AT_ONCE", 3)
    tables = Tables()
    for number in range(40):
        tables.claim(f"k{number}")
        tables.now += HOUR_US // 8
    tables.claims = tables.another()
    for _ in range(30):
        assert [tables.claim(f"k{number}") for number in (0, 17, 39)] == [False] * 3
    assert tables.lookups("new") == 0


def test_a_claim_whose_release_is_rolled_back_is_not_forgotten():
    """What a transaction frees is not learned as free: the transaction may fail."""
    tables = Tables()
    tables.claim("old")
    tables.now += HOUR_US
    tables.claim("young")
    tables.claims = tables.another()
    with tables.undone():
        tables.claims.free("org_a", "old", "mem_old")
        tables.claims.prepare(tables.now)
    assert not tables.claim("old")
    assert not tables.claim("old")


def test_a_table_whose_successor_is_rolled_back_is_learned_later():
    """The newest table takes claims again when the transaction that made another is undone."""
    tables = Tables()
    tables.claim("old")
    tables.now += HOUR_US
    for _ in range(2):
        with tables.undone():
            tables.claims.prepare(tables.now)
    tables.now -= HOUR_US // 2
    assert tables.claim("late")
    tables.now += HOUR_US
    assert tables.claim("next")
    assert not tables.claim("late")


def test_claims_that_moved_unseen_are_found(monkeypatch):
    """What others have claimed and moved while this process was idle is looked for in a table that it knew."""
    monkeypatch.setattr(claims, "PORTION", 1)
    tables, other = Tables(), None
    for number in range(3):
        tables.claim(f"mine{number}")
    assert tables.lookups("new") == 0
    other = tables.another()
    for number in range(5):
        assert tables.claim(f"unseen{number}", other)
    assert not tables.claim("unseen0")
    assert not tables.claim("unseen4")


def test_claims_whose_move_is_rolled_back_are_found(monkeypatch):
    """A failed transaction leaves claims where they were, and this process finds them there."""
    monkeypatch.setattr(claims, "PORTION", 1)
    tables = Tables()
    tables.claim("a")
    tables.claim("b")
    with tables.undone():
        tables.claims.prepare(tables.now)
    assert not tables.claim("a")
    assert not tables.claim("b")


@pytest.mark.parametrize("whole_org", [False, True])
def test_a_claim_after_a_release_is_noticed_by_others(whole_org):
    """When the youngest claim is freed, the next one is not taken for it by a process that knows that one."""
    tables = Tables()
    idle = tables.another()
    tables.claim("freed")
    assert not tables.claim("freed", idle)
    with tables.connection:
        tables.claims.begin()
        tables.claims.free_org("org_a") if whole_org else tables.claims.free("org_a", "freed", "mem_freed")
    assert tables.claim("next", tables.another())
    assert not tables.claim("next", idle)
    assert tables.claim("freed", idle)


@pytest.mark.parametrize("failing", ["FROM recent_claims", "ORDER BY org_id, dedup_key LIMIT"])
def test_what_could_not_be_read_is_not_taken_for_seen(monkeypatch, failing):
    """When a read at the beginning of a transaction fails half way, the next one finds what others have claimed."""
    monkeypatch.setattr(claims, "PORTION", 2)
    monkeypatch.setattr(claims, "LEARNED_AT_ONCE", 3)
    tables = Tables()
    keys = [f"k{number}" for number in range(12)]
    tables.claim("known")
    assert tables.lookups("new") == 0
    other = tables.another()
    for key in keys[:10]:
        assert tables.claim(key, other)

    def fail(cursor, row):
        if failing in cursor.statements[-1] and row[-1] != keys[8]:
            raise apsw.IOError
        return row

    class Cursor(apsw.Cursor):
        def execute(self, statement, *arguments):
            self.statements.append(statement)
            return super().execute(statement, *arguments)

        statements: ClassVar = []

    tables.connection.cursor_factory, tables.connection.row_trace = Cursor, fail
    with pytest.raises(apsw.IOError):
        tables.claim("k0")
    tables.connection.row_trace = None
    for key in keys[10:]:
        assert tables.claim(key, other)
    assert [tables.claim(key) for key in keys] == [False] * 12


def test_a_claim_that_gives_way_in_its_own_transaction_is_gone():
    """When a memory is forgotten and stored again at once, its first claim does not come back with a restart."""
    tables = Tables()
    with tables.connection:
        tables.claims.begin()
        tables.claims.prepare(tables.now)
        for number in range(2):
            tables.claims.add(("org_a", "k", f"mem_{number}", tables.now + number))
            tables.claims.write()
        tables.claims.free("org_a", "k", "mem_1")
    assert tables.claim("k", tables.another())


def test_a_key_that_is_claimed_twice_at_once_moves_with_its_last_claim():
    """Claims leave in the order of their numbers, also when another was made between two of one key."""
    tables = Tables()
    with tables.connection:
        tables.claims.begin()
        tables.claims.prepare(tables.now)
        for number, key in enumerate("aba"):
            tables.claims.add(("org_a", key, f"mem_{number}", tables.now + number))
        tables.claims.write()
    tables.claims.committed()
    for process in (tables.claims, tables.another()):
        tables.now += HOUR_US
        assert [tables.claim(key, process) for key in "ab"] == [False, False]


def test_a_claim_past_the_window_gives_way_for_good():
    """When the memory that took over a key is forgotten, no older one has it back, though the window be longer."""
    tables = Tables(window_hours=1)
    tables.load("k", tables.now - HOUR_US)
    assert tables.claim("k")
    with tables.connection:
        tables.claims.begin()
        tables.claims.free("org_a", "k", "mem_k")
    assert tables.claim("k", tables.another())


def test_an_older_claim_from_elsewhere_takes_no_younger_ones_place(monkeypatch):
    """Of two claims of one key that meet in a table the younger stays, in whatever order they came."""
    monkeypatch.setattr(claims, "PORTION", 1)
    tables = Tables()
    for key in ("k", "a", "b"):
        tables.claim(key)
    tables.load("k", tables.now - HOUR_US)
    for key in ("c", "d", "e"):
        tables.claim(key)
    tables.now += 24 * HOUR_US - 1
    assert not tables.claim("k")


def test_claims_from_elsewhere_may_fill_a_table_at_the_moment_it_begins(monkeypatch):
    """However many claims are loaded while the clock stands still, they find room."""
    monkeypatch.setattr(claims, "PORTION", 1)
    monkeypatch.setattr(claims, "LARGE_TABLE", 2)
    tables = Tables()
    for number in range(9):
        tables.load(f"k{number}", tables.now - HOUR_US)
    assert [tables.claim(f"k{number}") for number in range(9)] == [False] * 9


def test_a_filter_that_takes_over_knows_claims_that_had_not_moved():
    """What was noted before a generation began, and came into a table after that, is in it."""
    tables = Tables()
    for start in range(1, 6):
        tables.connection.execute(f"CREATE TABLE claims_{start} (org_id TEXT, dedup_key TEXT)")
    found, key = ClaimFilter(tables.connection), ("org_a", "late")
    found.note([key])
    for starts in ([1], [2], [3], [4], [5]):
        found.learn(starts, 10, [key])
        assert found.may_hold(key)


def test_the_filter_forgets_what_is_past_the_window():
    """It is as good after years as on the first day: claims of dropped tables do not fill it."""
    tables = Tables()
    filled = ClaimFilter(tables.connection)
    closed: list[int] = []
    for hour in range(100):
        tables.claim(f"k{hour}")
        closed = [start for (start,) in tables.connection.execute("SELECT start FROM claim_tables ORDER BY start")]
        filled.learn(closed[:-1], 10, [])
        tables.now += HOUR_US
    assert not any(filled.may_hold(("org_a", f"k{hour}")) for hour in range(40))
    assert all(filled.may_hold(("org_a", f"k{hour}")) for hour in range(80, 99))
    assert set(closed[:-1]) <= set(filled.known)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["store", "store", "store", "load", "drop", "restart", "fail"]),
        st.integers(0, 1),
        st.lists(st.integers(0, 30), min_size=1, max_size=6),
        st.sampled_from([0, 1, 30, 60, 179, 180]),
    ),
    min_size=5,
    max_size=40,
)


@pytest.mark.parametrize("bits", [1 << 6, 1 << 24])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(steps=STEPS)
def test_two_processes_with_filters_agree_with_a_dictionary(new_folder, monkeypatch, bits, steps):
    """Stores, releases, claims from elsewhere, failing transactions, pauses and restarts in any order, while claims
    move from table to table: a key is refused exactly when it should be.
    """
    monkeypatch.setattr(claims, "LEARNED_AT_ONCE", 2)
    monkeypatch.setattr(claims, "PORTION", 2)
    monkeypatch.setattr(claims, "LARGE_TABLE", 5)
    monkeypatch.setattr(claim_filter, "FILTER_BITS", bits)
    path, clock, window = new_folder() / "journal.db", ManualClock(), 3 * HOUR

    def opened():
        return SqliteJournal(path, clock, DedupPolicy(True, window))

    def fail(numbers, ledger):
        ledger.append(ARC, [draft(dedup_key=f"k{number}") for number in numbers])
        ledger.write_rows()
        raise ZeroDivisionError

    async def scenario():
        journals = [opened(), opened()]
        held: dict[str, Memory] = {}
        for what, which, numbers, minutes in steps:
            clock.advance(timedelta(minutes=minutes))
            if what == "restart":
                await journals[which].close()
                journals[which] = opened()
            elif what == "fail":
                with pytest.raises(ZeroDivisionError):
                    await journals[which]._writer.run(partial(fail, numbers))
            for key in dict.fromkeys(f"k{number}" for number in numbers):
                if what == "drop" and key in held and held[key].content == key:
                    await journals[which].drop(ARC.org_id, [held.pop(key).memory_id])
                elif what == "load" and (key not in held or clock.now() - held[key].time >= window + HOUR):
                    held[key] = memory(clock.now() - HOUR, ARC.org_id, dedup_key=key)
                    await journals[which].load_claims(ARC, [held[key]])
                elif what == "store":
                    (outcome,) = await journals[which].append(ARC, [draft(key, dedup_key=key)])
                    kept = held.get(key)
                    if isinstance(outcome, Memory):
                        assert kept is None or outcome.time - kept.time >= window
                        held[key] = outcome
                    else:
                        assert kept is not None
                        assert outcome.memory_id == kept.memory_id
                        assert clock.now() - kept.time < window
        for journal in journals:
            await journal.close()

    run(scenario())
