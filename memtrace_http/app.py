"""The Litestar app."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import msgspec
from litestar import Litestar
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.plugins import InitPlugin

from memtrace_core import MemtraceError, Services
from memtrace_http.edge import Edge, RequestLog, no_log
from memtrace_http.guards import Guard
from memtrace_http.json_response import JsonResponse
from memtrace_http.metrics import Metrics
from memtrace_http.problems import on_exception, on_http_exception, on_memtrace_error
from memtrace_http.requests import app_state
from memtrace_http.routes import HANDLERS, METRICS
from memtrace_http.routes.options import options_of


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the app treats its callers.

    `read_timeout` is how long a body may take to arrive, `drain_within` how long the last deliveries may take at
    the end. `before` runs before the services start. `show_orgs` lets `/health` and `/ready` name the orgs.
    `plugins` are Litestar's, such as those of `memtrace_http.tracing`.
    """

    read_timeout: timedelta = timedelta(seconds=30)
    drain_within: timedelta = timedelta(seconds=10)
    before: Callable[[], Awaitable[None]] | None = None
    show_orgs: bool = True
    plugins: tuple[InitPlugin, ...] = ()


def create_app(
    services: Services,
    options: HttpOptions | None = None,
    log: RequestLog = no_log,
    metrics: Metrics | None = None,
) -> Edge:
    """Return the HTTP API over `services`, to be served or mounted.

    Its lifespan starts the services and stops them. `/metrics` is there if `metrics` is given.
    """
    options = options or HttpOptions()
    handlers = [*HANDLERS, *(METRICS if metrics else ())]

    @asynccontextmanager
    async def running(_: Litestar) -> AsyncIterator[None]:
        if options.before is not None:
            await options.before()
        await services.start()
        try:
            yield
        finally:
            await services.stop(options.drain_within)

    app = Litestar(
        # OPTIONS comes first: to a path that has none yet, the framework adds one of its own.
        route_handlers=[*options_of(handlers), *handlers],
        before_request=Guard(services),
        response_class=JsonResponse,
        exception_handlers={
            MemtraceError: on_memtrace_error,
            HTTPException: on_http_exception,
            Exception: on_exception,
        },
        lifespan=[running],
        state=State(
            app_state(
                services,
                options.read_timeout.total_seconds(),
                show_orgs=options.show_orgs,
                metrics=metrics,
            )
        ),
        plugins=list(options.plugins),
        openapi_config=None,
        logging_config=None,
    )
    return Edge(app, log, metrics.counting.answered if metrics else no_log)
