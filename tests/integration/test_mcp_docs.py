"""What docs/mcp.md tells people to paste."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from memtrace_cli.app import app
from memtrace_cli.mcp.settings import API_KEY, DEFAULT_URL, URL
from memtrace_cli.mcp.tools import TOOLS

PAGE = Path(__file__).parents[2].joinpath("docs", "mcp.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- ([a-z-]+) -->\n```[a-z]+\n(.*?)```", PAGE, re.DOTALL))
ADDED = ["memtrace", "mcp"]


def servers(name: str) -> dict[str, Any]:
    """Return the one server of a client's configuration."""
    configuration = json.loads(BLOCKS[name])
    (named,) = (configuration.get("mcpServers") or configuration["servers"]).items()
    assert named[0] == "memtrace"
    server: dict[str, Any] = named[1]
    return server


@pytest.mark.parametrize("name", ["claude-desktop", "claude-code", "cursor", "vscode"])
def test_a_client_is_told_to_start_the_command(name: str) -> None:
    """The configuration is JSON, runs `memtrace mcp`, and sets both variables by the names that count."""
    server = servers(name)
    assert [server["command"], *server["args"]] == ADDED
    assert set(server["env"]) == {URL, API_KEY}
    assert DEFAULT_URL in server["env"][URL]


def test_what_vs_code_asks_for_is_what_it_uses() -> None:
    """The key's placeholder names the input that asks for it, hidden while typed."""
    (asked,) = json.loads(BLOCKS["vscode"])["inputs"]
    assert servers("vscode")["env"][API_KEY] == f"${{input:{asked['id']}}}"
    assert asked["password"] is True


def test_the_command_line_of_claude_code_adds_the_same() -> None:
    """What follows the dashes is the command, what precedes them sets both variables."""
    words = shlex.split(BLOCKS["claude-code-command"])
    assert words[:4] == ["claude", "mcp", "add", "memtrace"]
    assert words[words.index("--") + 1 :] == ADDED
    given = [words[place + 1].partition("=")[0] for place, word in enumerate(words) if word == "--env"]
    assert given == [URL, API_KEY]


def test_the_command_over_http_is_understood() -> None:
    """The command exists with these options, and the client's URL is where it listens."""
    program, *words = shlex.split(BLOCKS["http-command"])
    assert program == "memtrace"
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert command.__name__ == "mcp"
    assert servers("http-client")["url"] == f"http://{bound.arguments['host']}:{bound.arguments['port']}/mcp"
    assert "x-api-key" in servers("http-client")["headers"]


def test_the_page_lists_the_tools_there_are() -> None:
    """Every tool has its line in the table, in order."""
    assert re.findall(r"^\| `(memtrace_\w+)` \|", PAGE, re.MULTILINE) == [tool.name for tool in TOOLS]
