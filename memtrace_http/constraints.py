"""What the OpenAPI document says of values beside their type: the rules of `memtrace_core.rules` as JSON Schema.

The core checks every value; these words let callers and their tools know beforehand. A name means the same in
every request, so the words go by name. What no pattern can say (a time that reaches back at most ten years, a
cursor that was given out) is a `format` of ours, which the description explains.
"""

from __future__ import annotations

from typing import Any

from memtrace_core import rules
from memtrace_core.model import MEMORY_TYPES

Json = dict[str, Any]

_NO_NUL = r"^[^\u0000]*$"
# Letters, marks, digits, punctuation, symbols and the plain space; nothing that is invisible or breaks a line.
_PRINTABLE = r"^[ \p{L}\p{M}\p{N}\p{P}\p{S}]*$"
_TAG = rules.TAG_PATTERN.strip("^$")
_TAG_LIST = f"^{_TAG}(,{_TAG}){{0,{rules.MAX_TAGS - 1}}}$"

_IDENTIFIER: Json = {"pattern": rules.IDENTIFIER_PATTERN}
_REFERENCE: Json = {"minLength": 1, "maxLength": rules.MAX_REFERENCE_CHARACTERS, "pattern": _PRINTABLE}
_MEMORY_TYPE: Json = {"enum": list(MEMORY_TYPES)}
_EVENT_TYPE: Json = {"pattern": rules.EVENT_TYPE_PATTERN}
_FRACTION: Json = {"minimum": 0, "maximum": 1}
_JSON_OBJECT: Json = {
    "description": f"at most 256 KiB as JSON, and nested at most {rules.MAX_OBJECT_DEPTH} levels deep"
}
_TIME: Json = {
    "format": "time-bound",
    "description": "`30m`, `2h`, `7d` or `1w` ago, at most 10 years; "
    "or a date or time in ISO 8601, in UTC unless it has an offset",
}
_PAGING: Json = {
    "limit": {"minimum": 1, "maximum": rules.MAX_LIMIT},
    "offset": {"minimum": 0, "maximum": rules.MAX_OFFSET, "description": "not together with a cursor"},
    "cursor": {
        "format": "cursor",
        "minLength": 1,
        "description": "the `next_cursor` of a page in the same order",
    },
    "order": {"enum": ["desc", "asc"]},
}
_FILTERS: Json = {
    "agent_id": _IDENTIFIER,
    "session_id": _IDENTIFIER,
    "memory_type": _MEMORY_TYPE,
    "event_type": _EVENT_TYPE,
    "since": _TIME,
    "until": {**_TIME, "description": f"{_TIME['description']}; or `now`"},
}


def _list_of(item: Json, most: int = rules.MAX_FILTER_VALUES) -> Json:
    return {"items": item, "maxItems": most}


IN_QUERIES: Json = {
    **_FILTERS,
    **_PAGING,
    "tags": {"pattern": _TAG_LIST, "description": "tags with commas between them; a memory must have all of them"},
}
"""Query parameter → what its schema says beside the type."""

IN_PATHS: Json = {
    "agent": {"minLength": 1, "description": "an agent's id or name"},
    "agent_id": _IDENTIFIER,
    "session_id": _IDENTIFIER,
    "reference": {"minLength": 1, "description": "a memory_id or, to read, a dedup_key"},
}
"""Path parameter → what its schema says beside the type."""

IN_BODIES: Json = {
    **_FILTERS,
    **_PAGING,
    "content": {
        "minLength": 1,
        "maxLength": rules.MAX_CONTENT_BYTES,
        "pattern": _NO_NUL,
        "description": "1 MiB of UTF-8 at most",
    },
    "tags": _list_of({"pattern": rules.TAG_PATTERN}, rules.MAX_TAGS),
    "importance": _FRACTION,
    "min_importance": _FRACTION,
    "max_importance": _FRACTION,
    "dedup_key": _REFERENCE,
    "parent_id": _REFERENCE,
    "metadata": _JSON_OBJECT,
    "config": _JSON_OBJECT,
    "name": {"minLength": 1, "maxLength": rules.MAX_NAME_CHARACTERS, "pattern": _PRINTABLE},
    "description": {"maxLength": rules.MAX_DESCRIPTION_CHARACTERS, "pattern": _NO_NUL},
    "content_contains": {"minLength": 1, "maxLength": rules.MAX_SEARCH_CHARACTERS, "pattern": _NO_NUL},
    "memory_types": _list_of(_MEMORY_TYPE),
    "event_types": _list_of(_EVENT_TYPE),
    "include_types": {"items": _MEMORY_TYPE},
    "exclude_types": {"items": _MEMORY_TYPE},
    "max_tokens": {"minimum": rules.MIN_CONTEXT_TOKENS, "maximum": rules.MAX_CONTEXT_TOKENS},
    "status": {"enum": ["active", "closed"]},
}
"""Member of a request's body → what its schema says beside the type."""


def constrain(schema: Json, words: Json) -> None:
    """Add words to a schema, in place: to what it allows beside null, and to the items of a list."""
    for kind in schema.get("anyOf", [schema]):
        if kind.get("type") == "null":
            continue
        items = words.get("items")
        kind.update({word: value for word, value in words.items() if word != "items"})
        if items is not None:
            kind["items"] = {**kind["items"], **items}
