"""Organizations whose memories live in an Arc behind HTTP."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from arc_double import ArcDouble
from e2e.client_walk import Recorder, fail, public_methods, walk
from e2e.processes import Deployment, Server, Tenant, eventually
from memtrace import AsyncMemtrace, Memtrace

numbers = itertools.count()

# Memories go to Arc at once, and leave the journal as soon as they were seen there.
HASTY = {
    "MEMTRACE_ARC_WRITE_FLUSH_INTERVAL_MS": "0",
    "MEMTRACE_JOURNAL_SETTLE_SECONDS": "0",
    "MEMTRACE_ARC_QUERY_TIMEOUT": "2",
    "MEMTRACE_ARC_CONNECT_TIMEOUT": "1",
}


@pytest.fixture(scope="module")
def arc() -> Iterator[ArcDouble]:
    """Return an Arc that shows what it was sent at once."""
    with ArcDouble(max_buffer_age_ms=0) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Return a deployment that confirms at once."""
    return Deployment(tmp_path_factory.mktemp("hasty"), **HASTY)


@pytest.fixture(scope="module")
def hasty_server(hasty: Deployment) -> Iterator[Server]:
    """Return its server."""
    with hasty.serve() as running:
        yield running


def bound_to(arc: ArcDouble, deployment: Deployment, *, key: str | None = None) -> Tenant:
    """Return a fresh organization with a database of its own in an Arc."""
    tenant = deployment.tenant(bound=False)
    deployment.done(
        "org", "add-arc", tenant.org_id, "--url", arc.url, "--api-key", "-",
        "--database", f"db{next(numbers)}", stdin=(key or arc.write_token) + "\n",
    )  # fmt: skip
    return tenant


@pytest.mark.parametrize("kind", [Memtrace, AsyncMemtrace])
def test_every_method_of_the_published_client_works_over_arc(
    kind: type[Memtrace | AsyncMemtrace], arc: ArcDouble, hasty: Deployment, hasty_server: Server
) -> None:
    """The walk that passes on the embedded store passes on Arc, too."""
    tenant = bound_to(arc, hasty)
    client = Recorder(kind(hasty_server.url, tenant.key))
    asyncio.run(walk(client, tenant.org_id))
    assert client.called == public_methods(kind)


def test_the_published_client_tells_errors_apart_over_arc(
    arc: ArcDouble, hasty: Deployment, hasty_server: Server
) -> None:
    """Conflicts, unknown things and bad input are the same errors on Arc."""
    tenant = bound_to(arc, hasty)
    with Memtrace(hasty_server.url, tenant.key) as client:
        asyncio.run(fail(Recorder(client)))


@pytest.mark.parametrize("count", [16, pytest.param(40, marks=pytest.mark.slow)])
def test_a_memory_is_seen_exactly_once_on_its_way_from_the_journal_to_arc(
    arc: ArcDouble, hasty: Deployment, hasty_server: Server, count: int
) -> None:
    """Whoever reads while memories are written, delivered and confirmed sees and counts each of them once."""
    tenant = bound_to(arc, hasty)
    with hasty_server.client(tenant) as api:
        for number in range(count):
            stored = api.post("/api/v1/memories", json={"agent_id": "a", "content": f"number {number}"}).json()
            page = api.get("/api/v1/memories", params={"limit": 1000}).json()
            contents = [memory["content"] for memory in page["memories"]]
            assert contents == [f"number {one}" for one in range(number, -1, -1)]
            assert api.get("/api/v1/agents/a/stats").json()["memory_count"] == number + 1
            assert api.get(f"/api/v1/memories/{stored['memory_id']}").json() == stored
    rows = eventually(lambda: _rows(arc, tenant, count), what="all rows in Arc")
    assert sorted(row["content"] for row in rows) == sorted(f"number {one}" for one in range(count))


def _rows(arc: ArcDouble, tenant: Tenant, count: int) -> list[dict[str, object]] | None:
    found = [
        row
        for database in (path.name for path in Path(arc.data).iterdir())
        for row in arc.rows(database, "events")
        if row["org_id"] == tenant.org_id
    ]
    return found if len({row["memory_id"] for row in found}) >= count else None


