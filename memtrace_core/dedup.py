"""Dedup: when two memories are the same one, and for how long."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import msgspec

CONTENT_BYTES = 200
KEY_DIGITS = 32


def generated_key(agent_id: str, event_type: str, content: str) -> str:
    """Return the key of a memory whose caller gave none.

    It is the first 32 hex digits of SHA-256 over the UTF-8 bytes of `agent_id|event_type|content`, the content
    cut to its first 200 bytes (not characters: a cut may fall inside one).
    """
    text = f"{agent_id}|{event_type}|".encode() + content[:CONTENT_BYTES].encode()[:CONTENT_BYTES]
    return hashlib.sha256(text).hexdigest()[:KEY_DIGITS]


class DedupPolicy(msgspec.Struct, frozen=True):
    """Whether memories are compared at all, and how far back from the newest one."""

    enabled: bool = True
    window: timedelta = timedelta(hours=24)

    def key_for(self, agent_id: str, event_type: str, content: str, given: str | None) -> str | None:
        """Return the key to store: the caller's own as it is, else a generated one while dedup is on."""
        if given is not None or not self.enabled:
            return given
        return generated_key(agent_id, event_type, content)
