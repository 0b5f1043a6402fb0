"""`memtrace mcp` as AI agents use it: the official SDK's client, over stdio, over HTTP, and in this process."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import httpx2
import pytest
from e2e.processes import COMMAND, Deployment, Server, Tenant, eventually
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult
from memtrace import Memtrace

from memtrace_cli.mcp import command
from memtrace_cli.mcp.api import Api
from memtrace_cli.mcp.server import mcp_server
from memtrace_http.requests import MAX_BODY_BYTES

TOOLS = [
    "memtrace_remember",
    "memtrace_recall",
    "memtrace_search",
    "memtrace_decide",
    "memtrace_session_create",
    "memtrace_session_context",
    "memtrace_agent_register",
]


def text(result: CallToolResult) -> str:
    """Return what a model reads that only reads text."""
    (block,) = result.content
    assert block.type == "text"
    return block.text


async def told(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool that must succeed, and return its structured content."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text(result)
    found: dict[str, Any] = result.structured_content
    return found


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """Call a tool that must fail, and return what the model is told."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return text(result)


@asynccontextmanager
async def in_process(url: str, key: str | None) -> AsyncIterator[Client]:
    """Return a client of the tools in this process."""
    async with Api(url, key) as api, Client(mcp_server(api)) as client:
        yield client


def use(url: str, key: str | None, work: Callable[[Client], Awaitable[None]]) -> None:
    """Run some work with a client of the tools in this process."""

    async def scenario() -> None:
        async with in_process(url, key) as client:
            await work(client)

    asyncio.run(scenario())


def test_an_agent_works_with_all_tools_over_stdio(server: Server, tenant: Tenant) -> None:
    """A client that starts the command finds seven tools, and each does what its name says."""
    variables = {"MEMTRACE_URL": server.url, "MEMTRACE_API_KEY": tenant.key}
    parameters = StdioServerParameters(command=COMMAND[0], args=[*COMMAND[1:], "mcp"], env=variables)

    async def day() -> None:
        async with Client(stdio_client(parameters)) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
            agent = await told(client, "memtrace_agent_register", name="crawler", description="crawls")
            session = await told(client, "memtrace_session_create", agent_id="crawler", metadata={"goal": "prices"})
            own = {"agent_id": "crawler", "session_id": session["id"]}
            stored = await told(client, "memtrace_remember", content="saw 3 pages", tags=["shop"], **own)
            decided = await told(client, "memtrace_decide", decision="skip the rest", reasoning="too deep", **own)
            recalled = await told(client, "memtrace_recall", agent_id="crawler")
            found = await told(client, "memtrace_search", content_contains="PAGES", tags=["shop"])
            context = await client.call_tool("memtrace_session_context", {"session_id": session["id"]})
        assert agent["name"] == "crawler"
        assert session["metadata"] == {"goal": "prices"}
        assert [one["memory_id"] for one in recalled["memories"]] == [decided["memory_id"], stored["memory_id"]]
        assert [one["content"] for one in found["results"]] == ["saw 3 pages"]
        assert "saw 3 pages" in text(context)
        assert "skip the rest (reasoning: too deep)" in text(context)
        assert context.structured_content["context"] == text(context)

    asyncio.run(day())


def test_a_model_is_told_of_every_tool_and_argument(server: Server) -> None:
    """Each tool has title, description, hints, an object as output, and a description of every argument."""

    async def look(client: Client) -> None:
        for tool in (await client.list_tools()).tools:
            assert tool.title
            assert len(tool.description or "") > 100
            assert tool.annotations is not None
            writes = tool.name not in ("memtrace_recall", "memtrace_search", "memtrace_session_context")
            assert tool.annotations.read_only_hint is not writes
            assert tool.input_schema["additionalProperties"] is False
            assert all(one.get("description") for one in tool.input_schema["properties"].values())
            assert tool.output_schema is not None
            assert tool.output_schema["type"] == "object"
        assert "memtrace_recall" in (client.instructions or "")

    use(server.url, None, look)


def test_recall_looks_back_as_far_as_the_published_client(server: Server) -> None:
    """By default: the last 24 hours, the newest hundred first."""

    async def look(client: Client) -> None:
        recall = next(tool for tool in (await client.list_tools()).tools if tool.name == "memtrace_recall")
        defaults = {
            name: recall.input_schema["properties"][name]["default"] for name in ("since", "limit", "order")
        }
        assert defaults == {"since": "24h", "limit": 100, "order": "desc"}

    use(server.url, None, look)


