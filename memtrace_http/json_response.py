"""Answers in JSON, made and sent with no more than they need."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

Content = TypeVar("Content")

_ENCODER = msgspec.json.Encoder()
_NO_CONTENT = 204


class JsonResponse(Response[Content]):
    """What the framework makes of a struct that a handler returns.

    Its own response is ready for cookies, media types, encodings and background tasks, on every request; no route
    here has any.
    """

    def __init__(self, content: Content, *, status_code: int | None = None, **_: Any) -> None:
        self.content = content
        self.status_code = status_code

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        """Return the answer, encoded."""
        status = self.status_code or 200
        return _Encoded(status, b"" if status == _NO_CONTENT else _ENCODER.encode(self.content))


class _Encoded(ASGIResponse):
    def __init__(self, status: int, body: bytes) -> None:
        self.status_code = status
        self.body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = []
        if self.status_code != _NO_CONTENT:
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(self.body))]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})
