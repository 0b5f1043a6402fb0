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
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

Render = Callable[[datetime, str, str, Mapping[str, object]], str]
"""From an aware time, a level (as loguru names it), a message and fields to a line."""

_SHORT = {"DEBUG": "DBG", "INFO": "INF", "WARNING": "WRN", "ERROR": "ERR", "CRITICAL": "ERR"}
_NAMES = {"DEBUG": "debug", "INFO": "info", "WARNING": "warn", "ERROR": "error", "CRITICAL": "error"}
_PLAIN = re.compile(r"[a-zA-Z0-9_\-+.,:;/@*%()\[\]{}!?<>#&$~|^']+", re.ASCII)

LEVELS = frozenset(_SHORT)
"""The levels that a line may have."""


class Lines:
    """Writes lines to stderr, in the order in which they come, from any thread."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that will write what waits

    def write(self, line: str) -> None:
        """Write a line, after those that wait."""
        self._waiting.append(line)
        self._write_waiting()

    def write_soon(self, line: str) -> None:
        """Write a line with all others of this turn of the event loop; at once if there is none."""
        self._waiting.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._write_waiting()
            return
        # That lines wait says nothing: another thread may have counted already those that it will write.
        if self._loop is not loop:
            loop.call_soon(self._write_if_possible)
            self._loop = loop

    def _write_if_possible(self) -> None:
        self._loop = None
        # Nobody waits for these lines who could be told.
        with contextlib.suppress(OSError, ValueError):
            self._write_waiting()

    def _write_waiting(self) -> None:
        with self._lock:
            lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
            for portion in _portions(lines):
                sys.stderr.write(portion)
                sys.stderr.flush()


def _portions(lines: Sequence[str]) -> Iterator[str]:
    """Join lines to texts that a pipe takes whole: other workers of the server write into it, too."""
    portion: list[str] = []
    size = 0
    for line in lines:
        length = 1 + (len(line) if line.isascii() else len(line.encode(errors="backslashreplace")))
        if portion and size + length > select.PIPE_BUF:
            yield "".join(portion)
            portion, size = [], 0
        portion.append(line + "\n")
        size += length
    if portion:
        yield "".join(portion)


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
