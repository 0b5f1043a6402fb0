"""`memtrace doctor`: is everything as it should be, and if not, what is to be done."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from enum import Enum
from pathlib import Path

import msgspec

from memtrace_cli import output
from memtrace_cli.composition import compose
from memtrace_cli.context import settings as load
from memtrace_cli.secrets import vault
from memtrace_cli.settings import Loaded, Settings, SettingsError
from memtrace_core import ArcInstance, Org, Services
from memtrace_core.errors import MemtraceError
from memtrace_sqlite import Mode
from memtrace_sqlite.database import Schema, reporting
from memtrace_sqlite.inspection import inspect, sqlite_version
from memtrace_sqlite.journal import LEAST_FREE_BYTES
from memtrace_sqlite.schema import JOURNAL, METADATA

LITTLE_FREE_BYTES = 1 << 30
LATE = timedelta(minutes=10)
NEARLY_FULL = 0.8
MOST_AT_ONCE = 8
HIDDEN = "(set)"


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


def doctor(as_json: bool) -> int:
    """Run every check that can be run, print them, and return the exit code."""
    loaded, findings = asyncio.run(_examine())
    wrong = any(finding.verdict is Verdict.FAULT for finding in findings)
    listed = list(_settings(loaded)) if loaded else []
    if as_json:
        output.say_json({"ok": not wrong, "checks": findings, "settings": listed})
        return output.FAILED if wrong else output.DONE
    output.say_table(
        ("VERDICT", "CHECK", "DETAIL"),
        [(one.verdict.value, one.check, output.one_line(one.detail)) for one in findings],
    )
    output.say()
    output.say_table(("SETTING", "VALUE", "FROM"), [(one["name"], one["value"], one["origin"]) for one in listed])
    for finding in findings:
        if finding.hint:
            output.note(f"{finding.check}: {output.one_line(finding.hint)}")
    return output.FAILED if wrong else output.DONE


async def _examine() -> tuple[Loaded | None, list[Finding]]:
    findings: list[Finding] = []
    try:
        loaded = load()
    except MemtraceError as error:
        return None, [_fault("settings", error)]
    findings += _of_settings(loaded)
    findings += _of_program()
    settings = loaded.settings
    usable = []
    for name, path, schema in (
        ("metadata database", settings.database_file, METADATA),
        ("journal", settings.journal_file, JOURNAL),
    ):
        found = list(_of_file(name, path, schema))
        findings += found
        usable.append(all(one.verdict is not Verdict.FAULT for one in found) and _present(path))
    findings += _of_disk(settings)
    try:
        key = vault(os.environ)
    except MemtraceError as error:
        return loaded, [*findings, _fault("master key", error)]
    if usable == [True, False] and not _present(settings.journal_file):
        findings.append(
            _finding(
                "journal",
                Verdict.FAULT,
                f"the journal {settings.journal_file} is gone, and memories that were acknowledged with it",
                hint="put it back, or restore a backup; if it is lost for good, `memtrace serve --new-journal`",
            )
        )
    if not all(usable):
        findings.append(_finding("master key", Verdict.OK, "well-formed; there is nothing to try it on"))
        return loaded, findings
    try:
        services = compose(settings, key, Mode.AS_IT_IS)
    except SettingsError as error:
        return loaded, [*findings, _fault("master key", error)]
    except MemtraceError as error:
        return loaded, [*findings, _fault("databases", error)]
    findings.append(_finding("master key", Verdict.OK, "opens the metadata database"))
    try:
        findings += [finding async for finding in _of_journal(services, settings)]
        findings += await _of_arcs(services)
    except MemtraceError as error:
        findings.append(_fault("databases", error))
    finally:
        await services.close()
    return loaded, findings


def _of_settings(loaded: Loaded) -> Iterator[Finding]:
    for warning in loaded.warnings:
        yield _finding("settings", Verdict.WARNING, warning)
    where = f"from {loaded.file}" if loaded.file else "no settings file; environment and defaults"
    yield _finding("settings", Verdict.OK, where)


def _of_program() -> Iterator[Finding]:
    version, safe = sqlite_version()
    yield _finding(
        "sqlite",
        Verdict.OK if safe else Verdict.FAULT,
        f"SQLite {version}, Python {platform.python_version()}",
        hint=None if safe else "this SQLite can lose committed writes; upgrade apsw",
    )


def _of_file(name: str, path: Path, schema: Schema) -> Iterator[Finding]:
    try:
        with reporting(path):
            there = path.exists()
        if not there:
            yield _finding(
                name, Verdict.WARNING, f"{path} is not there", hint="the first `memtrace serve` makes it"
            )
            return
        found = inspect(path, schema)
    except MemtraceError as error:
        yield _fault(
            name, error, hint="stop the server, keep a copy of the files, and use `memtrace restore` with a backup"
        )
        return
    size = output.shown_bytes(found.size_bytes + found.wal_bytes)
    pages = "every page is sound" if found.checked else "too large to look at every page"
    yield _finding(name, Verdict.OK, f"{path}: {size}, schema version {found.schema_version}, {pages}")
    if found.schema_version != schema.version:
        newer = found.schema_version > schema.version
        yield _finding(
            name,
            Verdict.FAULT,
            f"schema version {found.schema_version}; this program reads {schema.version}",
            hint="use a newer memtrace" if newer else "`memtrace serve` migrates it when it starts",
        )
    if found.mode & 0o077:
        yield _finding(
            name,
            Verdict.WARNING,
            f"others may read it (mode {found.mode:04o})",
            hint=f"chmod 600 {path}",
        )
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        yield _finding(
            name, Verdict.FAULT, f"{path} cannot be written by this user", hint="check its owner and file system"
        )


def _of_disk(settings: Settings) -> Iterator[Finding]:
    for folder in dict.fromkeys((settings.database_file.parent, settings.journal_file.parent)):
        if not _present(folder):
            continue
        free = shutil.disk_usage(folder).free
        verdict, hint = Verdict.OK, None
        if free < LEAST_FREE_BYTES:
            verdict, hint = Verdict.FAULT, "writes are refused until there is room"
        elif free < LITTLE_FREE_BYTES:
            verdict, hint = Verdict.WARNING, "make room soon: the journal needs it when an Arc is away"
        yield _finding("disk", verdict, f"{output.shown_bytes(free)} free in {folder}", hint=hint)


def _present(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False  # in a folder that may not be entered: `_of_file` has told that


async def _of_journal(services: Services, settings: Settings) -> AsyncIterator[Finding]:
    found = [(org, backlog) for org, backlog in await services.backlog.status() if backlog]
    waiting = sum(backlog.pending_bytes for _, backlog in found)
    share = waiting / settings.journal.max_bytes
    yield _finding(
        "journal",
        Verdict.WARNING if share >= NEARLY_FULL else Verdict.OK,
        f"{output.shown_bytes(waiting)} of {output.shown_bytes(settings.journal.max_bytes)} wait for delivery",
        hint="see `memtrace journal status`; journal.max_bytes is the limit" if share >= NEARLY_FULL else None,
    )
    now = services.clock.now()
    for org, backlog in found:
        if backlog.oldest and now - backlog.oldest > LATE + timedelta(seconds=settings.journal.settle_seconds):
            yield _finding(
                "journal",
                Verdict.WARNING,
                f"{org.id}: {backlog.pending + backlog.delivered} memories on their way since "
                f"{output.shown_time(backlog.oldest)}",
                hint=f"memtrace org check-arc {org.id}",
            )
        if backlog.set_aside:
            yield _finding(
                "journal",
                Verdict.WARNING,
                f"{org.id}: Arc refuses {backlog.set_aside} memories",
                hint=f"memtrace journal list {org.id} --state set-aside",
            )


async def _of_arcs(services: Services) -> list[Finding]:
    places = asyncio.Semaphore(MOST_AT_ONCE)

    async def check(org: Org, instance: ArcInstance | None) -> Finding:
        if instance is None:
            return _finding(
                f"arc of {org.id}",
                Verdict.WARNING,
                "not bound to an Arc instance",
                hint=f"memtrace org add-arc {org.id}",
            )
        async with places:
            started = time.perf_counter()
            try:
                await services.gateway.ping(instance)
            except MemtraceError as error:
                return _fault(f"arc of {org.id}", error, hint=f"memtrace org check-arc {org.id}")
            elapsed = (time.perf_counter() - started) * 1000
        return _finding(f"arc of {org.id}", Verdict.OK, f"{instance.url} answers in {elapsed:.0f} ms")

    return list(await asyncio.gather(*(check(org, arc) for org, arc in await services.tenants.list_orgs())))


def _settings(loaded: Loaded) -> Iterator[dict[str, str]]:
    for section, values in msgspec.structs.asdict(loaded.settings).items():
        for key, value in msgspec.structs.asdict(values).items():
            hidden = key == "api_key" and value is not None
            origin = loaded.origin(section, key)
            yield {"name": f"{section}.{key}", "value": HIDDEN if hidden else _shown(value), "origin": origin}


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return ", ".join(value) or "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _finding(check: str, verdict: Verdict, detail: str, *, hint: str | None = None) -> Finding:
    return Finding(check=check, verdict=verdict, detail=detail, hint=hint)


def _fault(check: str, error: MemtraceError, *, hint: str | None = None) -> Finding:
    return _finding(check, Verdict.FAULT, str(error), hint=error.hint or hint)
