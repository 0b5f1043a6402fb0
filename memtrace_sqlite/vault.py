"""Envelope encryption: each secret under a data key of its own, the data keys under the master key.

A sealed value is, in bytes: format version (1), id of the master key (8), nonce (12) and wrapped data key
(32 + 16), nonce (12) and secret (its length + 16). Both layers are AES-256-GCM with everything before them and
the caller's context as associated data, so a value that is altered, cut short or moved does not open.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from memtrace_core.errors import SealBroken, VaultError, WrongMasterKey

KEY_BYTES = 32

_VERSION = b"\x01"
_NONCE_BYTES = 12
_TAG_BYTES = 16
_KEY_ID_BYTES = 8
_HEADER_BYTES = len(_VERSION) + _KEY_ID_BYTES
_WRAPPED_BYTES = _NONCE_BYTES + KEY_BYTES + _TAG_BYTES


class MasterKey:
    """The key that wraps all data keys. Its `id` is a fingerprint that is safe to store and print."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise VaultError(f"the master key is {len(key)} bytes long, not {KEY_BYTES}", code="master_key_length")
        self.id = hashlib.sha256(b"memtrace master key id\0" + key).digest()[:_KEY_ID_BYTES]
        self.cipher = AESGCM(key)

    @classmethod
    def parse(cls, text: str) -> MasterKey:
        """Read a master key from base64.

        Raises:
            VaultError: it is not base64, or not of 32 bytes; the message never holds any of it.
        """
        try:
            key = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise VaultError("the master key is not valid base64", code="master_key_malformed") from None
        return cls(key)

    @staticmethod
    def generate() -> str:
        """Return a fresh master key in base64."""
        return base64.b64encode(os.urandom(KEY_BYTES)).decode()


class EnvelopeVault:
    """Seals secrets with a master key, and opens what was sealed with it or with a previous one."""

    def __init__(self, master_key: MasterKey, previous: Sequence[MasterKey] = ()) -> None:
        self._master = master_key
        self._by_id = {key.id: key for key in (*previous, master_key)}

    def key_ids(self) -> list[str]:
        """Return the ids of the master keys, the one that seals first."""
        return [self._master.id.hex(), *(key.hex() for key in self._by_id if key != self._master.id)]

    def key_id(self, sealed: bytes) -> str:
        """Return the id of the master key that a value was sealed with.

        Raises:
            SealBroken: it is of an unknown version, or cut short.
        """
        return _header(sealed)[len(_VERSION) :].hex()

    def seal(self, secret: str, context: str) -> bytes:
        """Return `secret` encrypted; it opens only with an equal `context`."""
        header = _VERSION + self._master.id
        bound = header + context.encode()
        data_key = AESGCM.generate_key(bit_length=256)
        wrapping, sealing = os.urandom(_NONCE_BYTES), os.urandom(_NONCE_BYTES)
        wrapped = wrapping + self._master.cipher.encrypt(wrapping, data_key, bound)
        return header + wrapped + sealing + AESGCM(data_key).encrypt(sealing, secret.encode(), bound)

    def open(self, sealed: bytes, context: str) -> str:
        """Return the secret.

        Raises:
            WrongMasterKey: it was sealed with a master key that is not at hand.
            SealBroken: it was altered, cut short, moved, or is of an unknown version.
        """
        header, rest = _header(sealed), sealed[_HEADER_BYTES:]
        master = self._by_id.get(header[len(_VERSION) :])
        if master is None:
            raise WrongMasterKey("sealed with another master key")
        wrapped, body = rest[:_WRAPPED_BYTES], rest[_WRAPPED_BYTES:]
        bound = header + context.encode()
        try:
            data_key = master.cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], bound)
            secret = AESGCM(data_key).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], bound)
        except InvalidTag:
            raise SealBroken("the sealed value was altered or belongs to another place") from None
        return secret.decode()

    def open_bare(self, nonce: bytes, sealed: bytes) -> str:
        """Return a secret that lies under a master key itself, without envelope and context, as Go sealed it.

        Raises:
            WrongMasterKey: no master key at hand opens it, or it was altered: nobody can tell which.
        """
        for master in self._by_id.values():
            # A nonce of another length is refused with a ValueError.
            with suppress(InvalidTag, ValueError):
                return master.cipher.decrypt(nonce, sealed, None).decode()
        raise WrongMasterKey("sealed with another master key, or altered")


def _header(sealed: bytes) -> bytes:
    if sealed[:1] != _VERSION:
        raise SealBroken("the sealed value is of an unknown version or damaged")
    if len(sealed) < _HEADER_BYTES + _WRAPPED_BYTES + _NONCE_BYTES + _TAG_BYTES:
        raise SealBroken("the sealed value is cut short")
    return sealed[:_HEADER_BYTES]


class ForgivingVault(EnvelopeVault):
    """A vault in which a secret that does not open is an empty one: to go on when a master key is lost.

    Rewrapped with it, each such secret is replaced by none.
    """

    def key_id(self, sealed: bytes) -> str:
        """Return the id of the master key that a value was sealed with; an empty one if that cannot be told."""
        try:
            return super().key_id(sealed)
        except VaultError:
            return ""

    def open(self, sealed: bytes, context: str) -> str:
        """Return the secret, an empty one if it does not open."""
        try:
            return super().open(sealed, context)
        except VaultError:
            return ""
