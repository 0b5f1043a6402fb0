"""What `memtrace mcp` is told by its environment: which server it speaks for, and with which API key."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from memtrace_cli.settings import SettingsError

URL = "MEMTRACE_URL"
API_KEY = "MEMTRACE_API_KEY"
DEFAULT_URL = "http://127.0.0.1:9100"


class McpSettings(msgspec.Struct, frozen=True):
    """The server's URL, without a slash at its end, and the API key; None if callers bring their own."""

    url: str
    api_key: str | None


def mcp_settings(environ: Mapping[str, str]) -> McpSettings:
    """Read them.

    Raises:
        SettingsError: one of them cannot be used; the message never holds it.
    """
    url = environ.get(URL, "").strip() or DEFAULT_URL
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(f"{URL} must be the URL of a Memtrace server, such as {DEFAULT_URL}")
    if parts.username is not None or parts.query or parts.fragment:
        raise SettingsError(f"{URL} must be a plain URL; the API key belongs into {API_KEY}")
    key = environ.get(API_KEY, "").strip()
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise SettingsError(f"{API_KEY} is no API key: it must be one word of plain characters, mtk_…")
    return McpSettings(url.rstrip("/"), key or None)
