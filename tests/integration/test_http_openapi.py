import re

import pytest
from integration.asgi import with_client

from memtrace_http.routes import HANDLERS, openapi

MEMORY = {
    "agent_id": "ada",
    "content": "hello",
    "session_id": "s1",
    "metadata": {"k": [1, None]},
    "tags": ["a", "b"],
    "importance": 0.5,
    "parent_id": "p",
}

KNOWN_WORDS = {
    "title",
    "description",
    "type",
    "properties",
    "required",
    "additionalProperties",
    "anyOf",
    "$ref",
    "items",
    "enum",
    "const",
    "default",
    "format",
    "minItems",
    "maxItems",
    # These stand in requests only, and test_http_contract.py holds the server to them.
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
}
TYPES = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict, "null": type(None)}


class Invalid(Exception):
    """A value is not what the schema says."""


class Document:
    """An OpenAPI document that can tell whether an answer is one that it describes.

    It knows the words of JSON Schema that the document uses, and fails on any other, so that nothing passes unseen.
    A member of an answer that the schema does not name is an error, too.
    """

    def __init__(self, document):
        self.paths = document["paths"]
        self._schemas = document["components"]["schemas"]

    def operation(self, method, target):
        """Return the operation that a request is for."""
        path = target.partition("?")[0]
        for template, operations in self.paths.items():
            if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path) and method.lower() in operations:
                return operations[method.lower()]
        raise Invalid(f"{method} {path} is not described")

    def check_answer(self, method, target, answer):
        """Check status and body."""
        responses = self.operation(method, target)["responses"]
        if str(answer.status) not in responses:
            raise Invalid(f"{method} {target} may not answer {answer.status}")
        content = responses[str(answer.status)].get("content")
        if content is None:
            if answer.body:
                raise Invalid(f"{method} {target} has no body")
            return
        if answer.headers["content-type"] != "application/json":
            raise Invalid(answer.headers["content-type"])
        self.check(answer.json, content["application/json"]["schema"])

    def check_body(self, method, target, body):
        """Check what a request sends."""
        self.check(body, self.operation(method, target)["requestBody"]["content"]["application/json"]["schema"])

    def check(self, value, schema, where="$"):
        """Check a value."""
        assert set(schema) <= KNOWN_WORDS, set(schema) - KNOWN_WORDS
        if "$ref" in schema:
            return self.check(value, self._schemas[schema["$ref"].removeprefix("#/components/schemas/")], where)
        if "anyOf" in schema:
            return self._check_any(value, schema["anyOf"], where)
        if "enum" in schema and value not in schema["enum"]:
            raise Invalid(f"{where}: {value!r}")
        if "type" in schema and not self._is(value, schema["type"]):
            raise Invalid(f"{where}: {value!r} is no {schema['type']}")
        if isinstance(value, dict):
            self._check_members(value, schema, where)
        elif isinstance(value, list):
            if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
                raise Invalid(f"{where}: {len(value)} items")
            for index, item in enumerate(value):
                self.check(item, schema.get("items", {}), f"{where}[{index}]")
        return None

    def _check_any(self, value, schemas, where):
        problems = []
        for one in schemas:
            try:
                return self.check(value, one, where)
            except Invalid as problem:
                problems.append(str(problem))
        raise Invalid(" and ".join(problems))

    def _check_members(self, value, schema, where):
        missing = set(schema.get("required", ())) - set(value)
        if missing:
            raise Invalid(f"{where} lacks {missing}")
        for name, member in value.items():
            known = schema.get("properties", {})
            other = schema.get("additionalProperties", "properties" not in schema)
            if name in known:
                self.check(member, known[name], f"{where}.{name}")
            elif other is False:
                raise Invalid(f"{where}.{name} is not described")
            else:
                self.check(member, {} if other is True else other, f"{where}.{name}")

    @staticmethod
    def _is(value, kind):
        if kind == "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


async def document_of(client):
    """Return the document that the app serves."""
    answer = await client.get("/schema/openapi.json", key=None)
    assert answer.status == 200
    return answer.json


def strict(document):
    """Return the document with every answer's schema closed, so that a member it does not name is an error."""
    for schema in document["components"]["schemas"].values():
        schema.setdefault("additionalProperties", False)
    return Document(document)


