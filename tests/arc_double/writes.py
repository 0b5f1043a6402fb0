"""What Arc makes of the body of a write: which batches it refuses, and how it bends the values of the others."""

import gzip
import re
import zlib
from dataclasses import dataclass
from typing import Any

from arc_double.records import OLDEST
from arc_double.unpacking import unpack

try:
    import zstandard
except ImportError:  # an optional convenience of the double
    zstandard = None

DATABASE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
MEASUREMENT = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,127}")
MAX_INT = 2**63 - 1
UNITS = ((10**10, 1_000_000), (10**13, 1_000), (10**16, 1))
TYPES = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}
ABSENT: dict[str, Any] = {"VARCHAR": "", "BIGINT": 0, "DOUBLE": 0.0, "BOOLEAN": False}
# years 1 and 9999 in microseconds: what a folder can be named by
EARLIEST_US, LATEST_US = -62_135_596_800_000_000, 253_402_300_799_999_999


class WriteRefused(Exception):
    """Arc answers with `status` and `error`, and stores nothing."""

    def __init__(self, status: int, error: str):
        super().__init__(error)
        self.status, self.error = status, error


class Crash(Exception):
    """The batch takes Arc down."""


@dataclass(frozen=True)
class Batch:
    """Rows as Arc would store them: `columns` maps a name to its DuckDB type and its values, `time` in µs."""

    measurement: str
    columns: dict[str, tuple[str, list[Any]]]

    def __len__(self):
        return len(self.columns["time"][1])


def decompress(body: bytes) -> bytes:
    """Return a gzip or zstd body (known by its magic bytes) unpacked, any other as it is."""
    try:
        if body.startswith(b"\x1f\x8b"):
            return gzip.decompress(body)
        if body.startswith(b"\x28\xb5\x2f\xfd"):
            if zstandard is None:
                raise WriteRefused(400, "the double knows zstd only where the library zstandard is installed")
            return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    except (OSError, EOFError, zlib.error) as error:
        raise WriteRefused(400, f"Failed to decompress request body: {error}") from error
    return body


def parse(body: bytes, version: str) -> Batch:
    """Return the rows of an unpacked body.

    Raises:
        WriteRefused: 400 for a bad form, 500 for values that Arc cannot store.
        Crash: A column has an empty name.
    """
    if not body:
        raise WriteRefused(400, "Empty request body")
    try:
        payload = unpack(body)
    except ValueError as error:
        raise WriteRefused(400, f"Invalid MessagePack payload: {error}") from error
    if not isinstance(payload, dict) or not isinstance(payload.get("columns"), dict):
        raise WriteRefused(400, "Invalid MessagePack payload: expected a map with m and columns")
    measurement = payload.get("m")
    if not isinstance(measurement, str) or not MEASUREMENT.fullmatch(measurement):
        raise WriteRefused(400, "Invalid measurement name")
    arrays = {name: values for name, values in payload["columns"].items() if isinstance(values, list)}
    if "" in arrays:
        raise Crash
    if not arrays or "time" not in arrays or not arrays["time"]:
        raise WriteRefused(400, "Invalid MessagePack payload: no rows with a time")
    if len({len(values) for values in arrays.values()}) > 1:
        raise WriteRefused(400, "Invalid MessagePack payload: columns have different lengths")
    columns = {"time": ("BIGINT", micros(arrays.pop("time")))}
    for name, values in arrays.items():
        if not isinstance(name, str):
            raise WriteRefused(400, "Invalid MessagePack payload: column names must be strings")
        if not name.startswith("_") and (converted := convert(name, values, version)):
            columns[name] = converted
    return Batch(measurement, columns)


def micros(values: list[Any]) -> list[int]:
    """Return times in µs, the unit guessed from the first."""
    if not set(map(type, values)) <= {int, float}:
        raise WriteRefused(400, "Invalid time column: expected numbers")
    try:
        whole = [int(value) for value in values]
    except (ValueError, OverflowError) as error:
        raise WriteRefused(400, f"Invalid time column: {error}") from error
    factor = next((factor for limit, factor in UNITS if whole[0] < limit), None)
    scaled = [value * factor for value in whole] if factor else [value // 1000 for value in whole]
    if min(scaled) < EARLIEST_US or max(scaled) > LATEST_US:
        raise WriteRefused(400, "Invalid time column: out of range")
    return scaled


def convert(name: str, values: list[Any], version: str) -> tuple[str, list[Any]] | None:
    """Return a column's type, taken from its first value, and its values bent to it; None if all are null."""
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return None
    first = type(next(value for value in values if value is not None))
    allowed = {int, float} if first in (int, float) else {first}
    if first not in TYPES or not kinds <= allowed:
        raise unstorable(f"column '{name}': mixed or unsupported types", version)
    if int in kinds and any(type(value) is int and not -MAX_INT - 1 <= value <= MAX_INT for value in values):
        raise unstorable(f"column '{name}': value out of range for int64", version)
    if kinds == {int, float}:
        values = [_number(first, value) for value in values]
    if version == OLDEST and None in values:
        values = [ABSENT[TYPES[first]] if value is None else value for value in values]
    return TYPES[first], values


def _number(kind, value):
    if value is None:
        return None
    try:
        return kind(value)
    except (ValueError, OverflowError):
        return None


def unstorable(detail: str, version: str) -> WriteRefused:
    """Return the 500 that blames the data, which on the oldest version does not say so."""
    text = "Failed to write records"
    return WriteRefused(500, text if version == OLDEST else f"{text}: failed to convert columns: {detail}")
