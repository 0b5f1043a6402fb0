"""The limits of every value a caller may send, each with the sentence that explains it.

Every function returns the value it accepts, in the form in which it is kept, and raises `InvalidInput` naming
`field` for one that it does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, cast
from urllib.parse import urlsplit

import msgspec

from memtrace_core.errors import InvalidInput
from memtrace_core.model import EMBEDDED_URL, MEMORY_TYPES, MemoryType

IDENTIFIER_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9_-]{0,127}$"
EVENT_TYPE_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9_]{0,63}$"
TAG_PATTERN: Final = r"^[A-Za-z0-9_.\-]{1,64}$"
MAX_TAGS: Final = 64
MAX_REFERENCE_CHARACTERS: Final = 256
MAX_NAME_CHARACTERS: Final = 128
MAX_DESCRIPTION_CHARACTERS: Final = 4096
MAX_CONTENT_BYTES: Final = 1 << 20
MAX_OBJECT_BYTES: Final = 256 << 10
MAX_OBJECT_DEPTH: Final = 64
MAX_SEARCH_CHARACTERS: Final = 1000
MAX_LIMIT: Final = 1000
MAX_OFFSET: Final = 10_000
MAX_FILTER_VALUES: Final = 64
MAX_BATCH: Final = 1000
MIN_CONTEXT_TOKENS: Final = 32
MAX_CONTEXT_TOKENS: Final = 1_000_000
MAX_URL_CHARACTERS: Final = 2048

_IDENTIFIER = re.compile(IDENTIFIER_PATTERN.strip("^$"), re.ASCII)
_EVENT_TYPE = re.compile(EVENT_TYPE_PATTERN.strip("^$"), re.ASCII)
_TAG = re.compile(TAG_PATTERN.strip("^$"), re.ASCII)
_ARC_DATABASE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_ARC_MEASUREMENT = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}", re.ASCII)
_UNQUERYABLE_MEASUREMENTS = ("pg_", "duckdb_", "information_schema", "read_parquet")
# DuckDB's reserved words, and those that Arc refuses wherever they stand.
_RESERVED_WORDS = frozenset(
    """
    all analyse analyze and any array as asc asymmetric both case cast check collate column
    constraint create default deferrable desc describe distinct do else end except false fetch for
    foreign from group having in initially intersect into lambda lateral leading limit not null
    offset on only or order pivot pivot_longer pivot_wider placing primary qualify references
    returning select show some summarize symmetric table then to trailing true union unique unpivot
    using variadic when where window with anti asof authorization binary collation concurrently
    cross freeze full glob ilike inner is isnull join left like natural notnull outer overlaps
    positional right semi similar verbose set reset load call copy attach install pragma alter
    delete detach drop export import insert truncate update
    """.split()  # noqa: SIM905 - a list would fill two screens
)
_ENCODER = msgspec.json.Encoder()


def identifier(value: str, field: str) -> str:
    """Accept an agent's or a session's id."""
    if not _IDENTIFIER.fullmatch(value):
        raise InvalidInput(f"{field} must be a letter and then up to 127 letters, digits, '_' or '-'")
    return value


def memory_type(value: str, field: str) -> MemoryType:
    """Accept one of the four memory types."""
    if value not in MEMORY_TYPES:
        raise InvalidInput(f"{field} must be one of {', '.join(MEMORY_TYPES)}")
    return value


def event_type(value: str, field: str) -> str:
    """Accept an event type."""
    if not _EVENT_TYPE.fullmatch(value):
        raise InvalidInput(f"{field} must be a letter and then up to 63 letters, digits or '_'")
    return value


def tags(values: Iterable[str], field: str) -> tuple[str, ...]:
    """Accept up to 64 tags."""
    kept = tuple(values)
    if len(kept) > MAX_TAGS:
        raise InvalidInput(f"{field} must be at most {MAX_TAGS} tags")
    for index, tag in enumerate(kept):
        if not _TAG.fullmatch(tag):
            raise InvalidInput(f"{field}[{index}] must be 1 to 64 letters, digits, '_', '.' or '-'")
    return kept


def reference(value: str, field: str) -> str:
    """Accept a `dedup_key` or a `parent_id`."""
    return _printable(value, field, 1, MAX_REFERENCE_CHARACTERS)


def name(value: str, field: str) -> str:
    """Accept the name of an agent, an org or a key."""
    return _printable(value, field, 1, MAX_NAME_CHARACTERS)


def description(value: str, field: str) -> str:
    """Accept an agent's description: text that may have several lines."""
    if len(value) > MAX_DESCRIPTION_CHARACTERS or not _is_text(value):
        raise InvalidInput(
            f"{field} must be at most {MAX_DESCRIPTION_CHARACTERS:,} characters of valid Unicode without NUL"
        )
    return value


