"""The programs of docs/examples, run as a user runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from e2e.marks import new_master_key
from e2e.processes import Server, Tenant, eventually

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment, with variables and without Memtrace's own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MEMTRACE_")}
    return {**inherited, **variables}


def ended(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an example to its end."""
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        env=environment(**variables),
        timeout=60,
        check=False,
    )


def lines(name: str, *arguments: str, **variables: str) -> list[str]:
    """Run an example that must succeed and complain of nothing, and return what it prints."""
    run = ended(name, *arguments, **variables)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout.splitlines()


def test_an_agent_does_not_repeat_its_mistake(server: Server, tenant: Tenant) -> None:
    """The first run of a day is refused once and decides; no later run is refused, the next day's neither."""
    access = {"MEMTRACE_URL": server.url, "MEMTRACE_API_KEY": tenant.key}
    assert lines("agent_day.py", **access) == [
        "morning: I have all 24 prices. (5 tool calls, 1 refused)",
        "  HTTP 429 from example.com: at most 10 articles in one request",
        "evening: I have all 24 prices. (3 tool calls, 0 refused)",
    ]
    assert lines("agent_day.py", **access) == [
        "morning: I have all 24 prices. (3 tool calls, 0 refused)",
        "evening: I have all 24 prices. (3 tool calls, 0 refused)",
    ]
    with server.client(tenant) as api:
        (first, *_) = reversed(api.get("/api/v1/sessions", params={"agent_id": "price_watcher"}).json()["sessions"])
        assert first["status"] == "closed"
        context = api.post(f"/api/v1/sessions/{first['id']}/context", json={}).json()["context"]
    assert "at most 10 articles at a time (reasoning: it refuses larger requests with 429)" in context
    assert context.count("tool_call: Got") == 3
    assert "error: HTTP 429" in context


def test_an_agent_without_a_key_is_told_what_to_do() -> None:
    """The example names the variable, and how to come by a key."""
    run = ended("agent_day.py")
    assert (run.returncode, run.stdout) == (2, "")
    assert "MEMTRACE_API_KEY" in run.stderr


@pytest.mark.parametrize("away", [True, False])
def test_an_agent_without_a_memory_says_why(away: bool, server: Server) -> None:
    """A server that is not there, and one that refuses the key, are a line on stderr, and exit code 1."""
    url = "http://127.0.0.1:1" if away else server.url
    run = ended("agent_day.py", MEMTRACE_URL=url, MEMTRACE_API_KEY="mtk_wrong")
    assert (run.returncode, run.stdout) == (1, "")
    (told,) = run.stderr.splitlines()
    assert (f"can be reached at {url}" if away else "invalid API key") in told


def test_the_core_works_over_fakes() -> None:
    """A day with an Arc that is away at first passes without waiting, each step as the program says."""
    told = lines("embed_fakes.py")
    assert [line.split()[0] for line in told] == ["stored", "refused", "delivered", "found", "stored"]


def test_the_core_keeps_memories_in_a_folder(tmp_path: Path) -> None:
    """Runs of a program without a server find what earlier ones have stored, once, in order."""
    key = {"MEMTRACE_MASTER_KEY": new_master_key()}
    assert lines("embed_sqlite.py", str(tmp_path), "one", **key)[1].endswith("  one")
    assert lines("embed_sqlite.py", str(tmp_path), "one", **key)[0] == "known already"
    told = lines("embed_sqlite.py", str(tmp_path), "two", **key)
    assert [line.split("  ")[-1] for line in told[1:]] == ["one", "two"]
    wrong = ended("embed_sqlite.py", str(tmp_path), MEMTRACE_MASTER_KEY=new_master_key())
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("embed_sqlite: ")


def test_a_gateway_of_ones_own_gets_what_was_stored(tmp_path: Path) -> None:
    """The memory is in the folder of its organization when the program ends, and waits in the journal no more."""
    (told,) = lines("own_gateway.py", str(tmp_path), MEMTRACE_MASTER_KEY=new_master_key())
    org_id, _, content = told.partition(": ")
    (file,) = tmp_path.joinpath(org_id).glob("*.jsonl")  # beside it lies its lock
    assert f'"{content}"' in file.read_text()


@pytest.mark.parametrize("name", ["embed_sqlite.py", "own_gateway.py"])
def test_a_program_that_lacks_something_says_how_it_is_used(name: str) -> None:
    """Without a folder and a master key there is one line, and exit code 2."""
    run = ended(name)
    assert (run.returncode, run.stdout) == (2, "")
    assert re.fullmatch(r"usage: MEMTRACE_MASTER_KEY=\.\.\. \S+\.py FOLDER.*\n", run.stderr)


def test_the_app_is_mounted_in_another(tmp_path: Path) -> None:
    """The host's page shows what was stored over the mounted API, whose key is printed at the first start only."""
    out, err = tmp_path / "out", tmp_path / "err"
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--factory", "mounted_app:create"]
    variables = environment(DATA=str(tmp_path), MEMTRACE_MASTER_KEY=new_master_key())
    with out.open("wb") as said, err.open("wb") as logged:
        host = subprocess.Popen([*command, "--port", "0"], stdout=said, stderr=logged, env=variables)
    try:
        found = eventually(lambda: re.search(r"running on (http://\S+)", err.read_text()), what="the host listens")
        key = eventually(lambda: re.search(r"mtk_\S+", out.read_text()), what="a key is printed")
        with httpx.Client(base_url=found[1], headers={"x-api-key": key[0]}, trust_env=False) as api:
            assert api.get("/").text == "nothing yet"
            stored = api.post("/memory/api/v1/memories", json={"agent_id": "ada", "content": "hello"})
            assert stored.status_code == 201
            assert api.get(f"/memory/api/v1/memories/{stored.json()['memory_id']}").json() == stored.json()
            assert api.get("/").text == "hello"
            assert api.get("/memory/api/v1/memories", headers={"x-api-key": "mtk_wrong"}).status_code == 401
    finally:
        host.terminate()
        assert host.wait(20) in (0, -15)
    assert "Traceback" not in err.read_text()
