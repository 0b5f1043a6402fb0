"""Moving in from the Go service: its database, its keys and its memories, with `memtrace serve` alone."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import go_service
import httpx
import pytest
from arc_double import ArcDouble
from damage import execute
from e2e.processes import Deployment, Server, eventually, new_master_key
from go_service import ACME_PROD, ACME_READER, ADMIN, ARC_KEYS, CRAWLER, DEFAULT_ORG

from memtrace_core.dedup import generated_key
from memtrace_core.timewindow import to_us

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


def moving(folder: Path, *changes: str) -> Deployment:
    """Return a deployment over a copy of the Go service's database, with its master key."""
    deployment = Deployment(folder, MEMTRACE_MASTER_KEY=go_service.MASTER_KEY, MEMTRACE_SERVER_PORT="0")
    go_service.database(deployment.data, *changes)
    return deployment


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def arc() -> Iterator[ArcDouble]:
    """Return the Arc of `org_default`, with memories that the Go service wrote."""
    with ArcDouble(tokens={ARC_KEYS[DEFAULT_ORG]: "read write"}, max_buffer_age_ms=0) as running:
        rows = [
            go_service.arc_row(
                to_us(NOW - 3 * HOUR), "Crawled Example.com", tags_csv="pricing", session_id="sess_a"
            ),
            go_service.arc_row(
                to_us(NOW - 2 * HOUR), "Skip it", memory_type="decision", session_id="sess_a",
                metadata_json='{"reasoning":"too deep"}', importance=0.5,
            ),
            go_service.arc_row(
                to_us(NOW - HOUR), "seen", dedup_key=generated_key("web_crawler", "general", "seen")
            ),
            go_service.arc_row(to_us(NOW - HOUR), "another tenant's", org_id="org_else"),
        ]  # fmt: skip
        running.store("memory", "events", {name: [row[name] for row in rows] for name in rows[0]})
        yield running


