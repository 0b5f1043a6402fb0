"""Metadata as rows of plain values, for the tables of a relational database; times are microseconds since 1970."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec

from memtrace_core.damage import of_sound_rows
from memtrace_core.model import Agent, APIKey, ArcInstance, Org, Permission, Session
from memtrace_core.timewindow import from_us, to_us

Result = TypeVar("Result")
Value = str | int | float | bytes | None
Row = tuple[Any, ...]  # a row is typed by the function that builds a value from it

_MICROSECOND = timedelta(microseconds=1)
_OBJECT = msgspec.json.Decoder(dict[str, object])


def first(build: Callable[[Row], Result], rows: Sequence[Row]) -> Result | None:
    """Return the value of the first row, None without one."""
    return build(rows[0]) if rows else None


@of_sound_rows
def org_of(row: Row) -> Org:
    """Return the org of a row."""
    org_id, name, created_at, retention = row
    length = None if retention is None else retention * _MICROSECOND
    return Org(id=org_id, name=name, created_at=from_us(created_at), retention=length)


def org_row(org: Org) -> tuple[Value, ...]:
    """Return the row of an org."""
    return (org.id, org.name, to_us(org.created_at), optional_length(org.retention))


@of_sound_rows
def instance_of(row: Row) -> ArcInstance:
    """Return the Arc instance of a row."""
    instance_id, org_id, url, database, measurement, sealed_api_key, created_at, updated_at = row
    return ArcInstance(
        id=instance_id,
        org_id=org_id,
        url=url,
        database=database,
        measurement=measurement,
        sealed_api_key=sealed_api_key,
        created_at=from_us(created_at),
        updated_at=from_us(updated_at),
    )


def instance_row(instance: ArcInstance) -> tuple[Value, ...]:
    """Return the row of an Arc instance."""
    return (
        instance.id,
        instance.org_id,
        instance.url,
        instance.database,
        instance.measurement,
        instance.sealed_api_key,
        to_us(instance.created_at),
        to_us(instance.updated_at),
    )


@of_sound_rows
def key_of(row: Row) -> APIKey:
    """Return the API key of a row."""
    key_id, org_id, name, digest, permissions, created_at, expires_at, revoked_at, superseded_at = row
    return APIKey(
        id=key_id,
        org_id=org_id,
        name=name,
        digest=digest,
        permissions=Permission.parse(permissions),
        created_at=from_us(created_at),
        expires_at=optional_time(expires_at),
        revoked_at=optional_time(revoked_at),
        superseded_at=optional_time(superseded_at),
    )


def key_row(key: APIKey) -> tuple[Value, ...]:
    """Return the row of an API key."""
    return (
        key.id,
        key.org_id,
        key.name,
        key.digest,
        str(key.permissions),
        to_us(key.created_at),
        optional_us(key.expires_at),
        optional_us(key.revoked_at),
        optional_us(key.superseded_at),
    )


@of_sound_rows
def agent_of(row: Row) -> Agent:
    """Return the agent of a row."""
    agent_id, org_id, name, description, config, created_at, last_active_at = row
    return Agent(
        id=agent_id,
        org_id=org_id,
        name=name,
        description=description,
        config=_OBJECT.decode(config) if config else None,
        created_at=from_us(created_at),
        last_active_at=optional_time(last_active_at),
    )


def agent_row(agent: Agent) -> tuple[Value, ...]:
    """Return the row of an agent."""
    return (
        agent.id,
        agent.org_id,
        agent.name,
        agent.description,
        json_text(agent.config),
        to_us(agent.created_at),
        optional_us(agent.last_active_at),
    )


@of_sound_rows
def session_of(row: Row) -> Session:
    """Return the session of a row."""
    session_id, org_id, agent_id, status, metadata, created_at, updated_at, closed_at = row
    return Session(
        id=session_id,
        org_id=org_id,
        agent_id=agent_id,
        status=status,
        metadata=_OBJECT.decode(metadata) if metadata else None,
        created_at=from_us(created_at),
        updated_at=from_us(updated_at),
        closed_at=optional_time(closed_at),
    )


def session_row(session: Session) -> tuple[Value, ...]:
    """Return the row of a session."""
    return (
        session.id,
        session.org_id,
        session.agent_id,
        session.status,
        json_text(session.metadata),
        to_us(session.created_at),
        to_us(session.updated_at),
        optional_us(session.closed_at),
    )


def json_text(value: Mapping[str, object] | None) -> str | None:
    """Return an object as JSON text."""
    return None if value is None else msgspec.json.encode(value).decode()


def optional_length(length: timedelta | None) -> int | None:
    """Return a length of time in microseconds, if there is one."""
    return None if length is None else length // _MICROSECOND


def optional_us(moment: datetime | None) -> int | None:
    """Return a time in microseconds, if there is one."""
    return None if moment is None else to_us(moment)


def optional_time(us: int | None) -> datetime | None:
    """Return microseconds as a time, if there are any."""
    return None if us is None else from_us(us)
