"""The OpenAPI document: that it is served, complete and true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from e2e.processes import Deployment, Server

READ, WRITE, ADMIN = "read", "write", "admin"
ROUTES = {
    ("POST", "/api/v1/memories"): WRITE,
    ("GET", "/api/v1/memories"): READ,
    ("GET", "/api/v1/memories/{reference}"): READ,
    ("DELETE", "/api/v1/memories/{reference}"): ADMIN,
    ("POST", "/api/v1/search"): READ,
    ("POST", "/api/v1/agents"): WRITE,
    ("GET", "/api/v1/agents"): READ,
    ("GET", "/api/v1/agents/{agent}"): READ,
    ("DELETE", "/api/v1/agents/{agent}"): WRITE,
    ("GET", "/api/v1/agents/{agent_id}/memories"): READ,
    ("DELETE", "/api/v1/agents/{agent_id}/memories"): ADMIN,
    ("GET", "/api/v1/agents/{agent_id}/stats"): READ,
    ("POST", "/api/v1/sessions"): WRITE,
    ("GET", "/api/v1/sessions"): READ,
    ("GET", "/api/v1/sessions/{session_id}"): READ,
    ("PUT", "/api/v1/sessions/{session_id}"): WRITE,
    ("GET", "/api/v1/sessions/{session_id}/memories"): READ,
    ("DELETE", "/api/v1/sessions/{session_id}/memories"): ADMIN,
    ("POST", "/api/v1/sessions/{session_id}/context"): READ,
    ("GET", "/health"): None,
    ("GET", "/ready"): None,
    ("GET", "/metrics"): None,
}

Json = dict[str, Any]


@pytest.fixture(scope="module")
def document(server: Server) -> Json:
    """Return the document that the server serves to anybody."""
    with server.client() as client:
        response = client.get("/schema/openapi.json")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/json")
    found: Json = response.json()
    return found


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Yield method, path and description of every operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def references(value: Any) -> Iterator[str]:
    """Yield every `$ref` below a value."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_route_is_in_the_document(document: Json) -> None:
    """The document describes exactly the routes of the API, whatever their parameters are called."""

    def nameless(routes: Iterator[tuple[str, str]]) -> set[tuple[str, str]]:
        return {(method, re.sub(r"{\w+}", "{}", path)) for method, path in routes}

    described = nameless((method, path) for method, path, _ in operations(document))
    assert described == nameless(iter(ROUTES))


def test_the_document_is_well_formed(document: Json) -> None:
    """It is OpenAPI 3.1: every reference leads somewhere, path parameters are declared, answers are described."""
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"]
    assert document["info"]["version"]
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.startswith("#/components/schemas/")
        assert reference.rpartition("/")[2] in schemas
    for _, path, operation in operations(document):
        in_path = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        names = [(one["in"], one["name"]) for one in operation["parameters"]]
        assert len(set(names)) == len(names)
        for parameter in operation["parameters"]:
            assert parameter["schema"]
            assert parameter.get("required") is True or parameter["in"] == "query"
        assert operation["responses"]
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status)
            assert response["description"]
        assert any(status.startswith("2") for status in operation["responses"])
        assert operation["summary"]


def test_every_schema_is_used(document: Json) -> None:
    """No schema stands in the document that nothing refers to."""
    assert set(document["components"]["schemas"]) == {one.rpartition("/")[2] for one in references(document)}


def test_every_route_wants_its_permission(document: Json, shared: Deployment, server: Server) -> None:
    """Without a key every route is a 401, with a key of another permission a 403, with the right one neither."""
    org_id = shared.org()
    keys = {name: shared.key(org_id, name, name).key for name in (READ, WRITE, ADMIN)}
    walked = set()
    with server.client() as client:
        for method, path, operation in operations(document):
            needed = next(
                permission
                for (known, template), permission in ROUTES.items()
                if known == method and re.fullmatch(re.sub(r"{\w+}", r"{\\w+}", template), path)
            )
            url = re.sub(r"{\w+}", "some_id", path)

            def status(key: str | None, method: str = method, url: str = url) -> int:
                return client.request(method, url, headers={"x-api-key": key} if key else {}).status_code

            walked.add(url)
            assert ("security" in operation) is (needed is not None)
            if needed is None:
                assert status(None) in (200, 503)
                continue
            assert status(None) == 401
            for permission, key in keys.items():
                if permission in (needed, ADMIN):
                    assert status(key) not in (401, 403, 500)
                else:
                    assert status(key) == 403
    assert len(walked) == len(document["paths"])