async def walk(client, send):
    """Use every operation in every way that the contract names, good and bad."""
    api = "/api/v1"
    first = await send("POST", f"{api}/memories", MEMORY)
    await send("POST", f"{api}/memories", MEMORY)
    await send("POST", f"{api}/memories", {**MEMORY, "content": ""})
    await send(
        "POST",
        f"{api}/memories",
        {"memories": [MEMORY, {**MEMORY, "content": "2"}, {"agent_id": "a", "content": "3"}]},
    )
    await send("GET", f"{api}/memories?limit=1&order=asc&tags=a")
    await send("GET", f"{api}/memories?limit=0")
    await send("GET", f"{api}/memories/{first.json['memory_id']}")
    await send("GET", f"{api}/memories/mem_none")
    await send("POST", f"{api}/search", {"content_contains": "h", "limit": 1, "memory_types": ["episodic"]})
    await send("POST", f"{api}/search", {"limit": 0})
    agent = await send("POST", f"{api}/agents", {"name": "ada", "description": "d", "config": {"a": {}}})
    await send("POST", f"{api}/agents", {"name": "ada"})
    await send("POST", f"{api}/agents", {"name": ""})
    await send("POST", f"{api}/agents", {"name": "bob"})
    await send("GET", f"{api}/agents?limit=1")
    await send("GET", f"{api}/agents?cursor=x")
    await send("GET", f"{api}/agents/ada")
    await send("GET", f"{api}/agents/nobody")
    await send("GET", f"{api}/agents/ada/memories?limit=1")
    await send("GET", f"{api}/agents/1/memories")
    await send("GET", f"{api}/agents/ada/stats")
    await send("GET", f"{api}/agents/1/stats")
    await send("DELETE", f"{api}/agents/{agent.json['id']}")
    await send("DELETE", f"{api}/agents/nobody")
    await send("DELETE", f"{api}/memories/{first.json['memory_id']}")
    await send("DELETE", f"{api}/memories/nothing")
    await send("DELETE", f"{api}/agents/ada/memories")
    await send("DELETE", f"{api}/agents/1/memories")
    await send("DELETE", f"{api}/sessions/s1/memories")
    await send("DELETE", f"{api}/sessions/1/memories")
    session = await send("POST", f"{api}/sessions", {"agent_id": "ada", "metadata": {"k": 1}})
    await send("POST", f"{api}/sessions", {"agent_id": "1"})
    await send("POST", f"{api}/sessions", {"agent_id": "ada"})
    await send("GET", f"{api}/sessions?limit=1&agent_id=ada")
    await send("GET", f"{api}/sessions?limit=x")
    identity = session.json["id"]
    await send("GET", f"{api}/sessions/{identity}")
    await send("GET", f"{api}/sessions/none")
    await send("PUT", f"{api}/sessions/{identity}", {"status": "closed", "metadata": {"m": None}})
    await send("PUT", f"{api}/sessions/{identity}", {"status": "open"})
    await send("PUT", f"{api}/sessions/none", {"status": "closed"})
    await send("GET", f"{api}/sessions/s1/memories")
    await send("GET", f"{api}/sessions/1/memories")
    await send("POST", f"{api}/sessions/s1/context", {"max_tokens": 100, "order": "asc"})
    await send("POST", f"{api}/sessions/s1/context", None)
    await send("POST", f"{api}/sessions/s1/context", {"max_tokens": 1})
    await send("GET", "/health")
    await send("GET", "/health?x=1")
    await send("GET", "/ready")


@pytest.mark.parametrize("kind", ["bound", "unbound", "unreachable", "without a key", "without permission"])
def test_every_answer_is_one_that_the_document_describes(kind):
    """Whatever happens, status and body of the answer are declared: with an Arc, without, with one that is down,
    without a key, and without the permission.
    """
    seen = set()

    @with_client(arc=kind != "unbound")
    async def _(client):
        document = strict(await document_of(client))
        if kind == "unreachable":
            client.services.gateway.unreachable.add("arc_of_org_a")
        key = None if kind == "without a key" else "mtk_" if kind == "without permission" else client.key

        async def send(method, target, body=None):
            answer = await client.request(method, target, body, key=key)
            document.check_answer(method, target, answer)
            seen.add((method, answer.status))
            return answer if answer.status < 400 else await behind(method, target, body)

        async def behind(method, target, body):
            """Answer as if the request had been good, so that the walk can go on."""
            return Made()

        await walk(client, send)

    assert len(seen) >= 4


class Made:
    """Stands for an answer that a refused request did not get."""

    @property
    def json(self):
        """Ids of things that are not there."""
        return {"memory_id": "mem_0", "id": "sess_0"}


def test_the_walk_uses_every_operation():
    """No operation of the document is left out of the check above."""
    used = set()

    @with_client()
    async def described(client):
        document = await document_of(client)

        async def send(method, target, body=None):
            answer = await client.request(method, target, body)
            used.add(Document(document).operation(method, target)["summary"])
            return answer

        await walk(client, send)
        return {
            operation["summary"] for operations in document["paths"].values() for operation in operations.values()
        }

    assert used == described


