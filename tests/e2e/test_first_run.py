"""The first start of a server: keys, the master key, old settings and foreign databases."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Callable

import apsw
import pytest
from e2e.processes import COMMAND, Deployment, Server, eventually, new_master_key

FIRST_RUN = re.compile(
    r"FIRST RUN: Save your admin API key \(shown only once\)\nAPI Key: (mtk_[A-Za-z0-9_-]{43})\n"
)
LEGACY = """
[server]
port = 0
[arc]
url = "http://127.0.0.1:9/"
api_key = "legacy-key-0123456789"
database = "old_memory"
measurement = "old_events"
"""

Command = Callable[[Deployment, dict[str, str | None]], tuple[int, str]]


def status(server: Server, key: str, path: str = "/api/v1/agents") -> int:
    """Return what a request with a key is answered."""
    with server.client() as client:
        return client.get(path, headers={"x-api-key": key}).status_code


@pytest.mark.parametrize(
    "arguments", [("serve",), pytest.param(("--config", "empty.toml"), marks=pytest.mark.slow)]
)
def test_the_first_run_prints_an_admin_key_once(deployment: Deployment, arguments: tuple[str, ...]) -> None:
    """The first start prints exactly two lines on stdout, with an admin's key; the second prints nothing."""
    (deployment.folder / "empty.toml").touch()
    with deployment.serve(*arguments, variables={"MEMTRACE_LOG_LEVEL": "info"}) as server:
        printed = FIRST_RUN.fullmatch(server.out)
        assert printed
        assert status(server, printed[1]) == 200
        assert status(server, printed[1], "/api/v1/memories") == 503
        assert server.stop() == 0
        assert printed[1] not in server.err
    (key,) = deployment.told("key", "list", "--org", "org_default")
    assert key["permissions"] == ["admin"]
    (org,) = deployment.told("org", "list")
    assert (org["id"], org["name"]) == ("org_default", "Default")
    with deployment.serve(*arguments) as server:
        assert server.out == ""
        assert status(server, printed[1]) == 200


def test_the_key_is_printed_before_the_port_opens(deployment: Deployment) -> None:
    """Whatever the log level and format, the key stands in the output before the server can be reached."""

    together = deployment.folder / "together"
    variables = {"MEMTRACE_SERVER_PORT": "0", "MEMTRACE_LOG_FORMAT": "console"}
    with together.open("wb") as output:
        process = subprocess.Popen(
            [*COMMAND, "serve"],
            stdout=output,
            stderr=output,
            cwd=deployment.folder,
            env=deployment.variables(variables),
        )
    try:
        eventually(lambda: "memtrace is listening" in together.read_text())
    finally:
        process.terminate()
        assert process.wait(20) == 0
    lines = together.read_text().splitlines()
    listening = next(index for index, line in enumerate(lines) if "memtrace is listening" in line)
    assert lines.index("FIRST RUN: Save your admin API key (shown only once)") < listening


def test_an_existing_organization_is_no_first_run(deployment: Deployment) -> None:
    """Where an operator has made an organization already, no default one is made and nothing printed."""
    tenant = deployment.tenant()
    with deployment.serve() as server:
        assert server.out == ""
        assert status(server, tenant.key) == 200
    assert [org["id"] for org in deployment.told("org", "list")] == [tenant.org_id]


def test_without_authentication_everybody_is_the_default_org(deployment: Deployment) -> None:
    """With `auth.enabled` false no key is needed or made, a warning says so, and no key chooses an org."""
    other = deployment.tenant("other")
    with deployment.serve(variables={"MEMTRACE_AUTH_ENABLED": "false"}) as server:
        assert server.out == ""
        assert any(event["level"] == "warn" and "authentication" in event["message"] for event in server.events())
        deployment.bind("org_default")
        with server.client() as client, server.client(other) as keyed:
            stored = client.post("/api/v1/memories", json={"agent_id": "ada", "content": "x"}).json()
            assert stored["org_id"] == "org_default"
            assert keyed.get("/api/v1/memories").json()["memories"] == [stored]
    assert deployment.told("key", "list", "--org", "org_default") == []


