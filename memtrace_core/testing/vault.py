"""A vault without secrets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from memtrace_core.errors import SealBroken


class TransparentVault:
    """A vault that hides nothing, but opens a value only unaltered and in its own context."""

    def seal(self, secret: str, context: str) -> bytes:
        """Return the secret behind a digest of it and its context."""
        return _digest(secret, context) + secret.encode()

    def key_ids(self) -> Sequence[str]:
        """Return the one id that there is."""
        return ("transparent",)

    def key_id(self, sealed: bytes) -> str:
        """Return that id."""
        return "transparent"

    def open(self, sealed: bytes, context: str) -> str:
        """Return the secret.

        Raises:
            SealBroken: it was altered, or sealed for another context.
        """
        secret = sealed[_DIGEST_BYTES:].decode(errors="replace")
        if self.seal(secret, context) != sealed:
            raise SealBroken("the sealed value was altered or belongs to another place")
        return secret


_DIGEST_BYTES = 32


def _digest(secret: str, context: str) -> bytes:
    return hashlib.sha256(f"{context}\0{secret}".encode()).digest()
