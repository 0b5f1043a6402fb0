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
HTTP_URL = "http://127.0.0.1:9101/mcp"


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


@pytest.mark.parametrize("name", ["http-claude-code", "http-cursor", "http-vscode"])
def test_a_client_over_http_is_sent_to_the_command_with_its_own_key(name: str) -> None:
    """The configuration is JSON, has the URL, and sends a key that is not written into it."""
    server = servers(name)
    assert server["url"] == HTTP_URL
    assert server["headers"]["x-api-key"].startswith("${")
    assert server.get("type", "http") == "http"


@pytest.mark.parametrize("name", ["vscode", "http-vscode"])
def test_what_vs_code_asks_for_is_what_it_uses(name: str) -> None:
    """The key's placeholder names the input that asks for it, hidden while typed."""
    (asked,) = json.loads(BLOCKS[name])["inputs"]
    sent = servers(name).get("env") or servers(name)["headers"]
    assert f"${{input:{asked['id']}}}" in sent.values()
    assert asked["password"] is True


def test_the_command_line_of_claude_code_adds_the_same() -> None:
    """What follows the dashes is the command, what precedes them sets both variables."""
    words = shlex.split(BLOCKS["claude-code-command"])
    assert words[:4] == ["claude", "mcp", "add", "memtrace"]
    assert words[words.index("--") + 1 :] == ADDED
    given = [words[place + 1].partition("=")[0] for place, word in enumerate(words) if word == "--env"]
    assert given == [URL, API_KEY]


def test_the_command_line_of_claude_code_adds_the_url_and_the_key() -> None:
    """The header stands last: it would take the name and the URL for further headers."""
    words = shlex.split(BLOCKS["http-claude-code-command"])
    assert words[:-2] == ["claude", "mcp", "add", "--transport", "http", "memtrace", HTTP_URL]
    assert words[-2] == "--header"
    assert words[-1].startswith("x-api-key: mtk_")


def test_the_command_over_http_is_understood() -> None:
    """The command exists with these options, and listens where the clients are sent."""
    program, *words = shlex.split(BLOCKS["http-command"])
    assert program == "memtrace"
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert command.__name__ == "mcp"
    assert f"http://{bound.arguments['host']}:{bound.arguments['port']}/mcp" == HTTP_URL


def test_the_page_lists_the_tools_there_are() -> None:
    """Every tool has its line in the table, in order."""
    assert re.findall(r"^\| `(memtrace_\w+)` \|", PAGE, re.MULTILINE) == [tool.name for tool in TOOLS]
