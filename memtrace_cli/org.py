"""`memtrace org`: organizations and the Arc instance of each."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import App, Parameter

from memtrace_cli import forgetting, output
from memtrace_cli.admin import administer
from memtrace_cli.moving import export, import_
from memtrace_cli.secrets import arc_api_key
from memtrace_core import ArcInstance, Binding, MemtraceError, Services
from memtrace_core.entries import OrgHoldings
from memtrace_core.model import EMBEDDED_URL
from memtrace_core.tenants import DEFAULT_MEASUREMENT

app = App(name="org")
app.command(forgetting.forget)
app.command(forgetting.set_retention)
app.command(forgetting.show)
app.command(export)
app.command(import_, name="import")

Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")]
Yes = Annotated[bool, Parameter(name="--yes", alias="-y", negative=(), help="Do not ask.")]
KeyFlag = Annotated[
    str | None,
    Parameter(name="--api-key", allow_leading_hyphen=True, help="Arc API key; - reads it from standard input."),
]
KeyFile = Annotated[Path | None, Parameter(name="--api-key-file", help="File that holds the Arc API key.")]


@app.command
def create(name: str, /, *, as_json: Json = False) -> None:
    """Create an organization.

    Example: memtrace org create acme

    Parameters
    ----------
    name
        What people call it.
    """
    org = administer(lambda services: services.tenants.create_org(name))
    if as_json:
        output.say_json(org)
        return
    output.say("Organization created")
    output.say_fields([("id", org.id), ("name", org.name)])
    output.suggest(f"memtrace org add-arc {org.id} --url URL --database NAME")


@app.command(name="list")
def list_orgs(*, as_json: Json = False) -> None:
    """List all organizations, and whether an Arc instance is bound.

    Example: memtrace org list --json
    """
    orgs = administer(lambda services: services.tenants.list_orgs())
    if as_json:
        output.say_json(
            [
                {"id": org.id, "name": org.name, "created_at": org.created_at, "arc": instance and instance.url}
                for org, instance in orgs
            ]
        )
        return
    rows = [
        (org.id, org.name, output.shown_time(org.created_at), instance.url if instance else "-")
        for org, instance in orgs
    ]
    output.say_table(("ID", "NAME", "CREATED", "ARC"), rows)
    if not orgs:
        output.suggest("memtrace org create NAME")
    elif unbound := next((org.id for org, instance in orgs if instance is None), None):
        output.suggest(f"memtrace org add-arc {unbound} --url URL --database NAME")


@app.command
def add_arc(
    org_id: str,
    /,
    *,
    url: str,
    database: str,
    api_key: KeyFlag = None,
    api_key_file: KeyFile = None,
    measurement: str = DEFAULT_MEASUREMENT,
    no_check: Annotated[bool, Parameter(negative=(), help="Do not try to reach the instance.")] = False,
    as_json: Json = False,
) -> None:
    """Bind an organization to its Arc instance, or to the embedded store.

    Example: memtrace org add-arc org_a1b2c3 --url https://arc.acme.example.com --database acme_memory

    Example: memtrace org add-arc org_a1b2c3 --url embedded: --database memory

    Parameters
    ----------
    org_id
        The organization.
    url
        http://…, https://…, or embedded: for Memtrace's own store.
    database
        Arc's database.
    measurement
        Arc's measurement (table).
    """
    if url != EMBEDDED_URL:
        api_key = arc_api_key(api_key, api_key_file)
    binding = Binding(url=url, api_key=api_key, database=database, measurement=measurement)

    async def work(services: Services) -> dict[str, str | None]:
        instance = await services.tenants.bind(org_id, binding)
        if not no_check:
            try:
                await services.gateway.ping(instance)
            except MemtraceError as error:
                output.note(
                    f"memtrace: warning: it is bound, but cannot be used now: {output.one_line(str(error))}"
                )
        return _described(services, instance)

    _say_instance("Arc instance bound", administer(work), as_json)
    _warn_of_plain_http(url)
    if not as_json:
        output.suggest(f"memtrace key create --org {org_id} --name NAME")


@app.command
def set_arc(
    org_id: str,
    /,
    *,
    url: str | None = None,
    database: str | None = None,
    api_key: KeyFlag = None,
    api_key_file: KeyFile = None,
    measurement: str | None = None,
    move_pending: Annotated[
        bool,
        Parameter(negative=(), help="Also send the memories that still wait in the journal to the new instance."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Change an organization's Arc instance in place; what is not given stays.

    Memories that wait for delivery still go to the instance they were accepted for, unless they are moved.

    Example: memtrace org set-arc org_a1b2c3 --api-key - < new-key

    Parameters
    ----------
    org_id
        The organization.
    url
        The new URL.
    database
        The new database.
    measurement
        The new measurement.
    """
    unchanged = (url, database, api_key, api_key_file, measurement) == (None,) * 5
    if unchanged and not move_pending:
        raise output.Misused("give at least one of --url, --api-key, --database, --measurement, --move-pending")
    if api_key is not None or api_key_file is not None:
        api_key = arc_api_key(api_key, api_key_file)
    binding = Binding(url=url, api_key=api_key, database=database, measurement=measurement)

    async def work(services: Services) -> dict[str, str | None]:
        instance = await (
            services.tenants.instance_of(org_id) if unchanged else services.tenants.rebind(org_id, binding)
        )
        if move_pending:
            moved = await services.tenants.move_pending(org_id)
            output.note(f"to this instance now: {output.shown_memories(moved)} that waited in the journal")
        return _described(services, instance)

    _say_instance("Arc instance changed", administer(work), as_json)
    _warn_of_plain_http(url or "")
    if not as_json:
        output.suggest(f"memtrace org check-arc {org_id}")


