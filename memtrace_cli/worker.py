"""One of several server processes: `python -m memtrace_cli.worker SOCKET`, run by `memtrace_cli.supervisor`."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import suppress

import uvloop

from memtrace_cli import output
from memtrace_cli.asgi import app_of, metrics_of
from memtrace_cli.bootstrap import check_journal
from memtrace_cli.composition import compose
from memtrace_cli.logs import configure_logs
from memtrace_cli.orders import read_orders
from memtrace_cli.secrets import vault
from memtrace_cli.server import Server
from memtrace_cli.settings import Settings
from memtrace_cli.supervisor import READY
from memtrace_cli.tls import certificate_of
from memtrace_cli.tracing import tracing_of
from memtrace_core.errors import MemtraceError
from memtrace_http import RequestLog
from memtrace_sqlite import EnvelopeVault, Mode


def work(listening: int) -> int:
    """Serve on an inherited socket until told to stop, or until the parent is gone, and return the exit code.

    Standard input begins with the orders, in a line of JSON, and ends with the parent. A line on standard output
    tells that connections are taken.
    """
    line = sys.stdin.buffer.readline()
    if not line:
        return output.FAILED  # the parent is gone already
    orders = read_orders(line)
    settings = orders.settings
    log = configure_logs(settings.log.level, settings.log.format)
    try:
        return uvloop.run(_serve(settings, vault(orders.variables), log, socket.socket(fileno=listening)))
    except MemtraceError as error:
        return output.fail(error)


async def _serve(settings: Settings, key: EnvelopeVault, log: RequestLog, listening: socket.socket) -> int:
    metrics, plugins = metrics_of(settings), tracing_of(settings)
    services = compose(settings, key, Mode.AS_IT_IS, meter=metrics.counting if metrics else None)
    try:
        await check_journal(services)
        server = Server(
            app_of(services, settings, log, metrics, plugins),
            settings.server,
            on_started=_tell_ready,
            certificate=certificate_of(settings.server),
        )

        def parent_is_gone() -> None:
            loop.remove_reader(sys.stdin)
            server.should_exit = True

        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin, parent_is_gone)
        await server.serve([listening])
    finally:
        await services.close()
    return output.DONE


def _tell_ready() -> None:
    # Without a parent nobody listens; what is open by now must be closed in good order all the same.
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), READY)


if __name__ == "__main__":
    sys.exit(work(int(sys.argv[1])))
