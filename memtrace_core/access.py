"""Who is asking: from an API key to a principal, and what it may do."""

from __future__ import annotations

from datetime import datetime

from memtrace_core.directory import Directory
from memtrace_core.errors import Forbidden, MemtraceError, Unauthenticated
from memtrace_core.identifiers import api_key_digest
from memtrace_core.model import DEFAULT_ORG_ID, APIKey, Permission, Principal
from memtrace_core.ports import Clock, FormerKeys, Journal

EVERYTHING = Permission.READ | Permission.WRITE | Permission.ADMIN
ANYBODY = Principal(org_id=DEFAULT_ORG_ID, permissions=EVERYTHING)
LONGEST_KEY = 512


class Access:
    """Authenticates API keys and remembers when they were used."""

    def __init__(
        self,
        directory: Directory,
        journal: Journal,
        clock: Clock,
        *,
        enabled: bool = True,
        former_keys: FormerKeys | None = None,
    ) -> None:
        self._directory = directory
        self._journal = journal
        self._clock = clock
        self._enabled = enabled
        self._former_keys = former_keys
        self._used: dict[str, datetime] = {}

    async def authenticate(self, api_key: str | None) -> Principal:
        """Return the holder of a key; with authentication off, anybody may act for the default org.

        Raises:
            Unauthenticated: no key, or one that is unknown, revoked or expired (all alike to the caller).
        """
        if not self._enabled:
            return ANYBODY
        if not api_key:
            raise Unauthenticated("missing API key", code="missing_api_key")
        # A key that is far too long is not worth hashing.
        key = await self._key(api_key) if len(api_key) <= LONGEST_KEY else None
        if key is None or key.revoked_at is not None:
            raise Unauthenticated("invalid API key", code="invalid_api_key")
        now = self._clock.now()
        if key.expires_at is not None and key.expires_at <= now:
            raise Unauthenticated("invalid API key", code="invalid_api_key")
        self._used[key.id] = now
        return Principal(org_id=key.org_id, permissions=key.permissions, key_id=key.id)

    async def _key(self, api_key: str) -> APIKey | None:
        digest = api_key_digest(api_key)
        key = await self._directory.key(digest)
        if key is None and self._former_keys is not None:
            return await self._former_keys.find(api_key, digest)
        return key

    async def flush_uses(self) -> None:
        """Write down when keys were last used, all at once."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._journal.record_key_use(used)
        except MemtraceError:
            self._used = used | self._used
            raise


def require(principal: Principal, permission: Permission) -> None:
    """Return if the principal has the permission.

    Raises:
        Forbidden: it does not.
    """
    if not principal.permissions.allows(permission):
        raise Forbidden(f"this API key lacks the {permission} permission", code="missing_permission")
