from contextlib import contextmanager
from datetime import timedelta

import apsw
import pytest
from builders import draft, instance, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memtrace_core.dedup import DedupPolicy
from memtrace_core.model import Memory
from memtrace_core.testing import ManualClock
from memtrace_sqlite import SqliteJournal, claim_filter, claims
from memtrace_sqlite.claim_filter import ClaimFilter
from memtrace_sqlite.claims import Claims

ARC = instance()
HOUR = timedelta(hours=1)
HOUR_US = 3_600_000_000


class Tables:
    """The claim tables alone, in a database of their own."""

    def __init__(self, window_hours=24):
        self.connection = apsw.Connection("")
        self.connection.execute("CREATE TABLE claim_tables (start INTEGER PRIMARY KEY)")
        self.statements = []
        self.connection.exec_trace = lambda _, sql, __: self.statements.append(sql) or True
        self.claims = Claims(self.connection, window_hours * HOUR)
        self.now = HOUR_US

    def claim(self, key):
        """Claim a key in a transaction of its own, if it is free; tell whether it was."""
        with self.connection:
            self.claims.begin()
            self.claims.prepare(self.now)
            free = self.claims.find("org_a", key, self.now) is None
            if free:
                self.claims.add([("org_a", key, f"mem_{key}", self.now)])
        return free

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


def test_a_new_key_is_looked_for_in_the_newest_table_only():
    """With a day of claims a new key costs one look; one that was claimed is still found."""
    tables = Tables()
    for hour in range(20):
        assert tables.claim(f"k{hour}")
        tables.now += HOUR_US
    assert tables.lookups("new") == 1
    assert not tables.claim("k3")


def test_a_restart_looks_everywhere_until_it_has_learned(monkeypatch):
    """What another process has claimed is found before and after this one knows the tables."""
    monkeypatch.setattr(claims, "LEARNED_AT_ONCE", 3)
    tables = Tables()
    for number in range(40):
        tables.claim(f"k{number}")
        tables.now += HOUR_US // 8
    tables.claims = Claims(tables.connection, 24 * HOUR)
    for _ in range(30):
        assert [tables.claim(f"k{number}") for number in (0, 17, 39)] == [False] * 3
    assert tables.lookups("new") == 1


def test_a_claim_whose_release_is_rolled_back_is_not_forgotten():
    """What a transaction frees is not learned as free: the transaction may fail."""
    tables = Tables()
    tables.claim("old")
    tables.now += HOUR_US
    tables.claim("young")
    tables.claims = Claims(tables.connection, 24 * HOUR)
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


def test_the_filter_forgets_what_is_past_the_window():
    """It is as good after years as on the first day: claims of dropped tables do not fill it."""
    tables = Tables()
    filled = ClaimFilter(tables.connection)
    closed: list[int] = []
    for hour in range(100):
        tables.claim(f"k{hour}")
        closed = [start for (start,) in tables.connection.execute("SELECT start FROM claim_tables ORDER BY start")]
        filled.learn(closed[:-1], 10)
        tables.now += HOUR_US
    assert not any(filled.may_hold("org_a", f"k{hour}") for hour in range(40))
    assert all(filled.may_hold("org_a", f"k{hour}") for hour in range(80, 99))
    assert set(closed[:-1]) <= set(filled.known)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["store", "store", "store", "drop", "restart"]),
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
    """Stores, releases, pauses and restarts in any order: a key is refused exactly when it should be."""
    monkeypatch.setattr(claims, "LEARNED_AT_ONCE", 2)
    monkeypatch.setattr(claim_filter, "FILTER_BITS", bits)
    path, clock, window = new_folder() / "journal.db", ManualClock(), 3 * HOUR

    def opened():
        return SqliteJournal(path, clock, DedupPolicy(True, window))

    async def scenario():
        journals = [opened(), opened()]
        held: dict[str, Memory] = {}
        for what, which, numbers, minutes in steps:
            clock.advance(timedelta(minutes=minutes))
            if what == "restart":
                await journals[which].close()
                journals[which] = opened()
            for key in dict.fromkeys(f"k{number}" for number in numbers):
                if what == "drop" and key in held:
                    await journals[which].drop(ARC.org_id, [held.pop(key).memory_id])
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
