"""How Arc writes a result into JSON: times, whole doubles, wide numbers and nested values in their own way."""

import json
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import msgspec

STRINGS = ("HUGEINT", "UHUGEINT", "DECIMAL", "UUID", "INTERVAL", "TIME")
ENVELOPE = {"success": False, "columns": None, "data": None, "row_count": 0}


def rfc3339(moment: datetime | date) -> str:
    """Write a time in UTC, trailing zeros cut."""
    if not isinstance(moment, datetime):
        return f"{moment.isoformat()}T00:00:00Z"
    if moment.tzinfo:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    text = moment.isoformat()
    return (text.rstrip("0") if "." in text else text) + "Z"


def number(value: float) -> float | int | None:
    """Write a whole double as an integer, and what JSON has no word for as null."""
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**63 else value


def _plain(value):
    if isinstance(value, datetime | date):
        return rfc3339(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, int | str) else str(value)


def _nested(value):
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))


def _writer(kind: str):
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION")):
        return _nested
    if kind.startswith(("TIMESTAMP", "DATE")):
        return rfc3339
    if kind in ("DOUBLE", "FLOAT"):
        return number
    if kind == "BLOB":
        return lambda value: value.decode("utf-8", "replace")
    return str if kind.startswith(STRINGS) else None


def encode_rows(kinds: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Return the rows as JSON values, by the DuckDB types of their columns."""
    columns = list(zip(*rows, strict=True))
    for place, (kind, column) in enumerate(zip(kinds, columns, strict=bool(rows))):
        if write := _writer(kind):
            columns[place] = [None if value is None else write(value) for value in column]
    return [list(row) for row in zip(*columns, strict=True)]


def answer(columns: Sequence[str], data: list[list[Any]], ms: float, now: datetime) -> bytes:
    """Return the body of a query's 200."""
    return msgspec.json.encode(
        {
            "success": True,
            "columns": list(columns),
            "data": data,
            "row_count": len(data),
            "execution_time_ms": round(ms, 3),
            "timestamp": rfc3339(now),
        }
    )


def failure(error: str, ms: float, now: datetime) -> bytes:
    """Return the body of a query that failed or was refused."""
    return msgspec.json.encode(
        {**ENVELOPE, "execution_time_ms": round(ms, 3), "timestamp": rfc3339(now), "error": error}
    )
