"""Reading requests: bodies within their deadline and size, JSON and query strings into structs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar import Request

from memtrace_core import Services
from memtrace_core.errors import InvalidInput
from memtrace_core.model import Principal
from memtrace_http.metrics import Metrics
from memtrace_http.problems import Refusal, undecodable

MAX_BODY_BYTES = 16 << 20
MAX_DRAINED_BYTES = 64 << 20

HttpRequest = Request[Principal, Any, Any]
Parsed = TypeVar("Parsed", bound=msgspec.Struct)
# Of whichever framework: each has types of its own for the same messages.
AnyReceive = Callable[[], Awaitable[Mapping[str, Any]]]

# As many as Python is sure to read; the range is the core's to tell.
_INTEGER = re.compile(r"-?[0-9]{1,1000}", re.ASCII)
_SERVICES = "memtrace_services"
_READ_TIMEOUT = "memtrace_read_timeout"
_SHOW_ORGS = "memtrace_show_orgs"
_METRICS = "memtrace_metrics"


def app_state(
    services: Services, read_timeout: float, *, show_orgs: bool, metrics: Metrics | None
) -> dict[str, object]:
    """Return what the app must carry for the functions of this module."""
    return {_SERVICES: services, _READ_TIMEOUT: read_timeout, _SHOW_ORGS: show_orgs, _METRICS: metrics}


def shows_orgs(request: HttpRequest) -> bool:
    """Tell whether answers that need no key may name orgs."""
    return bool(request.app.state[_SHOW_ORGS])


def services_of(request: HttpRequest) -> Services:
    """Return the services that the app was made with."""
    services = request.app.state[_SERVICES]
    assert isinstance(services, Services)  # noqa: S101 - for the type checker; `create_app` has put it there
    return services


def metrics_of(request: HttpRequest) -> Metrics:
    """Return the figures that the app was made with."""
    metrics = request.app.state[_METRICS]
    assert isinstance(metrics, Metrics)  # noqa: S101 - for the type checker; the route is only there with them
    return metrics


async def read_body(request: HttpRequest) -> bytes:
    """Return the whole body.

    Raises:
        Refusal: 400 when it is encoded; and as `whole_body`.
    """
    for name, value in request.scope["headers"]:
        if name == b"content-encoding" and value.strip().lower() != b"identity":
            raise Refusal(400, "unsupported_encoding", "the body has a content-encoding; send it without one")
    return await whole_body(request.receive, request.app.state[_READ_TIMEOUT])


async def whole_body(receive: AnyReceive, within: float) -> bytes:
    """Return the whole body of the request whose ASGI messages these are, waiting `within` seconds for it.

    Raises:
        Refusal: 400 when the client leaves, 408 when it does not arrive in time, 413 when it is too large, after
            reading on for a while, so that a client that only listens when it has sent all can read the answer.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(within):
            more = True
            while more and size <= MAX_DRAINED_BYTES:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refusal(400, "client_left", "the client left before its request was complete")
                # ASGI lets a server leave out either.
                chunk = message.get("body", b"")
                size += len(chunk)
                if size <= MAX_BODY_BYTES:
                    chunks.append(chunk)
                more = message.get("more_body", False)
    except TimeoutError:
        raise Refusal(408, "request_timeout", "the body did not arrive in time", {"connection": "close"}) from None
    if size > MAX_BODY_BYTES:
        headers = {"connection": "close"} if more else None
        raise Refusal(413, "body_too_large", "the body is larger than 16 MiB", headers)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def decode(body: bytes, decoder: msgspec.json.Decoder[Parsed]) -> Parsed:
    """Decode a JSON body.

    Raises:
        InvalidInput: it is not JSON, or not of the struct's shape; the message names the field.
    """
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise undecodable(error) from None


def check_query(query_string: bytes, known: type[msgspec.Struct] | None) -> None:
    """Refuse query parameters that a route does not know, or that are given twice or empty."""
    seen: set[str] = set()
    fields = known.__struct_fields__ if known else ()
    for name, value in _pairs(query_string):
        if name not in fields:
            raise InvalidInput(f"unknown query parameter {name!r}", code="unknown_parameter")
        if name in seen:
            raise InvalidInput(f"query parameter {name} is given twice", code="repeated_parameter")
        if not value:
            raise InvalidInput(f"query parameter {name} is empty", code="empty_parameter")
        seen.add(name)


def query_of(request: HttpRequest, kind: type[Parsed]) -> Parsed:
    """Return the query parameters as a struct; the guard has checked their names."""
    given: dict[str, object] = {}
    types = _types_of(kind)
    for name, value in _pairs(request.scope["query_string"]):
        if types[name] == (int | None):
            if not _INTEGER.fullmatch(value):
                raise InvalidInput(f"{name} must be a whole number in plain decimal digits")
            given[name] = int(value)
        else:
            given[name] = value
    return kind(**given)


@cache
def _types_of(kind: type[msgspec.Struct]) -> dict[str, object]:
    """Return the fields' types; msgspec would evaluate their annotations anew each time, at every listing."""
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


def _pairs(query_string: bytes) -> list[tuple[str, str]]:
    if not query_string:
        return []
    try:
        return parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise InvalidInput("the query string is not valid UTF-8, or has too many parameters") from None
