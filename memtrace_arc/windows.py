"""Widening windows: the newest memories are looked for in the last hour first, and in all of time last.

Arc opens every file of a measurement for a query without bounds, so a page asks for no more time than it needs. An
upper bound that nobody gave is `AHEAD` of the clock: a memory that another writer has stamped later than that is
found by queries that reach back to the beginning, and not by one with `since`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from memtrace_arc.sql import Window
from memtrace_core.identifiers import parse_memory_id
from memtrace_core.query import MemoryQuery
from memtrace_core.timewindow import from_us

WIDTHS = (timedelta(hours=1), timedelta(hours=20), timedelta(weeks=1), timedelta(days=31))
# Whoever asks for more than this is not served by an hour.
LARGE_PAGE = 200
AHEAD = timedelta(hours=48)

_INSTANT = timedelta(microseconds=1)
_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)


def windows_of(query: MemoryQuery, now: datetime) -> Iterator[Window]:
    """Return windows to ask for one after the other, each containing the former, until a page is full."""
    since, until = query.since, query.until
    if query.memory_id is not None and (parsed := parse_memory_id(query.memory_id)):
        moment = from_us(parsed[0])
        since, until = _later(since, moment), _earlier(until, _moved(moment, _INSTANT))
    if query.after is not None and query.order == "desc":
        until = _earlier(until, _moved(query.after.time, _INSTANT))
    elif query.after is not None:
        since = _later(since, query.after.time)
    # Memories of our own may be ahead of the clock, too, if it was set back; the horizon knows.
    newest = max(now, query.horizon.before) if query.horizon else now
    latest = until or _moved(newest, AHEAD)
    widths = WIDTHS if query.limit + query.offset <= LARGE_PAGE else WIDTHS[1:]
    if query.order == "desc":
        anchor = min(latest, newest)
        for width in widths:
            begin = _moved(anchor, -width)
            # A window that leaves out only a little is not worth a statement of its own.
            if since is None or begin - since > width / 2:
                yield Window(begin, latest)
    elif since is not None:
        for width in widths:
            end = _moved(since, width)
            if latest - end > width / 2:
                yield Window(since, end)
    yield Window(since, until if since is None else latest)


def _earlier(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else min(one, other)


def _later(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else max(one, other)


def _moved(moment: datetime, by: timedelta) -> datetime:
    """Return a moment moved, but not beyond the ends of time."""
    try:
        return moment + by
    except OverflowError:
        return _LAST if by > timedelta(0) else _FIRST
