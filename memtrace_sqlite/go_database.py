"""How a database of the Go service is told from others, without touching it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

import apsw

from memtrace_core.errors import StorageUnavailable

VERSION = "0.2.0"
"""The version whose databases can be taken over."""

TABLES: Mapping[str, frozenset[str]] = {
    name: frozenset(columns.split())
    for name, columns in {
        "organizations": "id name created_at settings_json",
        "api_keys": "id key_hash key_prefix name org_id permissions created_at expires_at enabled",
        "agents": "id org_id name description config_json created_at last_active_at",
        "sessions": "id org_id agent_id status metadata_json created_at updated_at closed_at",
        "arc_instances": "id org_id url api_key_cipher api_key_nonce database measurement created_at updated_at",
    }.items()
}
"""The tables and columns of that version."""

_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"


def is_go_database(path: Path) -> bool:
    """Tell whether a file is a database of the Go service, of any version. Nothing in it or beside it changes."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC) or struct.unpack_from(">i", header, 68) != (0,):
        return False
    tables = _look(path)
    wal = path.with_name(path.name + "-wal")
    if not tables and wal.exists() and wal.stat().st_size:
        # A service that was killed early may have left all it ever wrote there.
        tables = _look_at_copy(path, wal)
    return {"key_hash", "key_prefix"} <= tables.get("api_keys", frozenset()) and {"agents", "sessions"} <= set(
        tables
    )


def refusal(path: Path) -> StorageUnavailable | None:
    """Return what is to be said by who meets a database of the Go service and may not take it over."""
    if not is_go_database(path):
        return None
    return StorageUnavailable(
        f"{path} is a database of the Go service; it was left untouched",
        hint="stop the Go service; `memtrace serve` takes its database over when it starts",
    )


def tables_of(connection: apsw.Connection) -> dict[str, frozenset[str]]:
    """Return the columns of each table."""
    found: dict[str, frozenset[str]] = {}
    rows = connection.execute(
        """
        SELECT owner.name, info.name FROM sqlite_schema AS owner, pragma_table_info(owner.name) AS info
        WHERE owner.type = 'table' AND owner.name NOT GLOB 'sqlite_*'
        """
    )
    for table, column in rows:
        found[table] = found.get(table, frozenset()) | {column}
    return found


def _look(path: Path) -> dict[str, frozenset[str]]:
    """Read the tables past every lock, and without the files that SQLite makes to read a database in WAL mode."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    # Whoever writes it meanwhile may let it look damaged for a moment, as damage would.
    with (
        suppress(apsw.Error, UnicodeDecodeError),
        closing(apsw.Connection(f"file:{quote(str(path.absolute()))}?immutable=1", flags=flags)) as connection,
    ):
        return tables_of(connection)
    return {}


def _look_at_copy(path: Path, wal: Path) -> dict[str, frozenset[str]]:
    import shutil  # both for what is rare: their imports cost every command
    import tempfile

    with tempfile.TemporaryDirectory(prefix="memtrace-look-") as folder, suppress(apsw.Error, UnicodeDecodeError):
        copy = Path(folder, "copy.db")
        shutil.copyfile(path, copy)
        shutil.copyfile(wal, copy.with_name("copy.db-wal"))
        with closing(apsw.Connection(str(copy), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            return tables_of(connection)
    return {}
