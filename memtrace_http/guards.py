"""Who may come in: every route declares its permission, and this guard holds it to that.

It is the app's `before_request` and not one of Litestar's guards: for each of those the framework copies the route
handler on every request, which costs more than all that is checked here.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from memtrace_core import Services
from memtrace_core.access import require
from memtrace_http.edge import LEAVE
from memtrace_http.endpoints import endpoint_of
from memtrace_http.requests import HttpRequest, check_query


class Guard:
    """Checks, in this order: the key, its permission, fair use, the names of the query parameters."""

    def __init__(self, services: Services) -> None:
        self._access = services.access
        self._limits = services.limits

    async def __call__(self, request: HttpRequest) -> None:
        """Let a request pass, and note whose it is; otherwise raise what is wrong with it."""
        scope = request.scope
        endpoint = endpoint_of(scope["route_handler"])
        if endpoint is None:
            return
        if endpoint.permission is not None:
            principal = await self._access.authenticate(api_key_of(scope["headers"]))
            scope["user"] = principal
            require(principal, endpoint.permission)
            self._limits.enter(principal)
            cast(dict[str, object], scope)[LEAVE] = partial(self._limits.leave, principal)
        if scope["query_string"]:
            check_query(scope["query_string"], endpoint.query)


def api_key_of(headers: Any) -> str | None:
    """Return the API key that a request brings: x-api-key, or Authorization: Bearer."""
    bearer = None
    for name, value in headers:
        if name == b"x-api-key":
            return str(value.decode("latin-1")).strip()
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            if bearer is None and scheme.lower() == "bearer":
                bearer = token.strip()
    return bearer
