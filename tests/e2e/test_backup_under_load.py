"""A backup that is taken while everybody works."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path

import aiohttp
import apsw
import pytest
from e2e.processes import COMMAND, Deployment, Server, Tenant

from memtrace_cli.composition import compose
from memtrace_cli.settings import Auth, Settings
from memtrace_core.tenants import Binding
from memtrace_sqlite import EnvelopeVault, MasterKey, Mode

pytestmark = pytest.mark.slow

BATCH = 7
WRITERS = 4
BACKUPS = 3


async def post_batch(session: aiohttp.ClientSession, key: str, name: str) -> None:
    """Store a batch whose memories all bear its name."""
    memories = [{"agent_id": "ada", "content": f"{name} {number}"} for number in range(BATCH)]
    headers = {"x-api-key": key}
    async with session.post("/api/v1/memories", json={"memories": memories}, headers=headers) as response:
        assert response.status == 201, await response.text()


async def backups_under_load(
    deployment: Deployment, server: Server, tenant: Tenant, targets: list[Path]
) -> list[set[str]]:
    """Take backups while batches are stored and orgs are made; return what was acknowledged before each began."""
    acknowledged: set[str] = set()
    running = True
    settings = Settings(auth=Auth(db_path=str(deployment.data / "memtrace.db")))
    services = compose(settings, EnvelopeVault(MasterKey.parse(deployment.master_key)), Mode.AS_IT_IS)

    async def write(session: aiohttp.ClientSession, writer: int) -> None:
        for number in itertools.count():
            if not running:
                return
            name = f"writer {writer} batch {number}"
            await post_batch(session, tenant.key, name)
            acknowledged.add(name)

    async def make_orgs(session: aiohttp.ClientSession) -> None:
        """Make orgs, Arc-bound and embedded in turn, and store memories of each as soon as it is there."""
        for number in itertools.count():
            if not running:
                return
            org = await services.tenants.create_org(f"org {number}")
            url, key = ("http://127.0.0.1:9", "k") if number % 2 else ("embedded:", None)
            binding = Binding(url=url, database="d", measurement="events", api_key=key)
            await services.tenants.bind(org.id, binding)
            _, secret = await services.tenants.create_key(org.id, "k")
            await post_batch(session, secret, f"org {number}")
            acknowledged.add(f"org {number}")

    async def backup(target: Path) -> set[str]:
        before = set(acknowledged)
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "backup", str(target),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=deployment.folder, env=deployment.environment,
        )  # fmt: skip
        _, complaints = await process.communicate()
        assert process.returncode == 0, complaints
        return before

    async with aiohttp.ClientSession(server.url) as session:
        work = [asyncio.create_task(write(session, writer)) for writer in range(WRITERS)]
        work.append(asyncio.create_task(make_orgs(session)))
        before = [await backup(target) for target in targets]
        running = False
        await asyncio.gather(*work)
    await services.close()
    return before


def examine(metadata: Path, journal: Path) -> Counter[str]:
    """Expect that a pair of databases is sound and fits together; return how much there is of each batch."""
    with closing(apsw.Connection(str(metadata))) as orgs, closing(apsw.Connection(str(journal))) as memories:
        for one in (orgs, memories):
            assert one.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert one.execute("PRAGMA foreign_key_check").fetchall() == []
        bound = set(orgs.execute("SELECT org_id, instance_id FROM arc_instances"))
        assert set(memories.execute("SELECT org_id, instance_id FROM journal")) <= bound
        embedded = set(memories.execute("SELECT org_id FROM stores JOIN embedded USING (store)"))
        assert embedded <= set(orgs.execute("SELECT org_id FROM orgs"))
        return Counter(
            content.rpartition(" ")[0]
            for (content,) in memories.execute("SELECT content FROM journal UNION ALL SELECT content FROM embedded")
        )


def test_backups_under_load_are_whole(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each has all that was acknowledged before, only whole batches, and every memory's org and instance."""
    tenant = deployment.tenant()
    targets = [deployment.folder / f"{number}.tar" for number in range(BACKUPS)]
    with deployment.serve() as server:
        acknowledged = asyncio.run(backups_under_load(deployment, server, tenant, targets))
        assert not [event for event in server.events() if event["level"] == "error"]
    for target, before in zip(targets, acknowledged, strict=True):
        elsewhere = Deployment(tmp_path_factory.mktemp("restored"))
        elsewhere.done("restore", str(target))
        found = examine(elsewhere.data / "memtrace.db", elsewhere.data / "journal.db")
        assert before <= found.keys()
        assert set(found.values()) <= {BATCH}
    assert acknowledged[-1]
    with deployment.serve() as server, server.client(tenant) as api:
        assert api.get("/api/v1/memories").status_code == 200