def test_answers_are_those_of_the_published_client(server: Server, tenant: Tenant) -> None:
    """Recall, with its defaults, and decide give and store what the published client's methods do."""
    with Memtrace(server.url, tenant.key) as published:
        by_client = published.decide("ada", "stop", "enough")

        async def compare(client: Client) -> None:
            again = await told(client, "memtrace_decide", agent_id="ada", decision="stop", reasoning="enough")
            assert again["duplicate"] is True
            other = await told(client, "memtrace_decide", agent_id="ada", decision="go on", reasoning="not enough")
            recalled = await told(client, "memtrace_recall", agent_id="ada")
            page = published.recall("ada")
            assert [one["content"] for one in recalled["memories"]] == [one.content for one in page.memories]
            mine, theirs = page.memories
            assert other["memory_id"] == recalled["memories"][0]["memory_id"]
            assert again["memory_id"] == recalled["memories"][1]["memory_id"]
            assert (mine.memory_type, mine.event_type) == (theirs.memory_type, theirs.event_type)
            assert theirs.metadata == by_client.metadata
            assert mine.metadata == {"reasoning": "not enough"}

        use(server.url, tenant.key, compare)


def test_remembering_twice_is_no_error(server: Server, tenant: Tenant) -> None:
    """A duplicate is told as such, with the id of the memory that is kept, in both forms of the answer."""

    async def repeat(client: Client) -> None:
        first = await told(client, "memtrace_remember", agent_id="ada", content="once")
        second = await client.call_tool("memtrace_remember", {"agent_id": "ada", "content": "once"})
        assert first["duplicate"] is False
        assert first["content"] == "once"
        assert second.structured_content == {"memory_id": first["memory_id"], "duplicate": True}
        assert first["memory_id"] in text(second)

    use(server.url, tenant.key, repeat)


def test_pages_go_on_where_they_ended(server: Server, tenant: Tenant) -> None:
    """With `next_cursor` as cursor, recall and search give every memory once, in order."""

    async def leaf(client: Client) -> None:
        for number in range(5):
            await told(client, "memtrace_remember", agent_id="ada", content=f"memory {number}")
        for tool, field in (("memtrace_recall", "memories"), ("memtrace_search", "results")):
            given: dict[str, Any] = {"agent_id": "ada", "limit": 2, "order": "asc"}
            seen: list[str] = []
            more = True
            while more:
                page = await told(client, tool, **given)
                seen += [one["content"] for one in page[field]]
                more = page["has_more"]
                given["cursor"] = page.get("next_cursor")
            assert seen == [f"memory {number}" for number in range(5)]

    use(server.url, tenant.key, leaf)


def test_lists_objects_and_numbers_may_come_as_json_text(server: Server, tenant: Tenant) -> None:
    """Some clients send everything as text: what is no text by its type is read as JSON."""

    async def send(client: Client) -> None:
        stored = await told(
            client,
            "memtrace_remember",
            agent_id="ada",
            content='["stays text"]',
            tags='["a", "b"]',
            metadata='{"n": 1}',
            importance="0.5",
        )
        assert (stored["tags"], stored["metadata"], stored["importance"]) == (["a", "b"], {"n": 1}, 0.5)
        assert stored["content"] == '["stays text"]'
        page = await told(client, "memtrace_recall", agent_id="ada", limit="1", tags="[]")
        assert page["count"] == 1

    use(server.url, tenant.key, send)


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("memtrace_remember", {"agent_id": "ada"}, "content is required"),
        ("memtrace_remember", {"agent_id": "ada", "content": "x", "tag": "y"}, "unknown field 'tag'"),
        ("memtrace_remember", {"agent_id": 7, "content": "x"}, "agent_id: expected string"),
        ("memtrace_remember", {"agent_id": "ada", "content": "x", "tags": "a,b"}, "tags: expected array"),
        ("memtrace_remember", {"agent_id": "ada", "content": "x", "metadata": '{"a": "\\ud800"}'}, "metadata: "),
        ("memtrace_remember", {"agent_id": "7", "content": "x"}, "agent_id must be a letter"),
        (
            "memtrace_remember",
            {"agent_id": "ada", "content": "x", "memory_type": "dream"},
            "memory_type must be one",
        ),
        ("memtrace_recall", {"agent_id": "ada", "limit": 1001}, "limit must be from 1 to 1,000"),
        ("memtrace_recall", {"agent_id": "ada", "since": "soon"}, "since"),
        ("memtrace_search", {"min_importance": 2}, "min_importance"),
        ("memtrace_session_context", {"session_id": "a/../b"}, "session_id must be a letter"),
        ("memtrace_session_context", {"session_id": "sess_a", "max_tokens": 1}, "max_tokens must be from 32"),
        ("memtrace_forget", {}, "there are memtrace_remember, memtrace_recall"),
    ],
)
def test_a_bad_argument_is_named(
    tool: str, arguments: dict[str, Any], said: str, server: Server, lasting_key: str
) -> None:
    """The model reads which argument breaks which rule, and that it is to correct it."""

    async def fail(client: Client) -> None:
        complaint = await refused(client, tool, **arguments)
        assert said in complaint
        assert tool == "memtrace_forget" or "Correct the arguments" in complaint

    use(server.url, lasting_key, fail)


