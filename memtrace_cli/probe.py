"""The container's health check, `python -m memtrace_cli.probe`: asks the server of these settings for /health."""

from __future__ import annotations

import http.client
import os
import ssl
import sys

from memtrace_cli import output
from memtrace_cli.settings import Server, load_settings
from memtrace_core.errors import MemtraceError

WITHIN_SECONDS = 3

# Where a server that listens everywhere is found on its own machine.
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not bound


def healthy(server: Server) -> bool:
    """Tell whether the server answers on the address that it was given to listen on."""
    host = _HERE.get(server.host, server.host)
    if server.tls_cert is None:
        connection = http.client.HTTPConnection(host, server.port, timeout=WITHIN_SECONDS)
    else:
        # Its certificate is for the name by which clients know it, and nothing secret is said.
        unverified = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection(host, server.port, timeout=WITHIN_SECONDS, context=unverified)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException) as error:
        output.note(f"memtrace: no answer from {host}, port {server.port}: {error}")
        return False
    finally:
        connection.close()


def main() -> int:
    """Return the exit code: 0 if the server answers."""
    try:
        return 0 if healthy(load_settings(None, os.environ).settings.server) else 1
    except MemtraceError as error:
        return output.fail(error)


if __name__ == "__main__":
    sys.exit(main())
