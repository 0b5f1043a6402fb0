"""Widening windows: the newest memories are looked for in the last hour first, and in all of time last.

Arc opens every file of a measurement for a query without bounds, so a page asks for no more time than it needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import takewhile

from memtrace_arc.sql import Window
from memtrace_core.identifiers import parse_memory_id
from memtrace_core.query import MemoryQuery
from memtrace_core.timewindow import from_us

WIDTHS = (timedelta(hours=1), timedelta(days=1), timedelta(weeks=1), timedelta(days=31))
# A clock that went ahead may have stamped memories that are still to come.
AHEAD = timedelta(hours=48)

_INSTANT = timedelta(microseconds=1)


def windows_of(query: MemoryQuery, now: datetime) -> Iterator[Window]:
    """Return windows to ask for one after the other, each containing the former, until a page is full.

    The last one contains everything that can match.
    """
    since, until = query.since, query.until
    if query.memory_id is not None and (parsed := parse_memory_id(query.memory_id)):
        moment = from_us(parsed[0])
        yield Window(moment, moment + _INSTANT)
        return
    latest = max(now, query.horizon.before if query.horizon else now) + AHEAD
    if query.order == "desc":
        if query.after is not None:
            until = min(query.after.time + _INSTANT, until or latest)
        anchor = min(until, now) if until is not None else now
        for width in WIDTHS:
            begin = anchor - width
            if since is not None and begin <= since:
                break
            yield Window(begin, until or latest)
    else:
        if query.after is not None:
            since = query.after.time if since is None else max(since, query.after.time)
        if since is not None:
            ends = (since + width for width in WIDTHS)
            yield from (Window(since, end) for end in takewhile(lambda end: end < (until or latest), ends))
    # The pruner needs both bounds; without a lower one everything is asked for anyway.
    yield Window(since, until if since is None else until or latest)
