"""Times: microseconds for machines, aware datetimes for people, and the bounds that callers write."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from memtrace_core.errors import InvalidInput

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FURTHEST_BACK = timedelta(days=3653)

_MICROSECOND = timedelta(microseconds=1)
_UNITS = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_RELATIVE = re.compile(r"([1-9][0-9]{0,8})([mhdw])", re.ASCII)
_ISO_8601 = re.compile(
    r"\d{4}-\d{2}-\d{2}([Tt ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?([Zz]|[+-]\d{2}:?\d{2})?)?", re.ASCII
)
_RULE = "must be <n>m, <n>h, <n>d or <n>w (n from 1, at most 10 years) or an ISO 8601 time"


def to_us(moment: datetime) -> int:
    """Return an aware datetime as whole microseconds since 1970."""
    return (moment - EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    """Return microseconds since 1970 as a datetime in UTC."""
    return EPOCH + us * _MICROSECOND  # of every row: `timedelta(microseconds=us)` takes twice as long


def parse_duration(text: str, *, field: str) -> timedelta:
    """Read a length of time: `30m`, `24h`, `90d`, `2w`.

    Raises:
        InvalidInput: it is not of that form, or longer than 10 years.
    """
    relative = _RELATIVE.fullmatch(text)
    if relative is None or int(relative[1]) > FURTHEST_BACK // _UNITS[relative[2]]:
        raise InvalidInput(f"{field} must be <n>m, <n>h, <n>d or <n>w (n from 1, at most 10 years)")
    return int(relative[1]) * _UNITS[relative[2]]


def parse_bound(text: str, *, field: str, now: datetime) -> datetime:
    """Read a caller's `since` or `until`.

    Args:
        text: `30m`, `2h`, `7d`, `1w` (ago), an ISO 8601 time (no offset means UTC), or `now` for `until`.
        field: the name to blame in an error.
        now: what a relative bound counts back from.

    Raises:
        InvalidInput: it is none of these, or reaches back further than 10 years.
    """
    if text == "now" and field == "until":
        return now
    if _RELATIVE.fullmatch(text):
        try:
            return now - parse_duration(text, field=field)
        except InvalidInput:
            raise InvalidInput(f"{field} {_RULE}") from None
    if not _ISO_8601.fullmatch(text):
        raise InvalidInput(f"{field} {_RULE}" + (", or now" if field == "until" else ""))
    try:
        moment = datetime.fromisoformat(text.upper())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{field} {_RULE}") from None
