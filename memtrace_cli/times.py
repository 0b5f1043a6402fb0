"""Times and lengths of time as they are typed on the command line."""

from __future__ import annotations

from datetime import datetime, timedelta

from memtrace_cli import output
from memtrace_core.errors import InvalidInput
from memtrace_core.timewindow import parse_bound, parse_duration


def typed_bound(text: str | None, option: str, now: datetime) -> datetime | None:
    """Read the value of an option such as `--since`; None if it is not given.

    Raises:
        Misused: it is no time; an empty one is none either.
    """
    try:
        return None if text is None else parse_bound(text, field=option.removeprefix("--"), now=now)
    except InvalidInput as error:
        raise output.Misused(f"--{error}") from None


def typed_duration(text: str, name: str) -> timedelta:
    """Read the value of an option such as `--expires`, or of an argument.

    Raises:
        Misused: it is no length of time.
    """
    try:
        return parse_duration(text, field=name)
    except InvalidInput as error:
        raise output.Misused(str(error)) from None
