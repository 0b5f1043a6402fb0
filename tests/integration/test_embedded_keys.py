"""Dedup keys in the embedded store: found wherever in the file their memories lie, block by block."""

import itertools
from datetime import timedelta

import apsw
import msgspec
import pytest
from builders import ORG, aims, draft, drafts, embedded_instance, memory, queries, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memtrace_core.dedup import DedupPolicy, generated_key
from memtrace_core.forgotten import Forgotten
from memtrace_core.identifiers import memory_id
from memtrace_core.query import MemoryQuery
from memtrace_core.testing import ManualClock
from memtrace_sqlite import SqliteEmbeddedGateway, SqliteJournal, forgetting
from memtrace_sqlite.database import Mode, open_database
from memtrace_sqlite.schema import JOURNAL

ONE, OTHER = embedded_instance("org_a"), embedded_instance("org_b")
FORMER = embedded_instance("org_a", id="former", measurement="former")  # where the org was before
BLOCK = 1 << 12
FRAME_BYTES = 4096 + 24  # a page in the write-ahead log
UNTIL_NOW = 4  # the schema version that had one index over all keys


def with_journal(folder, work):
    """Open a folder's journal, which sees no duplicates, and do something with it and its embedded store."""

    async def scenario():
        journal = SqliteJournal(folder / "journal.db", ManualClock(), DedupPolicy(enabled=False), mode=Mode.MIGRATE)
        try:
            return await work(journal, SqliteEmbeddedGateway(journal))
        finally:
            await journal.close()

    return run(scenario())


def spread(folder, places):
    """Put a journal's memories, in their order, at other places in the file."""
    connection = apsw.Connection(str(folder / "journal.db"))
    connection.execute("UPDATE embedded SET seq = -seq")
    connection.executemany(
        "UPDATE embedded SET seq = ? WHERE seq = ?", [(to, -n) for n, to in enumerate(places, 1)]
    )
    connection.close()


def found(folder, keys, limit=100):
    """Return the contents under each org's keys, newest first."""

    async def ask(_, gateway):
        return {
            (target.org_id, key): [
                one.content
                for one in await gateway.query(
                    target, MemoryQuery(org_id=target.org_id, dedup_key=key, limit=limit)
                )
            ]
            for target in (ONE, OTHER)
            for key in keys
        }

    return with_journal(folder, ask)


PLACES = st.lists(st.integers(1, 6 * BLOCK), min_size=1, max_size=12, unique=True)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=PLACES, data=st.data())
def test_a_key_is_found_in_whichever_blocks_it_is(tmp_path_factory, places, data):
    """All memories with a key and no others, newest first, of this org and of no other."""
    folder = tmp_path_factory.mktemp("keys")
    owners = st.sampled_from([ONE, OTHER])
    stored = [(data.draw(owners), data.draw(st.sampled_from(["k", "l", None])), str(place)) for place in places]

    async def store(journal, _):
        for target, key, content in stored:
            await journal.append(target, [msgspec.structs.replace(draft(content), dedup_key=key)])

    with_journal(folder, store)
    spread(folder, places)
    expected = {
        (target.org_id, key): [
            text for owner, its_key, text in reversed(stored) if (owner, its_key) == (target, key)
        ]
        for target in (ONE, OTHER)
        for key in ("k", "l", "none")
    }
    assert found(folder, ("k", "l", "none")) == expected


