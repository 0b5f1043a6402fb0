"""Tenants: orgs, the Arc instance of each, and their API keys. What an operator does."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from memtrace_core import identifiers, rules
from memtrace_core.entries import OrgHoldings
from memtrace_core.errors import Conflict, InvalidInput, NotFound
from memtrace_core.model import (
    DEFAULT_ORG_ID,
    DEFAULT_ORG_NAME,
    LEGACY_INSTANCE_ID,
    APIKey,
    ArcInstance,
    Org,
    Permission,
)
from memtrace_core.ports import Clock, Journal, KeyVault, MetadataRepo
from memtrace_core.retention import forget_older

DEFAULT_PERMISSIONS = Permission.READ | Permission.WRITE
DEFAULT_MEASUREMENT = "events"
LEAST_RETENTION = timedelta(hours=1)


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator says of an Arc instance; None leaves a value as it is when a binding is changed."""

    url: str | None = None
    api_key: str | None = None
    database: str | None = None
    measurement: str | None = None


class Tenants:
    """Provisions orgs, their Arc instances and API keys."""

    def __init__(self, repo: MetadataRepo, journal: Journal, vault: KeyVault, clock: Clock) -> None:
        self._repo = repo
        self._journal = journal
        self._vault = vault
        self._clock = clock

    async def create_org(self, name: str) -> Org:
        """Create an org; names need not be unique."""
        org = Org(id=identifiers.new_org_id(), name=rules.name(name, "name"), created_at=self._clock.now())
        await self._repo.create_org(org)
        return org

    async def ensure_default_org(self) -> Org:
        """Return `org_default`, created if it is not there."""
        org = await self._repo.get_org(DEFAULT_ORG_ID)
        if org is None:
            org = Org(id=DEFAULT_ORG_ID, name=DEFAULT_ORG_NAME, created_at=self._clock.now())
            # One of this id may have been deleted before. First, as nobody would do it once there is an org.
            await self._journal.reopen_org(org.id)
            try:
                await self._repo.create_org(org)
            except Conflict:  # another server was faster, with metadata that both share
                org = await self.get_org(DEFAULT_ORG_ID)
        return org

    async def get_org(self, org_id: str) -> Org:
        """Return an org.

        Raises:
            NotFound: there is none with this id.
        """
        org = await self._repo.get_org(org_id)
        if org is None:
            raise NotFound(f"no organization {org_id!r}", code="org_not_found", hint="see `memtrace org list`")
        return org

    async def list_orgs(self) -> list[tuple[Org, ArcInstance | None]]:
        """Return all orgs, oldest first, each with the instance it is bound to."""
        instances = {instance.org_id: instance for instance in await self._repo.list_instances()}
        return [(org, instances.get(org.id)) for org in await self._repo.list_orgs()]

    async def set_retention(self, org_id: str, retention: timedelta | None) -> Org:
        """Keep an org's memories only for a time, or for ever (None); what is older is forgotten from then on.

        What was past the time that counted before stays forgotten.

        Raises:
            NotFound: there is no such org.
            InvalidInput: the time is shorter than an hour.
        """
        if retention is not None and retention < LEAST_RETENTION:
            raise InvalidInput("retention must be at least 1h")
        former = (await self.get_org(org_id)).retention
        if former is not None and (retention is None or retention > former):
            # Some of it may be hidden and nothing more: that would come back.
            await forget_older(self._repo, self._journal, org_id, self._clock.now() - former)
        await self._repo.set_retention(org_id, retention)
        return await self.get_org(org_id)

    async def holdings(self, org_id: str) -> OrgHoldings:
        """Count the memories of an org that exist nowhere but on this machine."""
        await self.get_org(org_id)
        return await self._journal.holdings(org_id)

    async def delete_org(self, org_id: str, *, discard_pending: bool = False) -> OrgHoldings:
        """Delete an org with its instance, agents, sessions, keys and embedded memories; return what it held.

        It refuses writes first, so that no running server can add a memory behind the check.

        Raises:
            NotFound: there is none with this id.
            Conflict: memories are not delivered yet and `discard_pending` is not set; the org is as before.
        """
        await self.get_org(org_id)
        await self._journal.close_org(org_id)
        try:
            held = await self._journal.holdings(org_id)
            if held.undelivered and not discard_pending:
                raise Conflict(
                    f"{held.undelivered} memories of {org_id} are not safely in its Arc yet",
                    code="undelivered_memories",
                    hint="wait for delivery, or give --discard-pending to lose them",
                )
        except BaseException:
            await self._journal.reopen_org(org_id)
            raise
        # Memories first: interrupted in between, the org is still there, closed, and can be deleted again.
        await self._journal.purge_org(org_id)
        await self._repo.delete_org(org_id)
        return held

    async def bind(self, org_id: str, binding: Binding, *, instance_id: str | None = None) -> ArcInstance:
        """Bind an org to an Arc instance.

        Raises:
            NotFound: there is no such org.
            InvalidInput: the url, a name or the API key breaks its rule.
            Conflict: the org has an instance already.
        """
        await self.get_org(org_id)
        now = self._clock.now()
        if binding.database is None:
            raise InvalidInput("database must be given")
        instance = self._checked(
            ArcInstance(
                id=instance_id or identifiers.new_instance_id(),
                org_id=org_id,
                url=rules.arc_url(binding.url or "", "url"),
                database=binding.database,
                measurement=binding.measurement or DEFAULT_MEASUREMENT,
                sealed_api_key=None,
                created_at=now,
                updated_at=now,
            ),
            binding.api_key,
        )
        # What was forgotten may still be there; asked for twice, as a server may be done with it in between.
        await self._journal.reopen_orders(org_id)
        await self._repo.bind_instance(instance)
        await self._journal.reopen_orders(org_id)
        return instance

    async def rebind(self, org_id: str, binding: Binding) -> ArcInstance:
        """Change an org's binding in place, without a moment in which it has none.

        A new API key is used for everything at once. With another url, database or measurement, memories that
        wait in the journal still go where they were accepted for.

        Raises:
            NotFound: there is no such org, or it has no instance.
            InvalidInput: the url, a name or the API key breaks its rule.
        """
        former = await self.instance_of(org_id)
        changed = msgspec.structs.replace(
            former,
            url=former.url if binding.url is None else rules.arc_url(binding.url, "url"),
            database=former.database if binding.database is None else binding.database,
            measurement=former.measurement if binding.measurement is None else binding.measurement,
            updated_at=self._clock.now(),
        )
        api_key = binding.api_key
        if api_key is None and not changed.embedded and former.sealed_api_key is not None:
            api_key = self._vault.open(former.sealed_api_key, former.key_context)
        if _place(changed) != _place(former):
            changed = msgspec.structs.replace(changed, id=identifiers.new_instance_id())
        changed = self._checked(changed, api_key)
        elsewhere = changed.id != former.id
        if elsewhere:
            await self._journal.reopen_orders(org_id)
        await self._repo.rebind_instance(changed)
        if elsewhere:
            await self._journal.reopen_orders(org_id)
        return changed

    async def move_pending(self, org_id: str) -> int:
        """Let the memories that wait in the journal go to the org's present instance; return how many.

        Raises:
            NotFound: there is no such org, or it has no instance.
        """
        return await self._journal.move_pending(await self.instance_of(org_id))

    async def unbind(self, org_id: str) -> None:
        """Take an org's Arc instance away; its memories stay where they are.

        Raises:
            NotFound: there is no such org, or it has no instance.
        """
        await self.instance_of(org_id)
        await self._repo.unbind_instance(org_id)

    async def instance_of(self, org_id: str) -> ArcInstance:
        """Return the Arc instance of an org.

        Raises:
            NotFound: there is no such org, or it has no instance.
        """
        await self.get_org(org_id)
        instance = await self._repo.instance_of(org_id)
        if instance is None:
            raise NotFound(
                f"{org_id} has no Arc instance",
                code="instance_not_found",
                hint=f"bind one with `memtrace org add-arc {org_id}`",
            )
        return instance

    def masked_api_key(self, instance: ArcInstance) -> str | None:
        """Return an instance's API key with all but its ends hidden; None for the embedded store."""
        if instance.sealed_api_key is None:
            return None
        return mask(self._vault.open(instance.sealed_api_key, instance.key_context))

    async def legacy_wanted(self) -> bool:
        """Tell whether an old `[arc]` block still counts: no org has an instance, or has had one."""
        return not await self._repo.knows_instances()

    async def migrate_legacy(self, legacy: Binding) -> ArcInstance | None:
        """Bind `org_default` to the instance of an old `[arc]` block, if that still counts."""
        if not await self.legacy_wanted():
            return None
        await self.ensure_default_org()
        filled = msgspec.structs.replace(legacy, database=legacy.database or "memory")
        return await self.bind(DEFAULT_ORG_ID, filled, instance_id=LEGACY_INSTANCE_ID)

    async def create_key(
        self,
        org_id: str,
        name: str,
        permissions: Permission = DEFAULT_PERMISSIONS,
        *,
        lifetime: timedelta | None = None,
    ) -> tuple[APIKey, str]:
        """Create an API key, and return it with the key itself, which exists nowhere else from then on.

        Raises:
            NotFound: there is no such org.
            Conflict: the org has a live key of this name.
        """
        await self.get_org(org_id)
        key, secret = self._new_key(org_id, name, permissions, lifetime)
        await self._repo.create_key(key)
        return key, secret

    async def rotate_key(
        self, key_id: str, overlap: timedelta, *, lifetime: timedelta | None = None
    ) -> tuple[APIKey, str]:
        """Put a fresh key in the place of another one: same org, name and permissions.

        The former works on for `overlap`, or until its own end if that comes first. The fresh one lives as long as
        the former was to live, unless `lifetime` is given.

        Raises:
            NotFound: there is no such key.
            Conflict: it is revoked, expired or superseded already.
        """
        former = await self._repo.get_key(key_id)
        if former is None:
            raise _no_such_key(key_id)
        if lifetime is None and former.expires_at is not None:
            lifetime = former.expires_at - former.created_at
        key, secret = self._new_key(former.org_id, former.name, former.permissions, lifetime)
        if not await self._repo.rotate_key(key_id, key, key.created_at + overlap):
            now = await self._repo.get_key(key_id) or former
            state = now.state(key.created_at)
            raise Conflict(f"API key {key_id} is {state}; only an active one can be rotated", code="key_not_active")
        return key, secret

    def _new_key(
        self, org_id: str, name: str, permissions: Permission, lifetime: timedelta | None
    ) -> tuple[APIKey, str]:
        secret = identifiers.new_api_key()
        now = self._clock.now()
        key = APIKey(
            id=identifiers.new_key_id(),
            org_id=org_id,
            name=rules.name(name, "name"),
            digest=identifiers.api_key_digest(secret),
            permissions=permissions,
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        return key, secret

    async def list_keys(self, org_id: str) -> list[APIKey]:
        """Return an org's keys, oldest first, revoked ones included."""
        await self.get_org(org_id)
        return await self._repo.list_keys(org_id)

    async def revoke_key(self, key_id: str) -> None:
        """Revoke a key: it fails from the next request on.

        Raises:
            NotFound: there is no such key.
        """
        if not await self._repo.revoke_key(key_id, self._clock.now()):
            raise _no_such_key(key_id)

    def _checked(self, instance: ArcInstance, api_key: str | None) -> ArcInstance:
        rules.arc_database(instance.database, "database")
        rules.arc_measurement(instance.measurement, "measurement")
        if instance.embedded:
            if api_key:
                raise InvalidInput("the embedded store takes no api-key")
            return msgspec.structs.replace(instance, sealed_api_key=None)
        sealed = self._vault.seal(rules.arc_api_key(api_key or "", "api-key"), instance.key_context)
        return msgspec.structs.replace(instance, sealed_api_key=sealed)


def _no_such_key(key_id: str) -> NotFound:
    return NotFound(f"no API key {key_id!r}", code="key_not_found", hint="see `memtrace key list --org <org_id>`")


def mask(secret: str) -> str:
    """Return a secret's first and last four characters with stars between; all stars when it is short."""
    if len(secret) <= 8:
        return "*" * len(secret)
    return secret[:4] + "*" * (len(secret) - 8) + secret[-4:]


def _place(instance: ArcInstance) -> tuple[str, str, str]:
    return instance.url, instance.database, instance.measurement
