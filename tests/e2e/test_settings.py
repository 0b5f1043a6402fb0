"""Where settings come from, and what is said of bad ones."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from e2e.processes import Deployment

BAD_SETTINGS = [
    ("MEMTRACE_SERVER_PORT", "server.port", "ninety", '"ninety"', "whole number"),
    ("MEMTRACE_SERVER_PORT", "server.port", "65536", "65536", "65,535"),
    ("MEMTRACE_SERVER_READ_TIMEOUT", "server.read_timeout", "0", "0", "seconds"),
    ("MEMTRACE_SERVER_READ_TIMEOUT", "server.read_timeout", "nan", "nan", "seconds"),
    ("MEMTRACE_SERVER_WRITE_TIMEOUT", "server.write_timeout", "-1", "-1", "seconds"),
    ("MEMTRACE_SERVER_SHUTDOWN_TIMEOUT", "server.shutdown_timeout", "soon", '"soon"', "seconds"),
    ("MEMTRACE_LOG_LEVEL", "log.level", "loud", '"loud"', "debug, info, warn, error"),
    ("MEMTRACE_LOG_FORMAT", "log.format", "xml", '"xml"', "console or json"),
    ("MEMTRACE_ARC_CONNECT_TIMEOUT", "arc.connect_timeout", "x", '"x"', "seconds"),
    ("MEMTRACE_ARC_QUERY_TIMEOUT", "arc.query_timeout", "0", "0", "seconds"),
    ("MEMTRACE_ARC_WRITE_BATCH_SIZE", "arc.write_batch_size", "0", "0", "whole number"),
    ("MEMTRACE_ARC_WRITE_FLUSH_INTERVAL_MS", "arc.write_flush_interval_ms", "-5", "-5", "milliseconds"),
    ("MEMTRACE_AUTH_ENABLED", "auth.enabled", "maybe", '"maybe"', "true or false"),
    ("MEMTRACE_AUTH_DB_PATH", "auth.db_path", "", '""', "text"),
    ("MEMTRACE_DEDUP_ENABLED", "dedup.enabled", "2", "2", "true or false"),
    ("MEMTRACE_DEDUP_WINDOW_HOURS", "dedup.window_hours", "0", "0", "hours"),
    ("MEMTRACE_JOURNAL_SETTLE_SECONDS", "journal.settle_seconds", "86401", "86401", "86,400"),
    ("MEMTRACE_JOURNAL_MAX_BYTES", "journal.max_bytes", "1", "1", "bytes"),
]


def complaint(deployment: Deployment, *arguments: str) -> str:
    """Run a command that must fail with exit code 1, and return its first line of complaint."""
    ended = deployment.here(*(arguments or ("org", "list")))
    assert (ended.returncode, ended.stdout) == (1, ""), ended
    first, *rest = ended.stderr.splitlines()
    assert all(line.startswith("  hint: ") for line in rest)
    return first


@pytest.mark.parametrize(("variable", "key", "value", "found", "expected"), BAD_SETTINGS)
def test_a_bad_setting_is_one_line(
    deployment: Deployment, variable: str, key: str, value: str, found: str, expected: str
) -> None:
    """A bad value names the variable or the file and key, what was found, and what is expected."""
    deployment.environment[variable] = value
    first = complaint(deployment)
    assert variable in first
    assert found.strip('"') in first
    assert expected in first

    del deployment.environment[variable]
    section, _, name = key.partition(".")
    (deployment.folder / "memtrace.toml").write_text(f"[{section}]\n{name} = {found}\n")
    first = complaint(deployment)
    for word in ("memtrace.toml", key, found.strip('"'), expected):
        assert word in first
    assert not deployment.data.exists()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[server\nport = 1", "TOML"),
        ("server = 5", "server"),
        ("[server]\nport = true", "port"),
        ('[server]\nport = "9100"', "port"),
        ("[server]\nport = 9100.5", "port"),
        ("[log]\nlevel = 5", "level"),
        ("[auth]\nenabled = 1", "enabled"),
        ('[auth]\nenabled = "true"', "enabled"),
        ("[dedup]\nwindow_hours = [1]", "window_hours"),
        ("[server]\nport = 1\nport = 2", "TOML"),
    ],
)
def test_a_broken_file_is_one_line(deployment: Deployment, text: str, word: str) -> None:
    """Broken TOML and values of another type are exit code 1 and one line that names the file."""
    (deployment.folder / "memtrace.toml").write_text(text)
    first = complaint(deployment)
    assert "memtrace.toml" in first
    assert word in first


def test_a_file_that_is_not_text_is_one_line(deployment: Deployment) -> None:
    """A file in another encoding is refused by name."""
    (deployment.folder / "memtrace.toml").write_bytes(b"[log]\nlevel = '\xff'\n")
    assert "memtrace.toml" in complaint(deployment)


def test_an_unknown_key_is_a_warning_with_a_suggestion(deployment: Deployment) -> None:
    """What is misspelled in file or environment is named with the nearest known one, and the command runs."""
    (deployment.folder / "memtrace.toml").write_text("[server]\nprot = 1\n[sevrer]\nport = 1\n[log]\ncolour = 1\n")
    deployment.environment["MEMTRACE_SERVER_PROT"] = "1"
    ended = deployment.memtrace("org", "list", "--json")
    assert (ended.returncode, ended.stdout) == (0, "[]\n")
    assert "server.prot (did you mean port?)" in ended.stderr
    assert "[sevrer] (did you mean server?)" in ended.stderr
    assert "log.colour" in ended.stderr
    assert "MEMTRACE_SERVER_PROT (did you mean MEMTRACE_SERVER_PORT?)" in ended.stderr
    assert len(ended.stderr.splitlines()) == 4


def test_a_server_warns_in_its_log(deployment: Deployment) -> None:
    """The server's warnings about settings are log events, and so is a settle time that is too short."""
    deployment.tenant()
    variables = {"MEMTRACE_LOG_LEVLE": "debug", "MEMTRACE_JOURNAL_SETTLE_SECONDS": "59"}
    with deployment.serve(variables=variables) as server:
        warnings = [event["message"] for event in server.events() if event["level"] == "warn"]
    assert any("MEMTRACE_LOG_LEVLE (did you mean MEMTRACE_LOG_LEVEL?)" in warning for warning in warnings)
    assert any("settle_seconds" in warning and "60" in warning for warning in warnings)


