"""What the Go service stored, read as rows of our tables.

It wrote times as `2026-11-22 12:44:33` and as `2026-11-22 12:44:35.807189814+00:00`, JSON as text, permissions
separated by commas. Its foreign keys were not enforced: rows may name an org that is gone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import apsw
import msgspec

from memtrace_core import rules
from memtrace_core.errors import InvalidInput, StorageUnavailable, WrongMasterKey
from memtrace_core.metadata_rows import Row, instance_row
from memtrace_core.model import ArcInstance, Permission
from memtrace_core.timewindow import to_us
from memtrace_sqlite.rows import Value
from memtrace_sqlite.vault import EnvelopeVault

PREFIX_BYTES = 8
"""So much of a key's SHA-256 the Go service kept."""

MOST_COST = 15
"""Of a bcrypt hash, as a power of two; the Go service took 10. One of more would take minutes to check."""

_HASH = re.compile(r"\$2[abxy]\$([0-9]{2})\$[./A-Za-z0-9]{53}", re.ASCII)
_PREFIX = re.compile(r"[0-9a-f]{16}", re.ASCII)
_OBJECT = msgspec.json.Decoder(dict[str, object])
_NOTHING = ("", "{}", "null", None)
_OF_AN_ORG = "org_id IN (SELECT id FROM organizations)"


class UnreadableValue(StorageUnavailable):
    """A value is none that the Go service would have written there."""


