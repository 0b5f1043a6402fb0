"""The lines of the log: how they look, and how they get to stderr."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import msgspec

Render = Callable[[datetime, str, str, Mapping[str, object]], str]
"""From an aware time, a level (as loguru names it), a message and fields to a line."""

_SHORT = {"DEBUG": "DBG", "INFO": "INF", "WARNING": "WRN", "ERROR": "ERR", "CRITICAL": "ERR"}
_NAMES = {"DEBUG": "debug", "INFO": "info", "WARNING": "warn", "ERROR": "error", "CRITICAL": "error"}
_PLAIN = re.compile(r"[a-zA-Z0-9_\-+.,:;/@*%()\[\]{}!?<>#&$~|^']+", re.ASCII)

MOST_WAITING = 10_000
RETRY_SECONDS = 0.2

LEVELS = frozenset(_SHORT)
"""The levels that a line may have."""


class Lines:
    """Writes lines to stderr, in the order in which they come, from any thread.

    Once an event loop writes here nobody waits for stderr: what it does not take, since whoever reads it has
    stopped, waits here, up to a number of lines, and further ones are dropped and counted.

    Args:
        tell_dropped: makes the line that tells how many were dropped.
    """

    def __init__(self, tell_dropped: Callable[[int], str] = "{} log lines were dropped".format) -> None:
        self._tell_dropped = tell_dropped
        self._waiting: deque[str] = deque()
        self._dropped = 0
        self._lock = threading.Lock()
        self._serving = False
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that will write what waits

    def write(self, line: str) -> None:
        """Write a line, after those that wait."""
        self._add(line)
        self._write_waiting()
        if self._waiting and self._serving:
            with contextlib.suppress(RuntimeError):
                self._retry(asyncio.get_running_loop())

    def write_soon(self, line: str) -> None:
        """Write a line with all others of this turn of the event loop; at once if there is none."""
        self._add(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._write_waiting()
            return
        self._serving = True
        # That lines wait says nothing: another thread may be about to write them, and have its turn when they are.
        if self._loop is not loop:
            loop.call_soon(self._write_if_possible, loop)
            self._loop = loop

    def _add(self, line: str) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        if self._dropped:
            self._waiting.append(self._tell_dropped(self._dropped))
            self._dropped = 0
        self._waiting.append(line)

    def _write_if_possible(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = None
        # Nobody waits for these lines who could be told.
        with contextlib.suppress(OSError, ValueError):
            self._write_waiting()
        if self._waiting:
            self._retry(loop)

    def _retry(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            loop.call_later(RETRY_SECONDS, self._write_if_possible, loop)
            self._loop = loop

    def _write_waiting(self) -> None:
        if not self._lock.acquire(blocking=not self._serving):
            return  # who holds it writes these, too, or the next one does
        try:
            while self._waiting and (not self._serving or _takes_more()):
                sys.stderr.write(self._portion())
                sys.stderr.flush()
        finally:
            self._lock.release()

    def _portion(self) -> str:
        """Take as many lines as a pipe takes whole: other workers of the server write into it, too."""
        portion: list[str] = []
        size = 0
        while self._waiting:
            line = self._waiting[0]
            size += 1 + (len(line) if line.isascii() else len(line.encode(errors="backslashreplace")))
            if portion and size > select.PIPE_BUF:
                break
            portion.append(self._waiting.popleft() + "\n")
        return "".join(portion)


def _takes_more() -> bool:
    """Tell whether stderr takes a portion at once."""
    poll = select.poll()
    try:
        poll.register(sys.stderr.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # no file at all
        return True
    return bool(poll.poll(0))


def console(time: datetime, level: str, message: str, fields: Mapping[str, object]) -> str:
    """Return a line for people."""
    told = "".join(f" {name}={_value(value)}" for name, value in fields.items())
    return f"{time.astimezone().isoformat(timespec='seconds')} {_SHORT[level]} {_one_line(message)}{told}"


def as_json(time: datetime, level: str, message: str, fields: Mapping[str, object]) -> str:
    """Return a line for programs."""
    event: dict[str, object] = {
        "time": f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
        "level": _NAMES[level],
        "message": message,
        **fields,
    }
    try:
        return msgspec.json.encode(event, enc_hook=str).decode()
    except ValueError:  # a lone surrogate, which JSON cannot hold
        return msgspec.json.encode({name: _escaped(value) for name, value in event.items()}, enc_hook=str).decode()


def _value(value: object) -> str:
    text = _encodable(str(value))
    if _PLAIN.fullmatch(text):
        return text
    return _harmless(msgspec.json.encode(text).decode())


def _escaped(value: object) -> object:
    return _encodable(value) if isinstance(value, str) else value


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _one_line(text: str) -> str:
    return _harmless(" ".join(text.splitlines()))


def _harmless(text: str) -> str:
    """Escape what a terminal would act upon, or cannot show."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)