@pytest.fixture
def own_arc() -> Iterator[ArcDouble]:
    """Return an Arc for one test, which may break it."""
    with ArcDouble(max_buffer_age_ms=0) as running:
        yield running


def test_writes_go_on_and_reads_say_so_while_arc_is_away(
    own_arc: ArcDouble, hasty: Deployment, hasty_server: Server
) -> None:
    """An Arc that is down costs its org the reads (503 with Retry-After), no write and no memory."""
    tenant = bound_to(own_arc, hasty)
    with hasty_server.client(tenant) as api:
        assert api.post("/api/v1/memories", json={"agent_id": "a", "content": "before"}).status_code == 201
        own_arc.faults.down = True
        assert api.post("/api/v1/memories", json={"agent_id": "a", "content": "during"}).status_code == 201
        answer = api.get("/api/v1/memories")
        assert (answer.status_code, answer.json()["code"]) == (503, "arc_unreachable")
        assert int(answer.headers["retry-after"]) > 0
        assert "arc instance" not in answer.json()["error"]
        stats = api.get("/api/v1/agents/a/stats")
        assert stats.status_code == 503
        own_arc.faults.down = False
        eventually(lambda: api.get("/api/v1/memories").status_code == 200, what="reads again")
        contents = [memory["content"] for memory in api.get("/api/v1/memories").json()["memories"]]
        assert contents == ["during", "before"]
    eventually(lambda: _rows(own_arc, tenant, 2), what="both rows in Arc")


def test_an_arc_that_does_not_answer_a_read_is_a_504(
    own_arc: ArcDouble, hasty: Deployment, hasty_server: Server
) -> None:
    """A read that Arc does not answer within `query_timeout` says that it timed out."""
    tenant = bound_to(own_arc, hasty)
    own_arc.faults.hang_queries = True
    try:
        with hasty_server.client(tenant) as api:
            answer = api.get("/api/v1/memories")
        assert (answer.status_code, answer.json()["code"]) == (504, "arc_timeout")
    finally:
        own_arc.faults.hang_queries = False


@pytest.mark.slow
def test_what_could_not_be_delivered_at_the_end_is_delivered_at_the_next_start(
    own_arc: ArcDouble, deployment: Deployment
) -> None:
    """A server that stops while Arc is away keeps the memories, and its successor delivers them."""
    deployment.environment.update(HASTY)
    tenant = bound_to(own_arc, deployment)
    own_arc.faults.down = True
    with deployment.serve() as server:
        with server.client(tenant) as api:
            stored = api.post("/api/v1/memories", json={"agent_id": "a", "content": "kept"}).json()
        assert server.stop(signal.SIGTERM) == 0
    own_arc.faults.down = False
    with deployment.serve() as server, server.client(tenant) as api:
        eventually(lambda: _rows(own_arc, tenant, 1), what="the row in Arc")
        assert api.get("/api/v1/memories").json()["memories"] == [stored]


def test_what_waits_when_the_server_is_told_to_stop_is_delivered_first(
    own_arc: ArcDouble, deployment: Deployment
) -> None:
    """A batch that still waits to fill goes out before the process ends."""
    deployment.environment["MEMTRACE_ARC_WRITE_FLUSH_INTERVAL_MS"] = "3600000"
    tenant = bound_to(own_arc, deployment)
    with deployment.serve() as server:
        with server.client(tenant) as api:
            api.post("/api/v1/memories", json={"agent_id": "a", "content": "waiting"})
        assert own_arc.writes == []
        assert server.stop(signal.SIGTERM) == 0
    assert [write.rows for write in own_arc.writes] == [1]