def matches(value: Any, schema: Json, schemas: Json) -> bool:
    """Tell whether a value is of a schema: the part of JSON Schema that the document uses, and strictly."""
    if "$ref" in schema:
        return matches(value, schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "anyOf" in schema:
        return any(matches(value, one, schemas) for one in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    kind = schema.get("type")
    if kind == "object":
        properties, more = schema.get("properties", {}), schema.get("additionalProperties")
        return (
            isinstance(value, dict)
            and set(schema.get("required", ())) <= set(value)
            and all(
                matches(inner, properties.get(name, more if isinstance(more, dict) else {}), schemas)
                for name, inner in value.items()
            )
            and (isinstance(more, dict) or set(value) <= set(properties))
        )
    if kind == "array":
        return isinstance(value, list) and all(matches(inner, schema.get("items", {}), schemas) for inner in value)
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    return kind is None or (isinstance(value, kinds[kind]) and isinstance(value, bool) == (kind == "boolean"))


@pytest.mark.parametrize("value", [{"a": 1}, {"a": "x", "b": 1}, {}, [], "x", {"a": "x", "c": []}])
def test_the_check_of_shapes_can_fail(value: Any) -> None:
    """A value of another shape than the schema's does not pass."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "c": {"$ref": "#/components/schemas/C"}},
        "required": ["a"],
    }
    schemas = {"C": {"anyOf": [{"type": "null"}, {"type": "integer"}]}}
    assert not matches(value, schema, schemas)
    assert matches({"a": "x", "c": 1}, schema, schemas)


def test_answers_are_of_the_described_shape(document: Json, api: httpx.Client) -> None:
    """What the server answers is of the shape that the document describes, with nothing undescribed in it."""
    agent = {"name": "ada", "config": {"a": 1}}
    session = api.post("/api/v1/sessions", json={"agent_id": "ada", "metadata": {"a": [1]}}).json()["id"]
    memory = {"agent_id": "ada", "content": "x", "session_id": session, "tags": ["t"], "metadata": {"a": None}}
    calls = [
        ("POST", "/agents", "/agents", agent, 201),
        ("POST", "/agents", "/agents", agent, 409),
        ("POST", "/memories", "/memories", memory, 201),
        ("POST", "/memories", "/memories", memory, 409),
        ("POST", "/memories", "/memories", {"memories": [memory, {**memory, "importance": 1}]}, 201),
        ("POST", "/memories", "/memories", {"memories": [{**memory, "content": "y", "importance": 1}]}, 201),
        ("POST", "/memories", "/memories", {"agent_id": 5}, 400),
        ("GET", "/memories", "/memories?limit=1", None, 200),
        ("GET", "/memories/{}", "/memories/unknown", None, 404),
        ("POST", "/search", "/search", {}, 200),
        ("GET", "/agents", "/agents", None, 200),
        ("GET", "/agents/{}", "/agents/ada", None, 200),
        ("GET", "/agents/{}/stats", "/agents/ada/stats", None, 200),
        ("GET", "/agents/{}/memories", "/agents/ada/memories", None, 200),
        ("GET", "/sessions", "/sessions", None, 200),
        ("PUT", "/sessions/{}", f"/sessions/{session}", {"status": "closed"}, 200),
        ("GET", "/sessions/{}", f"/sessions/{session}", None, 200),
        ("GET", "/sessions/{}/memories", f"/sessions/{session}/memories", None, 200),
        ("POST", "/sessions/{}/context", f"/sessions/{session}/context", {}, 200),
    ]
    described = {(method, re.sub(r"{\w+}", "{}", path)): one for method, path, one in operations(document)}
    for method, template, url, body, status in calls:
        response = api.request(method, f"/api/v1{url}", **({} if body is None else {"json": body}))
        assert response.status_code == status, response.text
        answers = described[method, f"/api/v1{template}"]["responses"]
        schema = answers[str(status)]["content"]["application/json"]["schema"]
        assert matches(response.json(), schema, document["components"]["schemas"]), (url, response.text)
    for path in ("/health", "/ready"):
        response = api.get(path)
        schema = described["GET", path]["responses"][str(response.status_code)]["content"]["application/json"][
            "schema"
        ]
        assert matches(response.json(), schema, document["components"]["schemas"]), response.text


def test_health_answers_without_a_key(server: Server) -> None:
    """`/health` is for anybody and says how long the server is up."""
    with server.client() as client:
        answer = client.get("/health").json()
    assert (answer["status"], answer["service"]) == ("ok", "memtrace")
    assert re.fullmatch(r"((\d+h)?\d+m)?\d+s", answer["uptime"])
    assert all(isinstance(reachable, bool) for reachable in answer["arc"].values())
