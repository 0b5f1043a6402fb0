"""How the tools of `memtrace mcp` ask the HTTP API: against servers that answer anything, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from builders import run

from memtrace_cli.mcp.api import Api, Conflict, Duplicate, ToolFailure
from memtrace_core.model import Session

KEY = "mtk_the_key_of_the_tools"


@asynccontextmanager
async def answering(handler: Callable[..., object]) -> AsyncIterator[str]:
    """Run a server that answers everything alike, and give its URL."""
    server = web.Server(handler)
    runner = web.ServerRunner(server, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def start_session(url: str, seconds: float = 40) -> Session:
    """Ask for something that writes."""
    async with Api(url, KEY, seconds) as api:
        return await api.post("/api/v1/sessions", {"agent_id": "ada", "metadata": None}, Session, writes=True)


async def failure(url: str, seconds: float = 40) -> str:
    """Ask for something, which must fail, and return what the model is told."""
    with pytest.raises(ToolFailure) as caught:
        await start_session(url, seconds)
    assert KEY not in str(caught.value)
    return str(caught.value)


def told(status: int, body: object, headers: dict[str, str] | None = None) -> str:
    """Return what the model is told when a server answers so."""

    async def handler(_: web.BaseRequest) -> web.Response:
        return web.json_response(body, status=status, headers=headers)

    async def scenario() -> str:
        async with answering(handler) as url:
            return await failure(url)

    return run(scenario())


@pytest.mark.parametrize("status", [429, 503, 504])
def test_what_passes_is_to_be_waited_for(status: int) -> None:
    """Too many requests, a full journal, an Arc that is away: wait so many seconds, and call again."""
    said = told(status, {"error": "not now", "code": "journal_full"}, {"retry-after": "7"})
    assert said == "not now. This passes: wait 7 seconds, and call the tool again with the same arguments."


def test_a_fault_of_the_server_is_told_with_its_request() -> None:
    """A 500 names the request, for the operator's log, and is not worth repeating at once."""
    said = told(500, {"error": "internal error", "code": "internal", "request_id": "r-1"})
    assert "fault of the server" in said
    assert "(request r-1)" in said


@pytest.mark.parametrize(("status", "body"), [(200, {"hello": 1}), (201, []), (404, ["?"]), (502, "<html>")])
def test_another_kind_of_server_is_recognized(status: int, body: object) -> None:
    """What does not speak the API is named as such, and the variable that leads there."""
    said = told(status, body)
    assert "is not a Memtrace server" in said
    assert "MEMTRACE_URL" in said


def test_a_redirect_does_not_take_the_key_along() -> None:
    """A server that sends the request elsewhere is not followed."""
    visited: list[str] = []

    async def elsewhere(request: web.BaseRequest) -> web.Response:
        visited.append(request.path)
        return web.json_response({"error": "moved"}, status=307, headers={"location": "/elsewhere"})

    async def scenario() -> None:
        async with answering(elsewhere) as url:
            await failure(url)

    run(scenario())
    assert visited == ["/api/v1/sessions"]


def test_conflicts_are_told_apart() -> None:
    """A duplicate memory has the id of the one that is kept; any other conflict is a conflict."""

    async def handler(_: web.BaseRequest) -> web.Response:
        return web.json_response(bodies.pop(), status=409)

    async def scenario() -> None:
        async with answering(handler) as url:
            with pytest.raises(Duplicate) as caught:
                await start_session(url)
            assert caught.value.memory_id == "mem_1"
            with pytest.raises(Conflict, match="taken"):
                await start_session(url)

    bodies = [{"error": "taken"}, {"error": "duplicate memory", "memory_id": "mem_1"}]
    run(scenario())


def test_a_server_that_does_not_answer_leaves_it_open_what_happened() -> None:
    """After a request that got no answer the model repeats the very same call, which stores nothing twice."""

    async def scenario() -> str:
        over = asyncio.Event()

        async def silent(_: web.BaseRequest) -> web.Response:
            await over.wait()
            return web.Response()

        async with answering(silent) as url:
            try:
                return await failure(url, seconds=0.1)
            finally:
                over.set()

    assert "very same arguments" in run(scenario())


def test_a_server_that_is_not_there_did_nothing() -> None:
    """When nothing listens the model knows that nothing was done, and where it should listen."""

    async def scenario() -> tuple[str, str]:
        async with answering(lambda _: web.Response()) as url:
            pass
        return url, await failure(url)

    url, said = run(scenario())
    assert "nothing was done" in said
    assert url in said
