"""Figures for Prometheus. Those that name orgs are for the operator's token, and for an org's own admin."""

from __future__ import annotations

import hmac
from collections.abc import Container

from litestar import Response, get

from memtrace_core.errors import Unauthenticated
from memtrace_core.model import Permission
from memtrace_http.endpoints import Endpoint, declare
from memtrace_http.guards import api_key_of
from memtrace_http.metrics import Everybody, Metrics
from memtrace_http.requests import HttpRequest, metrics_of, services_of


@get(
    "/metrics",
    opt=declare(
        Endpoint(
            summary="Tell figures for Prometheus",
            permission=None,
            answers={200: ()},
            text="text/plain",
            problems=(401,),
        )
    ),
)
async def metrics(request: HttpRequest) -> Response[bytes]:
    """Tell all figures, by org only for who may see them."""
    found = metrics_of(request)
    orgs = await _visible(request, found)
    text, media_type = await found.exposition(services_of(request), request.headers.get("accept", ""), orgs)
    return Response(text, headers={"content-type": media_type})


async def _visible(request: HttpRequest, found: Metrics) -> Container[str]:
    """Return the orgs whose figures the caller may see; wrong credentials are an error, none are fine."""
    given = api_key_of(request.scope["headers"])
    if given and found.token and hmac.compare_digest(given.encode(), found.token.encode()):
        return Everybody()
    try:
        principal = await services_of(request).access.authenticate(given)
    except Unauthenticated:
        if given:
            raise
        return ()
    # An org's admin is no other org's.
    return (principal.org_id,) if principal.permissions.allows(Permission.ADMIN) else ()


HANDLERS = [metrics]
