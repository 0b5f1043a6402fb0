"""`memtrace doctor`: each fault by itself is found and named, and looking changes nothing."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest
from arc_double import ArcDouble
from builders import draft
from e2e.journals import A_WHILE_AGO, fill, lines_of
from e2e.processes import ARC_KEY, Deployment
from e2e.test_arc import bound_to

pytestmark = pytest.mark.slow

FAST = {"MEMTRACE_ARC_CONNECT_TIMEOUT": "1", "MEMTRACE_ARC_QUERY_TIMEOUT": "2"}


@pytest.fixture
def healthy(deployment: Deployment) -> Deployment:
    """Return a deployment with one org on the embedded store."""
    deployment.environment.update(FAST)
    deployment.tenant()
    return deployment


@pytest.fixture
def arc() -> Iterator[ArcDouble]:
    """Return an Arc."""
    with ArcDouble(max_buffer_age_ms=0) as running:
        yield running


def examined(deployment: Deployment) -> tuple[int, dict[str, Any]]:
    """Return the exit code of `doctor --json`, and what it told."""
    ended = deployment.here("doctor", "--json")
    assert "Traceback" not in ended.stderr
    told = json.loads(ended.stdout)
    assert told["ok"] is (ended.returncode == 0)
    return ended.returncode, told


def wrong(told: dict[str, Any]) -> list[tuple[str, str]]:
    """Return check and verdict of everything that is not in order."""
    return [(one["check"], one["verdict"]) for one in told["checks"] if one["verdict"] != "ok"]


def detail(told: dict[str, Any], check: str, verdict: str) -> str:
    """Return the one finding of a check with a verdict: its detail and its hint."""
    (found,) = [one for one in told["checks"] if (one["check"], one["verdict"]) == (check, verdict)]
    return f"{found['detail']} | {found.get('hint', '')}"


def only_fault(deployment: Deployment, check: str) -> str:
    """Expect that one check fails and nothing else is wrong, and return what is said of it."""
    code, told = examined(deployment)
    assert (code, wrong(told)) == (1, [(check, "fault")]), told["checks"]
    return detail(told, check, "fault")


def only_warning(deployment: Deployment, check: str) -> str:
    """Expect that one check warns and nothing else is wrong, and return what is said of it."""
    code, told = examined(deployment)
    assert (code, wrong(told)) == (0, [(check, "warning")]), told["checks"]
    return detail(told, check, "warning")


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files below a folder, what SQLite needs for reading apart."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


def settings_of(told: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return value and origin of each setting."""
    return {one["name"]: (one["value"], one["origin"]) for one in told["settings"]}


def test_a_healthy_installation_is_told_to_be_so(healthy: Deployment, arc: ArcDouble) -> None:
    """Every check is ok, the exit code is 0, and there is a line for each thing that was looked at."""
    tenant = bound_to(arc, healthy)
    before = contents(healthy.folder)
    code, told = examined(healthy)
    assert (code, wrong(told)) == (0, [])
    assert {one["check"] for one in told["checks"]} >= {
        "settings", "sqlite", "metadata database", "journal", "disk", "master key", f"arc of {tenant.org_id}",
    }  # fmt: skip
    assert all(one["detail"] for one in told["checks"])
    assert re.search(r"answers in \d+ ms", detail(told, f"arc of {tenant.org_id}", "ok"))
    assert contents(healthy.folder) == before


def test_the_table_has_checks_and_settings(healthy: Deployment) -> None:
    """Away from a terminal there are two plain tables, the verdict or the name in the first column."""
    ended = healthy.memtrace("doctor")
    assert (ended.returncode, ended.stderr) == (0, "")
    checks, _, settings = ended.stdout.partition("\n\n")
    header, *rows = lines_of(checks + "\n")
    assert re.fullmatch(r"VERDICT +CHECK +DETAIL", header)
    assert {row.split()[0] for row in rows} == {"ok"}
    header, *rows = lines_of(settings)
    assert re.fullmatch(r"SETTING +VALUE +FROM", header)
    assert "server.port" in {row.split()[0] for row in rows}


