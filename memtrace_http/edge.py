"""The outermost layer of the app: request and trace ids, the request log, and paths with encoded slashes."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable
from typing import cast
from urllib.parse import unquote

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from memtrace_core.model import Principal
from memtrace_http.problems import REQUEST_ID

RequestLog = Callable[[str, str, int, float, str | None, str, str | None, str | None], None]
"""Called after each request: method, path, status, seconds, org id, request id, client's address, trace id."""
Observer = Callable[[str, str | None, int, float], None]
"""Called after each request with method, route template (None if there is none), status, seconds."""

# Stands for a slash that was written `%2F`, while the path is split at its slashes. No decoded path holds it.
_INNER_SLASH = "\udc2f"
_ENCODED_SLASH = re.compile(b"%2f", re.IGNORECASE)
_SLASHES = re.compile("/+")
# Behind this every slash is part of the reference: a dedup key may be a URL.
_REFERENCE_PATH = b"/api/v1/memories/"
_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# https://www.w3.org/TR/trace-context: behind what version 00 says, a later one may say more.
_TRACEPARENT = re.compile(
    rb"(?:(00)|(?!00|ff)[0-9a-f]{2})-(?P<trace_id>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?(1)|(?:-.*)?)"
)
_STATUS_CLIENT_LEFT = 499
# Answers hold a tenant's data: nobody on the way keeps them, and no browser takes them for something else.
_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))

TRACE_ID = "memtrace.trace_id"
"""In a request's scope: the trace it belongs to, if somebody traces."""

LEAVE = "memtrace.leave"
"""In a request's scope: what is to be called when the request has ended."""


def no_log(*_: object) -> None:
    """Log nothing."""


class Edge:
    """Wraps the app; mount this in a server or in another ASGI app."""

    def __init__(self, app: ASGIApp, log: RequestLog = no_log, observe: Observer = no_log) -> None:
        self._app = app
        self._log = log
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == ScopeType.HTTP:
            await self._serve(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        status = _STATUS_CLIENT_LEFT
        request_id, trace_id = ids_of(scope["headers"])
        cast(dict[str, object], scope)[REQUEST_ID] = request_id
        raw_path = scope.get("raw_path")
        if raw_path and (_ENCODED_SLASH.search(raw_path) or _REFERENCE_PATH in raw_path):
            scope["path"] = _path(_below_mount(raw_path, scope["path"]))

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = dict(message["headers"])
                ours = [header for header in _HEADERS if header[0] not in given]
                message["headers"] = [*message["headers"], *ours, (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, marked)
        finally:
            if leave := cast(dict[str, Callable[[], None]], scope).pop(LEAVE, None):
                leave()
            user = scope.get("user")
            org_id = user.org_id if isinstance(user, Principal) else None
            seconds = time.perf_counter() - started
            client = scope.get("client")
            address = client[0] if client else None
            self._observe(scope["method"], scope.get("path_template"), status, seconds)
            trace_id = cast(dict[str, str | None], scope).get(TRACE_ID, trace_id)
            path = path_text(scope["path"])
            self._log(scope["method"], path, status, seconds, org_id, request_id, address, trace_id)


def path_text(text: str) -> str:
    """Return a path parameter with its encoded slashes as slashes."""
    return text.replace(_INNER_SLASH, "/")


def _below_mount(raw_path: bytes, path: str) -> bytes:
    """Return what a mounted app shall look at: some hosts cut their own part from `path`, and leave `raw_path`."""
    whole = unquote(raw_path.decode("latin-1"))
    if whole == path:
        return raw_path
    # Litestar's mounts also make one slash of several, and add one at the end.
    mount = _SLASHES.sub("/", whole).rstrip("/").removesuffix(path.rstrip("/"))
    return raw_path.removeprefix(mount.encode())


def _path(raw_path: bytes) -> str:
    before, separator, reference = raw_path.partition(_REFERENCE_PATH)
    pieces = _ENCODED_SLASH.split(before + separator)
    path = _INNER_SLASH.join(unquote(piece.decode("latin-1")) for piece in pieces)
    return path + unquote(reference.decode("latin-1")).replace("/", _INNER_SLASH)


def ids_of(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, str | None]:
    """Return the id of a request, the caller's if it is a sane one, and of the caller's trace, if it names one."""
    request_id = trace_id = None
    for name, value in headers:
        if name == b"x-request-id" and _SANE_REQUEST_ID.fullmatch(value):
            request_id = request_id or value.decode()
        elif name == b"traceparent" and (parent := _TRACEPARENT.fullmatch(value)):
            trace_id = parent["trace_id"].decode()
    # Told apart, not kept secret: the system's randomness would cost a system call, and the GIL for a moment.
    return request_id or f"{random.getrandbits(64):016x}", trace_id