def test_the_document_describes_every_route_that_there_is():
    """Paths and methods of the document are those of the app, no more and no less, the document's own apart."""

    @with_client()
    async def document(client):
        return await document_of(client)

    described = {(path, method.upper()) for path, operations in document["paths"].items() for method in operations}
    there = {
        (re.sub(r":\w+}", "}", path), method)
        for handler in HANDLERS
        for path in handler.paths
        for method in handler.http_methods
    }
    assert described == there - {("/schema/openapi.json", "GET")}
    assert document["openapi"] == "3.1.0"


def test_the_document_is_made_once(monkeypatch):
    """Whoever reaches the port may ask for it, as often as they like."""
    made = []
    monkeypatch.setattr(openapi, "document", lambda routes: made.append(1) or {"openapi": "3.1.0"})

    @with_client()
    async def scenario(client):
        assert await document_of(client) == await document_of(client) == {"openapi": "3.1.0"}

    assert made == [1]


def test_options_tells_all_methods_of_a_path():
    """OPTIONS answers anybody with every method that the document has for the path, and no other."""

    @with_client()
    async def _(client):
        document = await document_of(client)
        for path, operations in document["paths"].items():
            answer = await client.request("OPTIONS", re.sub(r"{\w+}", "x", path), key=None)
            assert (answer.status, answer.body) == (204, b"")
            allowed = {method.strip() for method in answer.headers["allow"].split(",")}
            assert allowed == {"OPTIONS", *(method.upper() for method in operations)}, path


def test_every_reference_leads_somewhere_and_every_schema_is_used():
    """The document is whole: no dangling reference, no left-over schema."""

    @with_client()
    async def document(client):
        return await document_of(client)

    names = set(re.findall(r"'#/components/schemas/(\w+)'", str(document)))
    assert names == set(document["components"]["schemas"])


BODIES = {
    ("POST", "/api/v1/memories"): [
        ({"agent_id": "a", "content": "x"}, True),
        ({"agent_id": "a"}, False),
        ({"agent_id": "a", "content": "x", "nope": 1}, False),
        ({"agent_id": 1, "content": "x"}, False),
        ({"agent_id": "a", "content": "x", "tags": None}, True),
        ({"agent_id": "a", "content": "x", "tags": "a"}, False),
        ({"memories": [{"agent_id": "a", "content": "x"}]}, True),
        ({"memories": []}, False),
        ({"memories": [{"agent_id": "a"}]}, False),
        ({"memories": [{"agent_id": "a", "content": "x"}] * 1001}, False),
    ],
    ("POST", "/api/v1/search"): [
        ({}, True),
        ({"limit": "1"}, False),
        ({"nope": 1}, False),
        ({"since": None}, True),
    ],
    ("POST", "/api/v1/agents"): [({"name": "n"}, True), ({}, False), ({"name": "n", "config": []}, False)],
    ("POST", "/api/v1/sessions"): [({"agent_id": "a"}, True), ({"agent_id": "a", "status": "closed"}, False)],
    ("POST", "/api/v1/sessions/s1/context"): [({}, True), ({"max_tokens": 1.5}, False), ({"x": 1}, False)],
}
CASES = [(*place, body, good) for place, cases in BODIES.items() for body, good in cases]


@pytest.mark.parametrize(("method", "target", "body", "good"), CASES)
def test_the_described_bodies_are_those_that_are_taken(method, target, body, good):
    """What the document allows the server takes, and what it forbids the server refuses with a 400."""

    @with_client()
    async def result(client):
        document = Document(await document_of(client))
        try:
            document.check_body(method, target, body)
            described = True
        except Invalid:
            described = False
        return described, (await client.request(method, target, body)).status

    described, status = result
    assert described is good
    assert (status != 400) is good


def test_every_described_query_parameter_is_taken_and_no_other():
    """Each parameter of each operation is accepted with a good value; an unknown one never is."""
    good = {
        "agent_id": "ada",
        "session_id": "s1",
        "memory_type": "episodic",
        "event_type": "general",
        "tags": "a",
        "since": "1h",
        "until": "now",
        "limit": "1",
        "offset": "0",
        "order": "desc",
    }
    checked = 0

    @with_client()
    async def _(client):
        nonlocal checked
        document = await document_of(client)
        for path, operations in document["paths"].items():
            target = re.sub(r"{\w+}", "s1", path)
            for method, operation in operations.items():
                names = {one["name"] for one in operation["parameters"] if one["in"] == "query"}
                for name in names - {"cursor"}:
                    answer = await client.request(method.upper(), f"{target}?{name}={good[name]}")
                    assert answer.status == 200, (path, name, answer.body)
                    checked += 1
                for name in {*good, "nope"} - names:
                    answer = await client.request(method.upper(), f"{target}?{name}={good.get(name, 1)}", {})
                    assert answer.status == 400, (path, name)
                    assert name in answer.json["error"]

    assert checked > 30
