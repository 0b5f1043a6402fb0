import fcntl
import multiprocessing
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import apsw
import msgspec
import pytest

from memtrace_core.errors import StorageUnavailable
from memtrace_sqlite import database
from memtrace_sqlite.database import (
    BUSY_TIMEOUT_MS,
    Mode,
    Schema,
    open_database,
    open_reader,
    reporting,
    snapshot,
    transaction,
)
from memtrace_sqlite.schema import JOURNAL, METADATA

ONE = Schema("test file", 0x4D745465, ("CREATE TABLE one (n INTEGER) STRICT; INSERT INTO one VALUES (1);",))
TWO = Schema("test file", ONE.application_id, (*ONE.migrations, "CREATE TABLE two (n INTEGER) STRICT;"))
BROKEN = Schema("test file", ONE.application_id, (*TWO.migrations, "CREATE TABLE three (n); INSERT INTO nowhere;"))
modes = pytest.mark.parametrize("mode", list(Mode))


def permissions(path):
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def contents(folder):
    """Return the names and bytes of all files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tables(path):
    """Return the names of a database's tables."""
    connection = apsw.Connection(str(path))
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    connection.close()
    return names


def version(path):
    """Return a database's schema version."""
    connection = apsw.Connection(str(path))
    found = connection.pragma("user_version")
    connection.close()
    return found


def make(path, schema=ONE):
    """Make a database."""
    open_database(path, schema, Mode.MIGRATE).close()


@modes
def test_the_file_the_folder_and_what_sqlite_puts_beside_it_are_private(tmp_path, mode):
    """A new database and its folder are for the owner alone, the WAL and its index included, whatever the umask."""
    path = tmp_path / "data" / "memtrace.db"
    former = os.umask(0)
    try:
        connection = open_database(path, ONE, mode)
        connection.execute("INSERT INTO one VALUES (2)")
        assert permissions(path.parent) == 0o700
        assert {file.name: permissions(file) for file in path.parent.iterdir()} == {
            "memtrace.db": 0o600,
            "memtrace.db-wal": 0o600,
            "memtrace.db-shm": 0o600,
        }
        connection.close()
    finally:
        os.umask(former)


def test_the_permissions_of_an_existing_folder_are_left_alone(tmp_path):
    """A folder that the operator has made keeps its mode; only the file in it is private."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o750)
    make(folder / "memtrace.db")
    assert permissions(folder) == 0o750
    assert permissions(folder / "memtrace.db") == 0o600


def opened(path, kind):
    """Return a connection of one of the two kinds."""
    writer = open_database(path, ONE, Mode.AS_IT_IS)
    if kind == "writer":
        return writer
    writer.close()
    return open_reader(path)


@pytest.mark.parametrize("kind", ["writer", "reader"])
def test_every_connection_is_durable_and_keeps_its_references(tmp_path, kind):
    """Both kinds of connection run on WAL with synchronous=FULL, fullfsync, foreign keys and a busy timeout."""
    connection = opened(tmp_path / "memtrace.db", kind)
    found = {name: connection.pragma(name) for name in ("journal_mode", "synchronous", "fullfsync", "foreign_keys")}
    assert found == {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1, "foreign_keys": 1}
    assert connection.pragma("busy_timeout") == BUSY_TIMEOUT_MS == 30_000
    connection.close()


def test_a_reader_cannot_write(tmp_path):
    """A reading connection refuses every write."""
    connection = opened(tmp_path / "memtrace.db", "reader")
    with pytest.raises(apsw.ReadOnlyError):
        connection.execute("INSERT INTO one VALUES (2)")
    connection.close()


def test_a_reader_does_not_make_a_database(tmp_path):
    """Reading where nothing is fails with a clear message and leaves nothing behind."""
    with pytest.raises(StorageUnavailable, match=r"missing\.db cannot be used"):
        open_reader(tmp_path / "missing.db")
    assert contents(tmp_path) == {}


@modes
def test_a_blank_file_becomes_a_private_database(tmp_path, mode):
    """An empty file, as `touch` leaves it, is taken for none: it becomes ours and private."""
    path = tmp_path / "memtrace.db"
    path.touch(0o644)
    open_database(path, ONE, mode).close()
    assert tables(path) == {"one"}
    assert version(path) == 1
    assert permissions(path) == 0o600


@modes
def test_opening_again_keeps_what_is_there(tmp_path, mode):
    """A database of our version is opened as it is, its rows in place."""
    path = tmp_path / "memtrace.db"
    make(path)
    connection = open_database(path, ONE, mode)
    connection.execute("INSERT INTO one VALUES (2)")
    connection.close()
    connection = open_database(path, ONE, mode)
    assert connection.execute("SELECT n FROM one ORDER BY n").fetchall() == [(1,), (2,)]
    connection.close()


def foreign(path, journal_mode="delete", **pragmas):
    """Make a database of another program, with a table of a name that we use too."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", journal_mode)
    connection.execute("CREATE TABLE organizations (id TEXT); INSERT INTO organizations VALUES ('org_default')")
    for name, value in pragmas.items():
        connection.pragma(name, value)
    connection.close()


