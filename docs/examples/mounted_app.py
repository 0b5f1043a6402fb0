"""Memtrace's HTTP API mounted in an ASGI app of your own, which uses the same services without HTTP.

The host is a Litestar app here, since Litestar is installed with Memtrace; anything that can mount an ASGI app does
as well. In Starlette and FastAPI it is `app.mount("/memory", create_app(services))`. A host does not pass its
lifespan on to what is mounted, so it starts and stops the services in its own.

    MEMTRACE_MASTER_KEY=$(memtrace keygen master) DATA=./data \\
        uvicorn --app-dir docs/examples --factory mounted_app:create --port 8000

The databases are opened as in `embed_sqlite.py`, beside this file.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from embed_sqlite import bind_default_org, services_in
from litestar import Litestar, MediaType, asgi, get
from litestar.types import Receive, Scope, Send

from memtrace_core import MemoryQuery, Permission
from memtrace_core.model import DEFAULT_ORG_ID
from memtrace_http import create_app


def create() -> Litestar:
    """Return the host: its own page at `/`, Memtrace below `/memory`."""
    services = services_in(Path(os.environ["DATA"]), os.environ["MEMTRACE_MASTER_KEY"])
    memory_api = create_app(services)

    @asynccontextmanager
    async def running(_: Litestar) -> AsyncIterator[None]:
        await bind_default_org(services)
        if not await services.tenants.list_keys(DEFAULT_ORG_ID):
            permissions = Permission.READ | Permission.WRITE
            secret = (await services.tenants.create_key(DEFAULT_ORG_ID, "first", permissions))[1]
            print(f"API key (shown only once): {secret}", flush=True)
        await services.start()
        try:
            yield
        finally:
            await services.stop()

    @get("/", media_type=MediaType.TEXT)
    async def newest() -> str:
        page = await services.memories.find(MemoryQuery(org_id=DEFAULT_ORG_ID, limit=1))
        return page.memories[0].content if page.memories else "nothing yet"

    @asgi("/memory", is_mount=True, copy_scope=True)
    async def memory(scope: Scope, receive: Receive, send: Send) -> None:
        await memory_api(scope, receive, send)

    return Litestar([newest, memory], lifespan=[running], openapi_config=None)