def test_hints_are_on_stderr(healthy: Deployment) -> None:
    """What to do about a fault is a message and not a part of the table."""
    org_id = healthy.org(bound=False)
    ended = healthy.here("doctor")
    assert ended.returncode == 0
    assert ended.stderr == f"arc of {org_id}: memtrace org add-arc {org_id}\n"


def test_the_json_has_stable_keys(healthy: Deployment) -> None:
    """Programs can rely on `ok`, `checks` and `settings`, and on the keys of their entries."""
    healthy.org(bound=False)
    _, told = examined(healthy)
    assert set(told) == {"ok", "checks", "settings"}
    assert {frozenset(one) - {"hint"} for one in told["checks"]} == {frozenset({"check", "verdict", "detail"})}
    assert {frozenset(one) for one in told["settings"]} == {frozenset({"name", "value", "origin"})}
    assert {one["verdict"] for one in told["checks"]} <= {"ok", "warning", "fault"}


def test_an_empty_folder_stays_empty(deployment: Deployment) -> None:
    """Before the first run the databases are said to be missing, and nothing is made."""
    before = list(deployment.folder.rglob("*"))
    code, told = examined(deployment)
    assert (code, wrong(told)) == (0, [("metadata database", "warning"), ("journal", "warning")])
    assert "serve" in detail(told, "journal", "warning")
    assert list(deployment.folder.rglob("*")) == before


def test_a_bad_setting_is_a_fault_and_named(healthy: Deployment) -> None:
    """Where the value stands, what it is and what is expected; no other check can be run."""
    healthy.environment["MEMTRACE_SERVER_PORT"] = "many"
    code, told = examined(healthy)
    assert (code, wrong(told), told["settings"]) == (1, [("settings", "fault")], [])
    assert "MEMTRACE_SERVER_PORT is 'many'" in detail(told, "settings", "fault")


def test_an_unknown_setting_is_a_warning(healthy: Deployment) -> None:
    """A misspelt variable is named, with the one that may have been meant."""
    healthy.environment["MEMTRACE_SERVER_PROT"] = "9100"
    assert "MEMTRACE_SERVER_PORT" in only_warning(healthy, "settings")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (None, "MEMTRACE_MASTER_KEY is not set"),
        ("not base64 !", "MEMTRACE_MASTER_KEY"),
        (base64.b64encode(bytes(16)).decode(), "MEMTRACE_MASTER_KEY"),
        (base64.b64encode(b"w" * 32).decode(), "sealed with another master key"),
    ],
    ids=["missing", "malformed", "too short", "wrong"],
)
def test_a_master_key_that_does_not_do_is_a_fault(healthy: Deployment, key: str | None, words: str) -> None:
    """Missing, malformed, too short or the wrong one: each is told apart, and the key is never shown."""
    healthy.environment.pop("MEMTRACE_MASTER_KEY")
    if key is not None:
        healthy.environment["MEMTRACE_MASTER_KEY"] = key
    said = only_fault(healthy, "master key")
    assert words in said
    assert key is None or key not in said


DATABASES = pytest.mark.parametrize(
    ("check", "name"), [("metadata database", "memtrace.db"), ("journal", "journal.db")]
)


@DATABASES
def test_a_database_of_another_program_is_a_fault(healthy: Deployment, check: str, name: str) -> None:
    """It is recognised as not ours, and not touched."""
    path = healthy.data / name
    path.unlink()
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE theirs (n)")
    before = path.read_bytes()
    assert f"{name} is not a Memtrace" in only_fault(healthy, check)
    assert path.read_bytes() == before


@DATABASES
def test_a_file_that_is_no_database_is_a_fault(healthy: Deployment, check: str, name: str) -> None:
    """An empty file is none either."""
    for content in (b"something else\n" * 500, b""):
        (healthy.data / name).write_bytes(content)
        assert f"{name} is not a database" in only_fault(healthy, check)


