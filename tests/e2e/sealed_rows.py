"""The sealed Arc keys of a deployment, seen and changed in its metadata file as nobody should."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import apsw

from memtrace_sqlite import EnvelopeVault, MasterKey

CHECK = "master_key_check"


def sealed_keys(file: Path) -> dict[str, bytes]:
    """Return each instance's sealed key, retired ones included, and the check of the master key, by name."""
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        found = connection.execute(
            """
            SELECT instance_id, sealed_api_key FROM arc_instances WHERE sealed_api_key IS NOT NULL
            UNION ALL SELECT name, value FROM meta WHERE name = ?
            """,
            (CHECK,),
        )
        return {name: bytes(value) for name, value in found}
    finally:
        connection.close()


def sealed_with(file: Path) -> set[str]:
    """Return the ids of the master keys that anything is sealed with."""
    return {value[1:9].hex() for value in sealed_keys(file).values()}


def key_id(master_key: str) -> str:
    """Return the id of a master key."""
    return MasterKey.parse(master_key).id.hex()


def bound_instance(file: Path, org_id: str) -> str:
    """Return the id of the instance that an organization is bound to."""
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        sql = "SELECT instance_id FROM arc_instances WHERE org_id = ? AND NOT retired"
        ((instance_id,),) = connection.execute(sql, (org_id,))
        return str(instance_id)
    finally:
        connection.close()


def put_sealed(file: Path, instance_id: str, sealed: bytes) -> None:
    """Put other bytes in the place of an instance's sealed key."""
    connection = apsw.Connection(str(file))
    connection.set_busy_timeout(10_000)
    try:
        connection.execute("PRAGMA synchronous = OFF")  # nothing of this has to survive
        sql = "UPDATE arc_instances SET sealed_api_key = ? WHERE instance_id = ?"
        connection.execute(sql, (sealed, instance_id))
        assert connection.changes() == 1
    finally:
        connection.close()


def add_instances(file: Path, master_key: str, number: int) -> dict[str, str]:
    """Add so many organizations with an instance each, every other one retired; return each instance's key."""
    vault = EnvelopeVault(MasterKey.parse(master_key))
    orgs: list[Sequence[str]] = []
    instances: list[Sequence[str | bytes | int]] = []
    keys = {}
    for count in range(number):
        org_id, instance_id, key = f"org_many{count}", f"arc_many{count}", f"arc-key-{count}"
        sealed = vault.seal(key, f"{org_id}|{instance_id}|arc_api_key")
        orgs.append((org_id, org_id))
        instances.append((instance_id, org_id, "http://127.0.0.1:9", "d", "events", sealed, 0, 0, count % 2))
        keys[instance_id] = key
    connection = apsw.Connection(str(file))
    with connection:
        connection.executemany("INSERT INTO orgs (org_id, name, created_at) VALUES (?, ?, 0)", orgs)
        connection.executemany("INSERT INTO arc_instances VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", instances)
    connection.close()
    return keys
