"""Taking over a database of the Go service: all of it or nothing, whenever the process or the power goes.

The new database is made beside the old one, complete and synced, and then takes its name in one rename. Until then
the old one is only read; its WAL is folded into it, since SQLite would play that back into the new one. Nothing of
the old file is left in the new one, deleted rows and old seals included: all of that is in the backup alone.
"""

from __future__ import annotations

import filecmp
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import apsw
import msgspec

from memtrace_core.errors import StorageUnavailable
from memtrace_sqlite.database import UNFINISHED, build_beside, locked_folder, remove_unfinished, reporting
from memtrace_sqlite.go_database import TABLES, VERSION, is_go_database, tables_of
from memtrace_sqlite.go_rows import GoRows, UnreadableValue
from memtrace_sqlite.metadata_file import CHECK_CONTEXT, CHECK_NAME, CHECK_VALUE
from memtrace_sqlite.rows import Value
from memtrace_sqlite.schema import METADATA
from memtrace_sqlite.vault import EnvelopeVault

BACKUP = ".go-backup"
BUSY_TIMEOUT_MS = 2_000
COUNTED = ("orgs", "arc_instances", "api_keys", "agents", "sessions")

# What a program that copies databases while they are in use leaves in them.
_OF_TOOLS = "_litestream_"

_INSTANCE = "instance_id, org_id, url, database, measurement, sealed_api_key, created_at, updated_at"

Result = TypeVar("Result")