def test_a_session_that_nobody_knows_is_told_from_one_without_news(server: Server, lasting_key: str) -> None:
    """The context of a wrong id is empty, and the model is told that it may be wrong."""

    async def look(client: Client) -> None:
        context = await client.call_tool("memtrace_session_context", {"session_id": "sess_of_nobody"})
        assert context.structured_content["memory_count"] == 0
        assert "not the id that memtrace_session_create gave" in text(context)

    use(server.url, lasting_key, look)


def test_an_agent_that_is_registered_already_is_to_be_used(server: Server, tenant: Tenant) -> None:
    """Registering a name twice tells the model to go on with the name."""

    async def fail(client: Client) -> None:
        await told(client, "memtrace_agent_register", name="ada")
        assert "use this name as agent_id" in await refused(client, "memtrace_agent_register", name="ada")

    use(server.url, tenant.key, fail)


def test_what_only_a_person_can_mend_is_said_so(shared: Deployment, server: Server) -> None:
    """A wrong, missing or too weak key and an org without Arc: the model shall tell the user what to do."""
    org_id = shared.org("reader")
    reader = shared.key(org_id, "read")
    unbound = shared.tenant("unbound", bound=False)
    cases = [
        ("mtk_wrong", "invalid API key", "memtrace key create"),
        (None, "missing API key", "MEMTRACE_API_KEY"),
        (reader.key, "lacks the write permission", "Do not try again"),
        (unbound.key, "no arc instance", f"memtrace org add-arc {unbound.org_id}"),
    ]
    for key, what, cure in cases:

        async def fail(client: Client, key: str | None = key, what: str = what, cure: str = cure) -> None:
            complaint = await refused(client, "memtrace_remember", agent_id="ada", content="x")
            assert what in complaint
            assert cure in complaint
            assert "Tell the user" in complaint
            assert key is None or key not in complaint

        use(server.url, key, fail)


@pytest.fixture(scope="module")
def lasting_key(shared: Deployment, server: Server) -> str:
    """Return a key for tests that store nothing."""
    return shared.tenant("lasting").key


