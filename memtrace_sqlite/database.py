"""SQLite files of ours: created privately, recognised before they are touched, opened durably."""

from __future__ import annotations

import fcntl
import logging
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw
import msgspec

from memtrace_core.damage import DamagedRow
from memtrace_core.errors import StorageUnavailable
from memtrace_core.opening import Mode

_log = logging.getLogger("memtrace.database")

BUSY_TIMEOUT_MS = 30_000

_MAGIC = b"SQLite format 3\0"
UNFINISHED = ".memtrace-new"
HEADER_BYTES = 100
_APPLICATION_ID_AT = 68
_SYNCHRONOUS_FULL = 2


class Schema(msgspec.Struct, frozen=True):
    """What a file of ours looks like.

    `application_id` stands in the file's header, `migrations[n]` leads from version n to n + 1, and `kind` is
    what the file is called in messages. `forerunner` may know whose a file is that is not ours, and what to do.
    """

    kind: str
    application_id: int
    migrations: Sequence[str]
    forerunner: Callable[[Path], StorageUnavailable | None] | None = None

    @property
    def version(self) -> int:
        """The version that this program reads and writes."""
        return len(self.migrations)


def open_database(path: Path, schema: Schema, mode: Mode) -> apsw.Connection:
    """Open a database for reading and writing, making it if there is none.

    Raises:
        StorageUnavailable: the file is not ours (it was not touched), has another schema version that may not be
            migrated here, or cannot be used.
    """
    with reporting(path):
        if _is_blank(path):
            _create(path, schema)
        recognise(path, schema)
        connection = _connect(path, apsw.SQLITE_OPEN_READWRITE)
        try:
            _bring_up_to_date(connection, path, schema, mode)
        except BaseException:
            connection.close()
            raise
        return connection


def open_existing(path: Path) -> apsw.Connection:
    """Open a recognised database for reading and writing, whatever its schema version."""
    with reporting(path):
        return _connect(path, apsw.SQLITE_OPEN_READWRITE)


def open_reader(path: Path) -> apsw.Connection:
    """Open a database that `open_database` has opened before, for reading only."""
    with reporting(path):
        return _connect(path, apsw.SQLITE_OPEN_READONLY)


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """Write in one transaction that takes its lock at once, so that it never fails half way for a lock."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # After some errors (a full disk, for one) SQLite has rolled back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def snapshot(connection: apsw.Connection) -> Iterator[None]:
    """Read several times from one and the same state."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def keeps_its_snapshot(connection: apsw.Connection) -> bool:
    """Tell whether a connection would go on reading from a state that is past.

    It does where somebody still holds a cursor that was not read to its end, in the traceback of an error for one:
    the end of the transaction is not the end of that.
    """
    return connection.txn_state() != apsw.SQLITE_TXN_NONE


@contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file into one clear sentence about it."""
    try:
        yield
    except apsw.ConstraintError:
        raise
    except apsw.NotADBError:
        raise StorageUnavailable(f"{path} is not a database") from None
    except apsw.CorruptError as error:
        raise StorageUnavailable(f"{path} is damaged ({error}); restore it from a backup") from error
    except apsw.BusyError as error:
        raise StorageUnavailable(f"{path} is locked by another process") from error
    except apsw.SQLError as error:
        # Our statements are right for our schema, so it is the schema that is not.
        raise StorageUnavailable(f"{path} is damaged ({error}); restore it from a backup") from error
    except apsw.Error as error:
        raise StorageUnavailable(f"{path} cannot be used: {error}") from error
    except (DamagedRow, OverflowError, UnicodeDecodeError, msgspec.DecodeError) as error:
        # Bytes within a value that have changed: nothing that SQLite would notice.
        raise StorageUnavailable(f"{path} is damaged (a value cannot be read); restore it from a backup") from error
    except OSError as error:
        raise StorageUnavailable(f"{path} cannot be used: {error.strerror or error}") from error


def _is_blank(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except FileNotFoundError:
        return True


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, privately and for good."""
    missing = [one for one in (folder, *folder.parents) if not one.is_dir()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for one in missing:
        # A name is only safe when the folder that it stands in was synced.
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _create(path: Path, schema: Schema) -> None:
    make_folder(path.parent)
    # Two processes on one empty path: the second waits here and then finds a database.
    with locked_folder(path.parent) as folder:
        if not _is_blank(path):
            return
        wal = path.with_name(path.name + "-wal")
        if not _is_blank(wal):
            # SQLite would play it back into whatever database comes to lie beside it.
            raise StorageUnavailable(
                f"{wal} has lost its database {path}; restore that, or move the -wal file away"
            )
        build_beside(path, schema).rename(path)
        os.fsync(folder)


@contextmanager
def locked_folder(folder: Path) -> Iterator[int]:
    """Be the only one to make databases in a folder, and have it open for syncing."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield opened
    finally:
        os.close(opened)


def build_beside(path: Path, schema: Schema, fill: Callable[[apsw.Connection], None] | None = None) -> Path:
    """Make a database under another name, to be renamed when it is complete: no half one is ever met.

    Args:
        path: the name that it shall have; its folder must be locked.
        schema: its tables.
        fill: puts the first rows in, in the transaction that makes the tables.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    remove_unfinished(path)
    os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    connection = apsw.Connection(str(unfinished), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.pragma("synchronous", _SYNCHRONOUS_FULL)
        connection.pragma("foreign_keys", True)
        with transaction(connection):
            _migrate(connection, schema, 0)
            if fill is not None:
                fill(connection)
            connection.pragma("application_id", schema.application_id)
        connection.pragma("journal_mode", "wal")
    finally:
        connection.close()
    return unfinished


def remove_unfinished(path: Path) -> None:
    """Remove what an earlier attempt to make a database has left."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + UNFINISHED + suffix).unlink(missing_ok=True)


def recognise(path: Path, schema: Schema) -> None:
    """Return if a file is one of ours, of this kind.

    Its header is read here: SQLite would create files beside a WAL database just to look at it.

    Raises:
        StorageUnavailable: it is something else.
    """
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    try:
        recognise_header(header, schema, str(path))
    except StorageUnavailable:
        known = schema.forerunner(path) if schema.forerunner is not None else None
        if known is not None:
            raise known from None
        raise


def recognise_header(header: bytes, schema: Schema, name: str) -> None:
    """Return if the first `HEADER_BYTES` of a file, which messages call `name`, are those of one of ours."""
    if len(header) < HEADER_BYTES or not header.startswith(_MAGIC):
        raise StorageUnavailable(f"{name} is not a database; it was left untouched")
    (application_id,) = struct.unpack_from(">i", header, _APPLICATION_ID_AT)
    if application_id != schema.application_id:
        raise StorageUnavailable(
            f"{name} is not a Memtrace {schema.kind} (made by another program or version); it was left untouched"
        )


def _connect(path: Path, flags: int) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=flags)
    try:
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        connection.pragma("foreign_keys", True)
        connection.pragma("synchronous", _SYNCHRONOUS_FULL)
        connection.pragma("fullfsync", True)
        # Or SQLite plans a statement anew for each run with other values, which takes longer than most of them.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        if connection.pragma("synchronous") != _SYNCHRONOUS_FULL or connection.pragma("foreign_keys") != 1:
            raise StorageUnavailable(f"{path}: SQLite refuses synchronous=FULL or foreign keys")
        if connection.pragma("journal_mode") != "wal":
            raise StorageUnavailable(f"{path} is not in WAL mode; is it on a network file system?")
    except BaseException:
        connection.close()
        raise
    return connection


def _bring_up_to_date(connection: apsw.Connection, path: Path, schema: Schema, mode: Mode) -> None:
    found = _outdated(connection, path, schema)
    if found is None:
        return
    if mode is Mode.AS_IT_IS:
        raise StorageUnavailable(
            f"{path} has schema version {found}, older than this program's {schema.version}; "
            "start `memtrace serve` once to migrate it"
        )
    with transaction(connection):
        # Another process may have done it meanwhile, and one of a newer program at that.
        found = _outdated(connection, path, schema)
        if found is not None:
            text = "bringing %s from schema version %d to %d; with millions of rows it takes minutes"
            _log.info(text, path, found, schema.version)
            _migrate(connection, schema, found)


def _outdated(connection: apsw.Connection, path: Path, schema: Schema) -> int | None:
    """Return the version of a schema that is older than this program's, None if it is the same."""
    found = _user_version(connection)
    if found > schema.version:
        raise StorageUnavailable(
            f"{path} has schema version {found}, newer than this program's {schema.version}; use a newer memtrace"
        )
    return found if found < schema.version else None


def _migrate(connection: apsw.Connection, schema: Schema, found: int) -> None:
    for script in schema.migrations[found:]:
        connection.execute(script)
    connection.pragma("user_version", schema.version)


def _user_version(connection: apsw.Connection) -> int:
    version = connection.pragma("user_version")
    if not isinstance(version, int):
        raise StorageUnavailable("the database has no readable schema version")
    return version
