"""What an operator changes counts from the server's next request on."""

from __future__ import annotations

import json

import httpx
from e2e.processes import Deployment, Server, Tenant


def test_a_revoked_key_fails_on_the_next_request(shared: Deployment, tenant: Tenant, api: httpx.Client) -> None:
    """The request right after `key revoke` is a 401."""
    assert api.get("/api/v1/memories").status_code == 200
    shared.done("key", "revoke", tenant.key_id)
    response = api.get("/api/v1/memories")
    assert (response.status_code, response.json()["error"]) == (401, "invalid API key")


def test_a_new_key_works_on_the_next_request(shared: Deployment, server: Server, tenant: Tenant) -> None:
    """A key that the server has never seen works at once, although it was just refused under the same name."""
    for number in range(5):
        key = shared.key(tenant.org_id, name=f"key {number}")
        with server.client(key) as api:
            assert api.get("/api/v1/memories").status_code == 200


def test_bindings_change_from_request_to_request(shared: Deployment, server: Server) -> None:
    """Bound, unbound, bound again and bound elsewhere: each counts at once, and the memories of the store stay."""
    tenant = shared.tenant(bound=False)

    def status() -> int:
        return api.get("/api/v1/memories").status_code

    with server.client(tenant) as api:
        assert status() == 503
        shared.bind(tenant.org_id)
        assert status() == 200
        kept = api.post("/api/v1/memories", json={"agent_id": "ada", "content": "x"}).json()
        shared.done("org", "remove-arc", tenant.org_id)
        assert status() == 503
        assert api.post("/api/v1/memories", json={"agent_id": "ada", "content": "y"}).status_code == 503
        shared.done(
            "org",
            "add-arc",
            tenant.org_id,
            "--url",
            "http://127.0.0.1:9",
            "--database",
            "d",
            "--api-key",
            "arc-key",
        )
        assert api.get("/api/v1/memories").json()["code"] == "arc_unreachable"
        shared.done("org", "set-arc", tenant.org_id, "--url", "embedded:", "--database", "memory")
        assert api.get(f"/api/v1/memories/{kept['memory_id']}").json() == kept


def test_a_new_organization_is_known_on_the_next_request(shared: Deployment, server: Server) -> None:
    """An organization made by a process of its own while the server runs can store a memory at once."""
    org_id = json.loads(shared.memtrace("org", "create", "fresh", "--json").stdout)["id"]
    shared.memtrace("org", "add-arc", org_id, "--url", "embedded:", "--database", "memory")
    key = json.loads(shared.memtrace("key", "create", "--org", org_id, "--name", "k", "--json").stdout)["key"]
    with server.client(Tenant(org_id, key, "")) as api:
        assert api.post("/api/v1/memories", json={"agent_id": "ada", "content": "x"}).status_code == 201


def test_a_deleted_organization_is_gone_on_the_next_request(
    shared: Deployment, tenant: Tenant, api: httpx.Client
) -> None:
    """After `org delete` its key is unknown, and nothing of it can be written."""
    assert api.post("/api/v1/memories", json={"agent_id": "ada", "content": "x"}).status_code == 201
    shared.done("org", "delete", tenant.org_id, "--yes")
    assert api.post("/api/v1/memories", json={"agent_id": "ada", "content": "y"}).status_code == 401


def test_readiness_follows_the_bindings(deployment: Deployment) -> None:
    """`/ready` knows a new binding at once: none, one that works, and one that cannot be reached beside it."""
    tenant = deployment.tenant(bound=False)
    with deployment.serve() as server, server.client() as client:
        nothing = client.get("/ready")
        assert nothing.status_code == 503
        assert nothing.json() == {
            "status": "not ready",
            "reason": "no_instances",
            "hint": "configure an Arc instance with `memtrace org add-arc`",
        }
        deployment.bind(tenant.org_id)
        ready = client.get("/ready")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "arc": {tenant.org_id: True}})
        assert client.get("/health").json()["arc"] == {tenant.org_id: True}
        other = deployment.org("other", bound=False)
        deployment.done("org", "add-arc", other, "--url", "http://127.0.0.1:9", "--database", "d", "--api-key", "k")
        ready = client.get("/ready")
        assert ready.status_code == 503
        assert ready.json() == {"status": "not ready", "arc": {tenant.org_id: True, other: False}}
        assert client.get("/health").status_code == 200
