"""Makes the reference pages of the site from the program itself, whenever the site is built."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from litestar import Litestar

from memtrace_cli.app import app
from memtrace_http.openapi import document
from memtrace_http.routes import HANDLERS, METRICS

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

EXAMPLE = re.compile(r"^Example: (.+)$", re.MULTILINE)

Json = Mapping[str, Any]

_LIMITS = (
    ("minimum", "at least {}"),
    ("maximum", "at most {}"),
    ("minLength", "{} or more characters"),
    ("maxLength", "up to {} characters"),
    ("minItems", "{} or more"),
    ("maxItems", "up to {}"),
    ("pattern", "like `{}`"),
)
_GROUPS = {"agents": "Agents", "memories": "Memories", "search": "Memories", "sessions": "Sessions"}
_SERVICE = "Service"


def cli_page() -> str:
    """Return the page on the command line, as Cyclopts tells it, its examples as blocks to copy."""
    # Cyclopts takes the program that runs for the one it tells of: `python -m mkdocs` would stand in each usage.
    with patch.object(sys, "argv", ["memtrace"]):
        told = app.generate_docs(recursive=True)
    return EXAMPLE.sub(r"```sh\n\1\n```", told).replace("# memtrace\n", "# Command line\n", 1)


def http_page() -> str:
    """Return the page on the HTTP API, from the same declarations as `/schema/openapi.json`."""
    served = Litestar([*HANDLERS, *METRICS], openapi_config=None)
    return _page_of(document(served.routes))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to those that are written by hand."""
    from mkdocs.structure.files import File  # only a build needs MkDocs: the tests look at the pages without it

    files.append(File.generated(config, "cli.md", content=cli_page()))
    files.append(File.generated(config, "http.md", content=http_page()))
    return files


def _page_of(told: Json) -> str:
    """Return every path with its methods, then every object that they take and give."""
    groups: dict[str, list[str]] = {"Memories": [], "Agents": [], "Sessions": [], _SERVICE: []}
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            parts = path.split("/")
            group = _GROUPS.get(parts[3], _SERVICE) if len(parts) > 3 else _SERVICE
            groups[group].append("\n\n".join(_operation(method.upper(), path, operation)))
    blocks = [
        "# HTTP API",
        "An API key goes in the header `x-api-key` or as `Authorization: Bearer …`. Bodies and answers are JSON. A "
        "running server tells all this as OpenAPI at `/schema/openapi.json`.",
    ]
    for name, operations in groups.items():
        blocks += [f"## {name}", *operations]
    blocks.append("## Objects")
    for name, schema in sorted(told["components"]["schemas"].items()):
        blocks += _object(name, schema)
    return "\n\n".join(blocks) + "\n"


def _operation(method: str, path: str, operation: Json) -> Iterator[str]:
    yield f"### `{method} {path}`"
    needed = [one for way in operation.get("security", [])[:1] for one in way["apiKey"]]
    yield f"{operation['summary']}. " + (f"Needs `{needed[0]}`." if needed else "Needs no API key.")
    if operation["parameters"]:
        rows = [(f"`{one['name']}`", one["in"], _kind(one["schema"])) for one in operation["parameters"]]
        yield _table(("parameter", "in", "value"), rows)
    if body := operation.get("requestBody"):
        kinds = _kind(body["content"]["application/json"]["schema"])
        yield f"Body: {kinds}" + ("." if body["required"] else "; it may be left out.")
    rows = [
        (f"`{status}`", answer["description"], _content(answer))
        for status, answer in operation["responses"].items()
    ]
    yield _table(("answer", "when", "body"), rows)


def _content(answer: Json) -> str:
    return ", ".join(
        _kind(content["schema"]) if media == "application/json" else f"`{media}`"
        for media, content in answer.get("content", {}).items()
    )


def _object(name: str, schema: Json) -> Iterator[str]:
    yield f"### {name}"
    if description := schema.get("description"):
        yield _flat(description)
    required = schema.get("required", ())
    rows = [
        (f"`{field}`", _kind(value), "yes" if field in required else "")
        for field, value in schema.get("properties", {}).items()
    ]
    if rows:
        yield _table(("field", "value", "always"), rows)


def _kind(schema: Json) -> str:
    """Return what a value is, in words."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if kinds := schema.get("anyOf"):
        return " or ".join(_kind(one) for one in kinds if one.get("type") != "null")
    if "enum" in schema:
        return " or ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    words = schema.get("type", "any")
    if words == "array":
        words = f"list of: {_kind(schema.get('items', {}))}"
    elif words == "object" and "type" in (inner := schema.get("additionalProperties") or {}):
        words = f"object of: {_kind(inner)}"
    limits = [text.format(schema[key]) for key, text in _LIMITS if key in schema]
    if description := schema.get("description"):
        limits.append(_flat(description))
    return ", ".join([str(words), *limits])


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _flat(text: str) -> str:
    return " ".join(text.split())
