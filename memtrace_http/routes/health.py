"""Whether the server is up, and whether all tenants' Arcs are reachable. Neither needs a key."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from litestar import Response, get

from memtrace_core.errors import StorageUnavailable
from memtrace_http.endpoints import Endpoint, declare
from memtrace_http.problems import Problem
from memtrace_http.requests import HttpRequest, services_of, shows_orgs
from memtrace_http.schemas import HealthAnswer, ReadyAnswer


@get(
    "/health",
    opt=declare(Endpoint(summary="Tell that the server is up", permission=None, answers={200: (HealthAnswer,)})),
)
async def health(request: HttpRequest) -> HealthAnswer:
    """Tell that the server is up, also while its metadata cannot be read: a restart would not mend that."""
    services = services_of(request)
    reachable = {}
    with suppress(StorageUnavailable):
        reachable = await services.health.reachable()
    return HealthAnswer("ok", "memtrace", duration(services.uptime), reachable if shows_orgs(request) else {})


@get(
    "/ready",
    opt=declare(
        Endpoint(
            summary="Tell whether every configured Arc instance is reachable",
            permission=None,
            answers={200: (ReadyAnswer,), 503: (ReadyAnswer, Problem)},
        )
    ),
)
async def ready(request: HttpRequest) -> Response[ReadyAnswer]:
    """Tell whether every configured instance is reachable."""
    reachable = await services_of(request).health.reachable()
    if not reachable:
        answer = ReadyAnswer(
            status="not ready",
            reason="no_instances",
            hint="configure an Arc instance with `memtrace org add-arc`",
        )
        return Response(answer, status_code=503)
    shown = reachable if shows_orgs(request) else {}
    if all(reachable.values()):
        return Response(ReadyAnswer(status="ready", arc=shown), status_code=200)
    return Response(ReadyAnswer(status="not ready", arc=shown), status_code=503)


def duration(elapsed: timedelta) -> str:
    """Return a duration in whole seconds as `2h30m15s`, `5m0s` or `7s`."""
    minutes, seconds = divmod(int(elapsed.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


HANDLERS = [health, ready]
