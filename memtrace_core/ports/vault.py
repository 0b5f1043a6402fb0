"""Where secrets are sealed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class KeyVault(Protocol):
    """Seals secrets for storage, each bound to its place."""

    def seal(self, secret: str, context: str) -> bytes:
        """Return `secret` encrypted; it opens only with an equal `context`."""
        ...

    def key_ids(self) -> Sequence[str]:
        """Return the ids of the master keys that values may be sealed with; it seals with the first."""
        ...

    def key_id(self, sealed: bytes) -> str:
        """Return the id of the master key that a value was sealed with.

        Raises:
            SealBroken: it is no sealed value, or of an unknown version.
        """
        ...

    def open(self, sealed: bytes, context: str) -> str:
        """Return the secret.

        Raises:
            WrongMasterKey: it was sealed with a master key that is not at hand.
            SealBroken: it was altered, cut short, moved, or is of an unknown version.
        """
        ...