def test_authentication_turned_on_later_makes_the_first_key(deployment: Deployment) -> None:
    """A default org without any key gets its admin key at the first start with authentication."""
    with deployment.serve(variables={"MEMTRACE_AUTH_ENABLED": "false"}):
        pass
    with deployment.serve() as server:
        printed = FIRST_RUN.fullmatch(server.out)
        assert printed
        assert status(server, printed[1]) == 200


def test_a_legacy_block_is_migrated_once(deployment: Deployment) -> None:
    """An old `[arc]` block binds org_default, with two log lines; later starts ignore it, whatever it says then."""
    file = deployment.folder / "memtrace.toml"
    file.write_text(LEGACY)
    with deployment.serve(variables={"MEMTRACE_LOG_FORMAT": "json"}) as server:
        assert FIRST_RUN.fullmatch(server.out)
        (found,) = [event for event in server.events() if event["message"].startswith("legacy")]
        assert found["message"] == "legacy [arc] config detected — migrating to DB"
        assert (found["level"], found["url"]) == ("warn", "http://127.0.0.1:9/")
        (complete,) = [event for event in server.events() if event["message"].startswith("migration complete")]
        assert complete["level"] == "info"
        assert complete["message"] == (
            "migration complete; remove [arc] url/api_key/database/measurement from memtrace.toml on next deploy"
        )
        assert "legacy-key" not in server.err
    instance = deployment.told("org", "show-arc", "org_default")
    assert instance["id"] == "arc_default"
    assert instance["url"].rstrip("/") == "http://127.0.0.1:9"
    assert (instance["database"], instance["measurement"]) == ("old_memory", "old_events")
    assert instance["api_key"] == "lega" + "*" * 13 + "6789"

    file.write_text(LEGACY.replace("127.0.0.1:9", "127.0.0.1:10").replace("old_memory", "newer_memory"))
    with deployment.serve() as server:
        assert "legacy" not in server.err
        assert "migration" not in server.err
    assert deployment.told("org", "show-arc", "org_default") == instance


@pytest.mark.slow
def test_a_legacy_block_is_ignored_where_an_instance_exists(deployment: Deployment) -> None:
    """Once any organization is bound, an old block does nothing."""
    deployment.tenant()
    with deployment.serve(
        variables={"MEMTRACE_ARC_URL": "http://127.0.0.1:9", "MEMTRACE_ARC_API_KEY": "k"}
    ) as server:
        assert "legacy" not in server.err
    assert len(deployment.told("org", "list")) == 1


@pytest.mark.slow
def test_legacy_variables_count_too(deployment: Deployment) -> None:
    """The old settings can be variables, beside an organization without an instance."""
    org_id = deployment.org(bound=False)
    variables = {
        "MEMTRACE_ARC_URL": "http://127.0.0.1:9",
        "MEMTRACE_ARC_API_KEY": "legacy-key-0123456789",
        "MEMTRACE_ARC_DATABASE": "old_memory",
    }
    with deployment.serve(variables=variables) as server:
        assert "legacy [arc] config detected" in server.err
    bound = {org["id"]: org["arc"] for org in deployment.told("org", "list")}
    assert bound == {org_id: None, "org_default": "http://127.0.0.1:9"}


@pytest.mark.slow
def test_a_legacy_migration_reads_as_promised_on_a_console(deployment: Deployment) -> None:
    """The console form of the two lines has time, level and url as in the contract."""
    (deployment.folder / "memtrace.toml").write_text(LEGACY)
    server = deployment.start(variables={"MEMTRACE_LOG_FORMAT": "console"})
    with server:
        eventually(lambda: "memtrace is listening" in server.err)
    warning, complete = [line for line in server.err.splitlines() if "migrat" in line]
    assert re.fullmatch(
        r"\S+ WRN legacy \[arc\] config detected — migrating to DB url=http://127\.0\.0\.1:9/?", warning
    )
    assert re.fullmatch(r"\S+ INF migration complete; remove \[arc\] url/api_key/database/measurement .*", complete)