FOREIGN = {
    "the Go service's": lambda path: foreign(path),
    "one in WAL mode": lambda path: foreign(path, "wal"),
    "one with our version number": lambda path: foreign(path, user_version=1),
    "one with another application id": lambda path: foreign(path, application_id=0x01020304, user_version=1),
    "the journal": lambda path: make(path, JOURNAL),
    "the metadata": lambda path: make(path, METADATA),
    "a text": lambda path: path.write_text("# notes of mine\n" * 50),
    "a short text": lambda path: path.write_text("x"),
    "a header without a database": lambda path: path.write_bytes(b"SQLite format 3\0"),
    "a page of zeros": lambda path: path.write_bytes(bytes(4096)),
}


@modes
@pytest.mark.parametrize("make_foreign", FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_is_not_ours_is_refused_untouched(tmp_path, make_foreign, mode):
    """Whatever another program's file is, it keeps every byte, and nothing appears beside it."""
    path = tmp_path / "memtrace.db"
    make_foreign(path)
    before, changed_at = contents(tmp_path), path.stat().st_mtime_ns
    with pytest.raises(StorageUnavailable, match="it was left untouched") as raised:
        open_database(path, ONE, mode)
    assert str(path) in str(raised.value)
    assert contents(tmp_path) == before
    assert path.stat().st_mtime_ns == changed_at


def test_a_foreign_database_with_a_live_writer_is_refused_untouched(tmp_path):
    """Even while its owner has it open in WAL mode, another program's database is neither read nor changed."""
    path = tmp_path / "memtrace.db"
    owner = apsw.Connection(str(path))
    owner.pragma("journal_mode", "wal")
    owner.execute("CREATE TABLE theirs (n); INSERT INTO theirs VALUES (1)")
    before = contents(tmp_path)
    with pytest.raises(StorageUnavailable, match="it was left untouched"):
        open_database(path, ONE, Mode.MIGRATE)
    assert contents(tmp_path) == before
    owner.close()


@pytest.mark.parametrize(("first", "then"), [(METADATA, JOURNAL), (JOURNAL, METADATA)])
def test_the_two_files_of_memtrace_are_not_mistaken_for_each_other(tmp_path, first, then):
    """The journal opened as metadata, or the other way round, is refused by the name of what was expected."""
    path = tmp_path / "memtrace.db"
    make(path, first)
    with pytest.raises(StorageUnavailable, match=f"is not a Memtrace {then.kind}"):
        open_database(path, then, Mode.MIGRATE)


def test_an_older_schema_is_only_migrated_by_who_may(tmp_path):
    """A command that finds an older schema says what to do and changes nothing."""
    path = tmp_path / "memtrace.db"
    make(path)
    before = path.read_bytes()
    with pytest.raises(StorageUnavailable, match=r"schema version 1, older than .* 2; start `memtrace serve` once"):
        open_database(path, TWO, Mode.AS_IT_IS)
    assert path.read_bytes() == before
    assert tables(path) == {"one"}


def test_a_migration_adds_what_is_new_and_keeps_what_was_there(tmp_path, caplog):
    """The server says that it brings an older schema up to date, and runs no older migration again."""
    caplog.set_level("INFO")
    path = tmp_path / "memtrace.db"
    make(path)
    connection = open_database(path, TWO, Mode.MIGRATE)
    assert connection.execute("SELECT count(*) FROM one").fetchone() == (1,)
    connection.close()
    assert tables(path) == {"one", "two"}
    assert version(path) == 2
    (told,) = caplog.messages
    assert told.startswith(f"bringing {path} from schema version 1 to 2;")
    open_database(path, TWO, Mode.MIGRATE).close()
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(("newest", "told"), [(2, None), (3, "schema version 3, newer than this program's 2")])
def test_a_migration_that_comes_second_leaves_the_first_ones_schema(tmp_path, monkeypatch, newest, told):
    """Whoever waits while another process migrates finds the work done, or a schema that it must not touch."""
    path = tmp_path / "memtrace.db"
    make(path)
    three = msgspec.structs.replace(TWO, migrations=(*TWO.migrations, "CREATE TABLE three (n)"))
    theirs = msgspec.structs.replace(three, migrations=three.migrations[:newest])
    begin = database.transaction

    def late(connection):
        monkeypatch.setattr(database, "transaction", begin)
        open_database(path, theirs, Mode.MIGRATE).close()
        return begin(connection)

    monkeypatch.setattr(database, "transaction", late)
    with pytest.raises(StorageUnavailable, match=told) if told else nullcontext():
        open_database(path, TWO, Mode.MIGRATE).close()
    assert version(path) == newest
    assert "two" in tables(path)


@modes
def test_a_newer_schema_is_refused(tmp_path, mode):
    """A program that is older than the database says so and changes nothing."""
    path = tmp_path / "memtrace.db"
    make(path, TWO)
    before = path.read_bytes()
    with pytest.raises(StorageUnavailable, match="schema version 2, newer than this program's 1; use a newer"):
        open_database(path, ONE, mode)
    assert path.read_bytes() == before


def test_a_failing_migration_leaves_the_former_version_intact(tmp_path):
    """All migrations of one start happen or none: a failure in the last undoes the ones before it."""
    path = tmp_path / "memtrace.db"
    make(path)
    with pytest.raises(StorageUnavailable):
        open_database(path, BROKEN, Mode.MIGRATE)
    assert version(path) == 1
    assert tables(path) == {"one"}
    open_database(path, ONE, Mode.AS_IT_IS).close()


def test_a_failing_first_migration_leaves_nothing_half_made(tmp_path):
    """A database that could not be made is as good as none: a mended program makes it afresh."""
    path = tmp_path / "memtrace.db"
    with pytest.raises(StorageUnavailable):
        open_database(path, BROKEN, Mode.MIGRATE)
    make(path, TWO)
    assert tables(path) == {"one", "two"}


def test_a_new_database_is_of_the_newest_version(tmp_path):
    """Making a database runs every migration, also for who may not migrate an existing one."""
    path = tmp_path / "memtrace.db"
    open_database(path, TWO, Mode.AS_IT_IS).close()
    assert version(path) == 2
    assert tables(path) == {"one", "two"}


def rows_after_opening(path):
    """Open a database, perhaps making it, and count what its migrations have put in. Runs in many processes."""
    connection = open_database(path, ONE, Mode.MIGRATE)
    ((count,),) = connection.execute("SELECT count(*) FROM one").fetchall()
    connection.close()
    return count


def test_many_threads_make_one_database(tmp_path):
    """Threads that open one empty path at once all get the same database, made once."""
    barrier = threading.Barrier(8)

    def work(number):
        barrier.wait()
        return [rows_after_opening(tmp_path / f"{round_}" / "memtrace.db") for round_ in range(10)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [[1] * 10] * 8


def test_many_processes_make_one_database(tmp_path):
    """Processes that open one empty path at once all get the same database, made once."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        paths = [tmp_path / str(number // 3) / "memtrace.db" for number in range(30)]
        assert pool.map(rows_after_opening, paths, chunksize=1) == [1] * 30


def test_nothing_bears_the_name_before_it_is_a_whole_database(tmp_path, monkeypatch):
    """While a database is being made nobody can meet it: its name appears when it is complete."""
    path = tmp_path / "memtrace.db"
    seen = []
    migrate = database._migrate

    def watched(connection, schema, found):
        seen.append(path.exists())
        migrate(connection, schema, found)
        seen.append(path.exists())

    monkeypatch.setattr(database, "_migrate", watched)
    make(path)
    assert seen == [False, False]
    assert list(contents(tmp_path)) == ["memtrace.db"]


@pytest.mark.parametrize(
    "suffix", [".memtrace-new", ".memtrace-new-journal", ".memtrace-new-wal", ".memtrace-new-shm"]
)
def test_what_a_killed_maker_left_is_in_nobodys_way(tmp_path, suffix):
    """A first start that was killed half way leaves nothing that the next one could stumble over or take over."""
    path = tmp_path / "memtrace.db"
    make(tmp_path / "killed")
    (tmp_path / "killed").rename(tmp_path / "memtrace.db.memtrace-new")
    (tmp_path / f"memtrace.db{suffix}").write_bytes(b"half of something")
    assert rows_after_opening(path) == 1
    assert permissions(path) == 0o600
    assert list(contents(tmp_path)) == ["memtrace.db"]


def test_who_opens_a_database_that_is_being_made_waits_for_its_maker(tmp_path, monkeypatch):
    """The second of two makers waits for the first, and then takes what that one has made."""
    path = tmp_path / "memtrace.db"
    made = tmp_path / "elsewhere" / "memtrace.db"
    make(made)
    about_to_wait = threading.Event()
    flock = fcntl.flock

    def watched(file, operation):
        about_to_wait.set()
        flock(file, operation)

    folder = os.open(tmp_path, os.O_RDONLY)
    flock(folder, fcntl.LOCK_EX)
    monkeypatch.setattr(database.fcntl, "flock", watched)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(rows_after_opening, path)
        try:
            assert about_to_wait.wait(30)
            assert not other.done()
            connection = apsw.Connection(str(made))
            connection.execute("INSERT INTO one VALUES (2)")
            connection.close()
            made.rename(path)
        finally:
            os.close(folder)
        assert other.result(30) == 2


def test_the_wal_of_a_database_that_is_gone_does_not_spoil_the_new_one(tmp_path):
    """Where an operator has deleted the database but not what lay beside it, the new one is whole or is refused."""
    old, path = tmp_path / "old" / "memtrace.db", tmp_path / "memtrace.db"
    connection = open_database(old, ONE, Mode.MIGRATE)
    connection.execute("CREATE TABLE of_old (n)")
    for _ in range(100):
        connection.execute("INSERT INTO one VALUES (99)")
    (tmp_path / "memtrace.db-wal").write_bytes((tmp_path / "old" / "memtrace.db-wal").read_bytes())
    connection.close()
    try:
        connection = open_database(path, ONE, Mode.MIGRATE)
    except StorageUnavailable:
        assert not path.exists()
        return
    try:
        assert connection.pragma("integrity_check") == "ok"
        assert connection.execute("SELECT n FROM one").fetchall() == [(1,)]
    finally:
        connection.close()


def test_an_error_inside_a_transaction_undoes_it(tmp_path):
    """A transaction that raises leaves nothing, and the connection free for the next one."""
    connection = opened(tmp_path / "memtrace.db", "writer")

    def failing():
        with transaction(connection):
            connection.execute("INSERT INTO one VALUES (2)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert connection.execute("SELECT count(*) FROM one").fetchone() == (1,)
    with transaction(connection):
        connection.execute("INSERT INTO one VALUES (3)")
    assert connection.execute("SELECT count(*) FROM one").fetchone() == (2,)
    connection.close()


def test_a_transaction_takes_its_lock_at_once(tmp_path):
    """Two writers never meet half way: the second finds the lock taken when it begins, not when it writes."""
    path = tmp_path / "memtrace.db"
    one, two = opened(path, "writer"), opened(path, "writer")
    two.set_busy_timeout(0)
    with transaction(one), pytest.raises(apsw.BusyError), transaction(two):
        pytest.fail("the second transaction began")
    one.close()
    two.close()


def test_a_snapshot_does_not_see_what_is_committed_meanwhile(tmp_path):
    """All reads in one snapshot see one and the same state."""
    path = tmp_path / "memtrace.db"
    writer, reader = opened(path, "writer"), open_reader(path)
    with snapshot(reader):
        assert reader.execute("SELECT count(*) FROM one").fetchone() == (1,)
        writer.execute("INSERT INTO one VALUES (2)")
        assert reader.execute("SELECT count(*) FROM one").fetchone() == (1,)
    assert reader.execute("SELECT count(*) FROM one").fetchone() == (2,)
    writer.close()
    reader.close()


def test_a_folder_in_place_of_the_file_is_named(tmp_path):
    """A path that is a directory is refused with a sentence, not a traceback."""
    path = tmp_path / "memtrace.db"
    path.mkdir()
    with pytest.raises(StorageUnavailable, match=r"memtrace\.db cannot be used: Is a directory"):
        open_database(path, ONE, Mode.MIGRATE)


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    """A path below a file is refused with a sentence."""
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StorageUnavailable, match=r"memtrace\.db cannot be used: "):
        open_database(tmp_path / "data" / "memtrace.db", ONE, Mode.MIGRATE)


@pytest.mark.parametrize("make_first", [False, True])
def test_a_read_only_folder_is_named(unprivileged, make_first):
    """Where the folder may not be written, opening says so, for a new database and for an existing one."""
    with unprivileged() as folder:
        path = folder / "memtrace.db"
        if make_first:
            make(path)
        folder.chmod(0o500)
        with pytest.raises(StorageUnavailable, match=r"memtrace\.db cannot be used"):
            open_database(path, ONE, Mode.MIGRATE)


@pytest.mark.parametrize("mode", [0o400, 0o000])
def test_a_file_that_may_not_be_written_is_named(unprivileged, mode):
    """A database without the permissions it needs is refused, and named."""
    with unprivileged() as folder:
        path = folder / "memtrace.db"
        make(path)
        path.chmod(mode)
        with pytest.raises(StorageUnavailable, match=r"memtrace\.db cannot be used"):
            open_database(path, TWO, Mode.MIGRATE)


def test_a_damaged_database_says_to_restore_a_backup(tmp_path):
    """A file whose header is ours and whose pages are not is called damaged."""
    path = tmp_path / "memtrace.db"
    make(path)
    content = bytearray(path.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    path.write_bytes(content)
    with pytest.raises(StorageUnavailable, match=r"memtrace\.db is damaged .*restore it from a backup"):
        open_database(path, ONE, Mode.MIGRATE)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (apsw.BusyError("x"), "memtrace.db is locked by another process"),
        (apsw.FullError("x"), "memtrace.db cannot be used"),
        (apsw.IOError("x"), "memtrace.db cannot be used"),
        (apsw.NotADBError("x"), "memtrace.db is not a database"),
        (PermissionError(13, "Permission denied"), "memtrace.db cannot be used: Permission denied"),
    ],
)
def test_what_goes_wrong_with_a_file_is_said_in_one_sentence(tmp_path, error, message):
    """Errors of SQLite and of the system become StorageUnavailable with the file's name."""
    with pytest.raises(StorageUnavailable, match=message), reporting(tmp_path / "memtrace.db"):
        raise error


def test_a_broken_constraint_is_left_to_the_caller(tmp_path):
    """A conflict of data is no fault of the file, so it is not reported as one."""
    with pytest.raises(apsw.ConstraintError), reporting(tmp_path):
        raise apsw.ConstraintError("x")
