"""Logs: one line an event on stderr, for people (`console`) or for machines (`json`)."""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from loguru import logger

from memtrace_cli.log_lines import LEVELS, Lines, Render, as_json, console

if TYPE_CHECKING:
    from loguru import Record

    from memtrace_http import RequestLog

_LEVELS = {"debug": "DEBUG", "info": "INFO", "warn": "WARNING", "error": "ERROR"}

# What our own log calls say besides the sentence.
_EXTRAS = ("org", "failures", "hint", "request_id")


def configure_logs(level: str, form: str) -> RequestLog:
    """Send all logs, the libraries' too, to stderr in one form; return what the HTTP app calls after a request."""
    render: Render = as_json if form == "json" else console
    lines = Lines(lambda count: render(datetime.now(UTC), "WARNING", "log lines were dropped", {"lines": count}))
    logger.remove()
    logger.add(
        lambda message: lines.write(_line(message.record, form)),
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
    # What it has to say of a lost connection is raised as well, and told once.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    return _request_log(lines, render) if level in ("debug", "info") else _no_log


def _request_log(lines: Lines, render: Render) -> RequestLog:
    """Return what logs requests without loguru, whose record of one costs as much as to check its API key."""

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
        lines.write_soon(render(datetime.now(UTC), "INFO", "request", fields))

    return log


def _no_log(*_: object) -> None:
    """Log no request."""


class _Bridge(logging.Handler):
    """Hands what the standard library's loggers get to ours."""

    def emit(self, record: logging.LogRecord) -> None:
        given = {name: getattr(record, name, None) for name in _EXTRAS}
        extras = {name: value for name, value in given.items() if value is not None}
        level = record.levelname if record.levelname in LEVELS else "INFO"
        logger.opt(exception=record.exc_info).bind(**extras).log(level, "{}", record.getMessage())


def _line(record: Record, form: str) -> str:
    time, level, message, fields = record["time"], record["level"].name, record["message"], record["extra"]
    trace = _trace(record)
    if form == "json":
        return as_json(time, level, message, {**fields, "exception": trace} if trace else fields)
    line = console(time, level, message, fields)
    return f"{line}\n{trace}" if trace else line


def _trace(record: Record) -> str:
    error = record["exception"]
    if error is None or error.value is None:
        return ""
    return "".join(traceback.format_exception(error.type, error.value, error.traceback)).rstrip()
