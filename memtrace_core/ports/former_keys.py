"""API keys that another service has made."""

from __future__ import annotations

from typing import Protocol

from memtrace_core.model import APIKey


class FormerKeys(Protocol):
    """API keys from before Memtrace, of which its metadata do not have the whole SHA-256 yet."""

    async def find(self, api_key: str, digest: bytes) -> APIKey | None:
        """Return the key if it is one of them, revoked and expired ones included, and keep its SHA-256 for good.

        It is asked about every key that the metadata do not know, whoever sends it. So what is no such key must
        cost next to nothing; and what does cost something happens once for each key, and not on the event loop.
        """
        ...
