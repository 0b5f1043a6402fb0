from datetime import timedelta

import apsw
import pytest
from builders import START, draft, embedded_instance, instance, run

from memtrace_core.entries import EntryState
from memtrace_core.identifiers import memory_id
from memtrace_core.query import AgentCountQuery, MemoryQuery, Position
from memtrace_core.testing import ManualClock
from memtrace_core.timewindow import to_us
from memtrace_sqlite import SqliteEmbeddedGateway, SqliteJournal

ARC, EMBEDDED = instance(), embedded_instance()
ORG = ARC.org_id
NOT_MEMORIES = ("SCAN CONSTANT ROW", "SCAN ledger", "SCAN orgs")


class Explained:
    """A journal whose readers explain every statement that they run."""

    def __init__(self, path):
        self.journal = SqliteJournal(path, ManualClock())
        self.gateway = SqliteEmbeddedGateway(self.journal)
        self.plans = []
        self._run = self.journal.readers.run
        self.journal.readers.run = self.journal.readers.run_short = self._explaining

    async def _explaining(self, work):
        def explained(connection):
            asked = []

            def traced(_, sql, values):
                if not sql.startswith("EXPLAIN"):
                    asked.append((sql, values))
                return True

            connection.exec_trace = traced
            try:
                result = work(connection)
            finally:
                connection.exec_trace = None
            for sql, values in asked:
                plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
                self.plans.append([detail for *_, detail in plan])
            return result

        return await self._run(explained)


def plans(folder, ask):
    """Return the query plans of what is asked of a journal that holds a little of everything."""

    async def scenario():
        world = Explained(folder / "journal.db")
        for target in (ARC, EMBEDDED):
            await world.journal.append(target, [draft(str(number), session_id="s1") for number in range(20)])
        await ask(world)
        await world.journal.close()
        return world.plans

    return run(scenario())


QUERIES = {
    "the newest page": {},
    "the oldest page": {"order": "asc"},
    "the page after a cursor": {"after": Position(START, memory_id(to_us(START), "aabbcc", "0000"))},
    "a stretch of time": {"since": START, "until": START + timedelta(hours=1)},
    "by agent": {"agent_ids": ("ada",)},
    "by session": {"session_ids": ("s1",)},
    "by id": {"memory_id": memory_id(to_us(START), "aabbcc", "0000")},
    "by dedup key": {"dedup_key": "k"},
    "by content": {"content_contains": "x"},
}
queries = pytest.mark.parametrize("filters", QUERIES.values(), ids=QUERIES)


@queries
def test_the_journal_finds_by_an_index_and_in_order(tmp_path, filters):
    """No read of the journal scans the table or sorts: the index on time gives one org's rows in order."""

    async def ask(world):
        await world.journal.view(MemoryQuery(org_id=ORG, **filters))

    found = plans(tmp_path, ask)
    page = next(plan for plan in found if plan[0].startswith("SEARCH journal"))
    assert len(page) == 1
    index = {"agent_ids": "journal_agent", "session_ids": "journal_session"}.get(
        next(iter(filters), ""), "journal_time"
    )
    assert page[0].startswith(f"SEARCH journal USING INDEX {index} (org_id=?")
    for plan in found:
        assert [step for step in plan if step.startswith("SCAN") and step not in NOT_MEMORIES] == []


