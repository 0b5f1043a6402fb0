"""What `memtrace mcp --http` does with bodies that do not come, or do not end; asked as an ASGI server would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from builders import run

from memtrace_cli.mcp.api import Api
from memtrace_cli.mcp.server import http_app
from memtrace_http.requests import MAX_BODY_BYTES, MAX_DRAINED_BYTES

MEBIBYTE = bytes(1 << 20)
LISTED = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}'


class Answer:
    """What came back: the status, the headers and the JSON."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.status = messages[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        self.told = json.loads(b"".join(one.get("body", b"") for one in messages[1:]))


def part(body: bytes, *, more: bool) -> dict[str, Any]:
    """Return a piece of a body as ASGI hands it over."""
    return {"type": "http.request", "body": body, "more_body": more}


def posted(pieces: Iterable[dict[str, Any]], read_timeout: float = 30) -> Answer:
    """Send these pieces, and nothing more then."""

    async def scenario() -> Answer:
        coming, said = iter(pieces), []

        async def receive() -> dict[str, Any]:
            piece = next(coming, None)
            if piece is None:
                await asyncio.Event().wait()
            return piece or {}

        async def send(message: Any) -> None:
            said.append(message)

        async with Api("http://127.0.0.1:1") as api:
            app = http_app(api, "127.0.0.1", read_timeout)
            await app({**SCOPE, "headers": HEADERS}, receive, send)
        return Answer(said)

    return run(scenario())


SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/mcp",
    "raw_path": b"/mcp",
    "root_path": "",
    "query_string": b"",
    "client": ("127.0.0.1", 5),
    "server": ("127.0.0.1", 9101),
}
HEADERS = [
    (b"host", b"127.0.0.1:9101"),
    (b"content-type", b"application/json"),
    (b"accept", b"application/json, text/event-stream"),
]


def test_a_body_that_does_not_come_in_time_is_a_408() -> None:
    """A client that owes the rest of its body does not hold its connection for ever."""
    answer = posted([part(LISTED[:5], more=True)], read_timeout=0.01)
    assert (answer.status, answer.told["code"]) == (408, "request_timeout")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("more", [False, True])
def test_a_body_that_is_too_large_is_a_413(more: bool) -> None:
    """It is read to its end up to a bound, behind which the connection is closed."""
    taken: list[int] = []

    def pieces() -> Iterable[dict[str, Any]]:
        size = (2 * MAX_DRAINED_BYTES if more else MAX_BODY_BYTES + len(MEBIBYTE)) // len(MEBIBYTE)
        for left in range(size - 1, -1, -1):
            taken.append(left)
            yield part(MEBIBYTE, more=left > 0)

    answer = posted(pieces())
    assert (answer.status, answer.told["code"]) == (413, "body_too_large")
    assert (answer.headers.get("connection") == "close") is more
    assert (taken[-1] > 0) is more
