"""The container's health check: does the server of these settings answer?"""

from __future__ import annotations

import subprocess
import sys

import pytest
from e2e.processes import Deployment


def probe(deployment: Deployment) -> subprocess.CompletedProcess[str]:
    """Ask as the container does, in the server's working directory."""
    return subprocess.run(
        [sys.executable, "-m", "memtrace_cli.probe"],
        capture_output=True, text=True, cwd=deployment.folder, env=deployment.environment, timeout=60, check=False,
    )  # fmt: skip


def test_a_server_is_found_where_its_settings_file_puts_it(deployment: Deployment) -> None:
    """Host and port may be in the file as well as in variables; who is gone is unhealthy, in one line."""
    with deployment.serve() as server:
        settings = deployment.folder / "memtrace.toml"
        settings.write_text(f'[server]\nhost = "0.0.0.0"\nport = {server.port}\n')
        assert (probe(deployment).returncode, probe(deployment).stderr) == (0, "")
    ended = probe(deployment)
    assert ended.returncode == 1
    assert ended.stderr.startswith("memtrace: no answer from 127.0.0.1")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("settings", ["[server]\nport = 'many'\n", "not toml"])
def test_settings_that_cannot_be_read_are_no_health(deployment: Deployment, settings: str) -> None:
    """No server could have started with them."""
    (deployment.folder / "memtrace.toml").write_text(settings)
    ended = probe(deployment)
    assert ended.returncode == 1
    assert ended.stderr.startswith("memtrace: ")
