"""The HTTP app in this process, over real files in a folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from builders import bound, embedded_instance
from integration.asgi import ORG, Answer, Client, lifespan

from memtrace_cli.composition import compose
from memtrace_cli.settings import Auth, Settings
from memtrace_core.model import Permission
from memtrace_core.testing import ManualClock
from memtrace_http import create_app
from memtrace_sqlite import EnvelopeVault, MasterKey, Mode

KEY = EnvelopeVault(MasterKey(bytes(32)))


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Client]:
    """Run the app on the databases in a folder, made at the first time, with an org on the embedded store."""
    settings = Settings(auth=Auth(db_path=str(folder / "memtrace.db")))
    services = compose(settings, KEY, Mode.MIGRATE, ManualClock())
    if await services.repo.get_org(ORG) is None:
        await bound(services, embedded_instance(ORG))
    app = create_app(services)
    async with lifespan(app):
        number = len(await services.repo.list_keys(ORG))
        _, secret = await services.tenants.create_key(ORG, f"key {number}", Permission.ADMIN)
        yield Client(app, services, secret)


async def post(client: Client, content: str) -> Answer:
    """Store one memory."""
    return await client.post("/api/v1/memories", {"agent_id": "ada", "content": content})


async def seen(client: Client) -> list[str]:
    """Return the contents of all memories, oldest first; there must be few."""
    answer = await client.get("/api/v1/memories?limit=1000&order=asc")
    assert answer.status == 200, answer.body
    return [memory["content"] for memory in answer.json["memories"]]
