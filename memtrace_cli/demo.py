"""`memtrace demo`: a short story of an agent, played through the HTTP API of a throw-away server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import uvloop

from memtrace_cli import output
from memtrace_cli.asgi import app_of
from memtrace_cli.dev import dev_setup
from memtrace_cli.listening import LOOPBACK, address_of, bound_socket
from memtrace_cli.logs import configure_logs
from memtrace_cli.server import Server
from memtrace_core.errors import MemtraceError
from memtrace_http import RequestLog

AGENT = "web_crawler"


def demo() -> int:
    """Play the story, and return the exit code."""
    log = configure_logs("error", "console")
    return uvloop.run(_demo(log))


async def _demo(log: RequestLog) -> int:
    bound = bound_socket(LOOPBACK, 0)
    started = asyncio.Event()
    async with dev_setup(0) as setup:
        server = Server(
            app_of(setup.services, setup.settings, log, setup.metrics), setup.settings.server, started.set
        )
        serving = asyncio.create_task(server.serve([bound]))
        try:
            await _first(started.wait(), serving)
            if not serving.done():
                headers = {"x-api-key": setup.api_key}
                async with aiohttp.ClientSession(address_of(bound), headers=headers) as session:
                    await _first(_story(_Api(session)), serving)
        finally:
            server.should_exit = True
            await serving
    return output.DONE


async def _first(work: Any, serving: asyncio.Task[None]) -> None:
    """Do the work, unless the server ends before it (Ctrl-C)."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task, serving}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        raise output.Aborted("the demo was interrupted")
    await task


class _Api:
    """The few calls of the story, each checked against the status it must have."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def post(self, path: str, body: Mapping[str, object], status: int = 201) -> dict[str, Any]:
        async with self._session.post(f"/api/v1{path}", json=body) as response:
            return await self._checked(response, status)

    async def get(self, path: str) -> dict[str, Any]:
        async with self._session.get(f"/api/v1{path}") as response:
            return await self._checked(response, 200)

    @staticmethod
    async def _checked(response: aiohttp.ClientResponse, status: int) -> dict[str, Any]:
        answer: dict[str, Any] = await response.json()
        if response.status != status:
            raise MemtraceError(f"the demo expected {status} and got {response.status}: {answer}")
        return answer


async def _story(api: _Api) -> None:
    _scene("An agent starts a session")
    session = await api.post("/sessions", {"agent_id": AGENT, "metadata": {"task": "find prices"}})
    session_id = session["id"]
    _tell(f"session {session_id}")

    _scene("It remembers what it does")
    crawled = {
        "agent_id": AGENT,
        "session_id": session_id,
        "event_type": "page_crawled",
        "content": "Crawled https://example.com — found 3 product pages",
        "tags": ["pricing", "example.com"],
        "importance": 0.7,
    }
    first = await api.post("/memories", crawled)
    _tell(f"stored   {first['content']}")
    stored = await api.post(
        "/memories",
        {"agent_id": AGENT, "session_id": session_id, "event_type": "api_call", "content": "Called the summarizer"},
    )
    _tell(f"stored   {stored['content']}")

    _scene("It decides, and says why")
    decision = await api.post(
        "/memories",
        {
            "agent_id": AGENT,
            "session_id": session_id,
            "memory_type": "decision",
            "event_type": "decision",
            "content": "Skip pagination — only 2 pages deep",
            "metadata": {"reasoning": "not worth it"},
        },
    )
    _tell(f"decided  {decision['content']}")

    _scene("Something goes wrong")
    error = await api.post(
        "/memories",
        {
            "agent_id": AGENT,
            "session_id": session_id,
            "event_type": "error",
            "content": "HTTP 429 from example.com: slow down",
        },
    )
    _tell(f"stored   {error['content']}")

    _scene("It forgets that it did the first step, and does it again")
    duplicate = await api.post("/memories", crawled, status=409)
    _tell(f"refused  {duplicate['error']}: kept as {duplicate['memory_id']}")

    _scene("What happened in the last 2 hours?")
    for memory in (await api.get(f"/memories?agent_id={AGENT}&since=2h"))["memories"]:
        _tell(f"{memory['time']}  {memory['event_type']:<12}  {memory['content']}")

    _scene("What do I know of EXAMPLE.COM that matters?")
    found = await api.post(
        "/search", {"content_contains": "EXAMPLE.COM", "tags": ["pricing"], "min_importance": 0.5}, status=200
    )
    for memory in found["results"]:
        _tell(f"found    {memory['content']}")

    _scene("The session as context for the next prompt")
    context = await api.post(f"/sessions/{session_id}/context", {"max_tokens": 500}, status=200)
    for line in context["context"].splitlines():
        _tell(line)

    _scene("Your turn")
    _tell("memtrace serve --dev     a server to try this on, with a key and a curl line to paste")


def _scene(title: str) -> None:
    output.say(f"\n# {title}")


def _tell(line: str) -> None:
    output.say(f"  {line}" if line else "")