@pytest.fixture(scope="module")
def moved(arc: ArcDouble, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Return a deployment whose Go database is bound to that Arc."""
    folder = tmp_path_factory.mktemp("moved")
    return moving(folder, f"UPDATE arc_instances SET url = '{arc.url}' WHERE org_id = '{DEFAULT_ORG}'")


@pytest.fixture(scope="module")
def server(moved: Deployment) -> Iterator[Server]:
    """Return the server that has taken it over."""
    with moved.serve() as running:
        yield running


@pytest.fixture(scope="module")
def api(server: Server) -> Iterator[httpx.Client]:
    """Return a client that still has the key that the Go service gave it."""
    with server.client() as client:
        client.headers["x-api-key"] = ADMIN
        yield client


def test_the_log_says_what_was_taken_over_and_where_the_backup_is(moved: Deployment, server: Server) -> None:
    """Nothing is printed as on a first run; a line has the figures, a warning the file with old secrets."""
    assert server.out == ""
    (done,) = server.events("took over the database of the Go service")
    assert (done["orgs"], done["arc_instances"], done["api_keys"]) == (2, 2, 3)
    assert (done["agents"], done["sessions"]) == (2, 2)
    (kept,) = [event for event in server.events() if "backup" in event]
    assert kept["level"] == "warn"
    assert Path(kept["backup"]).samefile(moved.data / "memtrace.db.go-backup")


def test_old_keys_keep_their_permissions_and_their_org(server: Server) -> None:
    """Who could read can read, who could write can write, and nobody sees another tenant."""

    def answers(key: str) -> tuple[int, list[str]]:
        with server.client() as client:
            client.headers["x-api-key"] = key
            made = client.post("/api/v1/sessions", json={"agent_id": "ada"}).status_code
            return made, [agent["id"] for agent in client.get("/api/v1/agents").json()["agents"]]

    assert answers(ACME_READER) == (403, ["agent_ba00b7531815c72a10637ab7"])
    assert answers(ACME_PROD) == (201, ["agent_ba00b7531815c72a10637ab7"])
    assert answers(ADMIN) == (201, [CRAWLER])


def test_memories_that_go_wrote_are_listed_searched_and_recalled(api: httpx.Client) -> None:
    """They come with ids of their own, in lists, searches, contexts and counts, and no other tenant's with them."""
    listed = api.get("/api/v1/memories", params={"agent_id": "web_crawler", "since": "5h"}).json()["memories"]
    assert [memory["content"] for memory in listed] == ["seen", "Skip it", "Crawled Example.com"]
    assert listed[1]["metadata"] == {"reasoning": "too deep"}
    found = api.post("/api/v1/search", json={"content_contains": "EXAMPLE", "tags": ["pricing"]}).json()["results"]
    assert found == listed[2:]
    assert api.get(f"/api/v1/memories/{found[0]['memory_id']}").json() == found[0]
    context = api.post("/api/v1/sessions/sess_a/context").json()
    assert context["memory_count"] == 2
    assert "Skip it (reasoning: too deep)" in context["context"]
    assert api.get("/api/v1/agents/web_crawler/stats").json()["memory_count"] == 3
    everything = api.get("/api/v1/memories", params={"since": "5h"}).json()
    assert len(everything["memories"]) == 3


def test_what_go_stored_within_the_window_is_a_duplicate(moved: Deployment, api: httpx.Client) -> None:
    """A memory that the Go service took an hour ago is not stored again, and the answer names that one."""
    (seen,) = api.post("/api/v1/search", json={"content_contains": "seen"}).json()["results"]
    journal = moved.data / "journal.db"
    # The first use lets the claims be read back in the background; until then one more would be stored.
    eventually(lambda: go_service.rows(journal)["loaded_claims"], what="the claims are loaded")
    answer = api.post("/api/v1/memories", json={"agent_id": "web_crawler", "content": "seen"})
    assert answer.status_code == 409
    assert answer.json()["memory_id"] == seen["memory_id"]


@pytest.mark.slow
def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    """The database is ours then: nothing more is logged of it, and there is one backup."""
    deployment = moving(tmp_path)
    with deployment.serve() as server:
        assert server.stop() == 0
    before = contents(deployment.data)
    with deployment.serve() as server:
        assert server.events("took over the database of the Go service") == []
        assert server.out == ""
        assert server.stop() == 0
    assert contents(deployment.data)["memtrace.db.go-backup"] == before["memtrace.db.go-backup"]
    assert contents(deployment.data).keys() == before.keys()


@pytest.mark.parametrize(
    "command",
    [
        ("org", "list"),
        ("org", "create", "acme"),
        ("key", "list", "--org", DEFAULT_ORG),
        ("key", "revoke", "key_000000000001"),
        ("vault", "status"),
        ("journal", "status"),
        ("backup", "here.tar"),
    ],
    ids=" ".join,
)
def test_a_command_before_the_first_start_says_what_to_do(tmp_path: Path, command: tuple[str, ...]) -> None:
    """It names the database for what it is, points to `memtrace serve`, and touches nothing."""
    deployment = moving(tmp_path)
    before = contents(deployment.data)
    ended = deployment.here(*command)
    assert (ended.returncode, ended.stdout) == (1, "")
    said, hint = ended.stderr.splitlines()
    assert said == "memtrace: data/memtrace.db is a database of the Go service; it was left untouched"
    assert "`memtrace serve` takes its database over" in hint
    assert contents(deployment.data) == before


def test_the_doctor_rehearses_the_takeover(tmp_path: Path) -> None:
    """Before the first start it tells what would come of it, the wrong master key included, and touches nothing."""
    deployment = moving(tmp_path, "UPDATE sessions SET status = 'paused' WHERE closed_at IS NULL")
    before = contents(deployment.data)

    def told(code: int) -> list[tuple[str, str]]:
        ended = deployment.here("doctor", "--json")
        assert ended.returncode == code
        return [
            (one["verdict"], one["detail"])
            for one in json.loads(ended.stdout)["checks"]
            if one["check"] in ("metadata database", "master key")
        ]

    path = "data/memtrace.db is a database of the Go service"
    counts = "2 orgs, 2 arc instances, 3 api keys, 2 agents, 2 sessions"
    assert told(0) == [
        ("warning", f"{path}, and can be taken over: {counts}"),
        ("warning", "when it is taken over: 1 sessions of status 'paused' are closed now"),
        ("ok", "opens its Arc keys"),
    ]
    deployment.environment["MEMTRACE_MASTER_KEY"] = new_master_key()
    ((verdict, detail),) = told(1)
    assert (verdict, detail.startswith(f"{path}, sealed with another master key")) == ("fault", True)
    assert contents(deployment.data) == before
    assert list((tmp_path / "tmp").iterdir()) == []
    execute(deployment.data / "memtrace.db", "PRAGMA user_version = 9")
    ((verdict, detail),) = told(1)
    assert (verdict, "another version of the Go service than 0.2.0" in detail) == ("fault", True)


def test_a_server_with_another_master_key_changes_nothing(tmp_path: Path) -> None:
    """It ends with code 1 and two lines that say which key is wanted; not even a journal is begun."""
    deployment = moving(tmp_path)
    before = contents(deployment.data)
    ended = deployment.memtrace("serve", variables={"MEMTRACE_MASTER_KEY": new_master_key()})
    assert ended.returncode == 1
    said, hint = ended.stderr.splitlines()
    assert "sealed with another master key than the one given; it was left untouched" in said
    assert "the key that the Go service had" in hint
    assert contents(deployment.data) == before


@pytest.mark.slow
def test_a_server_beside_a_running_go_service_does_not_start(tmp_path: Path) -> None:
    """It ends with code 1 and names whom to stop; the service goes on with its database."""
    deployment = moving(tmp_path)
    service = sqlite3.connect(deployment.data / "memtrace.db")
    assert service.execute("SELECT count(*) FROM organizations").fetchall() == [(2,)]
    ended = deployment.memtrace("serve")
    assert ended.returncode == 1
    assert "is a database of the Go service, and in use; it was left untouched" in ended.stderr
    service.execute("UPDATE organizations SET name = 'still at work'")
    service.commit()
    service.close()
    with deployment.serve() as server:
        assert server.stop() == 0
    assert {org["name"] for org in deployment.told("org", "list")} == {"still at work"}


@pytest.mark.slow
def test_the_way_back_is_the_backup(tmp_path: Path) -> None:
    """Put in the place of the database it is the Go service's again, and can be taken over another time."""
    deployment = moving(tmp_path)
    go_service_rows = go_service.rows(deployment.data / "memtrace.db")
    with deployment.serve() as server:
        assert server.stop() == 0
    database = deployment.data / "memtrace.db"
    shutil.copyfile(deployment.data / "memtrace.db.go-backup", database)
    assert go_service.rows(database) == go_service_rows
    with deployment.serve() as server, server.client() as client:
        assert client.get("/api/v1/agents", headers={"x-api-key": ADMIN}).status_code == 200


@pytest.mark.slow
def test_servers_that_start_at_once_take_over_once(tmp_path: Path) -> None:
    """One of them does it, with two workers each; all of them serve the old keys."""
    deployment = moving(tmp_path)
    others = [Deployment(tmp_path / name) for name in ("one", "two") if (tmp_path / name).mkdir() is None]
    servers = []
    variables = {
        "MEMTRACE_MASTER_KEY": go_service.MASTER_KEY,
        "MEMTRACE_AUTH_DB_PATH": str(deployment.data / "memtrace.db"),
        "MEMTRACE_SERVER_WORKERS": "2",
    }
    try:
        servers = [other.start(variables=variables) for other in others]
        for server in servers:
            server.wait_until_listening()
            with server.client() as client:
                for key in (ADMIN, ACME_PROD, ACME_READER):
                    assert client.get("/api/v1/agents", headers={"x-api-key": key}).status_code == 200
        told = [server.events("took over the database of the Go service") for server in servers]
        assert sum(map(len, told)) == 1
        for server in servers:
            assert server.stop() == 0
    finally:
        for server in servers:
            server.kill()
    assert [file.name for file in deployment.data.glob("*go-backup*")] == ["memtrace.db.go-backup"]
