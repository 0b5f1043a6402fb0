"""Look at a database file without changing it or anything beside it more than reading needs."""

from __future__ import annotations

import stat
from pathlib import Path

import apsw
import msgspec

from memtrace_core.errors import StorageUnavailable
from memtrace_sqlite.database import Schema, open_reader, recognise, reporting

CHECKED_UP_TO_BYTES = 1 << 30
SAFE_SQLITE = (3, 51, 3)
"""The first version without a bug that can lose committed writes of a database in WAL mode."""


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: `mode` are the permission bits, `checked` tells whether every page was looked at."""

    path: Path
    size_bytes: int
    wal_bytes: int
    mode: int
    schema_version: int
    checked: bool


def inspect(path: Path, schema: Schema, *, largest_checked: int = CHECKED_UP_TO_BYTES) -> Inspection:
    """Open a database, and check the structure of all its pages unless it is larger than `largest_checked` bytes.

    Raises:
        StorageUnavailable: there is none, it is not ours, cannot be read, or is damaged.
    """
    with reporting(path):
        found = path.stat()
        recognise(path, schema)
        connection = open_reader(path)
        try:
            version = connection.pragma("user_version")
            checked = found.st_size <= largest_checked
            if checked:
                check_pages(connection, path)
        finally:
            connection.close()
    wal = path.with_name(path.name + "-wal")
    return Inspection(
        path=path,
        size_bytes=found.st_size,
        wal_bytes=wal.stat().st_size if wal.exists() else 0,
        mode=stat.S_IMODE(found.st_mode),
        schema_version=int(str(version)),
        checked=checked,
    )


def check_pages(connection: apsw.Connection, path: Path) -> None:
    """Return if the structure of a database is sound.

    Raises:
        StorageUnavailable: with the first fault.
    """
    ((verdict,),) = connection.execute("PRAGMA quick_check(1)")
    if verdict != "ok":
        raise StorageUnavailable(f"{path} is damaged ({verdict}); restore it from a backup")


def sqlite_version() -> tuple[str, bool]:
    """Return the version of SQLite in use, and whether it is safe."""
    version = apsw.sqlite_lib_version()
    return version, tuple(map(int, version.split("."))) >= SAFE_SQLITE
