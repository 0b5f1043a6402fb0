"""What commands find out about an installation, and the settings as a person is shown them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from urllib.parse import urlsplit

import msgspec

from memtrace_cli import output
from memtrace_cli.settings import SECRETS, Loaded
from memtrace_core.errors import MemtraceError

SET, UNSET = "(set)", "(unset)"


class Verdict(Enum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One check: what was found, and what to do about it."""

    check: str
    verdict: Verdict
    detail: str
    hint: str | None = None


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A setting in use, and where it comes from; of a secret, only whether it is set."""

    name: str
    value: str | int | float | bool | Sequence[str] | None
    origin: str


def finding(check: str, verdict: Verdict, detail: str, *, hint: str | None = None) -> Finding:
    """Return how a check ended."""
    return Finding(check=check, verdict=verdict, detail=detail, hint=hint)


def fault(check: str, error: MemtraceError, *, hint: str | None = None) -> Finding:
    """Return a check that ended with an error, whose own hint is the better one."""
    return finding(check, Verdict.FAULT, str(error), hint=error.hint or hint)


def of_settings(loaded: Loaded) -> Iterator[Finding]:
    """Tell of every setting that cannot be used, what is odd, and where they come from if all can."""
    for problem in loaded.problems:
        yield fault("settings", problem)
    for warning in loaded.warnings:
        yield finding("settings", Verdict.WARNING, warning)
    if not loaded.problems:
        where = f"from {loaded.file}" if loaded.file else "no settings file; environment and defaults"
        yield finding("settings", Verdict.OK, where)


def say_findings(findings: Iterable[Finding]) -> None:
    """Print a table of checks."""
    rows = [(one.verdict.value, one.check, output.one_line(one.detail)) for one in findings]
    output.say_table(("VERDICT", "CHECK", "DETAIL"), rows)


def say_hints(findings: Iterable[Finding]) -> None:
    """Say what is to be done, a line for each check that has something to say."""
    for one in findings:
        if one.hint:
            output.note(f"{one.check}: {output.one_line(one.hint)}")


def values(loaded: Loaded) -> Iterator[Value]:
    """Tell every setting in use."""
    for section, settings in msgspec.structs.asdict(loaded.settings).items():
        for key, value in msgspec.structs.asdict(settings).items():
            if key in SECRETS:
                value = UNSET if value is None else SET
            elif key == "url":
                value = value and _without_credentials(value)
            elif isinstance(value, tuple):
                value = [str(one) for one in value]
            yield Value(name=f"{section}.{key}", value=value, origin=loaded.origin(section, key))


def shown(value: object) -> str:
    """Return a value as a table has it."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(value) or "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _without_credentials(url: str) -> str:
    """Return a URL, which an old file may have written with a password in it, without that."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return SET
    return parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}").geturl() if "@" in parts.netloc else url
