"""The OpenAPI document of the app that serves it."""

from __future__ import annotations

from litestar import Response, get

from memtrace_http.openapi import document
from memtrace_http.requests import HttpRequest


@get("/schema/openapi.json")
async def openapi(request: HttpRequest) -> Response[dict[str, object]]:
    """Describe every route, as it declares itself."""
    return Response(document(request.app.routes), headers={"cache-control": "no-cache"})


HANDLERS = [openapi]
