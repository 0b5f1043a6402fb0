"""uvicorn, as Memtrace runs it: on a socket that is bound already, with time limits, ending with exit code 0."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn

from memtrace_cli.listening import BACKLOG
from memtrace_cli.proxies import as_seen
from memtrace_cli.settings import Server as ServerSettings
from memtrace_cli.tls import Certificate
from memtrace_http import with_deadlines


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
