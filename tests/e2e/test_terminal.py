"""What the commands do on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

import pytest
from e2e.processes import ARC_KEY, COMMAND, Deployment

URL = "https://arc.acme.example.com"


def on_terminal(
    deployment: Deployment,
    *arguments: str,
    columns: int = 80,
    answers: tuple[tuple[str, str], ...] = (),
    **variables: str,
) -> tuple[int, str]:
    """Run a command on a terminal, type an answer at each prompt, and return its exit code and what was shown."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=deployment.folder,
        env=deployment.variables({"TERM": "xterm-256color", **variables}),
        start_new_session=True,
        # getpass opens the controlling terminal.
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(follower)
    shown, waiting, deadline = "", list(answers), time.monotonic() + 20
    try:
        while time.monotonic() < deadline:
            if not select.select([leader], [], [], 0.1)[0]:
                continue
            try:
                part = os.read(leader, 65536)
            except OSError:  # the last one has left the terminal
                break
            shown += part.decode()
            if waiting and waiting[0][0] in shown:
                os.write(leader, (waiting.pop(0)[1] + "\n").encode())
        return process.wait(20), shown
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(20)
        os.close(leader)


def test_an_arc_key_is_prompted_for_without_echo(deployment: Deployment) -> None:
    """`add-arc` without a key asks for it on a terminal, and does not show what is typed."""
    org_id = deployment.org(bound=False)
    code, shown = on_terminal(
        deployment,
        "org", "add-arc", org_id, "--url", URL, "--database", "d",
        answers=(("Arc API key: ", ARC_KEY),),
    )  # fmt: skip
    assert code == 0, shown
    assert ARC_KEY not in shown
    assert deployment.told("org", "show-arc", org_id)["api_key"] == "arc-" + "*" * (len(ARC_KEY) - 8) + "6789"


def test_a_deletion_asks_and_says_what_is_lost(deployment: Deployment) -> None:
    """The prompt names the organization and how many embedded memories go; no keeps, yes deletes."""
    tenant = deployment.tenant("acme")
    with deployment.serve() as server, server.client(tenant) as api:
        batch = [{"agent_id": "ada", "content": str(number)} for number in range(7)]
        assert api.post("/api/v1/memories", json={"memories": batch}).status_code == 201
        for number, answer in enumerate(("n", "", "no way"), 7):
            code, shown = on_terminal(deployment, "org", "delete", tenant.org_id, answers=(("[y/N]", answer),))
            assert code == 1
            assert "acme" in shown
            assert re.search(rf"\b{number} embedded", shown)
            assert (
                api.post("/api/v1/memories", json={"agent_id": "ada", "content": f"after {answer}"}).status_code
                == 201
            )
        code, shown = on_terminal(deployment, "org", "delete", tenant.org_id, answers=(("[y/N]", "y"),))
        assert code == 0, shown
        assert re.search(r"\b10 embedded", shown)
        assert api.get("/api/v1/memories").status_code == 401
    assert deployment.told("org", "list") == []


@pytest.mark.parametrize("columns", [60, 120])
def test_a_table_fits_the_terminal(deployment: Deployment, columns: int) -> None:
    """On a terminal no row is wider than it, and ids are never cut."""
    org_id = deployment.org("a very long name " * 7)
    code, shown = on_terminal(deployment, "org", "list", columns=columns)
    assert code == 0
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in shown.splitlines()]
    assert len(lines) == 2
    assert max(map(len, lines)) <= columns
    assert lines[1].startswith(org_id)


def test_colour_can_be_turned_off(deployment: Deployment) -> None:
    """`NO_COLOR` leaves no colour, and no escape codes, on a terminal."""
    deployment.org()
    _, shown = on_terminal(deployment, "org", "list", NO_COLOR="1")
    assert not re.search(r"\x1b\[3[0-7]", shown)
    assert "ID" in shown
