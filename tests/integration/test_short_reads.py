"""Short reads: on the event loop's own thread while they are short, and on another when they are not."""

import threading

import apsw
import pytest
from builders import ORG, draft, embedded_instance, run

from memtrace_core.errors import StorageUnavailable
from memtrace_core.query import MemoryQuery
from memtrace_core.testing import ManualClock
from memtrace_sqlite import SqliteJournal
from memtrace_sqlite import short_reader as module
from memtrace_sqlite.readers import MOST_THREADS
from memtrace_sqlite.short_reader import ShortReader, TooLong

EMBEDDED = embedded_instance()
NUMBERS = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
SELECT max(n) FROM numbers
"""
WITHOUT_END = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers)
SELECT sum(n) FROM numbers
"""

pytestmark = pytest.mark.timeout(60)


class Ticks:
    """What the short reader takes for the time, in seconds; it stands still."""

    def __init__(self):
        self.now = 100.0


@pytest.fixture
def ticks(monkeypatch):
    """Return the clock of short readers, to be moved by hand."""
    ticks = Ticks()
    monkeypatch.setattr(module, "perf_counter", lambda: ticks.now)
    return ticks


@pytest.fixture
def file(tmp_path):
    """Return the path of a journal."""
    path = tmp_path / "journal.db"
    SqliteJournal(path, ManualClock()).release()
    return path


@pytest.fixture
def short(file):
    """Return a short reader of an empty journal."""
    reader = ShortReader(file, 512)
    yield reader
    reader.close()


def with_journal(path, use):
    """Run an async function on a journal with some memories in its embedded store."""

    async def scenario():
        journal = SqliteJournal(path, ManualClock())
        try:
            await journal.append(EMBEDDED, [draft(str(number)) for number in range(20)])
            await use(journal)
        finally:
            await journal.close()

    run(scenario())


def reading_threads():
    """Return the threads that have been started for reading."""
    return [one for one in threading.enumerate() if one.name.startswith("reader of ")]


def test_a_page_is_read_on_the_loops_own_thread_and_a_search_of_contents_is_not(tmp_path, ticks):
    """A page goes down an index; a search looks at every content, and other requests do not wait for that."""

    async def use(journal):
        page = await journal.view(MemoryQuery(org_id=ORG, limit=5), EMBEDDED)
        assert len(page.stored) == 5
        assert reading_threads() == []
        found = await journal.view(MemoryQuery(org_id=ORG, content_contains="7"), EMBEDDED)
        assert [memory.content for memory in found.stored] == ["17", "7"]
        assert len(reading_threads()) == 1

    with_journal(tmp_path / "journal.db", use)


def test_a_read_that_turns_out_to_be_long_is_answered_by_a_thread(tmp_path, monkeypatch):
    """It is given up on the loop's own thread, and begun anew, with the store as it is then."""
    monkeypatch.setattr(module, "REST_FACTOR", 0)
    mine = threading.get_ident()
    seen = []

    def work(connection):
        own = threading.get_ident() == mine
        seen.append((own, connection.execute("SELECT count(*) FROM embedded").fetchall()))
        if own:
            connection.execute(WITHOUT_END).fetchall()
        return "answered"

    async def use(journal):
        assert await journal.readers.run_short(work) == "answered"
        assert [own for own, _ in seen] == [True, False]
        await journal.append(EMBEDDED, [draft("one more")])
        assert await journal.readers.run_short(work) == "answered"
        # The read that was given up has left no snapshot behind.
        assert seen[2:] == [(True, [(21,)]), (False, [(21,)])]

    with_journal(tmp_path / "journal.db", use)


def test_a_read_of_many_rows_is_given_up(short, ticks):
    """However fast it is, and each one anew."""

    def count(connection, most):
        return connection.execute(NUMBERS, (most,)).fetchall()

    for _ in range(3):
        assert short.read(lambda connection: count(connection, 300)) == [(300,)]
        with pytest.raises(TooLong):
            short.read(lambda connection: count(connection, module.MOST_STEPS))


def test_a_short_read_may_wait_for_the_interpreter(short, ticks):
    """Beside busy threads it takes long; given to one of them it would be one more that the next reads wait for."""

    def work(connection):
        ticks.now += module.LIMIT_SECONDS * 0.9
        return connection.execute(NUMBERS, (100,)).fetchall()

    for _ in range(50):
        assert short.read(work) == [(100,)]


def test_a_read_that_waits_for_long_is_given_up_and_the_next_ones_are_not_tried(short, ticks):
    """For five times as long as it has taken: what one lacks in memory the next one may lack, too."""

    def waits(connection):
        ticks.now += 0.03
        return connection.execute(NUMBERS, (100,)).fetchall()

    def is_tried():
        try:
            return short.read(lambda connection: True)
        except TooLong:
            return False

    with pytest.raises(TooLong):
        short.read(waits)
    ticks.now = 100.179
    assert not is_tried()
    ticks.now = 100.181
    assert is_tried()


def test_a_read_that_ends_late_is_answered_and_its_snapshot_ended(short, ticks, monkeypatch):
    """Nothing but the read itself is ever given up, though SQLite counts a statement's steps over all runs."""
    monkeypatch.setattr(module, "REST_FACTOR", 0)

    def late(connection):
        found = connection.execute("SELECT count(*) FROM embedded").fetchall()
        ticks.now += 1
        return found

    for _ in range(3 * module.STEPS_BETWEEN_LOOKS):
        assert short.read(late) == [(0,)]
        assert short.read(lambda connection: connection.in_transaction)


@pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), apsw.CorruptError("a page"), OSError(5, "disk")])
def test_what_goes_wrong_is_told_as_threads_tell_it(tmp_path, ticks, error):
    """The same error with the same words, and the next read is answered."""

    def fail(connection):
        raise error

    async def use(journal):
        with pytest.raises((ZeroDivisionError, StorageUnavailable)) as here:
            await journal.readers.run_short(fail)
        with pytest.raises(type(here.value)) as there:
            await journal.readers.run(fail)
        assert str(here.value) == str(there.value)
        assert await journal.readers.run_short(lambda connection: "next") == "next"

    with_journal(tmp_path / "journal.db", use)


@pytest.mark.parametrize("error", [apsw.BusyError("locked"), apsw.ProtocolError("locking protocol")])
def test_a_read_that_finds_a_lock_does_not_wait_for_it(short, ticks, error):
    """A thread may wait, the loop may not."""

    def locked(connection):
        assert connection.pragma("busy_timeout") == 0
        raise error

    with pytest.raises(TooLong):
        short.read(locked)


@pytest.mark.parametrize("way", ["run_short", "run"])
def test_an_error_that_somebody_keeps_keeps_no_snapshot(tmp_path, ticks, way):
    """Its traceback holds the cursor that was not read to its end, and that would hold what is past."""
    kept = []

    def half(connection):
        rows = connection.execute("SELECT seq FROM embedded")
        for (seq,) in rows:
            if seq > 5:
                raise ZeroDivisionError("a defect")

    def count(connection):
        return connection.execute("SELECT count(*) FROM embedded").fetchone()[0]

    async def use(journal):
        read = getattr(journal.readers, way)
        for number in range(1, 2 * MOST_THREADS):
            with pytest.raises(ZeroDivisionError) as raised:
                await read(half)
            kept.append(raised.value)
            await journal.append(EMBEDDED, [draft(f"another {number}")])
            for _ in range(MOST_THREADS):
                assert await read(count) == 20 + number

    with_journal(tmp_path / "journal.db", use)


def test_loops_of_several_threads_do_not_wait_for_each_other(short, ticks):
    """Who finds another reading goes to the threads."""
    begun, over = threading.Event(), threading.Event()
    answers = []

    def slow(connection):
        begun.set()
        assert over.wait(30)
        return "slow"

    other = threading.Thread(target=lambda: answers.append(short.read(slow)))
    other.start()
    try:
        assert begun.wait(30)
        with pytest.raises(TooLong):
            short.read(lambda connection: "at once")
    finally:
        over.set()
        other.join()
    assert answers == ["slow"]
    assert short.read(lambda connection: "next") == "next"


def test_a_closed_reader_reads_no_more(tmp_path):
    """Its connection is closed, and nothing opens another."""
    journal = SqliteJournal(tmp_path / "journal.db", ManualClock())

    async def scenario():
        connection = await journal.readers.run_short(lambda connection: connection)
        await journal.close()
        with pytest.raises(apsw.ConnectionClosedError):
            connection.execute("SELECT 1")
        with pytest.raises(StorageUnavailable, match="is closed"):
            await journal.readers.run_short(lambda connection: connection)

    run(scenario())


def test_a_reader_that_is_closed_by_another_thread_opens_nothing(short, ticks, monkeypatch):
    """Even in the moment before it begins to read."""
    lock = short._reading

    class Slow:
        def acquire(self, blocking):
            short._reading = lock
            short.close()
            return lock.acquire(blocking)

    short._reading = Slow()
    with pytest.raises(TooLong):
        short.read(lambda connection: connection)


def test_a_journal_that_is_released_has_closed_its_reader(tmp_path):
    """As all its other connections."""
    before = set(apsw.connections())
    journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
    assert len(set(apsw.connections()) - before) > 1
    journal.release()
    assert set(apsw.connections()) - before == set()


def test_a_short_reader_can_search_contents_as_well(short):
    """Whoever asks it gets an answer and no complaint about a damaged file."""
    assert short.read(lambda connection: connection.execute("SELECT folded_contains('A B', 'b')").fetchone()) == (
        1,
    )


def test_a_file_that_is_gone_is_noticed(tmp_path):
    """SQLite would go on with what nobody can open again."""

    async def use(journal):
        await journal.readers.run_short(lambda connection: None)
        (tmp_path / "journal.db").rename(tmp_path / "elsewhere.db")
        try:
            with pytest.raises(StorageUnavailable, match="deleted, moved or replaced"):
                await journal.readers.run_short(lambda connection: None)
        finally:
            (tmp_path / "elsewhere.db").rename(tmp_path / "journal.db")

    with_journal(tmp_path / "journal.db", use)


def test_a_short_reader_keeps_few_pages(short):
    """As few as each reading thread."""
    assert short.read(lambda connection: connection.pragma("cache_size")) == -512


def test_a_statement_is_not_planned_anew_for_other_values(tmp_path, ticks):
    """SQLite would, in case that they made another plan better; it took a fifth of the time of a page."""
    planned = []

    def watch(connection):
        connection.authorizer = lambda *what: planned.append(what) or apsw.SQLITE_OK

    async def use(journal):
        await journal.readers.run_short(watch)
        for agent in ("ada", "bob", "eve"):
            before = len(planned)
            await journal.view(MemoryQuery(org_id=ORG, agent_ids=(agent,)), EMBEDDED)
            if agent == "ada":
                assert len(planned) > before
            else:
                assert len(planned) == before

    with_journal(tmp_path / "journal.db", use)
