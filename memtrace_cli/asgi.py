"""The app for an ASGI server of your own: `uvicorn --factory memtrace_cli.asgi:create`.

Settings and the master key come from where `memtrace serve` has them. Address, TLS, time limits on headers and on
clients that do not read their answers, and which proxies are trusted, are then that server's.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from pathlib import Path

from litestar.plugins import InitPlugin

from memtrace_cli.bootstrap import bootstrap
from memtrace_cli.composition import compose
from memtrace_cli.logs import configure_logs
from memtrace_cli.secrets import vault
from memtrace_cli.settings import Settings, load_settings
from memtrace_cli.tracing import tracing_of
from memtrace_core import Services
from memtrace_http import Edge, HttpOptions, Metrics, RequestLog, create_app
from memtrace_sqlite import Mode


def create() -> Edge:
    """Return the app, its databases opened and migrated; its first key is printed when it starts, if it has none.

    Raises:
        MemtraceError: a setting, the master key or a database cannot be used.
    """
    loaded = load_settings(None, os.environ)
    log = configure_logs(loaded.settings.log.level, loaded.settings.log.format)
    metrics, plugins = metrics_of(loaded.settings), tracing_of(loaded.settings)
    services = compose(
        loaded.settings, vault(os.environ), Mode.MIGRATE, meter=metrics.counting if metrics else None
    )
    return app_of(
        services, loaded.settings, log, metrics, plugins, before=lambda: bootstrap(services, loaded.settings)
    )


def metrics_of(settings: Settings) -> Metrics | None:
    """Return what counts for `/metrics`; its `counting` is the meter of the services. None if it is turned off."""
    if not settings.metrics.enabled:
        return None
    # The variable is the library's own, which it reads when it is imported: set it before that.
    shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Metrics(
        per_org=settings.metrics.per_org,
        token=settings.metrics.token,
        journal_limit=settings.journal.max_bytes,
        shared=Path(shared) if shared else None,
    )


def app_of(
    services: Services,
    settings: Settings,
    log: RequestLog,
    metrics: Metrics | None = None,
    plugins: Iterable[InitPlugin] = (),
    before: Callable[[], Awaitable[None]] | None = None,
) -> Edge:
    """Return the HTTP app over services, as the settings want it; `before` runs before it starts."""
    options = HttpOptions(
        read_timeout=timedelta(seconds=settings.server.read_timeout),
        drain_within=timedelta(seconds=settings.server.shutdown_timeout),
        before=before,
        show_orgs=settings.server.health_detail == "full",
        plugins=tuple(plugins),
    )
    return create_app(services, options, log, metrics)