@DATABASES
def test_a_damaged_page_is_a_fault(healthy: Deployment, check: str, name: str) -> None:
    """A page in the middle that was overwritten is found, and the operator is told to use a backup."""
    fill(healthy, healthy.org(), [draft(f"{number} " + "x" * 500) for number in range(200)])
    path = healthy.data / name
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    said = only_fault(healthy, check)
    assert "damaged" in said
    assert "memtrace restore" in said


@DATABASES
@pytest.mark.parametrize(("version", "words"), [(0, "memtrace serve"), (99, "newer memtrace")])
def test_a_schema_of_another_version_is_a_fault(
    healthy: Deployment, check: str, name: str, version: int, words: str
) -> None:
    """An older one is migrated by the server, a newer one needs a newer program; nothing is migrated here."""
    with closing(apsw.Connection(str(healthy.data / name))) as connection:
        connection.pragma("user_version", version)
    said = only_fault(healthy, check)
    assert f"schema version {version}" in said
    assert words in said
    with closing(apsw.Connection(str(healthy.data / name))) as connection:
        assert connection.pragma("user_version") == version


def test_a_missing_metadata_database_is_a_warning(healthy: Deployment) -> None:
    """It is not made."""
    (healthy.data / "memtrace.db").unlink()
    assert "is not there" in only_warning(healthy, "metadata database")
    assert not (healthy.data / "memtrace.db").exists()


def test_a_journal_that_the_metadata_know_and_that_is_gone_is_a_fault(healthy: Deployment) -> None:
    """Memories may have been in it alone; how to go on is said, and it is not made."""
    (healthy.data / "journal.db").unlink()
    code, told = examined(healthy)
    assert code == 1
    (finding,) = [one for one in told["checks"] if one["verdict"] == "fault"]
    assert "is gone" in finding["detail"]
    assert "--new-journal" in finding["hint"]
    assert not (healthy.data / "journal.db").exists()


@DATABASES
def test_a_file_that_others_may_read_is_a_warning(healthy: Deployment, check: str, name: str) -> None:
    """The mode is told, with the command that mends it."""
    (healthy.data / name).chmod(0o640)
    said = only_warning(healthy, check)
    assert "0640" in said
    assert "chmod 600" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
@DATABASES
def test_a_file_that_cannot_be_written_is_a_fault(healthy: Deployment, check: str, name: str) -> None:
    """The server could not go on with it."""
    (healthy.data / name).chmod(0o400)
    assert "cannot be written" in only_fault(healthy, check)


def test_an_arc_that_is_away_is_a_fault(healthy: Deployment, arc: ArcDouble) -> None:
    """The org is named, with the command that looks closer; the other org's Arc is still checked."""
    tenant = bound_to(arc, healthy)
    arc.faults.down = True
    said = only_fault(healthy, f"arc of {tenant.org_id}")
    assert f"memtrace org check-arc {tenant.org_id}" in said
    arc.faults.down = False
    assert examined(healthy)[0] == 0


def test_an_arc_that_refuses_the_key_is_a_fault(healthy: Deployment, arc: ArcDouble) -> None:
    """It is told as such, and the key is not shown."""
    tenant = bound_to(arc, healthy, key=ARC_KEY)
    said = only_fault(healthy, f"arc of {tenant.org_id}")
    assert "refuses the API key" in said
    assert ARC_KEY not in said


def test_an_org_without_an_arc_is_a_warning(healthy: Deployment) -> None:
    """With the command that binds it."""
    org_id = healthy.org(bound=False)
    assert f"memtrace org add-arc {org_id}" in only_warning(healthy, f"arc of {org_id}")


def test_refused_memories_are_a_warning(healthy: Deployment) -> None:
    """How many are set aside, and how to see them."""
    org_id = healthy.org()
    fill(healthy, org_id, [draft(f"m{number}") for number in range(3)], aside=3)
    said = only_warning(healthy, "journal")
    assert f"{org_id}: Arc refuses 3 memories" in said
    assert f"memtrace journal list {org_id} --state set-aside" in said


