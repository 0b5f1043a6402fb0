"""What the command line imports: most of the time of a short command is that of its imports."""

import os
import subprocess
import sys

import pytest

from memtrace_cli.app import GROUPS, app
from memtrace_sqlite import MasterKey

SERVER = {
    "aiohttp", "httptools", "litestar", "loguru", "memtrace_arc", "memtrace_cli.serve", "memtrace_http",
    "memtrace_postgres", "opentelemetry", "prometheus_client", "psycopg", "uvicorn", "uvloop",
}  # fmt: skip
RARE = {"difflib", "getpass", "mcp", "pydantic", "rich", "shutil", "tomllib"}


def imported(tmp_path, *arguments):
    """Return the modules that a command has loaded when it is done."""
    script = (
        "import sys; from memtrace_cli.app import run; code = run(sys.argv[1:]);"
        "print(*sorted(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            "PATH": os.defpath,
            "MEMTRACE_MASTER_KEY": MasterKey.generate(),
        },
        check=True,
        timeout=60,
    )
    return set(ran.stderr.split())


def test_an_admin_command_imports_no_server_and_nothing_that_only_other_commands_need(tmp_path):
    """`org list` loads neither what a server stands on, nor what mistakes, terminals and other groups need."""
    loaded = imported(tmp_path, "org", "list")
    assert {"memtrace_cli.org", "memtrace_sqlite", "apsw"} <= loaded
    others = {f"memtrace_cli.{group}" for group in GROUPS} - {"memtrace_cli.org"}
    assert not loaded & (SERVER | RARE | others)


def test_the_help_imports_no_services(tmp_path):
    """`--help` lists all commands and groups without loading what they work with."""
    unwanted = {"apsw", "cryptography", "mcp", "memtrace_cli.org", "pydantic"}
    assert not imported(tmp_path, "--help") & (SERVER | unwanted)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_where_its_name_says(group):
    """Every group of commands can be loaded, bears its name, and has the help that the list of groups shows."""
    loaded = app[group]
    assert loaded.name == (group,)
    assert loaded.help == GROUPS[group]
