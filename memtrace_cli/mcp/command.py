"""The command `memtrace mcp`: it is there in every installation, what it needs only in those with the extra."""

from __future__ import annotations

import os
from importlib.util import find_spec

from memtrace_cli.mcp.settings import mcp_settings
from memtrace_cli.settings import SettingsError

HOST = "127.0.0.1"
PORT = 9101


def run(*, http: bool, host: str | None, port: int | None) -> int:
    """Serve until the client leaves or it is told to stop, and return the exit code.

    Raises:
        SettingsError: the extra is not installed, or a variable or the address cannot be used.
    """
    if find_spec("mcp") is None:
        raise SettingsError(
            "`memtrace mcp` needs the Model Context Protocol SDK, which is not installed",
            hint="install it with `pip install 'memtrace[mcp]'`",
        )
    from memtrace_cli.mcp.server import serve_http, serve_stdio

    settings = mcp_settings(os.environ)
    if http:
        return serve_http(settings, HOST if host is None else host, PORT if port is None else port)
    return serve_stdio(settings)
