"""Every route lets in exactly who has its permission: the matrix is made from the document that the app serves."""

import asyncio
import itertools
import re
from datetime import timedelta

import pytest
from integration.asgi import ORG, served, with_client

from memtrace_core.model import Permission
from memtrace_http.endpoints import endpoint_of
from memtrace_http.routes import HANDLERS

HOUR = timedelta(hours=1)
# Routes that need no key. Another one is a decision: write it down here.
OPEN = {("GET", "/health"), ("GET", "/ready"), ("GET", "/schema/openapi.json")}
# The permission of every other route. A route that is not here, or has lost its rule, fails.
RULES = {
    ("POST", "/api/v1/memories"): Permission.WRITE,
    ("GET", "/api/v1/memories"): Permission.READ,
    ("GET", "/api/v1/memories/{reference}"): Permission.READ,
    ("DELETE", "/api/v1/memories/{reference}"): Permission.ADMIN,
    ("POST", "/api/v1/search"): Permission.READ,
    ("POST", "/api/v1/agents"): Permission.WRITE,
    ("GET", "/api/v1/agents"): Permission.READ,
    ("GET", "/api/v1/agents/{agent}"): Permission.READ,
    ("DELETE", "/api/v1/agents/{agent}"): Permission.WRITE,
    ("GET", "/api/v1/agents/{agent_id}/memories"): Permission.READ,
    ("DELETE", "/api/v1/agents/{agent_id}/memories"): Permission.ADMIN,
    ("GET", "/api/v1/agents/{agent_id}/stats"): Permission.READ,
    ("POST", "/api/v1/sessions"): Permission.WRITE,
    ("GET", "/api/v1/sessions"): Permission.READ,
    ("GET", "/api/v1/sessions/{session_id}"): Permission.READ,
    ("PUT", "/api/v1/sessions/{session_id}"): Permission.WRITE,
    ("GET", "/api/v1/sessions/{session_id}/memories"): Permission.READ,
    ("DELETE", "/api/v1/sessions/{session_id}/memories"): Permission.ADMIN,
    ("POST", "/api/v1/sessions/{session_id}/context"): Permission.READ,
}
METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "TRACE"}
SUBSETS = [
    Permission(0) if not names else Permission.parse(",".join(names))
    for number in range(4)
    for names in itertools.combinations(("read", "write", "admin"), number)
]


def declared():
    """Return what each route of the app declares as its permission: method and path → permission."""
    found = {}
    for handler in HANDLERS:
        endpoint = endpoint_of(handler)
        for path, method in itertools.product(handler.paths, handler.http_methods):
            found[str(method), re.sub(r"{(\w+):str}", r"{\1}", path)] = endpoint and endpoint.permission
    return found


def operations(document):
    """Return the operations of a document: method and path → operation."""
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


async def document_of(client):
    """Return the document that the app serves."""
    return (await client.get("/schema/openapi.json", key=None)).json


async def status(client, method, path, **others):
    """Return how a request ends whose body and ids mean nothing."""
    body = b"{" if method in ("POST", "PUT") else None
    target = re.sub(r"{\w+}", "unknown", path)
    return (await client.request(method, target, body, **others)).status


def test_every_route_has_a_rule():
    """What the routes declare is what is written down here, and what needs no key is on the list of those."""
    assert {route: rule for route, rule in declared().items() if route not in OPEN} == RULES
    assert {route for route, rule in declared().items() if rule is None} == OPEN


def test_the_document_tells_every_route_and_which_need_a_key():
    """Each route but the document's own is in the document; those that need a key say so, and no others."""

    @with_client()
    async def scenario(client):
        told = operations(await document_of(client))
        assert told.keys() | {("GET", "/schema/openapi.json")} == RULES.keys() | OPEN
        assert {route for route, operation in told.items() if operation.get("security")} == RULES.keys()
        for route in RULES:
            assert {"401", "403"} <= told[route]["responses"].keys()


