"""A look at a database file, and the command that looks, where not everything may be looked at."""

from contextlib import closing

import apsw
import pytest

import memtrace_cli.doctor  # noqa: F401 - read now: the user that a test becomes may not read the package
from memtrace_cli.app import run as run_command
from memtrace_core.errors import StorageUnavailable
from memtrace_core.opening import Mode
from memtrace_sqlite.database import open_database
from memtrace_sqlite.inspection import inspect, sqlite_version
from memtrace_sqlite.schema import JOURNAL, METADATA


@pytest.fixture
def path(tmp_path):
    """Return a journal with a page that is torn, found only by who looks at every page."""
    path = tmp_path / "journal.db"
    with closing(open_database(path, JOURNAL, Mode.MIGRATE)) as connection:
        connection.execute("INSERT INTO key_use VALUES ('k', 1)")
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'key_use'")
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    return path


def test_every_page_of_a_database_is_looked_at(path):
    """A fault in a table that nobody reads is found."""
    with pytest.raises(StorageUnavailable, match=r"journal\.db is damaged"):
        inspect(path, JOURNAL)


def test_a_database_that_is_too_large_is_only_opened(path):
    """It is told that its pages were not looked at; from its very size on they are."""
    size = path.stat().st_size
    found = inspect(path, JOURNAL, largest_checked=size - 1)
    assert (found.checked, found.size_bytes, found.schema_version) == (False, size, JOURNAL.version)
    with pytest.raises(StorageUnavailable):
        inspect(path, JOURNAL, largest_checked=size)


def test_what_is_not_yet_in_the_main_file_counts(tmp_path):
    """The WAL of a database in use is told with its size, and so are the permissions."""
    path = tmp_path / "memtrace.db"
    with closing(open_database(path, METADATA, Mode.MIGRATE)) as connection:
        connection.execute("INSERT INTO meta VALUES ('x', x'00')")
        found = inspect(path, METADATA)
        assert found.wal_bytes == path.with_name("memtrace.db-wal").stat().st_size > 0
        assert (found.mode, found.checked, found.path) == (0o600, True, path)


def test_a_file_that_is_not_there_is_not_made(tmp_path):
    """It is named, and there is still nothing."""
    with pytest.raises(StorageUnavailable, match=r"memtrace\.db cannot be used"):
        inspect(tmp_path / "memtrace.db", METADATA)
    assert list(tmp_path.iterdir()) == []


def test_the_sqlite_in_use_is_a_safe_one(monkeypatch):
    """It is the version that apsw brings along; older ones, by number and not by letters, are not safe."""
    assert sqlite_version() == (apsw.sqlite_lib_version(), True)
    for version, safe in (("3.51.2", False), ("3.51.3", True), ("3.9.9", False), ("3.100.0", True)):
        monkeypatch.setattr(apsw, "sqlite_lib_version", lambda version=version: version)
        assert sqlite_version() == (version, safe)


def test_doctor_names_a_folder_that_it_may_not_enter(unprivileged, monkeypatch, capsys):
    """Another user than the owner is told what is wrong, as of any other fault."""
    with unprivileged() as folder:
        (folder / "data").mkdir()
        (folder / "data").chmod(0)
        monkeypatch.setenv("MEMTRACE_AUTH_DB_PATH", str(folder / "data" / "memtrace.db"))
        assert run_command(["doctor"]) == 1
    assert "Permission denied" in capsys.readouterr().out