class GoRows:
    """The rows of a database of the Go service, a method for each table of ours.

    What can only be taken over in part is told in `remarks`, in sentences for a person, once all was read.

    Args:
        connection: reads the database, in one transaction.
        vault: opens its Arc keys, and seals them anew.
        now: the time from which keys that were switched off count as revoked.

    Raises:
        UnreadableValue: (all methods) a value cannot be read.
    """

    def __init__(self, connection: apsw.Connection, vault: EnvelopeVault, now: datetime) -> None:
        self._connection = connection
        self._vault = vault
        self._now = now
        self._remarks: list[str] = []
        self._other_states: Counter[str] = Counter()

    def remarks(self) -> list[str]:
        """Return what an operator should know."""
        orphans = [f"{count} {table}" for table, count in self._orphans() if count]
        gone = [f"left out what belongs to organizations that are gone: {', '.join(orphans)}"] if orphans else []
        states = [
            f"{count} sessions of status {status!r} are closed now" for status, count in self._other_states.items()
        ]
        return [*self._remarks, *gone, *states]

    def orgs(self) -> Iterator[tuple[Value, ...]]:
        """Yield orgs."""
        for org_id, name, created_at in self._rows("organizations", "id, name, created_at"):
            yield org_id, name, _time(created_at, f"organization {org_id}: created_at")

    def instances(self) -> Iterator[tuple[Value, ...]]:
        """Yield Arc instances, their keys sealed anew.

        One whose key does not open is left without, as long as another one's opens: so the master key is right.

        Raises:
            WrongMasterKey: none of the Arc keys opens.
        """
        found = list(
            self._rows(
                "arc_instances",
                "id, org_id, url, database, measurement, api_key_cipher, api_key_nonce, created_at, updated_at",
            )
        )
        secrets = {row[0]: self._secret(row) for row in found}
        if found and all(secret is None for secret in secrets.values()):
            raise WrongMasterKey("sealed with another master key")
        for row in found:
            instance = self._instance(row)
            if instance is None:
                continue
            try:
                sealed = self._vault.seal(
                    rules.arc_api_key(secrets[instance.id] or "", "its Arc key"), instance.key_context
                )
                yield instance_row(msgspec.structs.replace(instance, sealed_api_key=sealed))
            except InvalidInput as error:
                told = "its Arc key does not open" if secrets[instance.id] is None else str(error)
                self._remarks.append(
                    f"{instance.org_id} has no Arc key any more ({told}); "
                    f"give it one with `memtrace org set-arc {instance.org_id} --api-key -`"
                )
                yield instance_row(instance)

    def _secret(self, row: Row) -> str | None:
        _, _, _, _, _, cipher, nonce, _, _ = row
        try:
            return self._vault.open_bare(bytes(nonce), bytes(cipher))
        except (TypeError, WrongMasterKey):
            return None

    def _instance(self, row: Row) -> ArcInstance | None:
        """Return an instance without its key; None for one that cannot be used, which is remarked upon."""
        instance_id, org_id, url, database, measurement, _, _, created_at, updated_at = row
        made = _moment(created_at, f"Arc instance {instance_id}: created_at")
        changed = made if updated_at is None else _moment(updated_at, f"Arc instance {instance_id}: updated_at")
        try:
            return ArcInstance(
                id=instance_id,
                org_id=org_id,
                url=rules.arc_url(url, "url"),
                database=rules.arc_database(database, "database"),
                measurement=rules.arc_measurement(measurement, "measurement"),
                sealed_api_key=None,
                created_at=made,
                updated_at=changed,
            )
        except InvalidInput as error:
            self._remarks.append(
                f"{org_id} is not bound to its Arc any more ({error}); bind it with `memtrace org add-arc {org_id}`"
            )
            return None

    def keys(self) -> Iterator[tuple[Value, ...]]:
        """Yield API keys; in the place of a digest stands what the Go service kept of it."""
        columns = "id, org_id, name, key_prefix, permissions, created_at, expires_at, enabled"
        for number, org_id, name, prefix, permissions, created_at, expires_at, enabled in self._rows(
            "api_keys", columns
        ):
            what = f"API key {name!r}"
            if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
                raise _unreadable(f"{what}: key_prefix")
            yield (
                key_id(number),
                org_id,
                name,
                bytes.fromhex(prefix),
                _permissions(permissions, what),
                _time(created_at, f"{what}: created_at"),
                None if expires_at is None else _time(expires_at, f"{what}: expires_at"),
                None if enabled else to_us(self._now),
            )

    def hashes(self) -> Iterator[tuple[Value, ...]]:
        """Yield the bcrypt hashes of the keys that count."""
        for number, name, enabled, hashed in self._rows("api_keys", "id, name, enabled, key_hash"):
            if enabled:
                found = _HASH.fullmatch(hashed) if isinstance(hashed, str) else None
                if found is None or int(found[1]) > MOST_COST:
                    raise _unreadable(f"API key {name!r}: key_hash")
                yield key_id(number), hashed

    def agents(self) -> Iterator[tuple[Value, ...]]:
        """Yield agents."""
        columns = "id, org_id, name, description, config_json, created_at, last_active_at"
        for agent_id, org_id, name, description, config, created_at, last_active_at in self._rows(
            "agents", columns
        ):
            yield (
                agent_id,
                org_id,
                name,
                description or None,
                _object(config, "config_json"),
                _time(created_at, f"agent {agent_id}: created_at"),
                None if last_active_at is None else _time(last_active_at, f"agent {agent_id}: last_active_at"),
            )

    def sessions(self) -> Iterator[tuple[Value, ...]]:
        """Yield sessions."""
        columns = "id, org_id, agent_id, status, metadata_json, created_at, updated_at, closed_at"
        for row in self._rows("sessions", columns):
            session_id, org_id, agent_id, status, metadata, created_at, updated_at, closed_at = row
            what = f"session {session_id}"
            created = _time(created_at, f"{what}: created_at")
            updated = created if updated_at is None else _time(updated_at, f"{what}: updated_at")
            closed = updated if closed_at is None else _time(closed_at, f"{what}: closed_at")
            if status not in ("active", "closed"):
                self._other_states[str(status)] += 1
            active = status == "active"
            yield (
                session_id,
                org_id,
                agent_id,
                "active" if active else "closed",
                _object(metadata, "metadata_json"),
                created,
                updated,
                None if active else closed,
            )

    def _rows(self, table: str, columns: str) -> Iterator[Row]:
        where = "" if table == "organizations" else f"WHERE {_OF_AN_ORG}"
        return iter(self._connection.execute(f"SELECT {columns} FROM {table} {where} ORDER BY id"))

    def _orphans(self) -> Iterator[tuple[str, int]]:
        for table, name in (
            ("api_keys", "API keys"),
            ("arc_instances", "Arc instances"),
            ("agents", "agents"),
            ("sessions", "sessions"),
        ):
            ((count,),) = self._connection.execute(f"SELECT count(*) FROM {table} WHERE NOT {_OF_AN_ORG}")
            yield name, count


def key_id(number: int) -> str:
    """Return the id of the key that had this number."""
    return f"key_{number:012d}"


def _time(value: object, what: str) -> int:
    return to_us(_moment(value, what))


def _moment(value: object, what: str) -> datetime:
    try:
        if not isinstance(value, str):
            raise TypeError
        moment = datetime.fromisoformat(value)  # which cuts what is finer than a microsecond
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise _unreadable(what) from None


def _permissions(value: object, what: str) -> str:
    try:
        return str(Permission.parse(str(value)))
    except InvalidInput:
        raise _unreadable(f"{what}: permissions") from None


def _object(value: str | None, name: str) -> str | None:
    """Return a JSON object as text, None for an empty one; what is none is kept within one."""
    if value in _NOTHING:
        return None
    try:
        _OBJECT.decode(str(value))
    except (msgspec.DecodeError, RecursionError):
        return msgspec.json.encode({name: value}).decode()
    return value


def _unreadable(what: str) -> UnreadableValue:
    return UnreadableValue(f"{what} cannot be read")
