"""Arc's pruner: reads time bounds out of the SQL by regular expressions, and so skips hour folders.

Wrong where Arc's is: the first WHERE alone counts, for every table; the end is exclusive whatever the operator;
a missing bound is invented; OR, NOT and UNION are not understood; any name that ends in `time` is the time.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from arc_double.masking import mask, unmask

HOUR_US = 3_600_000_000
EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
AHEAD = timedelta(hours=24)

WHERE = re.compile(r"\bWHERE\b\s+([\s\S]+?)(?:\bGROUP BY\b|\bORDER BY\b|\bLIMIT\b|\Z)", re.I)
STARTS = tuple(re.compile(rf"time(?:stamp)?\s*{sign}\s*'([^']+)'", re.I) for sign in (">=", ">"))
ENDS = tuple(re.compile(rf"time(?:stamp)?\s*{sign}\s*'([^']+)'", re.I) for sign in ("<", "<="))
BETWEEN = re.compile(r"time\s+BETWEEN\s+'([^']+)'\s+AND\s+'([^']+)'", re.I)
RELATIVE = re.compile(
    r"time\s*([<>])=?\s*(?:NOW\s*\(\s*\)|CURRENT_TIMESTAMP)\s*([-+])\s*"
    r"INTERVAL\s*'(\d+)\s*(second|minute|hour|day|week)s?'",
    re.I,
)
FORMS = (
    re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"),
    re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d(:\d\d(\.\d+)?)?)?"),
    re.compile(r"\d{4}/\d\d/\d\d( \d\d:\d\d:\d\d(\.\d+)?)?"),
)


@dataclass(frozen=True)
class TimeRange:
    """The hours from `start`'s own to the last that begins before `end`."""

    start: datetime
    end: datetime

    def covers(self, hour: int) -> bool:
        """Say whether the folder of that hour (hours since 1970) would be read."""
        first = micros(self.start) // HOUR_US
        return first <= hour and hour * HOUR_US < micros(self.end)


def micros(moment: datetime) -> int:
    """Return microseconds since 1970."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def time_range(sql: str, now: datetime) -> TimeRange | None:
    """Return the range that Arc reads out of a statement, None when it sees no bound and prunes nothing."""
    masked, literals = mask(sql)
    found = WHERE.search(masked)
    if not found:
        return None
    clause = unmask(found[1], literals)
    start, end = _first(STARTS, clause), _first(ENDS, clause)
    if (between := BETWEEN.search(clause)) and _moment(between[1]) and _moment(between[2]):
        start, end = _moment(between[1]), _moment(between[2])
    for sign, direction, amount, unit in RELATIVE.findall(clause):
        shift = timedelta(**{f"{unit.lower()}s": int(amount)})
        moment = now + shift if direction == "+" else now - shift
        if sign == ">":
            start = start or moment
        else:
            end = end or moment
    if start is None and end is None:
        return None
    return TimeRange(start or EARLIEST, end or now + AHEAD)


def _first(patterns, clause):
    for pattern in patterns:
        found = pattern.search(clause)
        if found and (moment := _moment(found[1])):
            return moment
    return None


def _moment(text):
    if not any(form.fullmatch(text) for form in FORMS):
        return None
    whole, dot, rest = text.replace("/", "-").partition(".")
    digits = re.match(r"\d*", rest)[0]
    try:
        moment = datetime.fromisoformat(whole + dot + (digits + "000000")[:6] * bool(dot) + rest[len(digits) :])
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