class Http:
    """A running `memtrace mcp --http`: its process, its URL and what it logs."""

    def __init__(self, deployment: Deployment, variables: dict[str, str | None]) -> None:
        self.log = deployment.folder / "mcp.stderr"
        with self.log.open("wb") as err:
            self.process = subprocess.Popen(
                [*COMMAND, "mcp", "--http", "--port", "0"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
                cwd=deployment.folder,
                env=deployment.variables(variables),
            )
        self.url = eventually(self._url, what="memtrace mcp listens")

    def _url(self) -> str | None:
        assert self.process.poll() is None, self.log.read_text()
        complete = self.log.read_text().rpartition("\n")[0]
        found = [word for word in complete.split() if word.startswith("url=")]
        return found[0].removeprefix("url=") if found else None


@pytest.fixture(scope="module")
def lent(shared: Deployment, server: Server) -> Tenant:
    """Return the tenant whose key `memtrace mcp --http` holds."""
    return shared.tenant("lent")


@pytest.fixture(scope="module")
def over_http(shared: Deployment, server: Server, lent: Tenant) -> Iterator[Http]:
    """Return a server of the tools over HTTP."""
    running = Http(shared, {"MEMTRACE_URL": server.url, "MEMTRACE_API_KEY": lent.key, "MEMTRACE_MASTER_KEY": None})
    yield running
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(20) == 0


def test_a_client_over_http_acts_with_the_key_it_brings(over_http: Http, lent: Tenant, tenant: Tenant) -> None:
    """On the loopback one without a key acts with the environment's; each sees its own organization only."""

    async def visit() -> None:
        async with Client(over_http.url) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
            mine = await told(client, "memtrace_remember", agent_id="ada", content="of the lent key")
            assert mine["org_id"] == lent.org_id
        for header in ({"x-api-key": tenant.key}, {"authorization": f"Bearer {tenant.key}"}):
            async with (
                httpx2.AsyncClient(headers=header, trust_env=False) as http,
                Client(streamable_http_client(over_http.url, http_client=http)) as client,
            ):
                seen = await told(client, "memtrace_search")
                assert seen["results"] == []

    asyncio.run(visit())


def test_requests_over_http_leave_no_tale_of_sessions_in_the_log(over_http: Http) -> None:
    """Where every request stands alone, the log says that it listens, and no more as long as nothing is wrong."""

    async def visit() -> None:
        async with Client(over_http.url) as client:
            await client.list_tools()

    asyncio.run(visit())
    lines = [line for line in over_http.log.read_text().splitlines() if " INF " in line]
    assert len(lines) == 1
    assert "memtrace mcp is listening" in lines[0]


def test_an_older_client_is_served_too(over_http: Http) -> None:
    """A client of the protocol with a handshake can call tools."""

    async def visit() -> None:
        async with Client(over_http.url, mode="legacy") as client:
            assert (await told(client, "memtrace_search", content_contains="nowhere"))["count"] == 0

    asyncio.run(visit())


def test_a_web_page_cannot_borrow_the_key(over_http: Http) -> None:
    """Requests for another host name, or from a page of another origin, are refused."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accept = {"accept": "application/json, text/event-stream"}
    for header in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
        answer = httpx.post(over_http.url, json=body, headers={**accept, **header}, trust_env=False)
        assert answer.status_code in (403, 421), answer.text


def test_a_body_over_http_that_is_too_large_is_answered(over_http: Http) -> None:
    """A client that sends all before it listens reads why its request was refused."""
    answer = httpx.post(over_http.url, content=bytes(MAX_BODY_BYTES + 1), trust_env=False, timeout=30)
    assert answer.status_code == 413
    assert answer.json()["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ([], {"MEMTRACE_API_KEY": ""}, "MEMTRACE_API_KEY is not set"),
        ([], {"MEMTRACE_API_KEY": "mtk_two words"}, "MEMTRACE_API_KEY is no API key"),
        ([], {"MEMTRACE_URL": "localhost:9100"}, "MEMTRACE_URL must be the URL"),
        ([], {"MEMTRACE_URL": "http://user:mtk_secret@localhost"}, "MEMTRACE_URL must be a plain URL"),
        (["--http", "--host", "0.0.0.0"], {}, "whoever reaches 0.0.0.0 could act with it"),
        (["--port", "1"], {}, "--host and --port go with --http"),
        (["--http", "--port", "65536"], {}, "--port. Must be <= 65535"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(
    arguments: list[str], variables: dict[str, str], said: str, deployment: Deployment
) -> None:
    """The command ends with one line that names the variable or the option, and never shows a secret."""
    deployment.environment |= {"MEMTRACE_API_KEY": "mtk_of_the_environment", **variables}
    ended = deployment.here("mcp", *arguments)
    assert ended.returncode == (2 if "--port" in arguments else 1)
    assert said in ended.stderr.splitlines()[0]
    assert all(line.startswith("  hint: ") for line in ended.stderr.splitlines()[1:])
    assert "mtk_of" not in ended.stderr
    assert "mtk_secret" not in ended.stderr
    assert "two words" not in ended.stderr


def test_without_the_extra_the_command_says_how_to_install_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the SDK is missing, one line says so and the next how to get it."""
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    ended = deployment.here("mcp")
    assert ended.returncode == 1
    assert "pip install 'memtrace[mcp]'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 2
