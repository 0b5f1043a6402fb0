"""`memtrace doctor`: is everything as it should be, and if not, what is to be done."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import time
from collections.abc import AsyncIterator, Collection, Iterator
from datetime import timedelta
from pathlib import Path

from memtrace_cli import output
from memtrace_cli.composition import compose, look_into_postgres, refuse_database_of_go
from memtrace_cli.context import examine
from memtrace_cli.findings import (
    Finding,
    Verdict,
    fault,
    finding,
    of_settings,
    say_findings,
    say_hints,
    shown,
    values,
)
from memtrace_cli.own_journal import place_of
from memtrace_cli.rehearsal import awaits_takeover, rehearsed
from memtrace_cli.secrets import vault
from memtrace_cli.settings import Loaded, Settings, SettingsError
from memtrace_core import ArcInstance, Org, Services
from memtrace_core.clock import SystemClock
from memtrace_core.errors import MemtraceError
from memtrace_core.forgotten import ForgetOrder
from memtrace_sqlite import Mode
from memtrace_sqlite.database import Schema, reporting
from memtrace_sqlite.inspection import inspect, sqlite_version
from memtrace_sqlite.journal import LEAST_FREE_BYTES
from memtrace_sqlite.schema import JOURNAL, METADATA

LITTLE_FREE_BYTES = 1 << 30
LATE = timedelta(minutes=10)
NEARLY_FULL = 0.8
MOST_AT_ONCE = 8


def doctor(as_json: bool) -> int:
    """Run every check that can be run, print them, and return the exit code."""
    loaded, findings = asyncio.run(_examine())
    wrong = any(one.verdict is Verdict.FAULT for one in findings)
    listed = [(one.name, shown(one.value), one.origin) for one in values(loaded)] if loaded else []
    if as_json:
        settings = [dict(zip(("name", "value", "origin"), one, strict=True)) for one in listed]
        output.say_json({"ok": not wrong, "checks": findings, "settings": settings})
        return output.FAILED if wrong else output.DONE
    say_findings(findings)
    output.say()
    output.say_table(("SETTING", "VALUE", "FROM"), listed)
    say_hints(findings)
    return output.FAILED if wrong else output.DONE


async def _examine() -> tuple[Loaded | None, list[Finding]]:
    loaded = examine()
    findings = list(of_settings(loaded))
    if loaded.problems:
        return None, findings
    findings += _of_program()
    settings = loaded.settings
    usable, lost = [], False
    of_go = settings.auth.db_url is None and awaits_takeover(settings.database_file)
    files = [("metadata database", settings.database_file, METADATA), ("journal", settings.journal_file, JOURNAL)]
    if settings.auth.db_url is not None or of_go:
        _, *files = files
    if settings.auth.db_url is not None:
        known, found = _of_postgres(settings.auth.db_url, settings.database_file)
        lost = place_of(settings.journal_file) in known
        findings += found
        usable.append(all(one.verdict is Verdict.OK for one in found))
    for name, path, schema in files:
        found = list(_of_file(name, path, schema))
        findings += found
        usable.append(all(one.verdict is not Verdict.FAULT for one in found) and _present(path))
    findings += _of_disk(settings)
    try:
        key = vault(os.environ)
    except MemtraceError as error:
        return loaded, [*findings, fault("master key", error)]
    if of_go:
        return loaded, [*findings, *rehearsed(settings.database_file, key, SystemClock().now())]
    if (lost or settings.auth.db_url is None) and usable == [True, False] and not _present(settings.journal_file):
        findings.append(
            finding(
                "journal",
                Verdict.FAULT,
                f"the journal {settings.journal_file} is gone, and memories that were acknowledged with it",
                hint="put it back, or restore a backup; if it is lost for good, or if this is a further node, "
                "`memtrace serve --new-journal`",
            )
        )
    if not all(usable):
        findings.append(finding("master key", Verdict.OK, "well-formed; there is nothing to try it on"))
        return loaded, findings
    try:
        services = compose(settings, key, Mode.AS_IT_IS)
    except SettingsError as error:
        return loaded, [*findings, fault("master key", error)]
    except MemtraceError as error:
        return loaded, [*findings, fault("databases", error)]
    findings.append(finding("master key", Verdict.OK, "opens the metadata database"))
    try:
        findings += [finding async for finding in _of_journal(services, settings)]
        findings += [finding async for finding in _of_orders(services)]
        findings += await _of_arcs(services)
    except MemtraceError as error:
        findings.append(fault("databases", error))
    finally:
        await services.close()
    return loaded, findings


def _of_program() -> Iterator[Finding]:
    version, safe = sqlite_version()
    yield finding(
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
            yield finding(name, Verdict.WARNING, f"{path} is not there", hint="the first `memtrace serve` makes it")
            return
        found = inspect(path, schema)
    except MemtraceError as error:
        yield fault(
            name, error, hint="stop the server, keep a copy of the files, and use `memtrace restore` with a backup"
        )
        return
    size = output.shown_bytes(found.size_bytes + found.wal_bytes)
    pages = "every page is sound" if found.checked else "too large to look at every page"
    yield finding(name, Verdict.OK, f"{path}: {size}, schema version {found.schema_version}, {pages}")
    if found.schema_version != schema.version:
        yield _of_version(name, found.schema_version, schema.version)
    if found.mode & 0o077:
        yield finding(
            name,
            Verdict.WARNING,
            f"others may read it (mode {found.mode:04o})",
            hint=f"chmod 600 {path}",
        )
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        yield finding(
            name, Verdict.FAULT, f"{path} cannot be written by this user", hint="check its owner and file system"
        )


def _of_postgres(url: str, former: Path) -> tuple[Collection[str], list[Finding]]:
    """Return where the nodes of a PostgreSQL have their journals, and how it stands."""
    name = "metadata database"
    try:
        refuse_database_of_go(former)
        found = look_into_postgres(url)
    except MemtraceError as error:
        return (), [fault(name, error)]
    if not found.schema_version:
        hint = "the first `memtrace serve` makes them"
        return (), [finding(name, Verdict.WARNING, f"{found.place}: no tables yet", hint=hint)]
    detail = f"{found.place}: version {found.server_version}, schema version {found.schema_version}"
    findings = [finding(name, Verdict.OK, f"{detail}; neither its files nor its backups are looked at")]
    if found.schema_version != found.expected_version:
        findings.append(_of_version(name, found.schema_version, found.expected_version))
    return found.journals.values(), findings


def _of_version(name: str, found: int, expected: int) -> Finding:
    return finding(
        name,
        Verdict.FAULT,
        f"schema version {found}; this program reads {expected}",
        hint="use a newer memtrace" if found > expected else "`memtrace serve` migrates it when it starts",
    )


def _of_disk(settings: Settings) -> Iterator[Finding]:
    files = [settings.journal_file] if settings.auth.db_url else [settings.database_file, settings.journal_file]
    for folder in dict.fromkeys(file.parent for file in files):
        if not _present(folder):
            continue
        free = shutil.disk_usage(folder).free
        verdict, hint = Verdict.OK, None
        if free < LEAST_FREE_BYTES:
            verdict, hint = Verdict.FAULT, "writes are refused until there is room"
        elif free < LITTLE_FREE_BYTES:
            verdict, hint = Verdict.WARNING, "make room soon: the journal needs it when an Arc is away"
        yield finding("disk", verdict, f"{output.shown_bytes(free)} free in {folder}", hint=hint)


def _present(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False  # in a folder that may not be entered: `_of_file` has told that


async def _of_journal(services: Services, settings: Settings) -> AsyncIterator[Finding]:
    found = [(org, backlog) for org, backlog in await services.backlog.status() if backlog]
    waiting = sum(backlog.pending_bytes for _, backlog in found)
    share = waiting / settings.journal.max_bytes
    yield finding(
        "journal",
        Verdict.WARNING if share >= NEARLY_FULL else Verdict.OK,
        f"{output.shown_bytes(waiting)} of {output.shown_bytes(settings.journal.max_bytes)} wait for delivery",
        hint="see `memtrace journal status`; journal.max_bytes is the limit" if share >= NEARLY_FULL else None,
    )
    now = services.clock.now()
    for org, backlog in found:
        if backlog.oldest and now - backlog.oldest > LATE + timedelta(seconds=settings.journal.settle_seconds):
            yield finding(
                "journal",
                Verdict.WARNING,
                f"{org.id}: {output.shown_memories(backlog.pending + backlog.delivered)} on the way since "
                f"{output.shown_time(backlog.oldest)}",
                hint=f"memtrace org check-arc {org.id}",
            )
        if backlog.set_aside:
            yield finding(
                "journal",
                Verdict.WARNING,
                f"{org.id}: Arc refuses {output.shown_memories(backlog.set_aside)}",
                hint=f"memtrace journal list {org.id} --state set-aside",
            )


async def _of_orders(services: Services) -> AsyncIterator[Finding]:
    stuck: dict[str, ForgetOrder] = {}
    for order in await services.forgetting.waiting():
        if order.trouble and order.org_id not in stuck:
            stuck[order.org_id] = order
    for org_id, order in stuck.items():
        yield finding(
            "forgetting",
            Verdict.WARNING,
            f"{org_id}: what is forgotten is hidden, but not deleted in Arc: {order.trouble}",
            hint=f"memtrace org show {org_id}; Arc deletes only for an admin token",
        )


async def _of_arcs(services: Services) -> list[Finding]:
    places = asyncio.Semaphore(MOST_AT_ONCE)

    async def check(org: Org, instance: ArcInstance | None) -> Finding:
        if instance is None:
            return finding(
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
                return fault(f"arc of {org.id}", error, hint=f"memtrace org check-arc {org.id}")
            elapsed = (time.perf_counter() - started) * 1000
        return finding(f"arc of {org.id}", Verdict.OK, f"{instance.url} answers in {elapsed:.0f} ms")

    return list(await asyncio.gather(*(check(org, arc) for org, arc in await services.tenants.list_orgs())))
