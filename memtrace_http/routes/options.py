"""OPTIONS: which methods a path has.

The framework's own answer knows only the method that was registered first.
"""

from __future__ import annotations

from collections.abc import Iterable

from litestar import HttpMethod, Response, route
from litestar.handlers import HTTPRouteHandler

METHOD = HttpMethod.OPTIONS


def options_of(handlers: Iterable[HTTPRouteHandler]) -> list[HTTPRouteHandler]:
    """Return a handler of OPTIONS for each path that the handlers serve."""
    methods: dict[str, set[str]] = {}
    for handler in handlers:
        for path in handler.paths:
            methods.setdefault(path, {METHOD.value}).update(handler.http_methods)
    return [_options(path, ", ".join(sorted(names))) for path, names in methods.items()]


def _options(path: str, allowed: str) -> HTTPRouteHandler:
    @route(path, http_method=METHOD, status_code=204)
    async def options() -> Response[None]:
        return Response(None, headers={"allow": allowed})

    return options
