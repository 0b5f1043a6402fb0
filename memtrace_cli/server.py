"""uvicorn, as Memtrace runs it: on a socket that is bound already, with time limits, ending with exit code 0."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn

from memtrace_cli.proxies import as_seen
from memtrace_cli.settings import Server as ServerSettings
from memtrace_cli.settings import SettingsError
from memtrace_cli.tls import Certificate
from memtrace_http import with_deadlines

BACKLOG = 2048
MOST_OPEN_FILES = 65_536


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that holds the port, before anything is written anywhere. Nobody can connect to it yet.

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
            hint="choose another with server.host and server.port (MEMTRACE_SERVER_PORT)",
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


class Server(uvicorn.Server):
    """Serves until SIGTERM or SIGINT, or until `should_exit` is set; a second SIGINT does not wait.

    `on_started` is called when the port is open.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        settings: ServerSettings,
        on_started: Callable[[], None],
        certificate: Certificate | None = None,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=with_deadlines(settings.read_timeout, settings.write_timeout),
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            # Without the second, uvicorn believes who is on this machine, and a variable that is not ours.
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=as_seen(settings.trusted_proxies),
            backlog=BACKLOG,
            # Typed as whole seconds, used as a number.
            timeout_graceful_shutdown=settings.shutdown_timeout,  # type: ignore[arg-type]
        )
        super().__init__(config)
        self._on_started = on_started
        self._certificate = certificate
        if certificate is not None:
            config.load()
            config.ssl = certificate.context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, and say so."""
        await super().startup(sockets)
        if self._certificate is not None:
            self._following = asyncio.get_running_loop().create_task(self._certificate.follow())
        if self.started:
            self._on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal, without raising it again at the end: to be told to stop is no failure."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for one in signals:
            loop.add_signal_handler(one, self.handle_exit, one, None)
        try:
            yield
        finally:
            for one in signals:
                loop.remove_signal_handler(one)
