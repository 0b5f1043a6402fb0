from datetime import UTC, datetime, timedelta, timezone

import pytest
from builders import START
from hypothesis import given
from hypothesis import strategies as st

from memtrace_core.errors import InvalidInput
from memtrace_core.timewindow import from_us, parse_bound, to_us

NOW = datetime(2026, 2, 7, 20, 15, tzinfo=UTC)


def bound(text, field="since"):
    """Read a bound as of NOW."""
    return parse_bound(text, field=field, now=NOW)


@given(st.integers(-(10**15), 10**15))
def test_microseconds_survive_the_way_there_and_back(us):
    """Microseconds become a time and the same microseconds again."""
    assert to_us(from_us(us)) == us


@given(st.datetimes(timezones=st.timezones()))
def test_a_time_survives_the_way_there_and_back(moment):
    """An aware time in any zone becomes microseconds and the same moment in UTC again."""
    try:
        in_utc = moment.astimezone(UTC)
    except OverflowError:
        return
    assert from_us(to_us(in_utc)) == in_utc
    assert from_us(to_us(in_utc)).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("1m", timedelta(minutes=1)),
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
        ("1w", timedelta(weeks=1)),
        ("520w", timedelta(weeks=520)),
    ],
)
@pytest.mark.parametrize("field", ["since", "until"])
def test_a_relative_bound_counts_back_from_now(text, ago, field):
    """`30m`, `2h`, `7d` and `1w` are so long ago."""
    assert bound(text, field) == NOW - ago


@pytest.mark.parametrize("unit", ["m", "h", "d", "w"])
def test_a_relative_bound_reaches_back_ten_years_at_most(unit):
    """The greatest count of each unit that stays within ten years is taken, and one more is refused."""
    length = {"m": 60, "h": 3600, "d": 86400, "w": 604800}[unit]
    ten_years = 3653 * 86400  # of which three are leap years
    most = ten_years // length
    assert bound(f"{most}{unit}") == NOW - timedelta(seconds=most * length)
    with pytest.raises(InvalidInput, match=r"since .*10 years"):
        bound(f"{most + 1}{unit}")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-01", START),
        ("2026-01-01T00:00", START),
        ("2026-01-01 00:00:00", START),
        ("2026-01-01T00:00:00Z", START),
        ("2026-01-01t00:00:00z", START),
        ("2026-01-01T01:30:00+01:30", START),
        ("2025-12-31T19:00:00-0500", START),
        ("2026-01-01T00:00:00.5Z", START + timedelta(milliseconds=500)),
        ("2026-01-01T00:00:00.000001Z", START + timedelta(microseconds=1)),
        ("2026-01-01T00:00:00,000001+00:00", START + timedelta(microseconds=1)),
        ("2026-01-01T00:00:00.000001999Z", START + timedelta(microseconds=1)),
        ("1999-01-01", datetime(1999, 1, 1, tzinfo=UTC)),
    ],
)
def test_an_iso_8601_time_is_taken_and_means_utc_without_an_offset(text, moment):
    """An ISO 8601 time is read to the microsecond; without an offset it is in UTC."""
    read = bound(text)
    assert read == moment
    assert read.utcoffset() == timedelta(0)


@given(
    st.datetimes(min_value=datetime(1000, 1, 2), max_value=datetime(9999, 12, 30)), st.integers(-14 * 60, 14 * 60)
)
def test_every_iso_time_that_python_writes_is_read(naive, offset):
    """Any time with any offset, written by `isoformat`, is read as the same moment."""
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=offset)))
    assert bound(moment.isoformat()) == moment


def test_until_may_be_now():
    """`now` is a bound for `until`."""
    assert bound("now", "until") == NOW


def test_since_may_not_be_now():
    """`now` is no bound for `since`."""
    with pytest.raises(InvalidInput, match="since"):
        bound("now", "since")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0m",
        "00h",
        "01h",
        "-1h",
        "+1h",
        "1.5h",
        "1",
        "h",
        "1y",
        "1s",
        "1H",
        " 1h",
        "1h ",
        "1h\n",
        "1h30m",
        "١h",
        "9999999999w",
        "yesterday",
        "NOW",
        "2026",
        "2026-1-1",
        "20260101",
        "2026-W01-1",
        "2026-02-30",
        "2026-13-01",
        "2026-01-01T25:00Z",
        "2026-01-01T00:61Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00.1234567890Z",
        "2026-01-01T00:00Z ",
        "2026-01-01T00:00+25:00",
        "2026-01-01T",
        "2026-01-01\n",
        "0001-01-01T00:00+05:00",
        "9999-12-31T23:59:59-05:00",
        "1767225600",
    ],
)
@pytest.mark.parametrize("field", ["since", "until"])
def test_any_other_bound_is_refused_by_name(text, field):
    """What is neither relative nor ISO 8601 is an error that names the field."""
    with pytest.raises(InvalidInput, match=field):
        bound(text, field)


@given(st.text())
def test_no_text_does_more_than_be_refused(text):
    """Whatever a caller writes, it is a time in UTC or InvalidInput."""
    try:
        read = bound(text)
    except InvalidInput:
        return
    assert read.utcoffset() == timedelta(0)
