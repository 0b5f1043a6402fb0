"""What the torture sees in the claims of a real journal."""

from datetime import timedelta

import apsw
import pytest
from builders import draft, embedded_instance, instance, run
from torture.claims import unclaimed

from memtrace_core.forgotten import Forgotten
from memtrace_core.testing import ManualClock
from memtrace_sqlite import SqliteJournal
from memtrace_sqlite import claims as claims_module

EMBEDDED = embedded_instance()


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Return a journal with claims in both places, some made again after their memories were forgotten."""
    monkeypatch.setattr(claims_module, "PORTION", 2)

    async def fill():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        await journal.append(instance(), [draft(dedup_key="elsewhere")])
        for key in "abcdef":
            await journal.append(EMBEDDED, [draft(dedup_key=key)])
        for key in "af":
            (memory,) = await journal.append(EMBEDDED, [draft(dedup_key=f"{key} again")])
            what = Forgotten(memory_id=memory.memory_id, before=memory.time + timedelta(microseconds=1))
            await journal.forget(EMBEDDED.org_id, what, in_arc=False)
            await journal.append(EMBEDDED, [draft(dedup_key=f"{key} again")])
        await journal.append(EMBEDDED, [draft(dedup_key=None)])
        await journal.close()

    run(fill())
    return tmp_path / "journal.db"


def test_every_memory_holds_the_claim_of_its_key(path):
    """Wherever the claim is."""
    connection = apsw.Connection(str(path))
    for table in ("recent_claims", *tables_by_key(connection)):
        assert connection.execute(f"SELECT 1 FROM {table}").fetchone()
    assert unclaimed(connection) == []


@pytest.mark.parametrize("key", ["a", "f", "f again"])
@pytest.mark.parametrize(
    "change", ["dedup_key = 'other'", "org_id = 'other'", "memory_id = ''", "memory_id = 'other'"]
)
def test_a_memory_without_its_claim_is_named(path, key, change):
    """A claim that is gone, given way or another's."""
    connection = apsw.Connection(str(path))
    ((found,),) = connection.execute("SELECT memory_id FROM embedded WHERE dedup_key = ?", (key,))
    for table in ("recent_claims", *tables_by_key(connection)):
        connection.execute(f"UPDATE {table} SET {change} WHERE dedup_key = ? AND memory_id = ?", (key, found))
    assert unclaimed(connection) == [(EMBEDDED.org_id, found)]


def tables_by_key(connection):
    """Return the names of the tables that claims are moved to."""
    return [f"claims_{start}" for (start,) in connection.execute("SELECT start FROM claim_tables")]
