"""`memtrace config`: what is set, where, and whether a server could start with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Annotated

from cyclopts import App, Parameter

from memtrace_cli import output, secrets
from memtrace_cli.context import examine
from memtrace_cli.context import settings as load
from memtrace_cli.findings import (
    SET,
    UNSET,
    Finding,
    Value,
    Verdict,
    fault,
    finding,
    of_settings,
    say_findings,
    say_hints,
    shown,
    values,
)
from memtrace_cli.settings import Settings
from memtrace_core.errors import MemtraceError

app = App(name="config")

Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")]


@app.command
def show(*, as_json: Json = False) -> None:
    """Show every setting with where it comes from: a variable, a place in the file, or the default.

    Of a secret it is only told whether it is set.

    Example: memtrace config show

    Example: MEMTRACE_SERVER_PORT=9200 memtrace config show --json
    """
    listed = [*values(load()), *_master_keys()]
    if as_json:
        output.say_json(listed)
        return
    output.say_table(("SETTING", "VALUE", "FROM"), [(one.name, shown(one.value), one.origin) for one in listed])
    output.suggest("memtrace config check")


@app.command
def check(*, as_json: Json = False) -> int:
    """Check all settings, the master key, and the files that they name. It ends with 1 if a server could not start.

    It names every problem, opens no database and reaches no Arc: `memtrace doctor` does.

    Example: memtrace config check
    """
    findings = list(_findings())
    wrong = any(one.verdict is Verdict.FAULT for one in findings)
    if as_json:
        output.say_json({"ok": not wrong, "checks": findings})
        return output.FAILED if wrong else output.DONE
    say_findings(findings)
    say_hints(findings)
    if not wrong:
        output.suggest("memtrace doctor")
    return output.FAILED if wrong else output.DONE


def _findings() -> Iterator[Finding]:
    loaded = examine()
    yield from of_settings(loaded)
    yield _tried("master key", lambda: secrets.vault(os.environ), "well-formed")
    if loaded.settings.auth.db_url is not None:
        yield _tried("metadata database", _psycopg, "psycopg is installed, for the PostgreSQL in auth.db_url")
    if loaded.settings.server.tls_cert or loaded.settings.server.tls_key:
        yield _tried("certificate", lambda: _certificate(loaded.settings), "can be used, and fits its key")
    if loaded.settings.tracing.enabled:
        yield _tried("tracing", lambda: _tracing(loaded.settings), "OpenTelemetry is installed")


def _tried(check: str, work: Callable[[], object], good: str) -> Finding:
    try:
        work()
    except MemtraceError as error:
        return fault(check, error)
    return finding(check, Verdict.OK, good)


def _certificate(settings: Settings) -> object:
    from memtrace_cli.tls import certificate_of  # only where there is one: its imports cost time

    return certificate_of(settings.server)


def _tracing(settings: Settings) -> object:
    from memtrace_cli.tracing import tracing_of  # only where it is wanted: its imports cost time

    return tracing_of(settings)


def _psycopg() -> None:
    from memtrace_cli.composition import needing_psycopg  # only where it is wanted: its imports cost time

    with needing_psycopg():
        import memtrace_postgres  # noqa: F401 - whether it can be


def _master_keys() -> Iterator[Value]:
    for name, variables in (
        ("master key", (secrets.VARIABLE, secrets.FILE_VARIABLE)),
        ("previous master keys", (secrets.PREVIOUS, secrets.PREVIOUS_FILE)),
    ):
        given = [variable for variable in variables if os.environ.get(variable)]
        yield Value(name=name, value=SET if given else UNSET, origin=", ".join(given) or "-")