def serve(deployment: Deployment, variables: dict[str, str | None]) -> tuple[int, str]:
    """Start a server that does not come up, and return its exit code and what it says."""
    ended = deployment.memtrace("serve", variables={"MEMTRACE_SERVER_PORT": "0", **variables})
    assert ended.stdout == ""
    return ended.returncode, ended.stderr


def administer(deployment: Deployment, variables: dict[str, str | None]) -> tuple[int, str]:
    """Run an admin command that fails, and return its exit code and what it says."""
    ended = deployment.here("org", "list", variables=variables)
    assert ended.stdout == ""
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("command", [pytest.param(serve, marks=pytest.mark.slow), administer])
def test_the_master_key_has_four_failures_of_its_own(deployment: Deployment, command: Command) -> None:
    """Missing, malformed, of wrong length, and of another database: four messages, exit code 1, no key shown."""
    deployment.org()
    short = base64.b64encode(b"only sixteen byt").decode()
    wrong = new_master_key()
    said = {}
    for name, key in (("missing", None), ("malformed", "not/base64!"), ("length", short), ("another", wrong)):
        code, text = command(deployment, {"MEMTRACE_MASTER_KEY": key})
        assert code == 1
        assert "Traceback" not in text
        assert key is None or key not in text
        first, *rest = text.splitlines()
        assert first.startswith("memtrace: ")
        assert all(line.startswith("  hint: ") for line in rest)
        said[name] = first
    assert len(set(said.values())) == 4
    assert "not set" in said["missing"]
    assert "base64" in said["malformed"]
    assert "16 bytes" in said["length"]
    assert "another master key" in said["another"]


def test_the_master_key_can_stand_in_a_file(deployment: Deployment) -> None:
    """`MEMTRACE_MASTER_KEY_FILE` names a mounted secret; an empty or missing file and both at once are errors."""
    file = deployment.folder / "master.key"
    file.write_text(deployment.master_key + "\n")
    key = deployment.environment.pop("MEMTRACE_MASTER_KEY")
    deployment.environment["MEMTRACE_MASTER_KEY_FILE"] = str(file)
    tenant = deployment.tenant()
    with deployment.serve() as server:
        assert status(server, tenant.key) == 200
    deployment.environment["MEMTRACE_MASTER_KEY"] = key
    both = deployment.here("org", "list")
    assert (both.returncode, both.stdout) == (1, "")
    assert "both" in both.stderr
    del deployment.environment["MEMTRACE_MASTER_KEY"]
    file.write_text("\n")
    assert "empty" in deployment.here("org", "list").stderr
    file.unlink()
    missing = deployment.here("org", "list")
    assert missing.returncode == 1
    assert str(file) in missing.stderr


@pytest.mark.parametrize("name", ["memtrace.db", "journal.db"])
def test_a_file_that_is_no_database_is_refused_untouched(deployment: Deployment, name: str) -> None:
    """A file of something else, at either path, is named and left as it is."""
    deployment.data.mkdir()
    (deployment.data / name).write_text("my diary " * 100)
    ended = deployment.here("org", "list")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert name in ended.stderr
    assert (deployment.data / name).read_text() == "my diary " * 100


def test_a_newer_schema_is_refused(deployment: Deployment) -> None:
    """A server or a command that finds a schema newer than it knows says so and stops."""
    deployment.org()
    connection = apsw.Connection(str(deployment.data / "memtrace.db"))
    version = connection.pragma("user_version")
    connection.pragma("user_version", version + 1)
    connection.close()
    for code, text in (serve(deployment, {}), administer(deployment, {})):
        assert code == 1
        assert "newer" in text
        assert len(text.splitlines()) <= 2