@app.command
def show_arc(org_id: str, /, *, as_json: Json = False) -> None:
    """Show an organization's Arc instance, its API key masked, and how many memories are on their way to it.

    Memories that Arc refuses are set aside: they stay readable, and Arc's answer is in the server's log.

    Example: memtrace org show-arc org_a1b2c3

    Parameters
    ----------
    org_id
        The organization.
    """

    async def work(services: Services) -> dict[str, str | None]:
        described = _described(services, await services.tenants.instance_of(org_id))
        held = await services.tenants.holdings(org_id)
        return {**described, "waiting": str(held.pending + held.delivered), "set_aside": str(held.set_aside)}

    _say_instance("Arc instance", administer(work), as_json)


@app.command
def check_arc(org_id: str, /, *, as_json: Json = False) -> None:
    """Reach an organization's Arc instance with its key, and tell how long that takes.

    Example: memtrace org check-arc org_a1b2c3

    Parameters
    ----------
    org_id
        The organization.
    """

    async def work(services: Services) -> dict[str, object]:
        instance = await services.tenants.instance_of(org_id)
        started = time.perf_counter()
        await services.gateway.ping(instance)
        elapsed = time.perf_counter() - started
        version = await services.gateway.server_version(instance)
        return {"url": instance.url, "latency_ms": round(elapsed * 1000, 1), "server_version": version}

    checked = administer(work)
    if as_json:
        output.say_json(checked)
        return
    output.say("Arc instance answers, and accepts the API key")
    output.say_fields([(name, "unknown" if value is None else str(value)) for name, value in checked.items()])


@app.command
def remove_arc(org_id: str, /) -> None:
    """Take an organization's Arc instance away. Its memories stay where they are.

    Example: memtrace org remove-arc org_a1b2c3

    Parameters
    ----------
    org_id
        The organization.
    """
    administer(lambda services: services.tenants.unbind(org_id))
    output.say(f"Arc instance of {org_id} removed")
    output.suggest(f"memtrace org add-arc {org_id} --url URL --database NAME")


@app.command
def delete(
    org_id: str,
    /,
    *,
    yes: Yes = False,
    discard_pending: Annotated[
        bool, Parameter(negative=(), help="Lose the memories that are not delivered yet.")
    ] = False,
) -> None:
    """Delete an organization with its Arc binding, agents, sessions, API keys and embedded memories.

    Memories in its Arc stay there.

    Example: memtrace org delete org_a1b2c3

    Parameters
    ----------
    org_id
        The organization.
    """

    async def work(services: Services) -> OrgHoldings:
        org = await services.tenants.get_org(org_id)
        held = await services.tenants.holdings(org_id)
        instance = await services.repo.instance_of(org_id)
        in_arc = instance is not None and not instance.embedded
        if in_arc and await services.journal.orders(org_id, waiting=True, limit=1):
            output.note("memtrace: warning: what was forgotten and is not deleted in its Arc yet will stay there")
        if not yes:
            if not sys.stdin.isatty():
                raise output.Misused("deleting an organization needs --yes where there is no terminal")
            output.note(
                f"This deletes {org.name!r} ({org.id}) with its Arc binding, agents, sessions and API keys,"
            )
            output.note(f"and for good {held.embedded} embedded and {held.undelivered} undelivered memories.")
            if not output.confirm("Delete it?"):
                raise output.Aborted("nothing was deleted")
        return await services.tenants.delete_org(org_id, discard_pending=discard_pending)

    held = administer(work)
    gone = f", with {held.embedded} embedded memories" if held.embedded else ""
    lost = f", {held.undelivered} undelivered memories discarded" if held.undelivered else ""
    output.say(f"Organization {org_id} deleted{gone}{lost}")


def _warn_of_plain_http(url: str) -> None:
    """Say that an API key and memories would travel in the clear, unless they stay on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        output.note("memtrace: warning: over plain http the Arc key and all memories travel in the clear")


def _described(services: Services, instance: ArcInstance) -> dict[str, str | None]:
    return {
        "id": instance.id,
        "org_id": instance.org_id,
        "url": instance.url,
        "database": instance.database,
        "measurement": instance.measurement,
        "api_key": services.tenants.masked_api_key(instance),
        "created_at": output.shown_time(instance.created_at),
        "updated_at": output.shown_time(instance.updated_at),
    }


def _say_instance(title: str, described: dict[str, str | None], as_json: bool) -> None:
    if as_json:
        output.say_json(described)
        return
    output.say(title)
    output.say_fields([(name, value if value is not None else "-") for name, value in described.items()])
