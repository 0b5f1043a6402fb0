"""Commands and a server on the same files at the same time."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter

import aiohttp
import pytest
from e2e.processes import COMMAND, Deployment, Server, Tenant


async def work(
    deployment: Deployment, server: Server, tenant: Tenant, commands: int
) -> tuple[list[tuple[int, str, str]], Counter[int]]:
    """Post without pause while commands run at once; return how these ended, and the statuses of the posts."""
    statuses: Counter[int] = Counter()
    running = True

    async def post(session: aiohttp.ClientSession, worker: int) -> None:
        number = 0
        while running:
            number += 1
            body = {"agent_id": "ada", "content": f"{worker} {number}"}
            async with session.post("/api/v1/memories", json=body) as response:
                statuses[response.status] += 1

    async def create(number: int) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "org", "create", f"org {number}",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=deployment.folder, env=deployment.environment,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async with aiohttp.ClientSession(server.url, headers={"x-api-key": tenant.key}) as session:
        posting = [asyncio.create_task(post(session, worker)) for worker in range(4)]
        ended = await asyncio.gather(*(create(number) for number in range(commands)))
        running = False
        await asyncio.gather(*posting)
    return list(ended), statuses


@pytest.mark.parametrize("commands", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_commands_and_a_server_share_the_database(deployment: Deployment, commands: int) -> None:
    """Many `org create` at once all succeed while the server writes, and none of its requests fails."""
    tenant = deployment.tenant()
    with deployment.serve() as server:
        ended, statuses = asyncio.run(work(deployment, server, tenant, commands))
        assert [code for code, _, _ in ended] == [0] * commands, ended
        assert not any("locked" in err for _, _, err in ended)
        assert set(statuses) == {201}
        assert "locked" not in server.err
        with server.client(tenant) as api:
            assert api.get("/api/v1/agents/ada/stats").json()["memory_count"] == statuses[201]
    assert len(deployment.told("org", "list")) == commands + 1


def test_commands_on_an_empty_path_make_one_database(deployment: Deployment) -> None:
    """Of many first commands at once, all succeed, and all their organizations are in one database."""
    commands = [
        subprocess.Popen(
            [*COMMAND, "org", "create", f"org {number}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            cwd=deployment.folder, env=deployment.environment,
        )
        for number in range(5)
    ]  # fmt: skip
    complaints = [command.communicate(timeout=60)[1] for command in commands]
    assert [command.returncode for command in commands] == [0] * 5, complaints
    assert len(deployment.told("org", "list")) == 5