EXPECTED = {
    "the newest page": "embedded_time (store=?)",
    "the oldest page": "embedded_time (store=?)",
    "the page after a cursor": "embedded_time (store=? AND ",
    "a stretch of time": "embedded_time (store=? AND time>? AND time<?)",
    "by agent": "embedded_agent (store=? AND agent_id=?)",
    "by session": "embedded_session (store=? AND session_id=?)",
    "by id": "embedded_time (store=? AND time=? AND memory_id=?)",
    "by content": "embedded_time (store=?)",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_embedded_store_finds_by_the_index_that_fits(tmp_path, name):
    """Each way of asking has its index in the embedded store, and a page comes out in order without sorting."""

    async def ask(world):
        await world.gateway.query(EMBEDDED, MemoryQuery(org_id=ORG, **QUERIES[name]))

    _, plan = plans(tmp_path, ask)  # the first is about what is being forgotten
    (search,) = [step for step in plan if " embedded " in step]
    assert search.startswith(f"SEARCH embedded USING INDEX {EXPECTED[name]}")
    assert [step for step in plan if "TEMP B-TREE" in step] == []


def test_the_embedded_store_finds_a_dedup_key_block_by_block(tmp_path):
    """From block to block by the index of dedup keys, and then to the few rows that have the key."""

    async def ask(world):
        await world.gateway.query(EMBEDDED, MemoryQuery(org_id=ORG, **QUERIES["by dedup key"]))

    _, plan = plans(tmp_path, ask)
    of_memories = [step for step in plan if " embedded " in step]
    assert of_memories == [
        "SEARCH embedded USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH embedded USING COVERING INDEX embedded_dedup (store=?)",
        "SEARCH embedded USING COVERING INDEX embedded_dedup (store=? AND <expr><?)",
        "SEARCH embedded USING COVERING INDEX embedded_dedup (store=? AND <expr>=? AND dedup_key=?)",
    ]


def test_counting_an_agent_reads_one_org_or_one_agent(tmp_path):
    """Statistics go by an index in both tables."""

    async def ask(world):
        query = AgentCountQuery(org_id=ORG, agent_id="ada", recent_since=START)
        await world.journal.count(query)
        await world.gateway.count(EMBEDDED, query)

    steps = [step for plan in plans(tmp_path, ask) for step in plan if "journal" in step or " embedded " in step]
    assert all(step.startswith("SEARCH") for step in steps)
    assert any("embedded_agent (store=? AND agent_id=?)" in step for step in steps)


def test_delivery_finds_its_work_by_the_partial_index(tmp_path):
    """The next batch and the orgs that wait come from the index of pending rows alone."""

    async def ask(world):
        await world.journal.next_batch(ORG, 100, 1 << 20)
        await world.journal.pending_orgs()

    for plan in plans(tmp_path, ask):
        assert plan
        assert all(
            step.startswith("SEARCH journal USING") and "INDEX journal_pending (org_id" in step for step in plan
        )


def test_confirmation_finds_its_work_by_indexes(tmp_path):
    """The oldest delivered run, and the orgs that have one, come by index, in order of time."""

    async def ask(world):
        await world.journal.next_delivered(ORG, timedelta(), 100)
        await world.journal.unconfirmed_orgs()

    in_line, gaps, retried, *orgs = plans(tmp_path, ask)
    for plan, index in ((in_line, "journal_time (org_id=?"), (retried, "journal_aside (org_id=? AND state=?")):
        assert not [step for step in plan if step.startswith("SCAN journal") or "TEMP B-TREE" in step]
        assert [step for step in plan if step.startswith(f"SEARCH journal USING INDEX {index}")]
    assert gaps == ["SEARCH gaps USING PRIMARY KEY (org_id=?)"]
    for plan in orgs:
        assert all("journal_delivered (org_id>?)" in step for step in plan)


def test_what_operators_ask_is_found_by_indexes(tmp_path):
    """Counting and listing what is on its way reads one org at a time, and only the states that are asked for."""

    async def ask(world):
        await world.journal.backlogs()
        await world.journal.holdings(ORG)
        await world.journal.entries(ORG, [EntryState.SET_ASIDE], 10)

    steps = [step for plan in plans(tmp_path, ask) for step in plan if "journal" in step]
    assert steps
    assert not [step for step in steps if step.startswith("SCAN journal")]


def test_every_index_of_the_schema_is_there(tmp_path):
    """The plans above speak of the indexes that the schema makes; none was lost to a rename."""
    plans(tmp_path, lambda world: world.journal.pending_orgs())
    connection = apsw.Connection(str(tmp_path / "journal.db"))
    names = {
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql NOT NULL")
    }
    connection.close()
    assert names == {
        "journal_time",
        "journal_pending",
        "journal_delivered",
        "journal_aside",
        "journal_agent",
        "journal_session",
        "embedded_time",
        "embedded_agent",
        "embedded_session",
        "embedded_dedup",
        "forget_waiting",
        "forget_memory",
        "forget_scope",
        "forget_cutoff",
    }
