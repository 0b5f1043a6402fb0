"""The OpenAPI document, made from what the routes declare and the structs they use.

The framework's own generator looks at handler signatures; ours read requests themselves, strictly, so the
declarations are the truth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from litestar.routes import BaseRoute, HTTPRoute

from memtrace_http.constraints import IN_BODIES, IN_PATHS, IN_QUERIES, constrain
from memtrace_http.endpoints import Endpoint, endpoint_of
from memtrace_http.problems import Problem

Json = dict[str, Any]

_REFERENCE = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
_PHRASES = {
    200: "Done",
    201: "Stored",
    204: "Deleted",
    400: "The input breaks a rule; the error names the field and the rule",
    401: "No API key, or one that does not count",
    403: "The API key lacks the permission",
    404: "There is no such thing in this org",
    408: "The body did not arrive in time",
    409: "It exists already",
    413: "The body is too large",
    429: "More requests than is fair; Retry-After says when to try again",
    503: "Not possible now; Retry-After says when to try again",
    504: "Arc did not answer in time",
}
_EVERYWHERE = (401, 403, 429)


def document(routes: Sequence[BaseRoute]) -> Json:
    """Return the OpenAPI 3.1 document for routes."""
    declared = sorted(_declared(routes), key=lambda one: (one[0], one[1]))
    structs: list[type] = [Problem]
    for _, _, endpoint in declared:
        structs += endpoint.body
        structs += [struct for answer in endpoint.answers.values() for struct in answer]
        structs += [endpoint.query] if endpoint.query else []
    _, components = msgspec.json.schema_components(
        list(dict.fromkeys(structs)), ref_template=_REFERENCE, schema_hook=_any_json
    )
    for struct in dict.fromkeys(struct for _, _, endpoint in declared for struct in endpoint.body):
        for name, schema in components[struct.__name__]["properties"].items():
            constrain(schema, IN_BODIES.get(name, {}))
    paths: dict[str, Json] = {}
    for path, method, endpoint in declared:
        plain = _PARAMETER.sub(r"{\1}", path)
        paths.setdefault(plain, {})[method.lower()] = _operation(path, endpoint, components)
    for _, _, endpoint in declared:
        if endpoint.query is not None:
            components.pop(endpoint.query.__name__, None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Memtrace", "version": _version(), "description": "A memory server for AI agents."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _declared(routes: Sequence[BaseRoute]) -> Iterable[tuple[str, str, Endpoint]]:
    for route in routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                endpoint = endpoint_of(handler)
                if endpoint is not None:
                    for method in handler.http_methods:
                        yield route.path_format, method, endpoint


def _operation(path: str, endpoint: Endpoint, components: Json) -> Json:
    operation: Json = {"summary": endpoint.summary, "parameters": _parameters(path, endpoint, components)}
    if endpoint.permission is not None:
        needed = [str(endpoint.permission)]
        operation["security"] = [{"apiKey": needed}, {"bearer": needed}]
    if endpoint.body:
        operation["requestBody"] = {
            "required": not endpoint.optional_body,
            "content": {"application/json": {"schema": _one_of(endpoint.body)}},
        }
    everywhere = _EVERYWHERE if endpoint.permission is not None else ()
    responses: Json = {
        str(status): _response(status, [Problem]) for status in sorted({*endpoint.problems, *everywhere, 400})
    }
    responses.update(
        {str(status): _response(status, answer, endpoint.text) for status, answer in endpoint.answers.items()}
    )
    operation["responses"] = dict(sorted(responses.items()))
    return operation


def _parameters(path: str, endpoint: Endpoint, components: Json) -> list[Json]:
    parameters: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", **IN_PATHS[name]}}
        for name in _PARAMETER.findall(path)
    ]
    if endpoint.query is not None:
        for name, schema in components[endpoint.query.__name__]["properties"].items():
            # An absent parameter is not sent as null.
            kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
            parameters.append({"name": name, "in": "query", "schema": {**kinds[0], **IN_QUERIES[name]}})
    return parameters


def _one_of(structs: Sequence[type]) -> Json:
    references = [{"$ref": _REFERENCE.format(name=struct.__name__)} for struct in structs]
    return references[0] if len(references) == 1 else {"anyOf": references}


def _response(status: int, structs: Sequence[type], text: str | None = None) -> Json:
    response: Json = {"description": _PHRASES[status]}
    if text:
        response["content"] = {text: {"schema": {"type": "string"}}}
    if structs:
        response["content"] = {"application/json": {"schema": _one_of(structs)}}
    return response


def _any_json(kind: type) -> Json:
    if kind is object:
        return {"description": "any JSON value"}
    raise NotImplementedError(f"no JSON schema for {kind}")  # msgspec's way to say so


def _version() -> str:
    try:
        return version("memtrace")
    except PackageNotFoundError:
        return "0"
