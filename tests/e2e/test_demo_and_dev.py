"""Trying Memtrace out: `memtrace demo` and `memtrace serve --dev`."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest
from e2e.processes import Deployment, Server, eventually


def files_of(folder: Path) -> set[str]:
    """Return what lies in a folder, at any depth, but for the server's output."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if not file.name.startswith("server.")}


def test_the_demo_tells_its_story(deployment: Deployment) -> None:
    """`memtrace demo` needs nothing, exits 0, shows each step of the story, and leaves nothing behind."""
    before = files_of(deployment.folder)
    ended = deployment.memtrace("demo", variables={"MEMTRACE_MASTER_KEY": None})
    assert (ended.returncode, ended.stderr) == (0, "")
    for step in (
        "Crawled https://example.com",
        "Skip pagination",
        "429",
        "duplicate memory",
        "## Session Context (sess_",
        "### Recent Actions (2)",
        "### Decisions Made (1)",
        "### Errors (1)",
        "memtrace serve --dev",
    ):
        assert step in ended.stdout
    positions = [ended.stdout.index(step) for step in ("Skip pagination", "duplicate memory", "## Session Context")]
    assert positions == sorted(positions)
    assert files_of(deployment.folder) == before


def dev_server(deployment: Deployment, **variables: str | None) -> Server:
    """Start a throw-away server without a master key, and wait until it has said how to use it."""
    server = deployment.start("serve", "--dev", "--port", "0", variables={"MEMTRACE_MASTER_KEY": None, **variables})
    eventually(lambda: "curl " in server.out and server.out.endswith("\n"), what="the dev server tells its URL")
    found = re.search(r"http://\S+?:\d+", server.out)
    assert found
    server.url = found[0]
    return server


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_dev_server_can_be_used_as_printed_and_leaves_nothing(
    deployment: Deployment, how: signal.Signals
) -> None:
    """It prints URL, key and a curl line that works when pasted; a signal ends it with 0 and all files."""
    before = files_of(deployment.folder)
    with dev_server(deployment) as server:
        key = re.search(r"mtk_[A-Za-z0-9_-]{43}", server.out)
        assert key
        (line,) = [line.strip() for line in server.out.splitlines() if "curl " in line]
        assert server.url in line
        if shutil.which("curl"):
            pasted = subprocess.run(
                ["sh", "-c", line + " -s"], capture_output=True, text=True, check=True, timeout=30
            )
            assert '"memory_id":"mem_' in pasted.stdout
            assert '"content":"hello"' in pasted.stdout
        headers = {"x-api-key": key[0]}
        listed = httpx.get(server.url + "/api/v1/memories", headers=headers)
        assert listed.status_code == 200
        assert httpx.get(server.url + "/ready").status_code == 200
        assert files_of(deployment.folder) != before
        assert server.stop(how) == 0
        assert "Traceback" not in server.err
    assert files_of(deployment.folder) == before


def test_a_dev_server_ignores_settings_and_databases(deployment: Deployment) -> None:
    """A settings file, variables and an existing database in the folder play no part and stay as they are."""
    deployment.tenant()
    database = (deployment.data / "memtrace.db").read_bytes()
    (deployment.folder / "memtrace.toml").write_text("[server]\nhost = 5\nport = 'no'\n")
    variables = {"MEMTRACE_SERVER_PORT": "1", "MEMTRACE_SERVER_HOST": "0.0.0.0", "MEMTRACE_AUTH_ENABLED": "false"}
    with dev_server(deployment, MEMTRACE_CONFIG="nowhere.toml", **variables) as server:
        assert httpx.get(server.url + "/api/v1/memories").status_code == 401
        assert len(httpx.get(server.url + "/health").json()["arc"]) == 1
        assert server.stop() == 0
    assert (deployment.data / "memtrace.db").read_bytes() == database


def test_a_dev_server_listens_on_loopback_only(deployment: Deployment) -> None:
    """No other address of the machine answers."""
    with dev_server(deployment) as server:
        assert server.url.startswith("http://127.0.0.1:")
        listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        addresses = {
            line[1] for line in listening if line[3] == "0A" and int(line[1].partition(":")[2], 16) == server.port
        }
        assert addresses == {f"0100007F:{server.port:04X}"}
        own = next(
            (one[4][0] for one in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)), "127.0.0.1"
        )
        if not own.startswith("127.0.0.1"):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((own, server.port), timeout=5)


@pytest.mark.slow
def test_two_dev_servers_do_not_meet(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each has a folder and a key of its own."""
    other = Deployment(tmp_path_factory.mktemp("other"))
    with dev_server(deployment) as one, dev_server(other) as two:
        keys = [re.findall(r"mtk_[A-Za-z0-9_-]{43}", server.out)[0] for server in (one, two)]
        assert keys[0] != keys[1]
        assert httpx.get(one.url + "/api/v1/memories", headers={"x-api-key": keys[1]}).status_code == 401
