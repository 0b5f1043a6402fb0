"""Several nodes on one PostgreSQL: what they share, what each has for itself, and what happens without it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import go_service
import httpx
import pytest
from arc_double import ArcDouble
from e2e.processes import Deployment, Server, Tenant, eventually
from e2e.test_arc import HASTY, bound_to
from postgres_server import PostgresServer, require, shared_server

MEMORY = {"agent_id": "ada", "content": "seen everywhere"}


def nodes(folder: Path, url: str, count: int = 2, **variables: str) -> list[Deployment]:
    """Return deployments that share a database and a master key, each with a journal of its own."""
    found: list[Deployment] = []
    for number in range(count):
        (home := folder / f"node-{number}").mkdir()
        key = {"MEMTRACE_MASTER_KEY": found[0].environment["MEMTRACE_MASTER_KEY"]} if found else {}
        found.append(Deployment(home, MEMTRACE_AUTH_DB_URL=url, **variables, **key))
    return found


@pytest.fixture
def url() -> str:
    """Return the URL of an empty database, with a password that is looked for in all output."""
    return shared_server().new_database()


@pytest.fixture
def arc() -> Iterator[ArcDouble]:
    """Return an Arc that shows what it was sent at once."""
    with ArcDouble(max_buffer_age_ms=0) as running:
        yield running


def status(server: Server, tenant: Tenant) -> int:
    """Ask for the memories of a tenant."""
    with server.client(tenant) as client:
        return client.get("/api/v1/memories").status_code


@pytest.mark.slow
def test_what_is_made_on_one_node_counts_on_the_other_at_once(tmp_path: Path, url: str, arc: ArcDouble) -> None:
    """An organization, its key, an agent, a confirmed memory, and the end of the key; files hold none of it."""
    here, there = nodes(tmp_path, url, **HASTY)
    with here.serve() as first, there.serve() as second:
        tenant = bound_to(arc, here)
        with first.client(tenant) as writing, second.client(tenant) as reading:
            memory = writing.post("/api/v1/memories", json=MEMORY).json()
            agent = writing.post("/api/v1/agents", json={"name": "ada"}).json()
            assert reading.get("/api/v1/agents/ada").json()["id"] == agent["id"]
            found = eventually(lambda: reading.get("/api/v1/memories").json()["memories"])
            assert [one["memory_id"] for one in found] == [memory["memory_id"]]
            there.done("key", "revoke", tenant.key_id)
            answers = [client.get("/api/v1/memories") for client in (writing, reading)]
            assert [answer.status_code for answer in answers] == [401, 401]
    assert not [file for node in (here, there) for file in node.data.iterdir() if "journal.db" not in file.name]


@pytest.mark.slow
def test_a_key_ends_on_the_other_node_with_the_command_that_revokes_it(tmp_path: Path, url: str) -> None:
    """The very first request that comes after the command has returned is refused, each of many times."""
    here, there = nodes(tmp_path, url)
    with there.serve() as server:
        org_id = here.org()
        for number in range(10):
            tenant = here.key(org_id, name=f"key {number}")
            with server.client(tenant) as client:
                assert client.get("/api/v1/agents").status_code == 200
                here.done("key", "revoke", tenant.key_id)
                assert client.get("/api/v1/agents").status_code == 401


@pytest.mark.slow
def test_nodes_that_start_together_show_one_first_key(tmp_path: Path, url: str) -> None:
    """On an empty database one of them makes and prints the key, which works on both."""
    both = nodes(tmp_path, url)
    started = [node.start() for node in both]
    try:
        for server in started:
            server.wait_until_listening()
        shown = [
            line.removeprefix("API Key: ") for one in started for line in one.out.splitlines() if "mtk_" in line
        ]
        assert len(shown) == 1
        for server in started:
            assert (
                status(server, Tenant("org_default", shown[0], "")) == 503
            )  # bound to no Arc yet: the key is good
    finally:
        for server in started:
            server.kill()


@pytest.mark.slow
def test_workers_of_a_node_share_the_database_too(tmp_path: Path, url: str) -> None:
    """With several processes each hears of a revoked key, and none has the password in its environment."""
    here, there = nodes(tmp_path, url)
    with here.serve(variables={"MEMTRACE_SERVER_WORKERS": "2"}) as server:
        tenant = there.tenant(bound=False)
        assert {status(server, tenant) for _ in range(8)} == {503}
        there.done("key", "revoke", tenant.key_id)
        assert {status(server, tenant) for _ in range(8)} == {401}


@pytest.mark.slow
def test_while_the_database_is_away_requests_are_refused_and_deliveries_go_on(
    tmp_path: Path, arc: ArcDouble
) -> None:
    """All is 503 but `/health`; what was accepted reaches Arc; and when the database is back all works again."""
    database = PostgresServer(require())
    try:
        (node,) = nodes(tmp_path, database.new_database(), 1, **HASTY)
        with node.serve() as server:
            tenant = bound_to(arc, node)
            with server.client(tenant) as client:
                arc.stop()
                kept = client.post("/api/v1/memories", json=MEMORY).json()
                eventually(lambda: "delivery failed, will be repeated" in server.err)
                database.stop()
                eventually(lambda: client.get("/api/v1/agents").status_code == 503)
                refused = [
                    client.get("/api/v1/memories"),
                    client.post("/api/v1/memories", json=MEMORY),
                    client.post("/api/v1/sessions", json={"agent_id": "ada"}),
                    client.get("/ready"),
                ]
                assert {(one.status_code, one.json().get("code")) for one in refused} == {
                    (503, "storage_unavailable")
                }
                assert client.get("/health").status_code == 200
                arc.start()
                eventually(lambda: stored(arc) == [kept["memory_id"]], within=40)
                database.start()
                found = eventually(lambda: memories(client))
                assert [one["memory_id"] for one in found] == [kept["memory_id"]]
    finally:
        database.remove()


def stored(arc: ArcDouble) -> list[str]:
    """Return the ids of the memories that an Arc has."""
    places = {(write.database, write.measurement) for write in arc.writes}
    return [row["memory_id"] for place in places for row in arc.rows(*place)]


def memories(client: httpx.Client) -> list[dict[str, object]]:
    """Return the memories, none while the server cannot answer."""
    answer = client.get("/api/v1/memories")
    found: list[dict[str, object]] = answer.json()["memories"] if answer.status_code == 200 else []
    return found


def complaint(node: Deployment, *arguments: str) -> str:
    """Run a command that must fail with exit code 1, and return its one line of complaint."""
    ended = node.memtrace(*arguments) if arguments == ("serve",) else node.here(*arguments)
    assert (ended.returncode, ended.stdout) == (1, ""), ended
    first, *rest = ended.stderr.splitlines()
    assert all(line.startswith("  hint: ") for line in rest), ended.stderr
    return first


@pytest.mark.parametrize("command", [("org", "list"), pytest.param(("serve",), marks=pytest.mark.slow)])
def test_without_the_database_nothing_starts(tmp_path: Path, command: tuple[str, ...]) -> None:
    """One line says where nobody answers, and no password; nothing is made here meanwhile."""
    (node,) = nodes(tmp_path, "postgresql://memtrace:postgres-secret-0@127.0.0.1:1/x", 1)
    assert complaint(node, *command) == (
        "memtrace: PostgreSQL database x at 127.0.0.1:1 cannot be reached: "
        'connection to server at "127.0.0.1", port 1 failed: Connection refused'
    )
    assert not node.data.exists()


@pytest.mark.parametrize(
    "bad",
    [
        "mysql://x",
        "postgresql://u:postgres-secret-0@x@host/d",
        "postgresql://u:postgres-secret-0/x@host/d",
        "host=x",
    ],
)
def test_what_is_no_url_of_a_postgresql_is_refused_without_being_shown(tmp_path: Path, bad: str) -> None:
    """The line names the variable and what is expected, and hides the value."""
    (node,) = nodes(tmp_path, bad, 1)
    first = complaint(node, "org", "list")
    assert first.startswith("memtrace: MEMTRACE_AUTH_DB_URL is a hidden value, expected postgresql://")


def test_without_the_extra_it_is_told_how_to_install_it(tmp_path: Path) -> None:
    """Neither a command nor `config check` ends in a traceback where psycopg is not installed."""
    (node,) = nodes(tmp_path, "postgresql://memtrace@127.0.0.1:1/x", 1)
    with mock.patch.dict(sys.modules, {"memtrace_postgres": None}):
        assert complaint(node, "org", "list") == "memtrace: auth.db_url needs psycopg, which is not installed"
        checked = node.here("config", "check")
    assert checked.returncode == 1
    assert "pip install 'memtrace[postgres]'" in checked.stderr


@pytest.mark.slow
def test_another_master_key_is_named(tmp_path: Path, url: str) -> None:
    """A node with another key than the first is told so, and changes nothing."""
    (first,) = nodes(tmp_path, url, 1)
    first.done("org", "list")
    (tmp_path / "other").mkdir()
    other = Deployment(tmp_path / "other", MEMTRACE_AUTH_DB_URL=url)
    assert "was sealed with another master key" in complaint(other, "org", "list")
    first.done("org", "list")


@pytest.mark.slow
def test_each_node_has_a_journal_that_must_not_be_lost(tmp_path: Path, url: str) -> None:
    """A new node begins one; where one had its journal, none begins in silence, and no stranger's is taken."""
    here, there = nodes(tmp_path, url)
    here.done("org", "list")
    there.done("org", "list")
    journal = there.data / "journal.db"
    kept = journal.read_bytes()
    journal.unlink()
    assert "is gone; memories that were acknowledged may be in it alone" in complaint(there, "org", "list")
    lost = [one["detail"] for one in json.loads(there.here("doctor", "--json").stdout)["checks"]]
    assert any("is gone, and memories that were acknowledged with it" in one for one in lost)
    here.done("org", "list")
    (tmp_path / "stranger").mkdir()
    stranger = Deployment(tmp_path / "stranger")
    with stranger.serve() as server:
        written(server, stranger.tenant())
        assert server.stop() == 0  # so that the file alone has it
    journal.write_bytes((stranger.data / "journal.db").read_bytes())
    assert "is a journal that the PostgreSQL in auth.db_url does not know" in complaint(there, "org", "list")
    journal.write_bytes(kept)
    there.done("org", "list")


