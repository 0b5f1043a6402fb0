"""What a route declares of itself: the guard enforces it, and the OpenAPI document tells it."""

from __future__ import annotations

import msgspec
from litestar.handlers import BaseRouteHandler

from memtrace_core.model import Permission

_OPT = "endpoint"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path.

    Args:
        summary: one line for the OpenAPI document.
        permission: what the key must allow; None for a route that needs no key.
        query: a struct of the query parameters; unknown ones are refused.
        body: the structs one of which the body must be.
        optional_body: whether the body may be empty.
        answers: status → the structs one of which the answer's body is; none for no body, or for text.
        text: the media type of an answer that is text.
        problems: the statuses of errors that this route has besides those that all have.
    """

    summary: str
    permission: Permission | None
    query: type[msgspec.Struct] | None = None
    body: tuple[type[msgspec.Struct], ...] = ()
    optional_body: bool = False
    answers: dict[int, tuple[type[msgspec.Struct], ...]]
    text: str | None = None
    problems: tuple[int, ...] = ()


def declare(endpoint: Endpoint) -> dict[str, Endpoint]:
    """Return the `opt` argument of a Litestar route."""
    return {_OPT: endpoint}


def endpoint_of(handler: BaseRouteHandler) -> Endpoint | None:
    """Return what a route declares; None for a route of the framework."""
    found = handler.opt.get(_OPT)
    return found if isinstance(found, Endpoint) else None
