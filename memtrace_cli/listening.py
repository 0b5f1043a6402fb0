"""The port: bound before anything is written anywhere, and told of when it is open."""

from __future__ import annotations

import resource
import socket

from loguru import logger

from memtrace_cli.settings import Settings, SettingsError

BACKLOG = 2048
MOST_OPEN_FILES = 65_536
LOOPBACK = "127.0.0.1"

_LOCAL = (LOOPBACK, "::1", "localhost")


def bound_socket(
    host: str, port: int, told_by: str = "server.host and server.port (MEMTRACE_SERVER_PORT)"
) -> socket.socket:
    """Return a socket that holds the port, before anything is written anywhere. Nobody can connect to it yet.

    `told_by` is what host and port were chosen with.

    Raises:
        SettingsError: the port is taken, or the host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            hint=f"choose another with {told_by}",
        ) from None
    bound.set_inheritable(True)
    return bound


def raise_open_files() -> None:
    """Let this process open as many files and connections as it may; many systems grant only 1,024 unasked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def address_of(bound: socket.socket, *, tls: bool = False) -> str:
    """Return the URL under which a client on this machine reaches a bound socket."""
    scheme = "https" if tls else "http"
    host, port = bound.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104 - as above
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def announce(settings: Settings, url: str) -> None:
    """Log that the port is open, and what an operator should know about it."""
    if not url.startswith("https:") and settings.auth.enabled and settings.server.host not in _LOCAL:
        logger.warning("API keys travel in the clear: put TLS in front, or set server.tls_cert and server.tls_key")
    logger.bind(url=url).info("memtrace is listening")
