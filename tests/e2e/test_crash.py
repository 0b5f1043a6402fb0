"""The server is killed while it works."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

import aiohttp
import httpx
import pytest
from e2e.processes import Deployment, Server, Tenant

POSTS = 1000


async def post_until_killed(
    server: Server, tenant: Tenant, round_number: int, kill_after: int
) -> tuple[dict[str, str], set[str]]:
    """Keep a thousand posts under way, kill the server after so many answers; return the 201s and all sent."""
    acknowledged: dict[str, str] = {}
    sent: set[str] = set()
    connector = aiohttp.TCPConnector(limit=POSTS)
    async with aiohttp.ClientSession(server.url, headers={"x-api-key": tenant.key}, connector=connector) as session:

        async def keep_posting(worker: int) -> None:
            for number in itertools.count():
                content = f"round {round_number} worker {worker} number {number}"
                sent.add(content)
                try:
                    async with session.post(
                        "/api/v1/memories", json={"agent_id": "ada", "content": content}
                    ) as response:
                        answer = await response.json()
                except (aiohttp.ClientError, ConnectionError):
                    return
                assert response.status == 201, answer
                acknowledged[content] = answer["memory_id"]
                if len(acknowledged) == kill_after:
                    server.process.kill()

        await asyncio.gather(*(keep_posting(worker) for worker in range(POSTS)))
    return acknowledged, sent


def everything(api: httpx.Client) -> list[dict[str, Any]]:
    """Return all memories, page by page."""
    found: list[dict[str, Any]] = []
    parameters = {"limit": "1000", "order": "asc"}
    while True:
        page = api.get("/api/v1/memories", params=parameters).json()
        found += page["memories"]
        if not page["has_more"]:
            return found
        parameters["cursor"] = page["next_cursor"]


@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_what_was_acknowledged_survives_kill_9(deployment: Deployment, rounds: int) -> None:
    """After a kill during a thousand concurrent posts, every 201 is there once, and nothing that nobody sent."""
    tenant = deployment.tenant()
    acknowledged: dict[str, str] = {}
    sent: set[str] = set()
    for round_number in range(rounds):
        with deployment.serve() as server:
            new, tried = asyncio.run(post_until_killed(server, tenant, round_number, 500 + 700 * round_number))
            assert server.process.wait(20) == -9
        assert len(new) >= 500
        assert tried - new.keys(), "posts were under way when the server was killed"
        acknowledged |= new
        sent |= tried
        with deployment.serve() as server, server.client(tenant) as api:
            found = everything(api)
            ids = {memory["content"]: memory["memory_id"] for memory in found}
            assert Counter(memory["content"] for memory in found).most_common(1)[0][1] == 1
            assert len({memory["memory_id"] for memory in found}) == len(found)
            assert acknowledged.items() <= ids.items()
            assert ids.keys() <= sent
            times = [memory["time"] for memory in found]
            assert sorted(set(times)) == times
            assert api.get("/api/v1/agents/ada/stats").json()["memory_count"] == len(found)
            # What had been claimed before the kill is still a duplicate after it.
            content, memory_id = next(iter(new.items()))
            again = api.post("/api/v1/memories", json={"agent_id": "ada", "content": content})
            assert (again.status_code, again.json()["memory_id"]) == (409, memory_id)
            # What was not acknowledged can be sent again: it is stored now, or was before.
            lost = min(tried - new.keys())
            again = api.post("/api/v1/memories", json={"agent_id": "ada", "content": lost})
            assert again.status_code == (409 if lost in ids else 201)
            acknowledged[lost] = again.json()["memory_id"]
            later = api.post(
                "/api/v1/memories", json={"agent_id": "ada", "content": f"after {round_number}"}
            ).json()
            assert later["time"] > times[-1]
            acknowledged[later["content"]] = later["memory_id"]
            sent.add(later["content"])
            server.kill()