def database_in_use(deployment: Deployment, *arguments: str) -> set[str]:
    """Run a command, and return which of the folders a, b, c, d have got a database."""
    ended = deployment.here(*(arguments or ("org", "list")))
    assert ended.returncode == 0, ended
    return {name for name in "abcd" if (deployment.folder / name / "memtrace.db").exists()}


def settings_in(file: Path, name: str) -> None:
    """Write a settings file that puts the database in a folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'[auth]\ndb_path = "{name}/memtrace.db"\n')


def test_the_first_file_found_wins(deployment: Deployment) -> None:
    """`./memtrace.toml` comes before the one in the home folder."""
    settings_in(deployment.folder / ".memtrace" / "memtrace.toml", "a")
    assert database_in_use(deployment) == {"a"}
    settings_in(deployment.folder / "memtrace.toml", "b")
    assert database_in_use(deployment) == {"a", "b"}


def test_a_file_can_be_named(deployment: Deployment) -> None:
    """`--config` names a file, wherever it stands, and comes before `MEMTRACE_CONFIG`."""
    settings_in(deployment.folder / "memtrace.toml", "a")
    settings_in(deployment.folder / "conf" / "b.toml", "b")
    settings_in(deployment.folder / "conf" / "c.toml", "c")
    settings_in(deployment.folder / "conf" / "d.toml", "d")
    deployment.environment["MEMTRACE_CONFIG"] = "conf/b.toml"
    assert database_in_use(deployment) == {"b"}
    assert database_in_use(deployment, "--config", "conf/c.toml", "org", "list") == {"b", "c"}
    assert database_in_use(deployment, "org", "list", "--config", "conf/d.toml") == {"b", "c", "d"}
    assert "nowhere.toml" in complaint(deployment, "--config", "nowhere.toml", "org", "list")
    deployment.environment["MEMTRACE_CONFIG"] = "gone.toml"
    assert "gone.toml" in complaint(deployment)


def test_a_variable_overrides_the_file(deployment: Deployment) -> None:
    """`MEMTRACE_<SECTION>_<KEY>` wins over the file, and the journal stands beside the database unless placed."""
    settings_in(deployment.folder / "memtrace.toml", "a")
    deployment.environment["MEMTRACE_AUTH_DB_PATH"] = str(deployment.folder / "b" / "memtrace.db")
    assert database_in_use(deployment) == {"b"}
    assert (deployment.folder / "b" / "journal.db").exists()
    deployment.environment["MEMTRACE_AUTH_DB_PATH"] = str(deployment.folder / "c" / "memtrace.db")
    deployment.environment["MEMTRACE_JOURNAL_PATH"] = str(deployment.folder / "elsewhere" / "j.db")
    assert database_in_use(deployment) == {"b", "c"}
    assert (deployment.folder / "elsewhere" / "j.db").exists()
    assert not (deployment.folder / "c" / "journal.db").exists()


def test_a_server_takes_its_settings(deployment: Deployment) -> None:
    """Host and deduplication of a file count, and a variable overrides the port."""
    (deployment.folder / "memtrace.toml").write_text(
        '[server]\nhost = "127.0.0.1"\nport = 1\n[log]\nlevel = "info"\n[dedup]\nenabled = false\n'
    )
    tenant = deployment.tenant()
    with deployment.serve() as server, server.client(tenant) as api:
        for _ in range(2):
            response = api.post("/api/v1/memories", json={"agent_id": "ada", "content": "the same"})
            assert response.status_code == 201
            assert "dedup_key" not in response.json()
        body = {"agent_id": "ada", "content": "x", "dedup_key": "k"}
        assert [api.post("/api/v1/memories", json=body).status_code for _ in range(2)] == [201, 201]


def test_a_taken_port_is_one_line(deployment: Deployment) -> None:
    """A server whose port is taken ends with exit code 1, says so, and has made nothing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = deployment.memtrace(
            variables={"MEMTRACE_SERVER_PORT": str(port), "MEMTRACE_SERVER_HOST": "127.0.0.1"}
        )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert str(port) in ended.stderr.splitlines()[-2]
    assert "Traceback" not in ended.stderr
    assert not deployment.data.exists()


@pytest.mark.parametrize("path", ["/dev/null/x/memtrace.db", "taken/memtrace.db", "folder.db"])
def test_a_database_that_cannot_be_is_one_line(deployment: Deployment, path: str) -> None:
    """A path at which no database can be made is named in one line."""
    (deployment.folder / "taken").write_text("a file")
    (deployment.folder / "folder.db").mkdir()
    deployment.environment["MEMTRACE_AUTH_DB_PATH"] = path
    assert path.partition("/memtrace")[0] in complaint(deployment)
