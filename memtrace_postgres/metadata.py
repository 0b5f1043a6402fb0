"""The metadata in PostgreSQL: orgs, Arc instances, API keys, agents and sessions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from memtrace_core import rules
from memtrace_core.errors import Conflict
from memtrace_core.metadata_rows import (
    Row,
    Value,
    agent_of,
    agent_row,
    first,
    instance_of,
    instance_row,
    json_text,
    key_of,
    key_row,
    optional_length,
    optional_us,
    org_of,
    org_row,
    session_of,
    session_row,
)
from memtrace_core.model import Agent, APIKey, ArcInstance, Org, SealedSecret, Session, SessionStatus
from memtrace_core.opening import Mode
from memtrace_core.ports import KeyVault
from memtrace_core.query import Position
from memtrace_core.timewindow import to_us
from memtrace_postgres.address import SCHEMA
from memtrace_postgres.connections import Connection
from memtrace_postgres.database import Database, insert_row
from memtrace_postgres.opening import CHECK_CONTEXT, CHECK_NAME
from memtrace_postgres.trouble import DatabaseAway

MOST_REMEMBERED = 20_000

_ORG = "org_id, name, created_at, retention"
_INSTANCE = "instance_id, org_id, url, database, measurement, sealed_api_key, created_at, updated_at"
_KEY = "key_id, org_id, name, digest, permissions, created_at, expires_at, revoked_at, superseded_at"
_AGENT = "agent_id, org_id, name, description, config_json, created_at, last_active_at"
_SESSION = "session_id, org_id, agent_id, status, metadata_json, created_at, updated_at, closed_at"


class PostgresMetadataRepo(Database):
    """Orgs, Arc instances, API keys, agents and sessions in one schema of a PostgreSQL; see `Database`.

    While the database is away every method raises `StorageUnavailable` at once. `get_instance` alone answers for
    instances that it was asked for before: what was accepted for an Arc is delivered there meanwhile.
    """

    def __init__(
        self,
        url: str,
        vault: KeyVault,
        *,
        mode: Mode = Mode.AS_IT_IS,
        schema: str = SCHEMA,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(url, vault, mode=mode, schema=schema, monotonic=monotonic)
        self._instances: dict[tuple[str, str], ArcInstance] = {}

    async def create_org(self, org: Org) -> None:
        """Store a new org."""
        taken = Conflict(f"organization {org.id} exists already", code="org_exists")
        async with self.configuring() as connection:
            await insert_row(connection, f"orgs ({_ORG})", org_row(org), taken)

    async def get_org(self, org_id: str) -> Org | None:
        """Return an org."""
        return first(org_of, await self.rows(f"SELECT {_ORG} FROM orgs WHERE org_id = %s", org_id))

    async def list_orgs(self) -> list[Org]:
        """Return all orgs, oldest first."""
        rows = await self.rows(f"SELECT {_ORG} FROM orgs ORDER BY created_at, org_id")
        return [org_of(row) for row in rows]

    async def set_retention(self, org_id: str, retention: timedelta | None) -> bool:
        """Change an org."""
        length = optional_length(retention)
        return await self.configure("UPDATE orgs SET retention = %s WHERE org_id = %s", length, org_id)

    async def delete_org(self, org_id: str) -> bool:
        """Delete an org; the schema's cascades take what is its own."""
        return await self.configure("DELETE FROM orgs WHERE org_id = %s", org_id)

    async def bind_instance(self, instance: ArcInstance) -> None:
        """Bind an org that has no instance."""
        taken = Conflict(
            f"{instance.org_id} has an Arc instance already",
            code="instance_exists",
            hint=f"change it with `memtrace org set-arc {instance.org_id}`",
        )
        sql = "SELECT 1 FROM arc_instances WHERE org_id = %s AND NOT retired"
        async with self.configuring() as connection:
            if await (await connection.execute(sql, (instance.org_id,))).fetchone():
                raise taken
            await _bind(connection, instance, taken)

    async def rebind_instance(self, instance: ArcInstance) -> None:
        """Replace an org's instance in one transaction."""
        sql = "UPDATE arc_instances SET retired = true WHERE org_id = %s AND instance_id <> %s AND NOT retired"
        taken = Conflict(f"the Arc instance id {instance.id} is another organization's")
        async with self.configuring() as connection:
            await connection.execute(sql, (instance.org_id, instance.id))
            await _bind(connection, instance, taken)

    async def unbind_instance(self, org_id: str) -> bool:
        """Retire an org's instance."""
        return await self.configure(
            "UPDATE arc_instances SET retired = true WHERE org_id = %s AND NOT retired", org_id
        )

    async def instance_of(self, org_id: str) -> ArcInstance | None:
        """Return the instance an org is bound to."""
        sql = f"SELECT {_INSTANCE} FROM arc_instances WHERE org_id = %s AND NOT retired"
        return first(instance_of, await self.rows(sql, org_id))

    async def get_instance(self, org_id: str, instance_id: str) -> ArcInstance | None:
        """Return an instance, retired or not; while the database is away, as it was when it was last read.

        Its place never changes under its id. Only its key may be a former one by then, which its Arc refuses.
        """
        known = (org_id, instance_id)
        sql = f"SELECT {_INSTANCE} FROM arc_instances WHERE org_id = %s AND instance_id = %s"
        try:
            found = first(instance_of, await self.rows(sql, org_id, instance_id))
        except DatabaseAway:
            if known not in self._instances:
                raise
            return self._instances[known]
        if len(self._instances) >= MOST_REMEMBERED:
            self._instances.clear()
        if found is None:
            self._instances.pop(known, None)
        else:
            self._instances[known] = found
        return found

    async def list_instances(self) -> list[ArcInstance]:
        """Return every bound instance."""
        rows = await self.rows(f"SELECT {_INSTANCE} FROM arc_instances WHERE NOT retired ORDER BY org_id")
        return [instance_of(row) for row in rows]

    async def knows_instances(self) -> bool:
        """Tell whether there is an instance, retired or not."""
        return bool(await self.rows("SELECT 1 FROM arc_instances LIMIT 1"))

    async def sealed_secrets(self) -> list[SealedSecret]:
        """Return all Arc keys, and the value that tells the master key."""
        async with self.transaction() as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            check, instances = await _sealed(connection)
        return [*(SealedSecret(CHECK_CONTEXT, value) for value in check), *map(_secret_of, instances)]

    async def reseal(self, reseal: Callable[[SealedSecret], bytes]) -> int:
        """Replace sealed secrets in one transaction."""
        changed = 0
        async with self.configuring() as connection:
            check, instances = await _sealed(connection)
            for former in check:
                if (value := reseal(SealedSecret(CHECK_CONTEXT, former))) != former:
                    await connection.execute("UPDATE meta SET value = %s WHERE name = %s", (value, CHECK_NAME))
                    changed += 1
            for instance in instances:
                secret = _secret_of(instance)
                if (value := reseal(secret)) != secret.value:
                    sql = "UPDATE arc_instances SET sealed_api_key = %s WHERE instance_id = %s AND org_id = %s"
                    await connection.execute(sql, (value, instance.id, instance.org_id))
                    changed += 1
        return changed

    async def create_key(self, key: APIKey) -> None:
        """Store a key."""
        at = to_us(key.created_at)
        async with self.configuring() as connection:
            # An expired key has no claim to its name.
            await connection.execute(
                """
                UPDATE api_keys SET superseded_at = %s WHERE org_id = %s AND name = %s AND expires_at <= %s
                AND revoked_at IS NULL AND superseded_at IS NULL
                """,
                (at, key.org_id, key.name, at),
            )
            await _insert_key(connection, key)

    async def rotate_key(self, former_id: str, key: APIKey, until: datetime) -> bool:
        """Store a key in the place of another one, which works until then at most."""
        at, end = to_us(key.created_at), to_us(until)
        async with self.configuring() as connection:
            superseded = await connection.execute(
                """
                UPDATE api_keys SET superseded_at = %s, expires_at = least(expires_at, %s)
                WHERE key_id = %s AND org_id = %s AND revoked_at IS NULL AND superseded_at IS NULL
                AND (expires_at IS NULL OR expires_at > %s)
                """,
                (at, end, former_id, key.org_id, at),
            )
            if not superseded.rowcount:
                return False
            await _insert_key(connection, key)
        return True

    async def get_key(self, key_id: str) -> APIKey | None:
        """Return a key by its id."""
        return first(key_of, await self.rows(f"SELECT {_KEY} FROM api_keys WHERE key_id = %s", key_id))

    async def key_digests(self) -> frozenset[bytes]:
        """Return the SHA-256 of every key."""
        return frozenset(digest for (digest,) in await self.rows("SELECT digest FROM api_keys"))

    async def find_key(self, digest: bytes) -> APIKey | None:
        """Return the key with this SHA-256."""
        return first(key_of, await self.rows(f"SELECT {_KEY} FROM api_keys WHERE digest = %s", digest))

    async def list_keys(self, org_id: str) -> list[APIKey]:
        """Return an org's keys, oldest first."""
        sql = f"SELECT {_KEY} FROM api_keys WHERE org_id = %s ORDER BY created_at, key_id"
        return [key_of(row) for row in await self.rows(sql, org_id)]

    async def revoke_key(self, key_id: str, at: datetime) -> bool:
        """Revoke a key."""
        sql = "UPDATE api_keys SET revoked_at = coalesce(revoked_at, %s) WHERE key_id = %s"
        return await self.configure(sql, to_us(at), key_id)

    async def create_agent(self, agent: Agent) -> None:
        """Store an agent."""
        taken = Conflict(f"an agent named {agent.name!r} exists already", code="agent_exists")
        await self.insert(f"agents ({_AGENT})", agent_row(agent), taken)

    async def find_agent(self, org_id: str, id_or_name: str) -> Agent | None:
        """Return an agent by id, else by name."""
        sql = (
            f"SELECT {_AGENT} FROM agents WHERE org_id = %s AND (agent_id = %s OR name = %s) "
            "ORDER BY agent_id <> %s LIMIT 1"
        )
        return first(agent_of, await self.rows(sql, org_id, id_or_name, id_or_name, id_or_name))

    async def list_agents(self, org_id: str, limit: int, after: Position | None) -> list[Agent]:
        """Return agents, newest first."""
        rows = await self._newest(_AGENT, "agents", "agent_id", {"org_id": org_id}, limit, after)
        return [agent_of(row) for row in rows]

    async def delete_agent(self, org_id: str, agent_id: str) -> bool:
        """Delete an agent."""
        return await self.change("DELETE FROM agents WHERE org_id = %s AND agent_id = %s", org_id, agent_id)

    async def create_session(self, session: Session) -> None:
        """Store a session."""
        taken = Conflict(f"session {session.id} exists already", code="session_exists")
        await self.insert(f"sessions ({_SESSION})", session_row(session), taken)

    async def get_session(self, org_id: str, session_id: str) -> Session | None:
        """Return a session."""
        sql = f"SELECT {_SESSION} FROM sessions WHERE org_id = %s AND session_id = %s"
        return first(session_of, await self.rows(sql, org_id, session_id))

    async def list_sessions(
        self, org_id: str, agent_id: str | None, limit: int, after: Position | None
    ) -> list[Session]:
        """Return sessions, newest first."""
        owner = {"org_id": org_id} if agent_id is None else {"org_id": org_id, "agent_id": agent_id}
        rows = await self._newest(_SESSION, "sessions", "session_id", owner, limit, after)
        return [session_of(row) for row in rows]

    async def update_session(
        self,
        org_id: str,
        session_id: str,
        *,
        status: SessionStatus | None,
        metadata: Mapping[str, object] | None,
        at: datetime,
    ) -> Session | None:
        """Change a session in one transaction; who changes it meanwhile waits."""
        if await self.get_session(org_id, session_id) is None:
            return None
        async with self.transaction() as connection:
            sql = f"SELECT {_SESSION} FROM sessions WHERE org_id = %s AND session_id = %s FOR UPDATE"
            session = first(session_of, await (await connection.execute(sql, (org_id, session_id))).fetchall())
            if session is None:
                return None
            changed = session.changed(status, metadata, at)
            if changed.metadata is not None:
                rules.json_object(changed.metadata, "metadata")
            await connection.execute(
                """
                UPDATE sessions SET status = %s, metadata_json = %s, updated_at = %s, closed_at = %s
                WHERE org_id = %s AND session_id = %s
                """,
                (
                    changed.status,
                    json_text(changed.metadata),
                    to_us(changed.updated_at),
                    optional_us(changed.closed_at),
                    org_id,
                    session_id,
                ),
            )
        return changed

    async def count_sessions(self, org_id: str, agent_id: str) -> tuple[int, int]:
        """Count an agent's sessions, and the active ones."""
        sql = (
            "SELECT count(*), count(*) FILTER (WHERE status = 'active') FROM sessions "
            "WHERE org_id = %s AND agent_id = %s"
        )
        found = await self.rows(sql, org_id, agent_id)
        return found[0] if found else (0, 0)

    async def _newest(
        self,
        columns: str,
        table: str,
        identity: str,
        owner: Mapping[str, Value],
        limit: int,
        after: Position | None,
    ) -> list[Row]:
        where = " AND ".join(f"{name} = %s" for name in owner)
        values = [*owner.values()]
        if after is not None:
            where += f" AND (created_at, {identity}) < (%s, %s)"
            values += [to_us(after.time), after.id]
        sql = f"SELECT {columns} FROM {table} WHERE {where} ORDER BY created_at DESC, {identity} DESC LIMIT %s"
        return await self.rows(sql, *values, limit)


