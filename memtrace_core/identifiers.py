"""Identifiers: how they are made, and what a memory's id tells about it."""

from __future__ import annotations

import hashlib
import re
import secrets

__all__ = [
    "API_KEY_PREFIX",
    "NODE_DIGITS",
    "api_key_digest",
    "memory_id",
    "new_agent_id",
    "new_api_key",
    "new_instance_id",
    "new_key_id",
    "new_node_id",
    "new_org_id",
    "new_session_id",
    "parse_memory_id",
]

API_KEY_PREFIX = "mtk_"
NODE_DIGITS = 6

_MEMORY_ID = re.compile(r"mem_([0-9a-f]{14})([0-9a-f]{6})([0-9a-f]{4})")
_HEX_56_BITS = 1 << 56


def new_org_id() -> str:
    """Return a random org id: `org_` and 24 hex digits."""
    return "org_" + secrets.token_hex(12)


def new_agent_id() -> str:
    """Return a random agent id: `agent_` and 24 hex digits."""
    return "agent_" + secrets.token_hex(12)


def new_session_id() -> str:
    """Return a random session id: `sess_` and 24 hex digits."""
    return "sess_" + secrets.token_hex(12)


def new_instance_id() -> str:
    """Return a random Arc instance id: `arc_` and 24 hex digits."""
    return "arc_" + secrets.token_hex(12)


def new_key_id() -> str:
    """Return a random API key id, short and safe to print: `key_` and 12 hex digits."""
    return "key_" + secrets.token_hex(6)


def new_node_id() -> str:
    """Return the six hex digits by which one journal's memories are told from another's."""
    return secrets.token_hex(NODE_DIGITS // 2)


def new_api_key() -> str:
    """Return a fresh API key: `mtk_` and base64url of 32 random bytes."""
    return API_KEY_PREFIX + secrets.token_urlsafe(32)


def api_key_digest(api_key: str) -> bytes:
    """Return the SHA-256 by which a key is stored and found.

    A key has 256 bits of entropy, so a slow password hash would add nothing but latency.
    """
    return hashlib.sha256(api_key.encode("utf-8", "surrogatepass")).digest()


def memory_id(time_us: int, node: str, salt: str) -> str:
    """Compose a memory's id, so that ids sort by time and tell where to look.

    Args:
        time_us: the memory's time in microseconds since 1970.
        node: six hex digits of the writing journal.
        salt: four hex digits.
    """
    return f"mem_{time_us % _HEX_56_BITS:014x}{node}{salt}"


def parse_memory_id(text: str) -> tuple[int, str] | None:
    """Return a memory id's time (µs since 1970) and node, or None if `text` is not of that form."""
    match = _MEMORY_ID.fullmatch(text)
    return (int(match[1], 16), match[2]) if match else None
