"""The metadata database: orgs, Arc instances, API keys, agents and sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import apsw

from memtrace_core import rules
from memtrace_core.errors import Conflict, NotFound, StorageUnavailable
from memtrace_core.model import Agent, APIKey, ArcInstance, Org, Session, SessionStatus
from memtrace_core.ports import KeyVault
from memtrace_core.query import Position
from memtrace_core.timewindow import to_us
from memtrace_sqlite.database import Mode, open_database, open_reader, reporting, transaction
from memtrace_sqlite.metadata_rows import (
    Row,
    agent_of,
    first,
    instance_of,
    instance_row,
    json_text,
    key_of,
    optional_us,
    org_of,
    session_of,
    session_row,
)
from memtrace_sqlite.presence import Presence
from memtrace_sqlite.rows import Value
from memtrace_sqlite.schema import METADATA

CHECK_CONTEXT = "metadata|check"
CHECK_VALUE = "memtrace"
LOOK_SECONDS = 1.0
JOURNAL_OF = "journal of "

_INSTANCE = "instance_id, org_id, url, database, measurement, sealed_api_key, created_at, updated_at"
_KEY = "key_id, org_id, name, digest, permissions, created_at, expires_at, revoked_at"
_AGENT = "agent_id, org_id, name, description, config_json, created_at, last_active_at"
_SESSION = "session_id, org_id, agent_id, status, metadata_json, created_at, updated_at, closed_at"

Result = TypeVar("Result")


class SqliteMetadataRepo:
    """Metadata in one SQLite file; servers and CLI may use it at once.

    Args:
        path: the file, made if it is not there.
        vault: must be of the master key with which this database was begun.
        mode: whether an older schema is migrated or refused.

    Raises:
        StorageUnavailable: the file is not ours or cannot be used.
        WrongMasterKey: the database was begun with another master key.
        SealBroken: its check value is damaged.
    """

    def __init__(self, path: Path, vault: KeyVault, *, mode: Mode = Mode.AS_IT_IS) -> None:
        self._path = path
        self._connection = open_database(path, METADATA, mode)
        try:
            with reporting(path):
                self._check_master_key(vault)
            # `data_version` moves when another connection commits, so this one must never write.
            self._watch = open_reader(path)
        except BaseException:
            self._connection.close()
            raise
        self._seen: tuple[object, int] = (None, 0)
        self._presence = Presence(path)
        self._file_presence = Presence(path, ("",), every=LOOK_SECONDS)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metadata")
        self._closed = False

    def version(self) -> int:
        """Return the version of orgs, instances and keys, in about two microseconds when nothing changed."""
        self._file_presence.check()
        with reporting(self._path):
            data_version = self._watch.pragma("data_version")
            if data_version != self._seen[0]:
                ((version,),) = self._watch.execute("SELECT version FROM config_version")
                self._seen = (data_version, version)
        return self._seen[1]

    def known_journals(self) -> set[str]:
        """Return the node ids of the journals that have belonged to this database."""
        with reporting(self._path):
            found = self._connection.execute("SELECT name FROM meta WHERE name GLOB ?", (JOURNAL_OF + "*",))
            return {name.removeprefix(JOURNAL_OF) for (name,) in found}

    def know_journal(self, node: str) -> None:
        """Remember that a journal belongs to this database."""
        with reporting(self._path), transaction(self._connection):
            self._connection.execute("INSERT OR IGNORE INTO meta VALUES (?, x'')", (JOURNAL_OF + node,))

    async def create_org(self, org: Org) -> None:
        """Store a new org."""
        row = (org.id, org.name, to_us(org.created_at))
        taken = Conflict(f"organization {org.id} exists already", code="org_exists")
        await self._write(lambda: self._insert("orgs (org_id, name, created_at)", row, taken))

    async def get_org(self, org_id: str) -> Org | None:
        """Return an org."""
        return first(org_of, await self._rows("SELECT org_id, name, created_at FROM orgs WHERE org_id = ?", org_id))

    async def list_orgs(self) -> list[Org]:
        """Return all orgs, oldest first."""
        rows = await self._rows("SELECT org_id, name, created_at FROM orgs ORDER BY created_at, org_id")
        return [org_of(row) for row in rows]

    async def delete_org(self, org_id: str) -> bool:
        """Delete an org; the schema's cascades take what is its own."""
        return await self._change("DELETE FROM orgs WHERE org_id = ?", org_id)

    async def bind_instance(self, instance: ArcInstance) -> None:
        """Bind an org that has no instance."""
        taken = Conflict(
            f"{instance.org_id} has an Arc instance already",
            code="instance_exists",
            hint=f"change it with `memtrace org set-arc {instance.org_id}`",
        )

        def work() -> None:
            if self._execute("SELECT 1 FROM arc_instances WHERE org_id = ? AND NOT retired", instance.org_id):
                raise taken
            self._bind(instance, taken)

        await self._write(work)

    async def rebind_instance(self, instance: ArcInstance) -> None:
        """Replace an org's instance in one transaction."""

        def work() -> None:
            self._execute(
                "UPDATE arc_instances SET retired = 1 WHERE org_id = ? AND instance_id <> ? AND NOT retired",
                instance.org_id,
                instance.id,
            )
            self._bind(instance, Conflict(f"the Arc instance id {instance.id} is another organization's"))

        await self._write(work)

    async def unbind_instance(self, org_id: str) -> bool:
        """Retire an org's instance."""
        return await self._change("UPDATE arc_instances SET retired = 1 WHERE org_id = ? AND NOT retired", org_id)

    async def instance_of(self, org_id: str) -> ArcInstance | None:
        """Return the instance an org is bound to."""
        sql = f"SELECT {_INSTANCE} FROM arc_instances WHERE org_id = ? AND NOT retired"
        return first(instance_of, await self._rows(sql, org_id))

    async def get_instance(self, org_id: str, instance_id: str) -> ArcInstance | None:
        """Return an instance, retired or not."""
        sql = f"SELECT {_INSTANCE} FROM arc_instances WHERE org_id = ? AND instance_id = ?"
        return first(instance_of, await self._rows(sql, org_id, instance_id))

    async def list_instances(self) -> list[ArcInstance]:
        """Return every bound instance."""
        rows = await self._rows(f"SELECT {_INSTANCE} FROM arc_instances WHERE NOT retired ORDER BY org_id")
        return [instance_of(row) for row in rows]

    async def create_key(self, key: APIKey) -> None:
        """Store a key."""
        row = (
            key.id,
            key.org_id,
            key.name,
            key.digest,
            str(key.permissions),
            to_us(key.created_at),
            optional_us(key.expires_at),
            optional_us(key.revoked_at),
        )
        taken = Conflict(f"{key.org_id} has a live key named {key.name!r}", code="key_name_taken")
        await self._write(lambda: self._insert(f"api_keys ({_KEY})", row, taken))

    async def find_key(self, digest: bytes) -> APIKey | None:
        """Return the key with this SHA-256."""
        return first(key_of, await self._rows(f"SELECT {_KEY} FROM api_keys WHERE digest = ?", digest))

    async def list_keys(self, org_id: str) -> list[APIKey]:
        """Return an org's keys, oldest first."""
        sql = f"SELECT {_KEY} FROM api_keys WHERE org_id = ? ORDER BY created_at, key_id"
        return [key_of(row) for row in await self._rows(sql, org_id)]

    async def revoke_key(self, key_id: str, at: datetime) -> bool:
        """Revoke a key."""
        sql = "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE key_id = ?"
        return await self._change(sql, to_us(at), key_id)

    async def create_agent(self, agent: Agent) -> None:
        """Store an agent."""
        row = (
            agent.id,
            agent.org_id,
            agent.name,
            agent.description,
            json_text(agent.config),
            to_us(agent.created_at),
            optional_us(agent.last_active_at),
        )
        taken = Conflict(f"an agent named {agent.name!r} exists already", code="agent_exists")
        await self._write(lambda: self._insert(f"agents ({_AGENT})", row, taken))

    async def find_agent(self, org_id: str, id_or_name: str) -> Agent | None:
        """Return an agent by id, else by name."""
        sql = (
            f"SELECT {_AGENT} FROM agents WHERE org_id = ?1 AND (agent_id = ?2 OR name = ?2) "
            "ORDER BY agent_id <> ?2 LIMIT 1"
        )
        return first(agent_of, await self._rows(sql, org_id, id_or_name))

    async def list_agents(self, org_id: str, limit: int, after: Position | None) -> list[Agent]:
        """Return agents, newest first."""
        rows = await self._newest(_AGENT, "agents", "agent_id", ("org_id = ?", [org_id]), limit, after)
        return [agent_of(row) for row in rows]

    async def delete_agent(self, org_id: str, agent_id: str) -> bool:
        """Delete an agent."""
        return await self._change("DELETE FROM agents WHERE org_id = ? AND agent_id = ?", org_id, agent_id)

    async def create_session(self, session: Session) -> None:
        """Store a session."""
        taken = Conflict(f"session {session.id} exists already", code="session_exists")
        await self._write(lambda: self._insert(f"sessions ({_SESSION})", session_row(session), taken))

    async def get_session(self, org_id: str, session_id: str) -> Session | None:
        """Return a session."""
        sql = f"SELECT {_SESSION} FROM sessions WHERE org_id = ? AND session_id = ?"
        return first(session_of, await self._rows(sql, org_id, session_id))

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
            session = first(session_of, self._execute(sql, org_id, session_id))
            if session is None:
                return None
            changed = session.changed(status, metadata, at)
            if changed.metadata is not None:
                rules.json_object(changed.metadata, "metadata")
            self._execute(
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

        return await self._write(work)

    async def count_sessions(self, org_id: str, agent_id: str) -> tuple[int, int]:
        """Count an agent's sessions, and the active ones."""
        sql = "SELECT count(*), coalesce(sum(status = 'active'), 0) FROM sessions WHERE org_id = ? AND agent_id = ?"
        ((total, active),) = await self._rows(sql, org_id, agent_id)
        return total, active

    async def close(self) -> None:
        """Finish what was begun, and close the file."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
            self.release()

    def release(self) -> None:
        """Close the file at once, for who never ran anything on it."""
        self._closed = True
        self._watch.close()
        self._connection.close()

    def _check_master_key(self, vault: KeyVault) -> None:
        """Open a value that the database's first master key has sealed, so that another is named at once."""
        sql = "SELECT value FROM meta WHERE name = 'master_key_check'"
        if (found := self._connection.execute(sql).fetchone()) is None:
            with transaction(self._connection):
                self._connection.execute(
                    "INSERT OR IGNORE INTO meta VALUES ('master_key_check', ?)",
                    (vault.seal(CHECK_VALUE, CHECK_CONTEXT),),
                )
            found = self._connection.execute(sql).fetchone()
        if found is not None:
            vault.open(found[0], CHECK_CONTEXT)

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._closed:
            raise StorageUnavailable(f"{self._path} is closed")

        def reported() -> Result:
            with reporting(self._path):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._thread, reported)

    async def _write(self, work: Callable[[], Result]) -> Result:
        def transacted() -> Result:
            self._presence.check()
            with transaction(self._connection):
                return work()

        return await self._run(transacted)

    async def _change(self, sql: str, *values: Value) -> bool:
        def work() -> bool:
            self._execute(sql, *values)
            return self._connection.changes() > 0

        return await self._write(work)

    async def _rows(self, sql: str, *values: Value) -> list[Row]:
        return await self._run(lambda: self._execute(sql, *values))

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
        return await self._rows(sql, *values, limit)

    def _bind(self, instance: ArcInstance, taken: Conflict) -> None:
        """Insert an instance, or change it if the org has had it before."""
        self._insert(
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

    def _execute(self, sql: str, *values: Value) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()

    def _insert(self, into: str, row: Sequence[Value], taken: Conflict, otherwise: str = "") -> None:
        try:
            self._execute(f"INSERT INTO {into} VALUES ({', '.join('?' * len(row))}) {otherwise}", *row)
        except apsw.ConstraintError as error:
            if getattr(error, "extendedresult", None) == apsw.SQLITE_CONSTRAINT_FOREIGNKEY:  # not in the stubs
                raise NotFound("the organization does not exist (any more)", code="org_not_found") from None
            raise taken from None
