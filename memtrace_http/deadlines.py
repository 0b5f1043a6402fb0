"""Time limits on connections that ASGI cannot see: slow headers, and clients that do not take their answer.

The deadline of a body is an answer like any other, and is kept in `memtrace_http.requests`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from memtrace_http.framing import Rejection, StrictProtocol

SLOWEST_READER = 16 << 10  # bytes a second; an answer is held in memory until it is taken
_TOO_SLOW = Rejection("408 Request Timeout", "the request did not arrive in time", "request_timeout")


class DeadlineProtocol(StrictProtocol):
    """The strict protocol with time limits; subclass it by `with_deadlines`.

    A connection is closed when a request's headers take longer than `read_timeout`, and when a client takes its
    answer more slowly than `SLOWEST_READER` for `write_timeout`, the end of the last one included. Both are in
    seconds. A client that takes a large answer steadily may take as long as it needs.
    """

    read_timeout: float
    write_timeout: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what uvicorn gives."""
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._untaken = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_header_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the headers of a request must be complete in time."""
        super().data_received(data)
        if self.reading_head and self._header_timer is None:
            self._expect_headers()

    def on_message_complete(self) -> None:
        """Note that the request is there as a whole."""
        super().on_message_complete()
        if self.in_message:
            return
        self._stop_header_timer()
        if self.unanswered == 0 and self.timeout_keep_alive_task is None:
            # It was answered before it ended, so no answer will begin the wait for the next one.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """Give a request that is answered already a while to end, and no longer."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_end()
        elif self.in_message:
            self._stop_header_timer()
            self._header_timer = self.loop.call_later(self.read_timeout, self._end)

    def on_headers_complete(self) -> None:
        """Note that the headers are there; the rest is the app's."""
        super().on_headers_complete()
        self._stop_header_timer()

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not take its answer."""
        super().pause_writing()
        self._stop_write_timer()
        self._await_taking()

    def resume_writing(self) -> None:
        """Note that the client has taken what was waiting."""
        self._stop_write_timer()
        super().resume_writing()
        if self.transport.is_closing():
            self._expect_end()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which nothing more comes."""
        self._end()

    def _end(self) -> None:
        super()._end()
        self._expect_end()

    def _expect_end(self) -> None:
        """Give a client a while to take what is left for it; nobody else would look at a connection that closes."""
        if self._write_timer is None:
            self._await_taking()

    def _await_taking(self) -> None:
        self._untaken = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self.write_timeout, self._see_what_was_taken)

    def _expect_headers(self) -> None:
        self._header_timer = self.loop.call_later(self.read_timeout, self._give_up)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _give_up(self) -> None:
        self._header_timer = None
        if self.stray_bytes or self.in_message:
            self.refuse(_TOO_SLOW)
        else:
            self._end()

    def _see_what_was_taken(self) -> None:
        self._write_timer = None
        if self.transport is None:
            return
        if self._untaken - self.transport.get_write_buffer_size() >= SLOWEST_READER * self.write_timeout:
            self._await_taking()
        else:
            self.transport.abort()


def with_deadlines(read_timeout: float, write_timeout: float) -> type[DeadlineProtocol]:
    """Return the protocol class for uvicorn's `http` setting, with these limits in seconds."""
    limits = {"read_timeout": read_timeout, "write_timeout": write_timeout}
    return type("LimitedProtocol", (DeadlineProtocol,), limits)
