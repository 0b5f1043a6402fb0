"""What is done once, before a repository is used: recognised, migrated, and tried with the master key.

A server and a command do this before their event loop has anything else to do, so it may wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from memtrace_core.errors import StorageUnavailable
from memtrace_core.opening import Mode
from memtrace_core.ports import KeyVault
from memtrace_postgres.address import Address
from memtrace_postgres.schema import MIGRATIONS
from memtrace_postgres.trouble import reporting

CHECK_CONTEXT = "metadata|check"
CHECK_VALUE = "memtrace"
CHECK_NAME = "master_key_check"
OLDEST_SERVER = 130000

_MIGRATING = 0x4D744D64  # the first half of the advisory lock that migrations are made under
OpeningConnection = psycopg.Connection[tuple[Any, ...]]


def prepare(address: Address, vault: KeyVault, mode: Mode) -> dict[str, str]:
    """Make or migrate the tables as far as `mode` allows, and return the known journals: node id → place.

    Raises:
        StorageUnavailable: the database cannot be used, its schema is another's, or has another version.
        WrongMasterKey: the database was begun with another master key.
        SealBroken: its check value is damaged.
    """
    with connected(address) as connection:
        check_server(connection, address)
        if found_version(connection, address) != len(MIGRATIONS):
            _bring_up_to_date(connection, address, mode)
        _check_master_key(connection, vault)
        return journals(connection)


def journals(connection: OpeningConnection) -> dict[str, str]:
    """Return the known journals: node id → place."""
    return dict(connection.execute("SELECT node, place FROM journals").fetchall())


def know_journal(address: Address, node: str, place: str) -> None:
    """Remember that a journal belongs to this database, and where it lies."""
    with connected(address) as connection:
        connection.execute(
            "INSERT INTO journals VALUES (%s, %s) ON CONFLICT (node) DO UPDATE SET place = excluded.place",
            (node, place),
        )


@contextmanager
def connected(address: Address) -> Iterator[OpeningConnection]:
    """Connect for as long as this takes, which must be short."""
    with reporting(address), psycopg.connect(autocommit=True, **address.parameters) as connection:  # type: ignore[arg-type]
        yield connection


def check_server(connection: OpeningConnection, address: Address) -> None:
    """Return if the database can hold ours."""
    if connection.info.server_version < OLDEST_SERVER:
        raise StorageUnavailable(f"{address} is older than PostgreSQL {OLDEST_SERVER // 10_000}")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StorageUnavailable(f"{address} has the encoding {encoding}; it must be UTF8")


def found_version(connection: OpeningConnection, address: Address) -> int:
    """Return the version of the schema, 0 where there is none."""
    # One statement: another node may make the tables between two.
    found = connection.execute(
        """
        SELECT count(*), count(*) FILTER (WHERE relname = 'schema_version')
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = %s
        """,
        (address.schema,),
    ).fetchone()
    if found == (0, 0):
        return 0
    if found is None or not found[1]:
        raise StorageUnavailable(
            f"{address}: the schema {address.schema} holds something that is not Memtrace's; it was left untouched"
        )
    versions = connection.execute("SELECT version FROM schema_version").fetchall()
    if len(versions) != 1:
        raise StorageUnavailable(f"{address}: the schema {address.schema} has no readable version")
    version: int = versions[0][0]
    return version


def _bring_up_to_date(connection: OpeningConnection, address: Address, mode: Mode) -> None:
    with connection.transaction():
        # Of several nodes that start at once, one does it, and the others find it done.
        connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_MIGRATING, address.schema))
        found = found_version(connection, address)
        if found > len(MIGRATIONS):
            raise StorageUnavailable(
                f"{address} has schema version {found}, newer than this program's {len(MIGRATIONS)}; "
                "use a newer memtrace"
            )
        if 0 < found < len(MIGRATIONS) and mode is Mode.AS_IT_IS:
            raise StorageUnavailable(
                f"{address} has schema version {found}, older than this program's {len(MIGRATIONS)}; "
                "start `memtrace serve` once to migrate it"
            )
        if found == 0:
            if connection.execute("SELECT to_regnamespace(%s)", (address.schema,)).fetchone() == (None,):
                connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(address.schema)))
            connection.execute("CREATE TABLE schema_version (version integer NOT NULL)")
            connection.execute("INSERT INTO schema_version VALUES (0)")
        for script in MIGRATIONS[found:]:
            connection.execute(script)
        connection.execute("UPDATE schema_version SET version = %s", (len(MIGRATIONS),))


def _check_master_key(connection: OpeningConnection, vault: KeyVault) -> None:
    """Open a value that the database's master key has sealed, so that another key is named at once."""
    sql = "SELECT value FROM meta WHERE name = %s"
    check = connection.execute(sql, (CHECK_NAME,)).fetchone()
    if check is None:
        # Two nodes may do so at once; one of the values stays.
        connection.execute(
            "INSERT INTO meta VALUES (%s, %s) ON CONFLICT DO NOTHING",
            (CHECK_NAME, vault.seal(CHECK_VALUE, CHECK_CONTEXT)),
        )
        check = connection.execute(sql, (CHECK_NAME,)).fetchone()
    if check is not None:
        vault.open(check[0], CHECK_CONTEXT)
