"""uvicorn's HTTP protocol, made strict: what it would take, drop or answer out of turn is refused or put right.

A refusal is an answer in the form of all errors. It comes after the answers to the requests before it, and ends the
connection: nobody knows where on it another request might begin.
"""

from __future__ import annotations

import logging
from typing import Any

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from memtrace_http.edge import ids_of
from memtrace_http.problems import Problem

MAX_HEADER_BYTES = 64 << 10
MOST_UNANSWERED = 100

_log = logging.getLogger("memtrace.http")
_SEPARATORS = len(": \r\n")
_FRAMING = (b"content-length", b"transfer-encoding")


class Rejection(msgspec.Struct, frozen=True):
    """Why a connection is ended: the status line behind the version, and the error's sentence and code."""

    status: str
    error: str
    code: str


_MALFORMED = Rejection("400 Bad Request", "this is not a valid HTTP/1.1 request", "invalid_http")
_CODED = Rejection("400 Bad Request", "no transfer-encoding but chunked is known", "invalid_http")
_TOO_LARGE = Rejection(
    "431 Request Header Fields Too Large", "the request headers are larger than 64 KiB", "headers_too_large"
)
_TOO_MANY = Rejection(
    "429 Too Many Requests",
    f"{MOST_UNANSWERED} requests of this connection wait for their answers",
    "too_many_requests",
)


class _Refused(Exception):
    """Ends the parsing of what is being received."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.error)
        self.rejection = rejection


class StrictProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with these differences.

    Headers are at most 64 KiB, and so is everything that belongs neither to a head nor to a body, such as the
    extensions of a chunk. Trailers are dropped, never taken for headers. A wish for another protocol is ignored.
    Of the requests that are sent ahead of answers, at most `MOST_UNANSWERED` are kept.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what uvicorn gives."""
        super().__init__(*args, **kwargs)
        self.reading_head = True
        self.in_message = False
        self.stray_bytes = 0
        self._head_bytes = 0
        self.unanswered = 0
        self._advanced = False
        self._repeating = False
        self._rejection: Rejection | None = None

    def data_received(self, data: bytes) -> None:
        """Take bytes; after a refusal they are ignored."""
        if self._rejection is not None:
            return
        if self.in_message:
            self._unset_keepalive_if_required()
        self._advanced = False
        rest: bytes | None = data
        try:
            while rest is not None:
                rest = self._parse(rest)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self.refuse(cause.rejection if isinstance(cause, _Refused) else _MALFORMED)
            return
        # Whole reads are counted, and only those that neither end a head nor bring a part of a body.
        self.stray_bytes = 0 if self._advanced else self.stray_bytes + len(data)
        if self.stray_bytes > MAX_HEADER_BYTES:
            self.refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Note that a request has begun."""
        if self._repeating:
            return
        # One read may hold thousands, of which each takes a hundred times the room of its bytes.
        if self.unanswered >= MOST_UNANSWERED:
            raise _Refused(_TOO_MANY)
        self._unset_keepalive_if_required()
        self.reading_head = True
        self.in_message = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        if not self._repeating:
            self._count(len(url))
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, unless it is a trailer."""
        if not self.reading_head or self._repeating:
            return
        self._count(len(name) + len(value) + _SEPARATORS)
        if name.lower() == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise _Refused(_CODED)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Note that the head is there, and serve the request."""
        self._advanced = True
        if self._repeating:
            self._repeating = False
            return
        super().on_headers_complete()
        self.reading_head = False
        self.unanswered += 1

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._advanced = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is there as a whole."""
        if self.parser.should_upgrade():
            return  # the parser takes the head for all of it
        self._advanced = True
        self.in_message = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on to the next answer, which may be a refusal."""
        self.unanswered -= 1
        super().on_response_complete()
        if self._rejection is not None and self.unanswered == 0:
            self._reject(self._rejection)

    def refuse(self, rejection: Rejection) -> None:
        """Listen no longer, and say why when all earlier requests are answered."""
        if self._rejection is not None:
            return
        self._rejection = rejection
        if self.in_message and not self.reading_head:
            if self.cycle.response_started:
                self._end()
                return
            self._forget_request()
        if self.unanswered == 0:
            self._reject(rejection)

    def _parse(self, data: bytes) -> bytes | None:
        """Take bytes; return what is to be read on behind a head that asks for another protocol, as if it did not.

        The parser believes that the rest is no HTTP. A new one is told of the length of the body alone.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        else:
            return None
        framing = [b"%b: %b\r\n" % (name, value) for name, value in self.headers if name in _FRAMING]
        self.parser = httptools.HttpRequestParser(self)
        self._repeating = True
        return b"".join([b"POST / HTTP/1.1\r\n", *framing, b"\r\n", rest])

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEADER_BYTES:
            raise _Refused(_TOO_LARGE)

    def _forget_request(self) -> None:
        """Let the app know that the request it is reading, or is about to read, has no end."""
        self.unanswered -= 1
        if self.pipeline and self.pipeline[0][0] is self.cycle:
            self.pipeline.popleft()
        self.cycle.disconnected = True
        self.cycle.message_event.set()

    def _reject(self, rejection: Rejection) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        # Between two requests these are the headers of the one before.
        request_id, _ = ids_of(self.headers if self.in_message else ())
        _log.info("refused: %s", rejection.error, extra={"request_id": request_id})
        body = msgspec.json.encode(Problem(error=rejection.error, code=rejection.code, request_id=request_id))
        head = [
            f"HTTP/1.1 {rejection.status}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            f"x-request-id: {request_id}",
            "connection: close",
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self._end()

    def _end(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()
