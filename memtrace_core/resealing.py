"""Rotation of the master key: under which keys the secrets lie, and bringing them all under the current one."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec

from memtrace_core.errors import VaultError
from memtrace_core.model import SealedSecret
from memtrace_core.ports import KeyVault, MetadataRepo


class SealedUnder(msgspec.Struct, frozen=True, kw_only=True):
    """How many secrets are sealed under one master key, by the key's id, which is no secret."""

    key_id: str
    standing: Literal["current", "previous", "unknown"]
    secrets: int


class Resealing:
    """Looks after the seals of all orgs' secrets."""

    def __init__(self, repo: MetadataRepo, vault: KeyVault) -> None:
        self._repo = repo
        self._vault = vault

    async def status(self) -> list[SealedUnder]:
        """Return, for each master key at hand or in use, how many secrets are sealed under it.

        Raises:
            SealBroken: a secret is damaged.
        """
        used = Counter(self._vault.key_id(secret.value) for secret in await self._repo.sealed_secrets())
        current, *previous = self._vault.key_ids()
        standings = {current: "current", **dict.fromkeys(previous, "previous")}
        return [
            SealedUnder(key_id=key_id, standing=standings.get(key_id, "unknown"), secrets=used[key_id])  # type: ignore[arg-type]
            for key_id in (*standings, *(used.keys() - standings.keys()))
        ]

    async def rewrap(self) -> int:
        """Seal every secret under the current master key, all or none, and return how many were under another.

        Raises:
            WrongMasterKey, SealBroken: one of them does not open; nothing was changed.
        """
        current = self._vault.key_ids()[0]

        def fresh(secret: SealedSecret) -> bytes:
            if self._vault.key_id(secret.value) == current:
                return secret.value
            try:
                return self._vault.seal(self._vault.open(secret.value, secret.context), secret.context)
            except VaultError as error:
                raise type(error)(f"{secret.context}: {error}") from None

        return await self._repo.reseal(fresh)