KEYS = ("k", "k" * 256, memory_id(1_700_000_000_000_000, "aabbcc", "0000"))
TARGETS = st.sampled_from([ONE, ONE, OTHER, FORMER])
STORED = st.lists(st.tuples(TARGETS, drafts(KEYS), st.sampled_from(KEYS) | st.none()), min_size=1, max_size=20)
ASKED = st.lists(
    st.tuples(TARGETS, queries(), aims, st.sampled_from(KEYS), st.booleans()), min_size=10, max_size=20
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=PLACES, stored=STORED, more=STORED, gone=st.integers(0, 3), asked=ASKED)
def test_a_key_among_other_filters_answers_like_a_scan(
    tmp_path_factory, monkeypatch, places, stored, more, gone, asked
):
    """Whatever else is asked for, in either order, page by page: the store's memories with the key, without those
    that were removed, whose places others have taken, and those that are forgotten and still there.
    """
    folder = tmp_path_factory.mktemp("keys")
    kept = {target.id: [] for target in (ONE, OTHER, FORMER)}

    async def store(journal, came):
        for target, one, key in came:
            kept[target.id] += await journal.append(target, [msgspec.structs.replace(one, dedup_key=key)])

    async def forget(journal, memories):
        for one in memories:
            await journal.forget(ONE.org_id, Forgotten.one(one.memory_id), in_arc=False)
            kept[ONE.id].remove(one)

    async def change_and_ask(journal, gateway):
        await forget(journal, kept[ONE.id][::-1][:gone])
        await store(journal, more)
        kept[ONE.id] += (await journal.admit(ONE, [memory(org_id=ONE.org_id, dedup_key=KEYS[0])])).stored
        with monkeypatch.context() as patch:
            patch.setattr(forgetting, "SWEPT_AT_ONCE", 0)  # so that they are hidden, and stay
            await forget(journal, kept[ONE.id][:gone])
        for target, query, aim, key, alone in asked:
            query = MemoryQuery(org_id=ORG) if alone else aim.at(query, kept[target.id])
            query = msgspec.structs.replace(query, org_id=target.org_id, dedup_key=key)
            assert await gateway.query(target, query) == query.page(kept[target.id])

    with_journal(folder, lambda journal, _: store(journal, stored[: len(places)]))
    spread(folder, places[: len(stored)])
    with_journal(folder, change_and_ask)


@pytest.mark.parametrize("place", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 900 * BLOCK])
def test_the_edges_of_a_block_belong_to_it(tmp_path, place):
    """A memory alone in its block is found, and one beside it."""

    async def store(journal, _):
        await journal.append(ONE, [draft("first", dedup_key="k"), draft("second", dedup_key="l")])

    with_journal(tmp_path, store)
    spread(tmp_path, [place, place + 1])
    assert found(tmp_path, ["k", "l"]) == {
        ("org_a", "k"): ["first"],
        ("org_a", "l"): ["second"],
        ("org_b", "k"): [],
        ("org_b", "l"): [],
    }


def test_the_newest_counts_and_not_the_last_that_came(tmp_path):
    """What an import brings later may be older."""

    async def store(journal, _):
        (new,) = await journal.append(ONE, [draft("new", dedup_key="k")])
        old = memory(new.time - timedelta(days=1), org_id="org_a", content="old", dedup_key="k")
        assert (await journal.admit(ONE, [old])).stored == [old]

    with_journal(tmp_path, store)
    spread(tmp_path, [1, 3 * BLOCK])
    assert found(tmp_path, ["k"], limit=1)["org_a", "k"] == ["new"]
    assert found(tmp_path, ["k"])["org_a", "k"] == ["new", "old"]


def test_what_was_stored_under_a_former_schema_is_found(tmp_path):
    """The index is made anew over all that is there."""
    former = msgspec.structs.replace(JOURNAL, migrations=JOURNAL.migrations[:UNTIL_NOW])
    connection = open_database(tmp_path / "journal.db", former, Mode.MIGRATE)
    connection.execute("INSERT INTO stores VALUES (1, ?, ?, ?)", (ONE.org_id, ONE.database, ONE.measurement))
    rows = [
        (place, 1_700_000_000_000_000 + place, f"mem_{place}", f"k{place}") for place in range(1, 3 * BLOCK, 61)
    ]
    sql = """
        INSERT INTO embedded VALUES (?, 1, ?, ?, 'ada', NULL, 'episodic', 'e', 'kept', NULL, NULL, ?, 0.5, NULL)
    """
    connection.executemany(sql, rows)
    connection.close()
    places = found(tmp_path, [f"k{place}" for row in rows for place in (row[0], row[0] + 1)])
    assert [key for key, contents in places.items() if contents] == [("org_a", key) for *_, key in rows]


def test_writes_meet_in_a_few_pages_of_the_index_of_keys(tmp_path):
    """Keys in no order change the pages of a block or two, however many memories there are."""

    def keyed(count):
        return [draft(dedup_key=generated_key("ada", "e", str(next(number)))) for _ in range(count)]

    async def pages(journal):
        before = (tmp_path / "journal.db-wal").stat().st_size
        await journal.append(ONE, keyed(500))
        return ((tmp_path / "journal.db-wal").stat().st_size - before) / FRAME_BYTES

    async def work(journal, _):
        journal._connection.wal_autocheckpoint(0)
        first = await pages(journal)
        for _ in range(30):
            await journal.append(ONE, keyed(1000))
        return first, await pages(journal)

    number = itertools.count()
    first, last = with_journal(tmp_path, work)
    assert last < first + 100  # two blocks have ninety
