"""What must become of the fields that were sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from torture.history import Fields

# Made by the server; everything else comes from the sender.
STAMPED = ("memory_id", "time", "org_id")
DEFAULTS: Fields = {"memory_type": "episodic", "event_type": "general"}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def is_as_sent(memory: Fields, sent: Fields) -> bool:
    """Tell whether a memory has exactly the fields that were sent, and the defaults of the others."""
    made = (*STAMPED, "dedup_key") if "dedup_key" not in sent else STAMPED
    return {name: value for name, value in memory.items() if name not in made} == {**DEFAULTS, **sent}


def as_stored(row: Fields) -> Fields:
    """Return a row of Arc without what is absent in it."""
    return {name: value for name, value in row.items() if value not in (None, "")}


def microseconds(time: str) -> int:
    """Return the time of an answer in µs since 1970, as Arc keeps it."""
    return (datetime.fromisoformat(time) - _EPOCH) // timedelta(microseconds=1)
