"""The server in one process."""

from __future__ import annotations

import uvloop
from loguru import logger

from memtrace_cli import output
from memtrace_cli.asgi import app_of, metrics_of
from memtrace_cli.bootstrap import bootstrap, check_journal
from memtrace_cli.composition import compose
from memtrace_cli.dev import dev_setup
from memtrace_cli.listening import LOOPBACK, address_of, announce, bound_socket, raise_open_files
from memtrace_cli.logs import configure_logs
from memtrace_cli.server import Server
from memtrace_cli.settings import Settings
from memtrace_cli.tls import certificate_of
from memtrace_cli.tracing import tracing_of
from memtrace_http import RequestLog
from memtrace_sqlite import EnvelopeVault, Mode

DEV_PORT = 9100


async def serve_alone(settings: Settings, key: EnvelopeVault, log: RequestLog, *, new_journal: bool) -> int:
    """Run the server of the settings until it is told to stop, and return the exit code."""
    raise_open_files()
    certificate = certificate_of(settings.server)
    metrics, plugins = metrics_of(settings), tracing_of(settings)
    bound = bound_socket(settings.server.host, settings.server.port)
    url = address_of(bound, tls=certificate is not None)
    services = compose(
        settings, key, Mode.MIGRATE, new_journal=new_journal, meter=metrics.counting if metrics else None
    )
    try:
        await bootstrap(services, settings)
        await check_journal(services)
        server = Server(
            app_of(services, settings, log, metrics, plugins),
            settings.server,
            on_started=lambda: announce(settings, url),
            certificate=certificate,
        )
        await server.serve([bound])
    finally:
        await services.close()
    logger.info("memtrace has stopped")
    return output.DONE


def serve_dev(port: int | None) -> int:
    """Run a throw-away server until it is told to stop, and return the exit code."""
    return uvloop.run(_serve_dev(DEV_PORT if port is None else port))


async def _serve_dev(port: int) -> int:
    log = configure_logs("warn", "console")
    bound = bound_socket(LOOPBACK, port, told_by="--port")
    url = address_of(bound)
    async with dev_setup(port) as setup:

        def announce() -> None:
            output.say("Memtrace dev server: everything is gone when it stops (Ctrl-C)")
            output.say(f"  URL:     {url}")
            output.say(f"  API key: {setup.api_key}")
            output.say("Try:")
            output.say(
                f"  curl -H 'x-api-key: {setup.api_key}' {url}/api/v1/memories "
                '-d \'{"agent_id":"me","content":"hello"}\''
            )

        app = app_of(setup.services, setup.settings, log, setup.metrics)
        await Server(app, setup.settings.server, announce).serve([bound])
    return output.DONE
