"""The command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError
from cyclopts.validators import Number

from memtrace_cli import output
from memtrace_cli.completion import Shell, install_script, print_script
from memtrace_cli.context import config_file
from memtrace_core.errors import MemtraceError

HELP = """A memory server for AI agents.

Try it: memtrace demo

Set up a tenant: memtrace org create acme, memtrace org add-arc, memtrace key create

Serve: memtrace serve (also what a bare memtrace does)
"""


def _version() -> str:
    from importlib.metadata import version  # costs every other command a fifth of its time

    return f"memtrace {version('memtrace')}"


app = App(name="memtrace", help=HELP, help_format="plaintext", version=_version)

# Imports take most of a command's time, so each command imports what it needs, and the help of a group stands here.
GROUPS = {
    "org": "Organizations, and the Arc instance of each.",
    "key": "API keys of an organization.",
    "journal": "Memories on their way to the organizations' Arcs.",
    "vault": "The master keys under which the Arc keys are sealed.",
    "keygen": "Make fresh secrets.",
    "config": "The settings: what they are, where they come from, and whether they can be used.",
}
for name, purpose in GROUPS.items():
    app.command(f"memtrace_cli.{name}:app", name=name, help=purpose)

Port = Annotated[int | None, Parameter(validator=Number(gte=0, lte=65_535))]


@app.command
def serve(
    *,
    dev: Annotated[
        bool,
        Parameter(negative=(), help="Throw-away server for trying things out: nothing to set up, nothing kept."),
    ] = False,
    port: Annotated[Port, Parameter(help="Port of a --dev server (0: any free one).")] = None,
    new_journal: Annotated[
        bool,
        Parameter(
            negative=(),
            help="Begin a new journal: the former one is lost, and memories with it; or this is a further node.",
        ),
    ] = False,
) -> int:
    """Run the server.

    Example: MEMTRACE_MASTER_KEY=$(memtrace keygen master) memtrace serve

    Example: memtrace serve --dev
    """
    if dev and new_journal:
        raise output.Misused("--new-journal does not go with --dev")
    if dev:
        from memtrace_cli.alone import serve_dev

        return serve_dev(port)
    if port is not None:
        raise output.Misused("--port goes with --dev; else set server.port (MEMTRACE_SERVER_PORT)")
    from memtrace_cli.serve import serve as run_server

    return run_server(new_journal=new_journal)


@app.command
def demo() -> int:
    """Play a short story of an agent on a throw-away server, and show what its memory gives back.

    Example: memtrace demo
    """
    from memtrace_cli.demo import demo as play

    return play()


@app.command
def backup(file: Path, /) -> None:
    """Write all orgs, keys and local memories into a new file, as of one moment, while servers go on working.

    The master key is not in it. What has reached an Arc is only there.

    Example: memtrace backup /backups/memtrace-2026-11-23.tar

    Parameters
    ----------
    file
        The file to write; it must not be there yet.
    """
    from memtrace_cli.backup import backup as write

    write(file)


@app.command
def restore(file: Path, /) -> None:
    """Put the databases of a backup where the settings say. Existing ones are never overwritten.

    Example: memtrace restore /backups/memtrace-2026-11-23.tar

    Parameters
    ----------
    file
        A file that `memtrace backup` has written.
    """
    from memtrace_cli.backup import restore as put_back

    put_back(file)


@app.command
def doctor(*, as_json: Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")] = False) -> int:
    """Check settings, master key, databases, disk, journal and every org's Arc, and say what to do about faults.

    It changes nothing, and ends with 1 if something is wrong.

    Example: memtrace doctor
    """
    from memtrace_cli.doctor import doctor as examine

    return examine(as_json)


@app.command
def mcp(
    *,
    http: Annotated[
        bool, Parameter(negative=(), help="Serve many clients over streamable HTTP instead of one over stdio.")
    ] = False,
    host: Annotated[str | None, Parameter(help="Address to listen on with --http (127.0.0.1).")] = None,
    port: Annotated[Port, Parameter(help="Port to listen on with --http (9101; 0: any free one).")] = None,
) -> int:
    """Give AI agents tools to remember and recall, as a Model Context Protocol server.

    It stands in front of the server at MEMTRACE_URL (http://127.0.0.1:9100), and acts with MEMTRACE_API_KEY.

    Example: MEMTRACE_API_KEY=mtk_... memtrace mcp

    Example: memtrace mcp --http --port 9101
    """
    from memtrace_cli.mcp.command import run as run_mcp

    if not http and (host is not None or port is not None):
        raise output.Misused("--host and --port go with --http")
    return run_mcp(http=http, host=host, port=port)


@app.command
def completion(
    shell: Shell | None = None,
    /,
    *,
    install: Annotated[
        bool,
        Parameter(negative=(), help="Put the script where the shell looks for it, and name it in its start file."),
    ] = False,
) -> None:
    """Print the script by which a shell completes commands and options, or install it.

    Example: memtrace completion bash > ~/.local/share/bash-completion/completions/memtrace

    Example: memtrace completion --install

    Parameters
    ----------
    shell
        The shell; the one that runs this command if not given.
    """
    (install_script if install else print_script)(app, shell)


@app.default
def bare() -> int:
    """Serve."""
    return serve()


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(help="Settings file to use instead of the first one found.")] = None,
) -> int | None:
    """Run a command with the options that all commands have."""
    config_file.set(config)
    result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    return result if isinstance(result, int) else None


def run(arguments: list[str]) -> int:
    """Run one command line, and return its exit code: 0 done, 1 failed, 2 misused."""
    if foreign := [argument for argument in arguments if not _is_text(argument)]:
        output.note(f"memtrace: {foreign[0]!a} is not valid UTF-8")
        return output.MISUSED
    try:
        result = app.meta(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except UnusedCliTokensError as error:
        output.note(
            f"memtrace: unknown command or argument: {output.one_line(' '.join(error.unused_tokens or []))}"
        )
        output.note("  hint: see `memtrace --help`")
        return output.MISUSED
    except CycloptsError as error:
        output.note(f"memtrace: {output.one_line(str(error))}")
        output.note("  hint: see `memtrace --help`")
        return output.MISUSED
    except MemtraceError as error:
        return output.fail(error)
    except KeyboardInterrupt:
        output.note("memtrace: interrupted")
        return 130
    except BrokenPipeError:
        output.abandon_stdout()  # whoever read it has had enough
        return output.FAILED
    return result if isinstance(result, int) else output.DONE


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:  # how Python shows bytes that are no text
        return False
    return True