def importance(value: float, field: str) -> float:
    """Accept a number from 0 to 1, and return it as a float."""
    if not 0 <= value <= 1:
        raise InvalidInput(f"{field} must be a number from 0 to 1")
    return float(value)


def content(value: str, field: str) -> str:
    """Accept a memory's content: 1 character to 1 MiB of UTF-8, without NUL."""
    # Most contents are far below the limit: only a long one is encoded to be measured.
    short = len(value) * 4 <= MAX_CONTENT_BYTES
    if (
        0 < len(value) <= MAX_CONTENT_BYTES
        and _is_text(value)
        and (short or len(value.encode()) <= MAX_CONTENT_BYTES)
    ):
        return value
    raise InvalidInput(f"{field} must be 1 character to 1 MiB (UTF-8) of valid Unicode without NUL")


def search_text(value: str, field: str) -> str:
    """Accept a text to look for in contents."""
    if not 1 <= len(value) <= MAX_SEARCH_CHARACTERS or not _is_text(value):
        raise InvalidInput(f"{field} must be 1 to {MAX_SEARCH_CHARACTERS:,} characters without NUL")
    return value


def json_object(value: dict[str, object], field: str) -> str:
    """Accept a JSON object of up to 256 KiB and 64 levels, and return it as JSON text."""
    try:
        encoded = _ENCODER.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise InvalidInput(f"{field} must be a JSON object") from None
    if len(encoded) > MAX_OBJECT_BYTES:
        raise InvalidInput(f"{field} must be a JSON object of at most 256 KiB")
    # An object nested deeper than this could be stored and then fail to decode in a deeper call stack.
    brackets = encoded.count(b"{") + encoded.count(b"[")
    if brackets > MAX_OBJECT_DEPTH and _depth(value) > MAX_OBJECT_DEPTH:
        raise InvalidInput(f"{field} must be a JSON object nested at most {MAX_OBJECT_DEPTH} levels deep")
    return encoded.decode()


def within(value: int, low: int, high: int, field: str) -> int:
    """Accept a whole number from `low` to `high`."""
    if not low <= value <= high:
        raise InvalidInput(f"{field} must be from {low:,} to {high:,}")
    return value


def arc_database(value: str, field: str) -> str:
    """Accept the name of an Arc database."""
    if not _ARC_DATABASE.fullmatch(value):
        raise InvalidInput(f"{field} must be a letter and then up to 63 letters, digits, '_' or '-'")
    return value


def arc_measurement(value: str, field: str) -> str:
    """Accept the name of an Arc measurement that can also be queried."""
    if not _ARC_MEASUREMENT.fullmatch(value):
        raise InvalidInput(
            f"{field} must be a letter and then up to 127 letters, digits or '_' (Arc cannot query a hyphen)"
        )
    if value.lower() in _RESERVED_WORDS:
        raise InvalidInput(f"{field} must not be a word of SQL that Arc cannot query as a name")
    if value.lower().startswith(_UNQUERYABLE_MEASUREMENTS):
        raise InvalidInput(f"{field} must not begin with {', '.join(_UNQUERYABLE_MEASUREMENTS)}")
    return value


def arc_url(value: str, field: str) -> str:
    """Accept where an Arc instance is reached, or the embedded store, and return it without a slash at its end."""
    if value == EMBEDDED_URL:
        return value
    url = value.rstrip("/")
    scheme, separator, rest = url.partition("://")
    if scheme not in ("http", "https") or not separator or not rest or not url.isascii() or not url.isprintable():
        raise InvalidInput(f"{field} must be http://…, https://… or embedded:")
    if len(url) > MAX_URL_CHARACTERS or any(character in rest for character in "@?# \\"):
        raise InvalidInput(f"{field} must name a host, and no credentials, query or fragment")
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if not named:
        raise InvalidInput(f"{field} must name a host, and a port from 1 to 65,535 if any")
    return url


def arc_api_key(value: str, field: str) -> str:
    """Accept the API key of an Arc instance, which travels in a header."""
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise InvalidInput(f"{field} must be given, in printable ASCII without spaces")
    return value


def _printable(value: str, field: str, low: int, high: int) -> str:
    if not low <= len(value) <= high or not value.isprintable():
        raise InvalidInput(f"{field} must be {low} to {high} printable characters")
    return value


def _is_text(value: str) -> bool:
    if "\x00" in value:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate: not Unicode text, no store could keep it
        return False
    return True


def _depth(value: object) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else cast("list[object]", outer))
            if isinstance(inner, dict | list)
        ]
    return deepest
