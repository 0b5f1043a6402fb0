"""Structs as the protocol sees them: JSON schemas out, and what a client calls a tool with in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from memtrace_http.problems import undecodable

Arguments = TypeVar("Arguments", bound=msgspec.Struct)


def schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return a struct's JSON schema with an object at its root, as the protocol wants it."""
    _, found = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}", schema_hook=_any_json)
    root = found.pop(kind.__name__)
    for told_elsewhere in ("title", "description"):
        root.pop(told_elsewhere, None)
    return {**root, "$defs": found} if found else root


def arguments_of(kind: type[Arguments], given: Mapping[str, Any]) -> Arguments:
    """Return what a tool was called with as its struct.

    Raises:
        InvalidInput: naming the argument.
    """
    # Some clients send lists and objects as JSON text, and numbers as text.
    texts = {field.encode_name for field in msgspec.structs.fields(kind) if _is_text(field.type)}
    read = {name: value if name in texts else _parsed(value) for name, value in given.items()}
    try:
        return msgspec.convert(read, kind, strict=False)
    except msgspec.ValidationError as error:
        raise undecodable(error) from None


def _is_text(kind: Any) -> bool:
    found = msgspec.inspect.type_info(kind)
    if isinstance(found, msgspec.inspect.Metadata):
        found = found.type
    kinds: Sequence[Any] = found.types if isinstance(found, msgspec.inspect.UnionType) else (found,)
    return any(isinstance(one, msgspec.inspect.StrType) for one in kinds)


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return value


def _any_json(kind: type) -> dict[str, Any]:
    if kind is object:
        return {"description": "any JSON value"}
    raise NotImplementedError(f"no JSON schema for {kind}")  # msgspec's way to say so