@pytest.mark.slow
def test_a_journal_of_before_is_taken_over_only_on_purpose(tmp_path: Path, url: str) -> None:
    """An installation with memories that gets a PostgreSQL is told so; one without just begins there."""
    (node,) = nodes(tmp_path, url, 1)
    del node.environment["MEMTRACE_AUTH_DB_URL"]
    with node.serve() as server:
        written(server, node.tenant())
    node.environment["MEMTRACE_AUTH_DB_URL"] = url
    assert "is a journal that the PostgreSQL in auth.db_url does not know" in complaint(node, "org", "list")
    with node.serve("serve", "--new-journal"):
        assert node.told("org", "list")
    (tmp_path / "empty").mkdir()
    key = node.environment["MEMTRACE_MASTER_KEY"]
    empty = Deployment(tmp_path / "empty", MEMTRACE_MASTER_KEY=key)
    empty.done("org", "list")
    empty.environment["MEMTRACE_AUTH_DB_URL"] = url
    empty.done("org", "list")


def written(server: Server, tenant: Tenant) -> dict[str, object]:
    """Write a memory, and return it."""
    with server.client(tenant) as client:
        answer = client.post("/api/v1/memories", json=MEMORY)
    assert answer.status_code == 201
    memory: dict[str, object] = answer.json()
    return memory


