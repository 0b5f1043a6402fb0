"""Keys from before, in memory."""

from __future__ import annotations

from collections.abc import Mapping

from memtrace_core.model import APIKey


class InMemoryFormerKeys:
    """Former keys by what their holders send; `asked` is every key that was looked for."""

    def __init__(self, keys: Mapping[str, APIKey]) -> None:
        self._keys = dict(keys)
        self.asked: list[str] = []

    async def find(self, api_key: str, digest: bytes) -> APIKey | None:
        """Return a key."""
        self.asked.append(api_key)
        return self._keys.get(api_key)
