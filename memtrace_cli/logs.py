"""Logs: one line an event on stderr, for people (`console`) or for machines (`json`)."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC
from typing import TYPE_CHECKING

import msgspec
from loguru import logger

from memtrace_http import RequestLog

if TYPE_CHECKING:
    from loguru import Record

_LEVELS = {"debug": "DEBUG", "info": "INFO", "warn": "WARNING", "error": "ERROR"}
_SHORT = {"DEBUG": "DBG", "INFO": "INF", "WARNING": "WRN", "ERROR": "ERR", "CRITICAL": "ERR"}
_NAMES = {full: name for name, full in _LEVELS.items()} | {"CRITICAL": "error"}

# What our own log calls say besides the sentence.
_EXTRAS = ("org", "failures", "hint", "request_id")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+.,:;/@*%()[]{}!?<>#&$~|^'")


def configure_logs(level: str, form: str) -> None:
    """Send all logs, the libraries' too, to stderr in one form."""
    logger.remove()
    render = _json if form == "json" else _console
    logger.add(
        lambda message: _write(render(message.record)),
        level=_LEVELS[level],
        # A variable's value may be a secret.
        diagnose=False,
        backtrace=False,
    )
    logging.basicConfig(handlers=[_Bridge()], level=logging.INFO, force=True)
    logging.getLogger("memtrace").setLevel(_LEVELS[level])
    # uvicorn's own tale of starting and stopping is told by `serve`.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def request_log() -> RequestLog:
    """Return what the HTTP app calls after each request."""

    def log(
        method: str,
        path: str,
        status: int,
        seconds: float,
        org_id: str | None,
        request_id: str,
        client: str | None,
        trace_id: str | None,
    ) -> None:
        fields: dict[str, object] = {
            "method": method,
            "path": path,
            "status": status,
            "latency_ms": round(seconds * 1000, 2),
        }
        if org_id is not None:
            fields["org"] = org_id
        fields["request_id"] = request_id
        if client is not None:
            fields["client"] = client
        if trace_id is not None:
            fields["trace_id"] = trace_id
        logger.bind(**fields).info("request")

    return log


class _Bridge(logging.Handler):
    """Hands what the standard library's loggers get to ours."""

    def emit(self, record: logging.LogRecord) -> None:
        extras = {name: getattr(record, name) for name in _EXTRAS if hasattr(record, name)}
        level = record.levelname if record.levelname in _SHORT else "INFO"
        logger.opt(exception=record.exc_info).bind(**extras).log(level, "{}", record.getMessage())


def _console(record: Record) -> str:
    fields = "".join(f" {name}={_value(value)}" for name, value in record["extra"].items())
    time = record["time"].astimezone().isoformat(timespec="seconds")
    line = f"{time} {_SHORT[record['level'].name]} {_one_line(record['message'])}{fields}"
    trace = _trace(record)
    return f"{line}\n{trace}" if trace else line


def _json(record: Record) -> str:
    event: dict[str, object] = {
        "time": f"{record['time'].astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
        "level": _NAMES[record["level"].name],
        "message": record["message"],
        **record["extra"],
    }
    if trace := _trace(record):
        event["exception"] = trace
    try:
        return msgspec.json.encode(event, enc_hook=str).decode()
    except ValueError:  # a lone surrogate, which JSON cannot hold
        return msgspec.json.encode({name: _escaped(value) for name, value in event.items()}, enc_hook=str).decode()


def _trace(record: Record) -> str:
    error = record["exception"]
    if error is None or error.value is None:
        return ""
    return "".join(traceback.format_exception(error.type, error.value, error.traceback)).rstrip()


def _value(value: object) -> str:
    text = _encodable(str(value))
    if text and _PLAIN.issuperset(text):
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


def _write(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