@pytest.mark.parametrize("command", [("org", "list"), pytest.param(("serve",), marks=pytest.mark.slow)])
def test_a_database_of_the_go_service_is_not_passed_over(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Where one lies, nothing begins in a PostgreSQL without it; one line says so, and `doctor`, and it stays."""
    (node,) = nodes(tmp_path, "postgresql://memtrace:postgres-secret-0@127.0.0.1:1/x", 1)
    database = go_service.database(node.data)
    before = database.read_bytes()
    said = "is a database of the Go service, which cannot be taken over into the PostgreSQL in auth.db_url"
    assert said in complaint(node, *command)
    (told,) = [
        one["detail"]
        for one in json.loads(node.here("doctor", "--json").stdout)["checks"]
        if one["check"] == "metadata database"
    ]
    assert said in told
    assert [file.name for file in node.data.iterdir()] == [database.name]
    assert database.read_bytes() == before


@pytest.mark.slow
def test_a_backup_has_the_journal_and_says_what_it_has_not(tmp_path: Path, url: str) -> None:
    """The metadata are pg_dump's; what was backed up comes back, and a backup of another kind is refused."""
    (node,) = nodes(tmp_path, url, 1)
    tenant = node.tenant()
    with node.serve() as server, server.client(tenant) as client:
        kept = client.post("/api/v1/memories", json=MEMORY).json()
        assert server.stop() == 0
    file = tmp_path / "backup.tar"
    made = node.here("backup", str(file))
    assert "the metadata are in PostgreSQL, and not in this backup: pg_dump" in made.stderr
    assert "memtrace.db" not in made.stdout
    (node.data / "journal.db").unlink()
    restored = node.here("restore", str(file))
    assert restored.returncode == 0
    assert "pg_restore is for them" in restored.stderr
    with node.serve() as server, server.client(tenant) as client:
        assert client.get(f"/api/v1/memories/{kept['memory_id']}").json() == kept
    plain = Deployment(tmp_path)
    assert "is a backup of journal.db, and this installation has memtrace.db" in complaint(
        plain, "restore", str(file)
    )


@pytest.mark.slow
def test_the_statements_of_the_page_make_a_database_that_can_be_used(tmp_path: Path) -> None:
    """The role of docs/postgresql.md owns the database of that page, and needs nothing more."""
    page = Path(__file__).parents[2].joinpath("docs", "postgresql.md").read_text(encoding="utf-8")
    (statements,) = re.findall(r"^```sql\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    database = shared_server()
    # It has a role of that name already, which is more than the page wants.
    for statement in statements.replace("memtrace", "of_the_page").replace("…", "postgres-secret-0").splitlines():
        database.execute(statement)
    url = f"postgresql://of_the_page:postgres-secret-0@127.0.0.1:{database.port}/of_the_page"
    (node,) = nodes(tmp_path, url, 1)
    org_id = node.org()
    assert [one["id"] for one in node.told("org", "list")] == [org_id]


@pytest.mark.slow
def test_doctor_and_config_tell_of_the_database_without_its_password(tmp_path: Path, url: str) -> None:
    """`config show` tells that it is set, `config check` that it can be used, `doctor` what answers there."""
    (node,) = nodes(tmp_path, url, 1)

    def doctor() -> list[tuple[str, str]]:
        told = json.loads(node.here("doctor", "--json").stdout)["checks"]
        return [(one["verdict"], one["detail"]) for one in told if one["check"] == "metadata database"]

    ((verdict, detail),) = doctor()
    assert (verdict, detail.endswith("no tables yet")) == ("warning", True)
    assert not node.data.exists()
    node.done("org", "list")
    ((verdict, detail),) = doctor()
    assert verdict == "ok"
    assert "schema version 1" in detail
    shown = {one["name"]: one["value"] for one in node.told("config", "show")}
    assert shown["auth.db_url"] == "(set)"
    assert "psycopg is installed" in node.done("config", "check")
    node.environment["MEMTRACE_AUTH_DB_URL"] = url.replace("postgres-secret-0", "postgres-secret-0-wrong")
    ((verdict, detail),) = doctor()
    assert verdict == "fault"
    assert "password authentication failed" in detail
