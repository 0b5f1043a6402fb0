"""What Memtrace keeps: immutable values, named as users name them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal, get_args

import msgspec

from memtrace_core.errors import InvalidInput

__all__ = [
    "DEFAULT_ORG_ID",
    "DEFAULT_ORG_NAME",
    "EMBEDDED_URL",
    "LEGACY_INSTANCE_ID",
    "MEMORY_TYPES",
    "UNIMPORTANT",
    "APIKey",
    "Agent",
    "AgentCounts",
    "ArcInstance",
    "KeyState",
    "Memory",
    "MemoryType",
    "Org",
    "Permission",
    "Principal",
    "SealedSecret",
    "Session",
    "SessionStatus",
]

MemoryType = Literal["episodic", "session", "decision", "entity"]
MEMORY_TYPES: tuple[MemoryType, ...] = get_args(MemoryType)

KeyState = Literal["active", "superseded", "expired", "revoked"]

EMBEDDED_URL = "embedded:"
DEFAULT_ORG_ID = "org_default"
DEFAULT_ORG_NAME = "Default"
LEGACY_INSTANCE_ID = "arc_default"


class Permission(enum.Flag):
    """What an API key may do. `ADMIN` implies the others."""

    READ = enum.auto()
    WRITE = enum.auto()
    ADMIN = enum.auto()

    def allows(self, wanted: Permission) -> bool:
        """Tell whether a holder of these permissions may do `wanted`."""
        # On every request: operators between flags would take three times as long as those between their numbers.
        held, needed = self._value_, wanted._value_
        return bool(held & Permission.ADMIN._value_) or held & needed == needed

    @classmethod
    def parse(cls, text: str) -> Permission:
        """Read permissions as the CLI and the database write them: `read,write`.

        Raises:
            InvalidInput: a name is not one of `read`, `write`, `admin`, or there is none.
        """
        permissions = cls(0)
        for name in text.split(","):
            try:
                permissions |= cls[name.strip().upper()]
            except KeyError:
                raise InvalidInput("permissions must be read, write and admin, separated by commas") from None
        return permissions

    def __str__(self) -> str:
        """Return the permissions as the CLI and the database write them: `read,write`."""
        return ",".join(one.name.lower() for one in Permission if one in self and one.name)


# The encoder leaves a default out only when it is this very object.
UNIMPORTANT: float = 0.0


class Memory(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One stored memory. `time` is in UTC, to the microsecond; `importance` is 0 to 1."""

    memory_id: str
    time: datetime
    org_id: str
    agent_id: str
    session_id: str | None = None
    memory_type: MemoryType
    event_type: str
    content: str
    metadata: dict[str, object] | None = None
    tags: tuple[str, ...] = ()
    dedup_key: str | None = None
    importance: float = UNIMPORTANT
    parent_id: str | None = None


class Agent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A registered agent. `last_active_at` is the time of its newest memory, under its id or its name."""

    id: str
    org_id: str
    name: str
    description: str | None = None
    config: dict[str, object] | None = None
    created_at: datetime
    last_active_at: datetime | None = None


SessionStatus = Literal["active", "closed"]


class Session(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A bounded stretch of an agent's work."""

    id: str
    org_id: str
    agent_id: str
    status: SessionStatus
    metadata: dict[str, object] | None = None
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None = None

    def changed(self, status: SessionStatus | None, metadata: Mapping[str, object] | None, at: datetime) -> Session:
        """Return the session with another status and metadata merged in key by key.

        Closing sets `closed_at` unless it is closed already; reopening clears it.
        """
        status = status or self.status
        return msgspec.structs.replace(
            self,
            status=status,
            metadata={**(self.metadata or {}), **(metadata or {})} or None,
            updated_at=at,
            closed_at=None if status == "active" else self.closed_at or at,
        )


class Org(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant. Its memories are forgotten when they are older than `retention`; never, if that is None."""

    id: str
    name: str
    created_at: datetime
    retention: timedelta | None = None


class ArcInstance(msgspec.Struct, frozen=True, kw_only=True):
    """Where an org's memories live.

    `sealed_api_key` opens only for this org and this instance; None for the embedded store.
    """

    id: str
    org_id: str
    url: str
    database: str
    measurement: str
    sealed_api_key: bytes | None
    created_at: datetime
    updated_at: datetime

    @property
    def embedded(self) -> bool:
        """Whether the memories live in Memtrace's own SQLite file."""
        return self.url == EMBEDDED_URL

    @property
    def key_context(self) -> str:
        """What the sealed API key is bound to: the org, the instance, the field."""
        return f"{self.org_id}|{self.id}|arc_api_key"


class SealedSecret(msgspec.Struct, frozen=True):
    """A secret as it is stored; it opens only with its context."""

    context: str
    value: bytes


class APIKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key as it is kept: its SHA-256, never the key.

    A superseded key has a successor of the same name, and still works until it expires.
    """

    id: str
    org_id: str
    name: str
    digest: bytes
    permissions: Permission
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    superseded_at: datetime | None = None

    def state(self, now: datetime) -> KeyState:
        """Return how the key stands at a moment."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "active" if self.superseded_at is None else "superseded"


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who is asking: an org and what the key may do. `key_id` is None with authentication off."""

    org_id: str
    permissions: Permission
    key_id: str | None = None


class AgentCounts(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's memories, counted; two disjoint counts add up."""

    total: int = 0
    recent: int = 0
    recent_errors: int = 0
    by_type: dict[str, int] = {}

    def __add__(self, other: AgentCounts) -> AgentCounts:
        """Return the counts of two disjoint sets of memories together."""
        types = {*self.by_type, *other.by_type}
        return AgentCounts(
            total=self.total + other.total,
            recent=self.recent + other.recent,
            recent_errors=self.recent_errors + other.recent_errors,
            by_type={name: self.by_type.get(name, 0) + other.by_type.get(name, 0) for name in types},
        )
