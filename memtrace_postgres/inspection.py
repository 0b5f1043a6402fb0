"""A look at a database as it is, without making or changing anything."""

from __future__ import annotations

import msgspec

from memtrace_postgres.address import SCHEMA, Address
from memtrace_postgres.opening import check_server, connected, found_version, journals
from memtrace_postgres.schema import MIGRATIONS


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What was found; `schema_version` is 0 where there are no tables yet, `journals` is node id → place."""

    place: str
    server_version: str
    schema_version: int
    expected_version: int = len(MIGRATIONS)
    journals: dict[str, str] = {}


def inspect(url: str, schema: str = SCHEMA) -> Inspection:
    """Return what is found.

    Raises:
        StorageUnavailable: the database cannot be used, or holds something that is not ours.
    """
    address = Address(url, schema)
    with connected(address) as connection:
        check_server(connection, address)
        version = found_version(connection, address)
        return Inspection(
            place=str(address),
            server_version=(connection.info.parameter_status("server_version") or "?").split()[0],
            schema_version=version,
            journals=journals(connection) if version else {},
        )
