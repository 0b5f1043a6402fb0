"""The metadata database: orgs, Arc instances, API keys, agents and sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from memtrace_core import rules
from memtrace_core.errors import Conflict
from memtrace_core.metadata_rows import (
    Row,
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
from memtrace_core.query import Position
from memtrace_core.timewindow import to_us
from memtrace_sqlite.metadata_file import CHECK_CONTEXT, CHECK_NAME, MetadataFile
from memtrace_sqlite.rows import Value

_ORG = "org_id, name, created_at, retention"
_INSTANCE = "instance_id, org_id, url, database, measurement, sealed_api_key, created_at, updated_at"
_KEY = "key_id, org_id, name, digest, permissions, created_at, expires_at, revoked_at, superseded_at"
_AGENT = "agent_id, org_id, name, description, config_json, created_at, last_active_at"
_SESSION = "session_id, org_id, agent_id, status, metadata_json, created_at, updated_at, closed_at"


class SqliteMetadataRepo(MetadataFile):
    """Orgs, Arc instances, API keys, agents and sessions in one SQLite file; see `MetadataFile`."""

    async def create_org(self, org: Org) -> None:
        """Store a new org."""
        taken = Conflict(f"organization {org.id} exists already", code="org_exists")
        await self.write(lambda: self.insert(f"orgs ({_ORG})", org_row(org), taken))

    async def get_org(self, org_id: str) -> Org | None:
        """Return an org."""
        return first(org_of, await self.rows(f"SELECT {_ORG} FROM orgs WHERE org_id = ?", org_id))

    async def list_orgs(self) -> list[Org]:
        """Return all orgs, oldest first."""
        rows = await self.rows(f"SELECT {_ORG} FROM orgs ORDER BY created_at, org_id")
        return [org_of(row) for row in rows]

    async def set_retention(self, org_id: str, retention: timedelta | None) -> bool:
        """Change an org."""
        length = optional_length(retention)
        return await self.change("UPDATE orgs SET retention = ? WHERE org_id = ?", length, org_id)

    async def delete_org(self, org_id: str) -> bool:
        """Delete an org; the schema's cascades take what is its own."""
        return await self.change("DELETE FROM orgs WHERE org_id = ?", org_id)

    async def bind_instance(self, instance: ArcInstance) -> None:
        """Bind an org that has no instance."""
        taken = Conflict(
            f"{instance.org_id} has an Arc instance already",
            code="instance_exists",
            hint=f"change it with `memtrace org set-arc {instance.org_id}`",
        )

        def work() -> None:
            if self.execute("SELECT 1 FROM arc_instances WHERE org_id = ? AND NOT retired", instance.org_id):
                raise taken
            self._bind(instance, taken)

        await self.write(work)

    async def rebind_instance(self, instance: ArcInstance) -> None:
        """Replace an org's instance in one transaction."""

        def work() -> None:
            self.execute(
                "UPDATE arc_instances SET retired = 1 WHERE org_id = ? AND instance_id <> ? AND NOT retired",
                instance.org_id,
                instance.id,
            )
            self._bind(instance, Conflict(f"the Arc instance id {instance.id} is another organization's"))

        await self.write(work)

    async def unbind_instance(self, org_id: str) -> bool:
        """Retire an org's instance."""
        return await self.change("UPDATE arc_instances SET retired = 1 WHERE org_id = ? AND NOT retired", org_id)

    async def instance_of(self, org_id: str) -> ArcInstance | None:
        """Return the instance an org is bound to."""
        sql = f"SELECT {_INSTANCE} FROM arc_instances WHERE org_id = ? AND NOT retired"
        return first(instance_of, await self.rows(sql, org_id))

    async def get_instance(self, org_id: str, instance_id: str) -> ArcInstance | None:
        """Return an instance, retired or not."""
        sql = f"SELECT {_INSTANCE} FROM arc_instances WHERE org_id = ? AND instance_id = ?"
        return first(instance_of, await self.rows(sql, org_id, instance_id))

    async def list_instances(self) -> list[ArcInstance]:
        """Return every bound instance."""
        rows = await self.rows(f"SELECT {_INSTANCE} FROM arc_instances WHERE NOT retired ORDER BY org_id")
        return [instance_of(row) for row in rows]

    async def knows_instances(self) -> bool:
        """Tell whether there is an instance, retired or not."""
        return bool(await self.rows("SELECT 1 FROM arc_instances LIMIT 1"))

    async def sealed_secrets(self) -> list[SealedSecret]:
        """Return all Arc keys, and the value that tells the master key."""
        return await self.run(self._sealed_secrets)

    def _sealed_secrets(self) -> list[SealedSecret]:
        check = self.check_value()
        return [*([SealedSecret(CHECK_CONTEXT, check)] if check else ()), *map(_sealed, self._sealed_instances())]

    def _sealed_instances(self) -> list[ArcInstance]:
        sql = f"SELECT {_INSTANCE} FROM arc_instances WHERE sealed_api_key IS NOT NULL ORDER BY instance_id"
        return [instance_of(row) for row in self.execute(sql)]

    async def reseal(self, reseal: Callable[[SealedSecret], bytes]) -> int:
        """Replace sealed secrets in one transaction."""

        def work() -> int:
            changed = 0
            check = self.check_value()
            if check is not None and (value := reseal(SealedSecret(CHECK_CONTEXT, check))) != check:
                self.execute("UPDATE meta SET value = ? WHERE name = ?", value, CHECK_NAME)
                changed += 1
            for instance in self._sealed_instances():
                sealed = _sealed(instance)
                if (value := reseal(sealed)) != sealed.value:
                    sql = "UPDATE arc_instances SET sealed_api_key = ? WHERE instance_id = ? AND org_id = ?"
                    self.execute(sql, value, instance.id, instance.org_id)
                    changed += 1
            return changed

        return await self.write(work)

    async def create_key(self, key: APIKey) -> None:
        """Store a key."""

        def work() -> None:
            # An expired key has no claim to its name.
            self.execute(
                """
                UPDATE api_keys SET superseded_at = ? WHERE org_id = ? AND name = ? AND expires_at <= ?
                AND revoked_at IS NULL AND superseded_at IS NULL
                """,
                to_us(key.created_at),
                key.org_id,
                key.name,
                to_us(key.created_at),
            )
            self._insert_key(key)

        await self.write(work)

    async def rotate_key(self, former_id: str, key: APIKey, until: datetime) -> bool:
        """Store a key in the place of another one, which works until then at most."""
        at = to_us(key.created_at)

        def work() -> bool:
            self.execute(
                """
                UPDATE api_keys SET superseded_at = ?, expires_at = min(coalesce(expires_at, ?), ?)
                WHERE key_id = ? AND org_id = ? AND revoked_at IS NULL AND superseded_at IS NULL
                AND (expires_at IS NULL OR expires_at > ?)
                """,
                at,
                to_us(until),
                to_us(until),
                former_id,
                key.org_id,
                at,
            )
            if not self.changes():
                return False
            self._insert_key(key)
            return True

        return await self.write(work)

    def _insert_key(self, key: APIKey) -> None:
        taken = Conflict(f"{key.org_id} has a live key named {key.name!r}", code="key_name_taken")
        self.insert(f"api_keys ({_KEY})", key_row(key), taken)

    async def get_key(self, key_id: str) -> APIKey | None:
        """Return a key by its id."""
        return first(key_of, await self.rows(f"SELECT {_KEY} FROM api_keys WHERE key_id = ?", key_id))

    async def key_digests(self) -> frozenset[bytes]:
        """Return the SHA-256 of every key."""
        return frozenset(digest for (digest,) in await self.rows("SELECT digest FROM api_keys"))

    async def find_key(self, digest: bytes) -> APIKey | None:
        """Return the key with this SHA-256."""
        return first(key_of, await self.rows(f"SELECT {_KEY} FROM api_keys WHERE digest = ?", digest))

    async def list_keys(self, org_id: str) -> list[APIKey]:
        """Return an org's keys, oldest first."""
        sql = f"SELECT {_KEY} FROM api_keys WHERE org_id = ? ORDER BY created_at, key_id"
        return [key_of(row) for row in await self.rows(sql, org_id)]

    async def revoke_key(self, key_id: str, at: datetime) -> bool:
        """Revoke a key."""
        sql = "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE key_id = ?"
        return await self.change(sql, to_us(at), key_id)

    async def create_agent(self, agent: Agent) -> None:
        """Store an agent."""
        taken = Conflict(f"an agent named {agent.name!r} exists already", code="agent_exists")
        await self.write(lambda: self.insert(f"agents ({_AGENT})", agent_row(agent), taken))

    async def find_agent(self, org_id: str, id_or_name: str) -> Agent | None:
        """Return an agent by id, else by name."""
        sql = (
            f"SELECT {_AGENT} FROM agents WHERE org_id = ?1 AND (agent_id = ?2 OR name = ?2) "
            "ORDER BY agent_id <> ?2 LIMIT 1"
        )
        return first(agent_of, await self.rows(sql, org_id, id_or_name))

    async def list_agents(self, org_id: str, limit: int, after: Position | None) -> list[Agent]:
        """Return agents, newest first."""
        rows = await self._newest(_AGENT, "agents", "agent_id", ("org_id = ?", [org_id]), limit, after)
        return [agent_of(row) for row in rows]

    async def delete_agent(self, org_id: str, agent_id: str) -> bool:
        """Delete an agent."""
        return await self.change("DELETE FROM agents WHERE org_id = ? AND agent_id = ?", org_id, agent_id)

    async def create_session(self, session: Session) -> None:
        """Store a session."""
        taken = Conflict(f"session {session.id} exists already", code="session_exists")
        await self.write(lambda: self.insert(f"sessions ({_SESSION})", session_row(session), taken))

    async def get_session(self, org_id: str, session_id: str) -> Session | None:
        """Return a session."""
        sql = f"SELECT {_SESSION} FROM sessions WHERE org_id = ? AND session_id = ?"
        return first(session_of, await self.rows(sql, org_id, session_id))

    async def list_sessions(
        self, org_id: str, agent_id: str | None, limit: int, after: Position | None
    ) -> list[Session]:
        """Return sessions, newest first."""
        owner: tuple[str, list[Value]] = ("org_id = ?", [org_id])
        if agent_id is not None:
            owner = ("org_id = ? AND agent_id = ?", [org_id, agent_id])
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
        """Change a session in one transaction."""

        def work() -> Session | None:
            sql = f"SELECT {_SESSION} FROM sessions WHERE org_id = ? AND session_id = ?"
            session = first(session_of, self.execute(sql, org_id, session_id))
            if session is None:
                return None
            changed = session.changed(status, metadata, at)
            if changed.metadata is not None:
                rules.json_object(changed.metadata, "metadata")
            self.execute(
                """
                UPDATE sessions SET status = ?, metadata_json = ?, updated_at = ?, closed_at = ?
                WHERE org_id = ? AND session_id = ?
                """,
                changed.status,
                json_text(changed.metadata),
                to_us(changed.updated_at),
                optional_us(changed.closed_at),
                org_id,
                session_id,
            )
            return changed

        return await self.write(work)

    async def count_sessions(self, org_id: str, agent_id: str) -> tuple[int, int]:
        """Count an agent's sessions, and the active ones."""
        sql = "SELECT count(*), coalesce(sum(status = 'active'), 0) FROM sessions WHERE org_id = ? AND agent_id = ?"
        ((total, active),) = await self.rows(sql, org_id, agent_id)
        return total, active

    async def _newest(
        self,
        columns: str,
        table: str,
        identity: str,
        owner: tuple[str, list[Value]],
        limit: int,
        after: Position | None,
    ) -> list[Row]:
        where, values = owner
        if after is not None:
            where += f" AND (created_at, {identity}) < (?, ?)"
            values = [*values, to_us(after.time), after.id]
        sql = f"SELECT {columns} FROM {table} WHERE {where} ORDER BY created_at DESC, {identity} DESC LIMIT ?"
        return await self.rows(sql, *values, limit)

    def _bind(self, instance: ArcInstance, taken: Conflict) -> None:
        """Insert an instance, or change it if the org has had it before."""
        self.insert(
            f"arc_instances ({_INSTANCE})",
            instance_row(instance),
            taken,
            """
            ON CONFLICT (instance_id) DO UPDATE SET
                url = excluded.url, database = excluded.database, measurement = excluded.measurement,
                sealed_api_key = excluded.sealed_api_key, updated_at = excluded.updated_at, retired = 0
            WHERE org_id = excluded.org_id
            """,
        )


def _sealed(instance: ArcInstance) -> SealedSecret:
    return SealedSecret(instance.key_context, instance.sealed_api_key or b"")
