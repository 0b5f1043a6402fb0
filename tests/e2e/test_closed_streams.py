"""Standard streams that are closed, full, or read by nobody."""

from __future__ import annotations

import os
import re
import subprocess

import httpx
import pytest
from e2e.processes import COMMAND, Deployment, eventually

KEY = re.compile(r"mtk_[\w-]{20,}")


def shell(deployment: Deployment, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a shell, where `$M` is the program."""
    return subprocess.run(
        ["sh", "-c", command],
        capture_output=True, text=True, cwd=deployment.folder, timeout=60, check=False,
        env={**deployment.environment, "M": " ".join(COMMAND)},
    )  # fmt: skip


@pytest.mark.parametrize("stdout", [">/dev/full", ">&-", "| true"])
@pytest.mark.parametrize("form", ["", "--json"])
def test_a_key_that_could_not_be_shown_is_named(deployment: Deployment, stdout: str, form: str) -> None:
    """There is no copy of it: the operator is told which one it is, and what to do."""
    org_id = deployment.org()
    ended = shell(deployment, f"($M key create --org {org_id} --name prod {form}; echo $? >code) {stdout}")
    (key,) = deployment.told("key", "list", "--org", org_id)
    assert (deployment.folder / "code").read_text() == "1\n"
    assert ended.stderr.splitlines() == [
        f"memtrace: API key {key['id']} was made, and could not be shown",
        f"  hint: end it with `memtrace key revoke {key['id']}`, and make another with `memtrace key create`",
    ]


@pytest.mark.parametrize("stdout", [">/dev/full", ">&-"])
@pytest.mark.parametrize("command", ["org list", "org list --json", "keygen master", "config check"])
def test_output_that_cannot_be_written_is_one_line(deployment: Deployment, command: str, stdout: str) -> None:
    """What is wrong with standard output is told, with 1."""
    deployment.org()
    ended = shell(deployment, f"$M {command} {stdout}")
    assert ended.returncode == 1
    assert ended.stderr.startswith("memtrace: standard output cannot be written: ")
    assert ended.stderr.count("\n") == 1


def test_messages_that_nobody_hears_change_no_exit_code(deployment: Deployment) -> None:
    """What was done has ended with 0, though stderr is closed; a question that nobody can answer is a misuse."""
    made = shell(deployment, "$M org create acme 2>&-")
    assert (made.returncode, made.stderr) == (0, "")
    assert [one["name"] for one in deployment.told("org", "list")] == ["acme"]
    assert shell(deployment, "$M org import org_nobody <&-").returncode == 1


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_a_server_without_standard_streams_ends_in_order(deployment: Deployment, closed: str) -> None:
    """Its own files and connections do not take their places."""
    deployment.tenant()
    with deployment.serve() as server:
        port = server.port
        assert server.stop() == 0
    environment = {**deployment.environment, "M": " ".join(COMMAND), "MEMTRACE_SERVER_PORT": str(port)}
    command = f"exec $M serve {closed}"
    with subprocess.Popen(["sh", "-c", command], cwd=deployment.folder, env=environment) as running:
        eventually(lambda: answers(f"http://127.0.0.1:{port}/health"), what="the server answers")
        running.terminate()
        assert running.wait(30) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_log_that_nobody_reads_stops_no_server(deployment: Deployment, workers: str) -> None:
    """Its pipe is full: requests are answered all the same, writes too, and SIGTERM ends the server."""
    tenant = deployment.tenant()
    with deployment.serve() as server:
        port = server.port
        assert server.stop() == 0
    environment = {**deployment.environment, "MEMTRACE_SERVER_PORT": str(port), "MEMTRACE_SERVER_WORKERS": workers}
    reading, writing = os.pipe()
    with subprocess.Popen(
        [*COMMAND, "serve"], cwd=deployment.folder, env=environment, stdout=subprocess.DEVNULL, stderr=writing
    ) as running:
        os.close(writing)
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: answers(url + "/health"), what="the server answers")
        with httpx.Client(base_url=url, headers={"x-api-key": tenant.key}, trust_env=False) as api:
            for _ in range(1_000):  # more lines than a pipe holds
                api.get("/health")
            body = {"agent_id": "ada", "content": "kept"}
            assert api.post("/api/v1/memories", json=body).status_code == 201
        running.terminate()
        assert running.wait(30) == 0
    os.close(reading)


def answers(url: str) -> bool:
    """Tell whether a server answers there."""
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
