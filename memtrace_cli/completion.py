"""`memtrace completion`: the script by which a shell completes our commands, as Cyclopts makes it."""

from __future__ import annotations

from typing import Literal

from cyclopts import App

from memtrace_cli import output

Shell = Literal["bash", "fish", "powershell", "zsh"]


def print_script(app: App, shell: Shell | None) -> None:
    """Print the script."""
    output.say(app.generate_completion(shell=shell or _running_shell()))


def install_script(app: App, shell: Shell | None) -> None:
    """Write the script where the shell looks for it, and name it in the shell's start file."""
    shell = shell or _running_shell()
    try:
        file = app.install_completion(shell=shell)
    except OSError as error:
        raise output.Aborted(
            f"the script cannot be installed: {error}", hint=f"`memtrace completion {shell}` prints it"
        ) from None
    output.say(f"Completion for {shell} installed in {file}")
    output.suggest("start a new shell")


def _running_shell() -> Shell:
    from cyclopts.completion import ShellDetectionError, detect_shell  # its import would cost every command

    try:
        return detect_shell()
    except ShellDetectionError:
        raise output.Misused("the shell is not known; name it: bash, fish, powershell or zsh") from None