def test_memories_that_are_long_on_their_way_are_a_warning(healthy: Deployment) -> None:
    """Since when and how many; not while the settle time explains it."""
    org_id = healthy.org()
    fill(healthy, org_id, [draft(f"m{number}") for number in range(3)], delivered=1)
    since = f"{A_WHILE_AGO:%Y-%m-%dT%H:%M:%SZ}"
    assert f"{org_id}: 3 memories on the way since {since}" in only_warning(healthy, "journal")
    healthy.environment["MEMTRACE_JOURNAL_SETTLE_SECONDS"] = str(int(timedelta(hours=5).total_seconds()))
    assert wrong(examined(healthy)[1]) == []


def test_a_journal_that_is_nearly_full_is_a_warning(healthy: Deployment) -> None:
    """From four fifths of `max_bytes` on, with the name of the setting."""
    healthy.environment["MEMTRACE_JOURNAL_MAX_BYTES"] = str(1 << 20)
    healthy.environment["MEMTRACE_JOURNAL_SETTLE_SECONDS"] = "86400"
    org_id = healthy.org()
    fill(healthy, org_id, [draft("x" * 700_000)])
    assert wrong(examined(healthy)[1]) == []
    fill(healthy, org_id, [draft("y" * 200_000)])
    assert "journal.max_bytes" in only_warning(healthy, "journal")


def test_settings_are_told_with_their_origin(healthy: Deployment) -> None:
    """A default, a place in a file, or a variable, which wins."""
    file = healthy.folder / "memtrace.toml"
    file.write_text('[server]\nport = 9200\n[log]\nlevel = "warn"\n[auth]\nenabled = true\n')
    healthy.environment["MEMTRACE_LOG_LEVEL"] = "error"
    _, told = examined(healthy)
    found = settings_of(told)
    assert found["server.port"] == ("9200", "memtrace.toml: server.port")
    assert found["log.level"] == ("error", "MEMTRACE_LOG_LEVEL")
    assert found["auth.enabled"] == ("true", "memtrace.toml: auth.enabled")
    assert found["dedup.window_hours"] == ("24", "default")
    assert found["journal.path"] == ("-", "default")
    assert found["arc.connect_timeout"][1] == "MEMTRACE_ARC_CONNECT_TIMEOUT"
    assert "memtrace.toml" in detail(told, "settings", "ok")


def test_secrets_are_never_shown(healthy: Deployment) -> None:
    """Neither the master key nor the legacy Arc key, in either form of output, whether all is well or not."""
    (healthy.folder / "memtrace.toml").write_text(
        f'[arc]\nurl = "http://127.0.0.1:9"\napi_key = "{ARC_KEY}"\ndatabase = "d"\n'
    )
    _, told = examined(healthy)
    assert settings_of(told)["arc.api_key"] == ("(set)", "memtrace.toml: arc.api_key")
    for arguments in (("doctor",), ("doctor", "--json")):
        for key in (healthy.master_key, "x" + healthy.master_key):
            healthy.environment["MEMTRACE_MASTER_KEY"] = key
            ended = healthy.here(*arguments)
            said = ended.stdout + ended.stderr
            assert ARC_KEY not in said
            assert healthy.master_key not in said


def test_doctor_looks_beside_a_server_that_works(healthy: Deployment) -> None:
    """It disturbs nobody and finds the same."""
    tenant = healthy.tenant("other")
    with healthy.serve() as server, server.client(tenant) as api:
        for number in range(3):
            body = {"agent_id": "ada", "content": f"m{number}"}
            assert api.post("/api/v1/memories", json=body).status_code == 201
            assert examined(healthy)[0] == 0
        assert api.get("/api/v1/memories").json()["count"] == 3


def test_misuse_is_exit_code_two(healthy: Deployment) -> None:
    """Words too many are not ignored."""
    assert healthy.here("doctor", "who").returncode == 2
