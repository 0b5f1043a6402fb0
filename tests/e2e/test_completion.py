"""`memtrace completion`: what a shell offers while a command is typed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from e2e.processes import Deployment


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh", "powershell"])
def test_completion_prints_a_script(deployment: Deployment, shell: str) -> None:
    """The script is on stdout, and knows commands and options."""
    script = deployment.done("completion", shell)
    for word in ("add-arc", "rotate", "completion", "database", "config"):
        assert word in script


def test_completion_is_installed_once(deployment: Deployment) -> None:
    """The script is where the shell looks for it, and the shell's start file names it, once."""
    for _ in range(2):
        said = deployment.done("completion", "bash", "--install")
    script = Path(said.split()[-1])
    assert script.is_relative_to(deployment.folder)
    assert "complete -F" in script.read_text()
    assert (deployment.folder / ".bashrc").read_text().count("Load memtrace completion") == 1


def test_completion_that_cannot_be_installed_is_one_line(deployment: Deployment) -> None:
    """Where the folder cannot be made, the error says how to go on."""
    (deployment.folder / ".local").write_text("a file")
    ended = deployment.here("completion", "bash", "--install")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "memtrace completion bash" in ended.stderr


def completed(deployment: Deployment, *words: str) -> set[str]:
    """Return what bash offers for the last of the words, by the script of `completion`."""
    script = deployment.folder / "completion.bash"
    script.write_text(deployment.done("completion", "bash"))
    ask = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _memtrace; echo "${COMPREPLY[@]}"'
    asked = ["bash", "--norc", "-c", ask, "bash", str(script), "memtrace", *words]
    return set(subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.split())


def test_bash_completes_commands_and_options(deployment: Deployment) -> None:
    """A beginning of a command becomes the command, of an option the option; the options are that command's own."""
    assert completed(deployment, "org", "add") == {"add-arc"}
    assert {"show", "check"} <= completed(deployment, "config", "")
    assert "--overlap" in completed(deployment, "key", "rotate", "--")
    assert "--overlap" not in completed(deployment, "key", "create", "--")
