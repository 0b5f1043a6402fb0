"""What the request path must know of orgs, keys and bindings, read once and forgotten when an admin changes it."""

from __future__ import annotations

from memtrace_core.model import APIKey, ArcInstance, Org
from memtrace_core.ports import MetadataRepo

MAX_REMEMBERED = 20_000


class Directory:
    """A read-through cache of keys and bindings, valid for exactly one `MetadataRepo.version`.

    Every look-up asks for the version first, so a change by the CLI counts from the very next request on.
    """

    def __init__(self, repo: MetadataRepo) -> None:
        self._repo = repo
        self._version = -1
        self._digests: frozenset[bytes] | None = None
        self._keys: dict[bytes, APIKey | None] = {}
        self._instances: dict[str, ArcInstance | None] = {}
        self._orgs: dict[str, Org | None] = {}
        self._all_instances: list[ArcInstance] | None = None

    async def key(self, digest: bytes) -> APIKey | None:
        """Return the API key with this SHA-256.

        What is no key of anybody is told without a look into the database, and takes no room here.
        """
        version = self._current()
        digests = self._digests
        if digests is None:
            digests = await self._repo.key_digests()
            if version == self._version:
                self._digests = digests
        if digest not in digests:
            return None
        try:
            return self._keys[digest]
        except KeyError:
            key = await self._repo.find_key(digest)
        # What was read may be newer than `version`, never older; kept only while nothing has moved since.
        if version == self._version:
            self._keys[digest] = key
        return key

    async def instance(self, org_id: str) -> ArcInstance | None:
        """Return the instance an org is bound to."""
        version = self._current()
        try:
            return self._instances[org_id]
        except KeyError:
            instance = await self._repo.instance_of(org_id)
        if version == self._version:
            self._instances[org_id] = instance
        return instance

    async def org(self, org_id: str) -> Org | None:
        """Return an org."""
        version = self._current()
        try:
            return self._orgs[org_id]
        except KeyError:
            org = await self._repo.get_org(org_id)
        if version == self._version:
            self._orgs[org_id] = org
        return org

    async def instances(self) -> list[ArcInstance]:
        """Return every instance that an org is bound to."""
        version = self._current()
        if self._all_instances is not None:
            return self._all_instances
        instances = await self._repo.list_instances()
        if version == self._version:
            self._all_instances = instances
        return instances

    def _current(self) -> int:
        version = self._repo.version()
        if version != self._version or len(self._keys) + len(self._instances) + len(self._orgs) > MAX_REMEMBERED:
            self._keys, self._instances, self._orgs, self._all_instances = {}, {}, {}, None
            self._digests = self._digests if version == self._version else None
            self._version = version
        return version
