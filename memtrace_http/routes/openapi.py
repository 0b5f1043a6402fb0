"""The OpenAPI document of the app that serves it."""

from __future__ import annotations

import msgspec
from litestar import Litestar, Response, get

from memtrace_http.openapi import document
from memtrace_http.requests import HttpRequest

_DOCUMENT = "memtrace_openapi"


@get("/schema/openapi.json")
async def openapi(request: HttpRequest) -> Response[bytes]:
    """Describe every route, as it declares itself."""
    headers = {"cache-control": "no-cache", "content-type": "application/json"}
    return Response(_encoded(request.app), headers=headers)


def _encoded(app: Litestar) -> bytes:
    """Return the document, made once: it takes as long as many requests, and whoever reaches the port may ask."""
    if _DOCUMENT not in app.state:
        app.state[_DOCUMENT] = msgspec.json.encode(document(app.routes))
    found: bytes = app.state[_DOCUMENT]
    return found


HANDLERS = [openapi]