async def _bind(connection: Connection, instance: ArcInstance, taken: Conflict) -> None:
    """Insert an instance, or change it if the org has had it before."""
    await insert_row(
        connection,
        f"arc_instances ({_INSTANCE})",
        instance_row(instance),
        taken,
        """
        ON CONFLICT (instance_id) DO UPDATE SET
            url = excluded.url, database = excluded.database, measurement = excluded.measurement,
            sealed_api_key = excluded.sealed_api_key, updated_at = excluded.updated_at, retired = false
        WHERE arc_instances.org_id = excluded.org_id
        """,
    )


async def _insert_key(connection: Connection, key: APIKey) -> None:
    taken = Conflict(f"{key.org_id} has a live key named {key.name!r}", code="key_name_taken")
    await insert_row(connection, f"api_keys ({_KEY})", key_row(key), taken)


async def _sealed(connection: Connection) -> tuple[list[bytes], list[ArcInstance]]:
    """Return the check of the master key, if there is one, and the instances that have a sealed key."""
    check = await connection.execute("SELECT value FROM meta WHERE name = %s", (CHECK_NAME,))
    values = [value for (value,) in await check.fetchall()]
    sql = f"SELECT {_INSTANCE} FROM arc_instances WHERE sealed_api_key IS NOT NULL ORDER BY instance_id"
    return values, [instance_of(row) for row in await (await connection.execute(sql)).fetchall()]


def _secret_of(instance: ArcInstance) -> SealedSecret:
    return SealedSecret(instance.key_context, instance.sealed_api_key or b"")
