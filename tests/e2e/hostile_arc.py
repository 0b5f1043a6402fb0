"""Servers that pose as an Arc and are after its key: one tells it to everybody, one sends its callers elsewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Hostile:
    """A listening server, and every request that it got: its path and its headers."""

    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def listening(kind: type[BaseHTTPRequestHandler]) -> Iterator[Hostile]:
    """Run a server of a kind on a free port; the kind's requests are recorded."""
    seen = Hostile()

    class Recording(kind):  # type: ignore[valid-type, misc]
        def parse_request(self) -> bool:
            parsed: bool = super().parse_request()
            if parsed:
                seen.requests.append((self.path, str(self.headers)))
            return parsed

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Recording)
    server.daemon_threads = True
    seen.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        """Send a response."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def sent(self) -> bytes:
        """Return the body of the request."""
        return self.rfile.read(int(self.headers.get("content-length", 0)))


class Gossip(_Answering):
    """Takes every key, refuses every batch and every real query, and says in the error with which key it was asked.

    A batch is refused for good (400), so that what it says is kept with the memory.
    """

    def do_GET(self) -> None:
        """Tell of its health."""
        self.answer(200, b'{"status": "ok", "version": "26.06.3"}')

    def do_POST(self) -> None:
        """Answer a ping, and refuse all else."""
        body = self.sent()
        if b'"SELECT 1"' in body:
            self.answer(200, b'{"success": true, "columns": ["1"], "data": [[1]]}')
            return
        told = {"success": False, "error": f"not with Authorization: {self.headers['Authorization']}"}
        cookie = f"key={self.headers['Authorization'].split()[-1]}"
        self.answer(400 if "write" in self.path else 500, json.dumps(told).encode(), set_cookie=cookie)


class Elsewhere(BaseHTTPRequestHandler):
    """Takes whatever comes, as an Arc would."""

    do_GET = do_POST = do_PUT = lambda self: Gossip.answer(self, 204, b"")  # type: ignore[arg-type]


def redirecting(to: Hostile, status: int) -> type[BaseHTTPRequestHandler]:
    """Return a kind of server that sends every caller to another host, with a status of redirection."""

    class Redirecting(_Answering):
        def do_GET(self) -> None:
            """Send away."""
            self.sent()
            where = to.url.replace("127.0.0.1", "localhost") + self.path
            self.answer(status, b"", location=where, set_cookie="come=back")

        do_POST = do_GET

    return Redirecting
