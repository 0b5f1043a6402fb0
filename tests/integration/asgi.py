"""Driving the HTTP app in process: over in-memory adapters, with every message in the test's hands."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import asynccontextmanager
from urllib.parse import quote, unquote

import msgspec
from builders import bound, embedded_instance, in_memory

from memtrace_core.model import Permission
from memtrace_http import create_app
from memtrace_http.edge import no_log

ORG = "org_a"


class Answer(msgspec.Struct):
    """A response, complete."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        """The body, parsed."""
        return json.loads(self.body)


class Client:
    """Sends requests to the app as a server would; `key` is the API key that it gives."""

    def __init__(self, app, services, key):
        self.app, self.services, self.key = app, services, key

    async def request(self, method, target, body=None, headers=None, receive=None, key=...):
        """Send one request, and return the answer; headers are a mapping, or pairs where a name comes twice."""
        path, _, query = target.partition("?")
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
        given = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
        key = self.key if key is ... else key
        if key is not None:
            given.append((b"x-api-key", key.encode()))
        sent = []

        async def whole():
            return {"type": "http.request", "body": raw, "more_body": False}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": quote(path, safe="/%").encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": given,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        await self.app(scope, receive or whole, send)
        start, *rest = sent
        assert start["type"] == "http.response.start"
        return Answer(
            start["status"],
            {name.decode(): value.decode() for name, value in start["headers"]},
            b"".join(message.get("body", b"") for message in rest),
        )

    async def post(self, target, body, **others):
        """Post JSON."""
        return await self.request("POST", target, body, **others)

    async def get(self, target, **others):
        """Get."""
        return await self.request("GET", target, **others)

    async def key_of(self, permissions, org_id=ORG, **others):
        """Make another key of an org."""
        _, secret = await self.services.tenants.create_key(org_id, f"key {permissions}", permissions, **others)
        return secret


@asynccontextmanager
async def served(*, options=None, log=no_log, arc=True, metrics=None, **others):
    """Run the app over in-memory adapters, with an org, its embedded store and an admin's key."""
    services = in_memory(**others, **({"meter": metrics.counting} if metrics else {}))
    if arc:
        await bound(services, embedded_instance(ORG))
    else:
        from builders import org

        await services.repo.create_org(org(ORG))
    app = create_app(services, options, log, metrics)
    async with lifespan(app):
        _, secret = await services.tenants.create_key(ORG, "admin", Permission.ADMIN)
        yield Client(app, services, secret)


@asynccontextmanager
async def lifespan(app):
    """Start the app as a server does, and stop it in the end."""
    incoming, outgoing = asyncio.Queue(), asyncio.Queue()
    task = asyncio.create_task(
        app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, incoming.get, outgoing.put)
    )
    await incoming.put({"type": "lifespan.startup"})
    assert (await outgoing.get())["type"] == "lifespan.startup.complete"
    try:
        yield
    finally:
        await incoming.put({"type": "lifespan.shutdown"})
        assert (await outgoing.get())["type"] == "lifespan.shutdown.complete"
        await task


def with_client(**settings):
    """Run the decorated coroutine function with a client; it is a test's whole body."""

    def decorate(work):
        async def scenario():
            async with served(**settings) as client:
                return await work(client)

        return asyncio.run(scenario())

    return decorate
