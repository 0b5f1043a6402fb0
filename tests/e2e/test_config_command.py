"""`memtrace config`: the settings in use, where they come from, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from e2e.processes import ARC_KEY, Deployment

from memtrace_cli.settings import Settings

TOKEN = "metrics-token-0123456789"


def shown(deployment: Deployment) -> dict[str, tuple[object, str]]:
    """Return value and origin of each setting, as `config show --json` tells them."""
    return {one["name"]: (one["value"], one["origin"]) for one in deployment.told("config", "show")}


def checked(deployment: Deployment, *, code: int) -> Sequence[Any]:
    """Expect that `config check` ends with a code, and return what it tells."""
    ended = deployment.here("config", "check", "--json")
    assert ended.returncode == code, ended
    told = json.loads(ended.stdout)
    assert told["ok"] is (code == 0)
    found: Sequence[Any] = told["checks"]
    return found


def faults(deployment: Deployment) -> list[str]:
    """Return what is wrong, which must be something."""
    return [f"{one['check']}: {one['detail']}" for one in checked(deployment, code=1) if one["verdict"] == "fault"]


def test_every_value_is_shown_with_its_origin(deployment: Deployment) -> None:
    """A default, a place in the file, or a variable, which wins; each value as what it is."""
    (deployment.folder / "memtrace.toml").write_text(
        '[server]\nport = 9200\ntrusted_proxies = ["10.0.0.1", "10.1.0.0/16"]\n[log]\nlevel = "warn"\n'
    )
    deployment.environment["MEMTRACE_LOG_LEVEL"] = "error"
    found = shown(deployment)
    assert found["server.port"] == (9200, "memtrace.toml: server.port")
    assert found["server.trusted_proxies"] == (["10.0.0.1", "10.1.0.0/16"], "memtrace.toml: server.trusted_proxies")
    assert found["log.level"] == ("error", "MEMTRACE_LOG_LEVEL")
    assert found["auth.enabled"] == (True, "default")
    assert found["journal.path"] == (None, "default")
    assert found["master key"] == ("(set)", "MEMTRACE_MASTER_KEY")
    assert found["previous master keys"] == ("(unset)", "-")


def test_no_setting_is_left_out(deployment: Deployment) -> None:
    """There is a row for every key of every section."""
    keys = {
        f"{section}.{key}"
        for section in Settings.__struct_fields__
        for key in getattr(Settings(), section).__struct_fields__
    }
    assert keys == {name for name in shown(deployment) if "." in name}


def test_the_table_is_plain_and_has_a_next_step(deployment: Deployment) -> None:
    """Names, values and origins are in columns on stdout; what to do next is on stderr."""
    ended = deployment.here("config", "show")
    header, *rows = ended.stdout.splitlines()
    assert header.split() == ["SETTING", "VALUE", "FROM"]
    assert ["server.host", "0.0.0.0", "default"] in [row.split() for row in rows]
    assert ended.stderr == "next: memtrace config check\n"


@pytest.mark.parametrize("command", [("config", "show"), ("config", "check"), ("doctor",)])
@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_secrets_are_set_or_unset(
    deployment: Deployment, command: tuple[str, ...], arguments: tuple[str, ...]
) -> None:
    """Neither Arc key, metrics token, master key nor a password in a URL is shown, whatever else is wrong."""
    variables = {
        "MEMTRACE_ARC_API_KEY": ARC_KEY,
        "MEMTRACE_METRICS_TOKEN": TOKEN,
        "MEMTRACE_ARC_URL": "http://user:pass-word-1@127.0.0.1:9/x",
    }
    for broken in ({}, {"MEMTRACE_SERVER_PORT": "x"}):
        ended = deployment.here(*command, *arguments, variables={**variables, **broken})
        said = ended.stdout + ended.stderr
        assert said
        for secret in (ARC_KEY, TOKEN, "pass-word-1", deployment.master_key):
            assert secret not in said
    if command == ("config", "show"):
        deployment.environment |= variables
        found = shown(deployment)
        assert found["arc.api_key"] == ("(set)", "MEMTRACE_ARC_API_KEY")
        assert found["metrics.token"] == ("(set)", "MEMTRACE_METRICS_TOKEN")
        assert found["arc.url"][0] == "http://***@127.0.0.1:9/x"


def test_a_bad_setting_stops_show_and_names_the_first(deployment: Deployment) -> None:
    """What cannot be used cannot be shown; the error is one line."""
    ended = deployment.here("config", "show", variables={"MEMTRACE_SERVER_PORT": "x"})
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("memtrace: MEMTRACE_SERVER_PORT is 'x'")


def test_good_settings_pass(deployment: Deployment) -> None:
    """The exit code is 0, each check is ok, and no database is made."""
    assert [(one["check"], one["verdict"]) for one in checked(deployment, code=0)] == [
        ("settings", "ok"),
        ("master key", "ok"),
    ]
    assert not deployment.data.exists()
    assert deployment.here("config", "check").stderr == "next: memtrace doctor\n"


def test_every_problem_is_named(deployment: Deployment) -> None:
    """Not the first alone: those of the file, of variables, between settings, and of the master key."""
    (deployment.folder / "memtrace.toml").write_text(
        'dedup = 5\n[server]\nport = "many"\ntls_cert = "none.pem"\n[log]\nlevel = "loud"\nlevle = "info"\n'
    )
    deployment.environment |= {
        "MEMTRACE_ARC_WRITE_BATCH_SIZE": "0",
        "MEMTRACE_JOURNAL_PATH": "data/memtrace.db",
        "MEMTRACE_AUTH_DB_PATH": "data/memtrace.db",
        "MEMTRACE_MASTER_KEY": "short",
    }
    found = faults(deployment)
    expected = [
        "settings: memtrace.toml: dedup is 5",
        "settings: memtrace.toml: server.port is 'many'",
        "settings: memtrace.toml: log.level is 'loud'",
        "settings: MEMTRACE_ARC_WRITE_BATCH_SIZE is '0'",
        "settings: journal.path and auth.db_path name the same file",
        "master key: MEMTRACE_MASTER_KEY",
        "certificate: server.tls_cert and server.tls_key go together",
    ]
    assert len(found) == len(expected)
    for start in expected:
        assert any(one.startswith(start) for one in found), start
    warnings = [one["detail"] for one in checked(deployment, code=1) if one["verdict"] == "warning"]
    assert warnings == ["memtrace.toml: unknown key log.levle (did you mean level?)"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "there is no such file"), ("[server\n", "not valid TOML")],
    ids=["missing", "not TOML"],
)
def test_a_file_that_cannot_be_read_hides_no_other_problem(
    deployment: Deployment, content: str | None, words: str
) -> None:
    """The file is named, and so is a bad variable."""
    file = deployment.folder / "other.toml"
    if content is not None:
        file.write_text(content)
    deployment.environment |= {"MEMTRACE_CONFIG": str(file), "MEMTRACE_LOG_LEVEL": "loud"}
    first, second = faults(deployment)
    assert str(file) in first
    assert words in first
    assert "MEMTRACE_LOG_LEVEL" in second


def test_a_certificate_that_cannot_be_used_is_a_fault(deployment: Deployment) -> None:
    """Files that are missing or no PEM would stop a server, so they are tried."""
    for name in ("cert.pem", "key.pem"):
        (deployment.folder / name).write_text("no certificate")
    deployment.environment |= {"MEMTRACE_SERVER_TLS_CERT": "cert.pem", "MEMTRACE_SERVER_TLS_KEY": "key.pem"}
    (found,) = faults(deployment)
    assert found.startswith("certificate: the certificate cannot be used")


def test_what_check_finds_stops_a_server_too(deployment: Deployment) -> None:
    """A server that would start passes; one that is told to be faulty ends with the first fault."""
    deployment.environment["MEMTRACE_SERVER_PORT"] = "70000"
    (found,) = faults(deployment)
    ended = deployment.memtrace("serve")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"memtrace: {found.removeprefix('settings: ')}")
