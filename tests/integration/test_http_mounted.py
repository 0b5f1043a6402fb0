"""The app below a path of somebody else's app."""

import asyncio
from urllib.parse import quote

import pytest
from builders import bound, embedded_instance, in_memory
from integration.asgi import ORG, Client
from litestar import Litestar, asgi
from litestar.types import Receive, Scope, Send
from starlette.applications import Starlette
from starlette.routing import Mount

from memtrace_core.model import Permission
from memtrace_http import create_app


def in_litestar(app, place):
    """Mount in a Litestar app, which cuts its own part from the path, but not from the raw one."""

    @asgi(place, is_mount=True, copy_scope=True)
    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return Litestar([mounted], openapi_config=None)


def in_starlette(app, place):
    """Mount in a Starlette app, which leaves both paths whole, and tells its own part."""
    return Starlette(routes=[Mount(place, app=app)])


def under_root_path(app, place):
    """Serve as behind a proxy that was told to a server as its root path."""

    async def rooted(scope, receive, send):
        await app({**scope, "root_path": place}, receive, send)

    return rooted


@pytest.mark.parametrize("host", [in_litestar, in_starlette, under_root_path])
@pytest.mark.parametrize("place", ["/memory", "/our/tools"])
def test_every_reference_is_found_below_a_hosts_path(host, place):
    """Lists, ids, and dedup keys with slashes and percent signs in them are what they are without a host."""
    keys = ["a/b", "a/api/v1/memories/b", "50%", "ü", "https://example.com/x?y=z/"]

    async def scenario():
        services = await bound(in_memory(), embedded_instance(ORG))
        _, secret = await services.tenants.create_key(ORG, "admin", Permission.ADMIN)
        client = Client(host(create_app(services), place), services, secret)
        try:
            for key in keys:
                new = {"agent_id": "ada", "content": key, "dedup_key": key}
                stored = await client.post(f"{place}/api/v1/memories", new)
                assert stored.status == 201
                for reference in (stored.json["memory_id"], key):
                    found = await client.get(f"{place}/api/v1/memories/{quote(reference, safe='')}")
                    assert (found.status, found.json) == (200, stored.json), reference
            assert (await client.get(f"{place}/api/v1/memories")).json["count"] == len(keys)
            assert (await client.get(f"{place}/health")).status == 200
            assert (await client.post(f"{place}/api/v1/agents", {"name": "a/b"})).status == 201
            assert (await client.get(f"{place}/api/v1/agents/a%2Fb")).json["name"] == "a/b"
            assert (await client.get(f"{place}/nothing")).json["code"] == "no_such_endpoint"
        finally:
            await services.close()

    asyncio.run(scenario())
