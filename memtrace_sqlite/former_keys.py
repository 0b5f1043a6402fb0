"""API keys that the Go service made: known by a part of their SHA-256 and a bcrypt hash, until they are first used.

bcrypt takes a twentieth of a second of a processor, on purpose. So it is asked only about a key whose SHA-256
begins as that of a key that counts (64 bits, which nobody hits without having such a key), one at a time, off the
event loop, and once: from then on the key is one of ours, found by its SHA-256.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import msgspec

from memtrace_core.errors import StorageUnavailable
from memtrace_core.model import APIKey
from memtrace_sqlite.go_rows import PREFIX_BYTES
from memtrace_sqlite.metadata import SqliteMetadataRepo

LONGEST_KEY_BYTES = 72
"""bcrypt looks at no more, and the keys of the Go service are shorter."""

MOST_REFUSED = 1_000

_log = logging.getLogger("memtrace.former_keys")


class FormerKey(msgspec.Struct, frozen=True):
    """A key that was not used yet since it was taken over."""

    key_id: str
    bcrypt: bytes


class SqliteFormerKeys:
    """Finds them in a metadata database; see `memtrace_core.ports.FormerKeys`."""

    def __init__(self, repo: SqliteMetadataRepo) -> None:
        self._repo = repo
        self._version = -1
        self._by_prefix: dict[bytes, FormerKey] = {}
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bcrypt")
        self._proven: set[bytes] = set()
        self._refused: set[bytes] = set()

    async def find(self, api_key: str, digest: bytes) -> APIKey | None:
        """Return the key, made one of ours; None if it is none of the Go service's."""
        version = self._repo.version()
        if version != self._version:
            await self._read(version)
        former = self._by_prefix.get(digest[:PREFIX_BYTES])
        if former is None or digest in self._refused:
            return None
        async with self._turn:
            if (found := await self._repo.find_key(digest)) is not None:
                return found  # somebody was first
            if digest not in self._proven:
                if digest in self._refused or not await self._is(api_key, former):
                    self._refuse(digest)
                    return None
                self._proven.add(digest)
            return await self._adopt(former.key_id, digest)

    async def _read(self, version: int) -> None:
        rows = await self._repo.rows("SELECT digest, key_id, bcrypt FROM former_keys JOIN api_keys USING (key_id)")
        self._by_prefix = {digest: FormerKey(key_id, hashed.encode()) for digest, key_id, hashed in rows}
        self._version = version

    async def _is(self, api_key: str, former: FormerKey) -> bool:
        import bcrypt  # only where there are such keys

        password = api_key.encode("utf-8", "surrogatepass")
        if len(password) > LONGEST_KEY_BYTES:
            return False
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, bcrypt.checkpw, password, former.bcrypt)
        except ValueError as error:
            _log.warning("the hash of API key %s cannot be used: %s", former.key_id, error)
            return False

    async def _adopt(self, key_id: str, digest: bytes) -> APIKey | None:
        """Keep the whole digest; if it cannot be written now, the key counts all the same."""
        try:
            await self._repo.change(
                "UPDATE api_keys SET digest = ? WHERE key_id = ? AND revoked_at IS NULL", digest, key_id
            )
        except StorageUnavailable as error:
            _log.warning("API key %s could not be kept in its new form yet: %s", key_id, error)
            key = await self._repo.get_key(key_id)
            return None if key is None else msgspec.structs.replace(key, digest=digest)
        self._proven.discard(digest)
        return await self._repo.find_key(digest)

    def _refuse(self, digest: bytes) -> None:
        if len(self._refused) >= MOST_REFUSED:
            self._refused.clear()
        self._refused.add(digest)