class Takeover(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken over: rows by table, what could not be kept as it was, and where the old database is now."""

    counts: dict[str, int]
    remarks: tuple[str, ...]
    backup: Path


def take_over(path: Path, vault: EnvelopeVault, now: datetime) -> Takeover | None:
    """Put a database of ours in the place of one that the Go service made; None if it is none, or no longer.

    Args:
        path: the database.
        vault: opens what the Go service sealed, and seals it anew.
        now: from when keys that were switched off count as revoked.

    Raises:
        WrongMasterKey: the Arc keys were sealed with another master key. Nothing was changed.
        StorageUnavailable: the database is in use, damaged, of another version, or cannot be replaced. It is
            what it was.
    """
    path = path.resolve()  # beside a link there may be no room, and a rename would replace the link
    with reporting(path):
        if not path.exists() or not is_go_database(path):
            return None
        with locked_folder(path.parent) as folder:
            if not is_go_database(path):
                return None  # another process was here first
            try:
                # All that can go wrong with what is in it does so now, before anything is touched.
                _opened(path, lambda go: _build(go, path, vault, now))
                _fold(path)
                return _replace(path, vault, now, folder)
            finally:
                remove_unfinished(path)
                remove_unfinished(_backup_of(path))


def rehearse(path: Path, vault: EnvelopeVault, now: datetime, folder: Path) -> Takeover:
    """Tell what `take_over` would do, by doing it to a copy in an empty folder.

    Raises:
        WrongMasterKey, StorageUnavailable: what it would raise, except that the database is in use.
    """
    with reporting(path):
        copy = folder / path.name
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                shutil.copyfile(source, copy.with_name(copy.name + suffix))
    try:
        taken = take_over(copy, vault, now)
    except StorageUnavailable as error:
        raise StorageUnavailable(str(error).replace(str(copy.resolve()), str(path)), hint=error.hint) from None
    if taken is None:
        raise StorageUnavailable(f"{path} is no database of the Go service any more")
    return taken


def _opened(path: Path, work: Callable[[apsw.Connection], Result]) -> Result:
    """Do something with the old database that nobody else has open, and leave it as it is."""
    with _exclusively(path) as go:
        # Before the first look: in WAL mode nobody else may have it open then, and no -shm file is made.
        go.pragma("locking_mode", "exclusive")
        wal = path.with_name(path.name + "-wal")
        if wal.exists() and wal.stat().st_size:
            go.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        go.execute("BEGIN EXCLUSIVE")
        try:
            return work(go)
        finally:
            go.execute("ROLLBACK")


def _fold(path: Path) -> None:
    """Bring what is in the -wal file into the database, and remove that file."""
    with _exclusively(path) as go:
        go.pragma("locking_mode", "exclusive")
        go.pragma("synchronous", "full")
        go.pragma("journal_mode", "delete")


def _replace(path: Path, vault: EnvelopeVault, now: datetime, folder: int) -> Takeover:
    """Put a new database in the place of the old one, which nobody can open meanwhile."""
    with _exclusively(path) as go:
        # The lock of the first transaction stays. In the second one nothing can be written, so it can be copied.
        go.pragma("locking_mode", "exclusive")
        go.execute("BEGIN EXCLUSIVE; COMMIT; BEGIN")
        if go.pragma("journal_mode") != "delete":
            raise _in_use(path)
        old = path.stat()
        counts, remarks = _build(go, path, vault, now)
        backup = _back_up(go, path, old)
        unfinished = path.with_name(path.name + UNFINISHED)
        _hand_over(unfinished, old)
        # Left by a kill, and of no use any more; beside the new database SQLite might take them for its own.
        for suffix in ("-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        os.fsync(folder)
        unfinished.rename(path)
        os.fsync(folder)
        return Takeover(counts=counts, remarks=tuple(remarks), backup=backup)


@contextmanager
def _exclusively(path: Path) -> Iterator[apsw.Connection]:
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        try:
            yield connection
        except apsw.BusyError:
            raise _in_use(path) from None


def _in_use(path: Path) -> StorageUnavailable:
    return StorageUnavailable(
        f"{path} is a database of the Go service, and in use; it was left untouched",
        hint="stop the Go service, and whatever else has it open, then start `memtrace serve` again",
    )


def _build(
    go: apsw.Connection, path: Path, vault: EnvelopeVault, now: datetime
) -> tuple[dict[str, int], list[str]]:
    """Make the new database beside the old one, and return how many rows of each table it has, and the remarks."""
    _check_sound(go, path)
    unknown = _check_version(go, path)
    rows = GoRows(go, vault, now)
    counts: dict[str, int] = {}

    def fill(new: apsw.Connection) -> None:
        new.execute("INSERT INTO meta VALUES (?, ?)", (CHECK_NAME, vault.seal(CHECK_VALUE, CHECK_CONTEXT)))
        _insert(new, "orgs (org_id, name, created_at)", rows.orgs())
        _insert(new, f"arc_instances ({_INSTANCE})", rows.instances())
        _insert(
            new,
            "api_keys (key_id, org_id, name, digest, permissions, created_at, expires_at, revoked_at)",
            rows.keys(),
        )
        _insert(new, "former_keys (key_id, bcrypt)", rows.hashes())
        _insert(
            new,
            "agents (agent_id, org_id, name, description, config_json, created_at, last_active_at)",
            rows.agents(),
        )
        _insert(
            new,
            "sessions (session_id, org_id, agent_id, status, metadata_json, created_at, updated_at, closed_at)",
            rows.sessions(),
        )
        for table in COUNTED:
            ((counts[table],),) = new.execute(f"SELECT count(*) FROM {table}")

    try:
        build_beside(path, METADATA, fill)
    except (apsw.ConstraintError, UnreadableValue) as error:
        raise StorageUnavailable(
            f"{path} is a database of the Go service that cannot be taken over ({error}); it was left untouched",
            hint=f"mend or delete that with the Go service {VERSION}, or restore an older copy",
        ) from None
    return counts, [*rows.remarks(), *unknown]


def _check_sound(connection: apsw.Connection, path: Path) -> None:
    """Return if every page is sound, and every index complete: through one that is not, rows would be missed."""
    ((verdict,),) = connection.execute("PRAGMA integrity_check(1)")
    if verdict != "ok":
        raise StorageUnavailable(f"{path} is damaged ({verdict}); restore it from a backup")


def _insert(new: apsw.Connection, into: str, rows: Iterator[tuple[Value, ...]]) -> None:
    columns = into.count(",") + 1
    new.executemany(f"INSERT INTO {into} VALUES ({', '.join('?' * columns)})", rows)


def _check_version(go: apsw.Connection, path: Path) -> list[str]:
    """Return what is to be remarked upon tables that no version of the service is known to have.

    Raises:
        StorageUnavailable: the tables are those of another version.
    """
    found = tables_of(go)
    if go.pragma("user_version") != 0 or any(found.get(name) != columns for name, columns in TABLES.items()):
        raise StorageUnavailable(
            f"{path} is a database of another version of the Go service than {VERSION}; it was left untouched",
            hint=f"start the Go service {VERSION} with it once, then `memtrace serve`",
        )
    others = sorted(name for name in found.keys() - TABLES.keys() if not name.startswith(_OF_TOOLS))
    return [f"left out the table {name}, which the Go service {VERSION} does not have" for name in others]


def _back_up(go: apsw.Connection, path: Path, old: os.stat_result) -> Path:
    """Copy the old database beside it for good, unless an attempt that was cut short has done so; return where.

    Not by reading the file: closing it would let go of SQLite's lock on it.
    """
    first = _backup_of(path)
    copy = first.with_name(first.name + UNFINISHED)
    remove_unfinished(first)
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(apsw.Connection(str(copy), flags=apsw.SQLITE_OPEN_READWRITE)) as target:
        target.pragma("synchronous", "full")
        with target.backup("main", go, "main") as backup:
            backup.step(-1)
        _check_sound(target, path)
    _hand_over(copy, old)
    for number in itertools.count(2):
        if not first.exists():
            break
        if filecmp.cmp(copy, first, shallow=False):
            copy.unlink()
            return first
        first = first.with_name(f"{_backup_of(path).name}-{number}")
    copy.rename(first)
    return first


def _backup_of(path: Path) -> Path:
    return path.with_name(path.name + BACKUP)


def _hand_over(file: Path, old: os.stat_result) -> None:
    """Give a file that root has made to the owner of the old database."""
    if os.geteuid() == 0:
        os.chown(file, old.st_uid, old.st_gid)