def test_the_document_tells_the_permission_of_every_route():
    """A reader of the document learns what each route needs, as docs/security.md promises."""

    @with_client()
    async def scenario(client):
        told = operations(await document_of(client))
        for route, rule in RULES.items():
            scopes = [scopes for one in told[route]["security"] for scopes in one.values()]
            assert scopes == [[str(rule)]] * len(scopes), route


@pytest.mark.parametrize("granted", SUBSETS, ids=lambda one: str(one) or "nothing")
def test_a_key_passes_exactly_where_it_has_the_permission(granted):
    """For each set of permissions and each route of the document: 403 without the route's permission, else not."""

    @with_client()
    async def scenario(client):
        key = await client.key_of(granted)
        for method, path in operations(await document_of(client)):
            found = await status(client, method, path, key=key)
            rule = RULES.get((method, path))
            if rule is not None and not granted.allows(rule):
                assert found == 403, (method, path)
            elif rule is not None:
                # It passes, and fails on what it asks for, so that it changes nothing.
                assert found in (200, 400, 404), (method, path)


@pytest.mark.parametrize(
    "key", [None, "", " ", "mtk_unknown", "x" * 600], ids=["none", "empty", "blank", "wrong", "long"]
)
def test_without_a_key_that_counts_nobody_passes(key):
    """Each route of the document answers 401 where it has a rule, and is open to all where it has none."""

    @with_client()
    async def scenario(client):
        for method, path in operations(await document_of(client)):
            found = await status(client, method, path, key=key)
            assert (found == 401) is ((method, path) in RULES), (method, path)


def test_a_key_that_has_ended_passes_nowhere():
    """Revoked, expired, rotated out, or of an org that is gone: 401 on every route, whatever it was allowed."""

    async def scenario():
        async with served() as client:
            services = client.services
            revoked, secret = await services.tenants.create_key(ORG, "revoked", Permission.ADMIN)
            await services.tenants.revoke_key(revoked.id)
            gone = await services.tenants.create_org("gone")
            keys = [secret, await client.key_of(Permission.ADMIN, gone.id)]
            await services.tenants.delete_org(gone.id)
            keys.append(await client.key_of(Permission.ADMIN, lifetime=HOUR))
            former, old = await services.tenants.create_key(ORG, "rotated", Permission.ADMIN)
            await services.tenants.rotate_key(former.id, HOUR)
            services.clock.advance(HOUR)
            keys.append(old)
            for key in keys:
                for method, path in RULES:
                    assert await status(client, method, path, key=key) == 401, (method, path)

    asyncio.run(scenario())


def test_no_other_method_of_a_path_gets_past_the_rules():
    """What a path does not have, HEAD included, is a 405 for everybody; OPTIONS tells of methods and no more."""

    @with_client()
    async def scenario(client):
        told = await document_of(client)
        for path, methods in told["paths"].items():
            for method in sorted(METHODS - {one.upper() for one in methods}):
                for key in (client.key, None):
                    assert await status(client, method, path, key=key) == 405, (method, path)
            asked = await client.request("OPTIONS", path, key=None)
            assert (asked.status, asked.body) == (204, b"")


def test_what_is_allowed_is_checked_before_what_is_asked():
    """Who may not does not learn whether a thing exists, or what is wrong with a body or a parameter."""

    @with_client()
    async def scenario(client):
        agent = (await client.post("/api/v1/agents", {"name": "ada"})).json
        reader, writer = await client.key_of(Permission.READ), await client.key_of(Permission.WRITE)
        for name in (agent["id"], "ada", "nobody"):
            refused = await client.get(f"/api/v1/agents/{name}?nonsense=1", key=writer)
            assert (refused.status, refused.json["error"]) == (403, "this API key lacks the read permission")
            assert (await client.request("DELETE", f"/api/v1/agents/{name}", key=reader)).status == 403
        assert (await client.post("/api/v1/memories", b"{", key=reader)).status == 403
        assert (await client.get("/api/v1/agents/ada")).status == 200
