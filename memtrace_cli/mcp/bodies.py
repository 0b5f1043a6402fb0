"""The bodies of requests to `memtrace mcp --http`: whole, in time, and not too large, before the SDK sees them."""

from __future__ import annotations

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memtrace_http.problems import Problem, Refusal
from memtrace_http.requests import whole_body


class WholeBodies:
    """Wraps an ASGI app: each request's body must arrive within `read_timeout` seconds, within the API's size.

    The SDK waits for a body as long as its client likes. What is refused is answered as the HTTP API answers it.
    """

    def __init__(self, app: ASGIApp, read_timeout: float) -> None:
        self._app = app
        self._read_timeout = read_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await whole_body(receive, self._read_timeout)
        except Refusal as refusal:
            await _answer(send, refusal)
            return
        arrived: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return arrived.pop() if arrived else await receive()

        await self._app(scope, replayed, send)


async def _answer(send: Send, refusal: Refusal) -> None:
    content = msgspec.json.encode(Problem(error=refusal.detail, code=refusal.code))
    headers = {"content-type": "application/json", "content-length": str(len(content)), **(refusal.headers or {})}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status_code, "headers": encoded})
    await send({"type": "http.response.body", "body": content})