def test_health_and_ready_tell_of_a_key_that_arc_refuses(own_arc: ArcDouble, deployment: Deployment) -> None:
    """A revoked Arc key shows in both, a good one given by `set-arc` counts at once and delivers what waited."""
    deployment.environment.update(HASTY)
    tenant = bound_to(own_arc, deployment, key="no-such-token")
    with deployment.serve() as server, server.client(tenant) as api:
        assert api.post("/api/v1/memories", json={"agent_id": "a", "content": "waiting"}).status_code == 201
        assert api.get("/health").json()["arc"] == {tenant.org_id: False}
        assert api.get("/ready").status_code == 503
        deployment.done("org", "set-arc", tenant.org_id, "--api-key", "-", stdin=own_arc.write_token)
        eventually(lambda: api.get("/ready").status_code == 200, what="ready")
        assert [one["content"] for one in api.get("/api/v1/memories").json()["memories"]] == ["waiting"]
        eventually(lambda: _rows(own_arc, tenant, 1), what="the row in Arc")


def test_a_key_that_may_not_write_shows_in_health(own_arc: ArcDouble, deployment: Deployment) -> None:
    """An Arc that answers queries and refuses writes is not healthy for its org."""
    deployment.environment.update(HASTY)
    tenant = bound_to(own_arc, deployment, key=own_arc.read_token)
    with deployment.serve() as server, server.client(tenant) as api:
        api.post("/api/v1/memories", json={"agent_id": "a", "content": "waiting"})
        eventually(lambda: api.get("/health").json()["arc"] == {tenant.org_id: False}, what="unhealthy")
        assert [one["content"] for one in api.get("/api/v1/memories").json()["memories"]] == ["waiting"]


def test_check_arc_reaches_the_instance_with_its_key(arc: ArcDouble, own_arc: ArcDouble, hasty: Deployment) -> None:
    """A good binding is told with its latency, a bad one is an error in one line."""
    tenant = bound_to(arc, hasty)
    told = hasty.told("org", "check-arc", tenant.org_id)
    assert told["url"] == arc.url
    assert told["latency_ms"] > 0
    refused = bound_to(own_arc, hasty, key="no-such-token")
    ended = hasty.here("org", "check-arc", refused.org_id)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("memtrace: arc refuses the API key")
    assert "no-such-token" not in ended.stdout + ended.stderr


def test_add_arc_warns_of_an_instance_that_cannot_be_used(arc: ArcDouble, hasty: Deployment) -> None:
    """The binding is made all the same; `--no-check` does not even ask."""
    for flags, warned in (([], True), (["--no-check"], False)):
        org_id = hasty.org(bound=False)
        ended = hasty.here(
            "org", "add-arc", org_id, "--url", arc.url, "--api-key", "bad", "--database", "d", *flags
        )
        assert ended.returncode == 0
        assert ("cannot be used now" in ended.stderr) is warned
        assert hasty.told("org", "show-arc", org_id)["url"] == arc.url


@pytest.mark.slow
def test_a_full_journal_refuses_writes_until_arc_has_caught_up(own_arc: ArcDouble, deployment: Deployment) -> None:
    """At `max_bytes` a write is a 503 `journal_full` with Retry-After; nothing older goes, and it recovers."""
    deployment.environment.update(HASTY, MEMTRACE_JOURNAL_MAX_BYTES="1048576")
    tenant = bound_to(own_arc, deployment)
    own_arc.faults.down = True
    with deployment.serve() as server, server.client(tenant) as api:

        def post(number: int) -> httpx.Response:
            return api.post("/api/v1/memories", json={"agent_id": "a", "content": f"{number}" + "x" * 600_000})

        answers = [post(number) for number in range(4)]
        assert [answer.status_code for answer in answers] == [201, 201, 503, 503]
        assert answers[-1].json()["code"] == "journal_full"
        assert int(answers[-1].headers["retry-after"]) > 0
        own_arc.faults.down = False
        eventually(lambda: post(9).status_code == 201, what="room again")
        eventually(lambda: _rows(own_arc, tenant, 3), what="three rows in Arc")
        page = api.get("/api/v1/memories").json()["memories"]
        assert [memory["content"][0] for memory in page] == ["9", "1", "0"]
