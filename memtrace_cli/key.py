"""`memtrace key`: the API keys of an organization."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from cyclopts import App, Parameter

from memtrace_cli import output
from memtrace_cli.admin import administer
from memtrace_cli.times import typed_duration
from memtrace_core import APIKey, Permission, Services

app = App(name="key")

Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")]


@app.command
def create(
    *, org: str, name: str, permissions: str = "read,write", expires: str | None = None, as_json: Json = False
) -> None:
    """Create an API key. It is shown once, and kept only as a hash.

    Example: memtrace key create --org org_a1b2c3 --name acme-prod --permissions read --expires 90d

    Parameters
    ----------
    org
        The organization's id.
    name
        What people call the key; unique among the organization's live keys.
    permissions
        read, write, admin, separated by commas; admin implies the others.
    expires
        How long the key is good: 24h, 90d, 52w; for ever if not given.
    """
    granted = Permission.parse(permissions)
    lifetime = None if expires is None else typed_duration(expires, "--expires")
    _show_new(
        administer(lambda services: services.tenants.create_key(org, name, granted, lifetime=lifetime)), as_json
    )
    if not as_json:
        output.suggest("curl -H 'x-api-key: KEY' URL/api/v1/memories, with `memtrace serve` running at URL")


@app.command
def rotate(key_id: str, /, *, overlap: str = "24h", expires: str | None = None, as_json: Json = False) -> None:
    """Put a fresh API key in the place of another one: same name and permissions. The old one works on for a while.

    Example: memtrace key rotate key_0123456789ab --overlap 24h

    Parameters
    ----------
    key_id
        The key's id, from `memtrace key list`.
    overlap
        How long the old key still works: 30m, 24h, 7d.
    expires
        How long the fresh key is good; as long as the old one was to be if not given.
    """
    grace = typed_duration(overlap, "--overlap")
    lifetime = None if expires is None else typed_duration(expires, "--expires")
    _show_new(administer(lambda services: services.tenants.rotate_key(key_id, grace, lifetime=lifetime)), as_json)
    output.note(f"the old key works for another {overlap}; `memtrace key revoke {key_id}` ends it now")


@app.command(name="list")
def list_keys(*, org: str, as_json: Json = False) -> None:
    """List an organization's API keys.

    Example: memtrace key list --org org_a1b2c3

    Parameters
    ----------
    org
        The organization's id.
    """

    async def work(services: Services) -> tuple[list[tuple[APIKey, datetime | None]], datetime]:
        keys = await services.tenants.list_keys(org)
        uses = await services.journal.key_uses(key.id for key in keys)
        return [(key, uses.get(key.id)) for key in keys], services.clock.now()

    keys, now = administer(work)
    if as_json:
        output.say_json([{**_described(key, used), "state": key.state(now)} for key, used in keys])
        return
    rows = [
        (
            key.id,
            key.name,
            str(key.permissions),
            output.shown_time(key.created_at),
            output.shown_time(used, "never"),
            output.shown_time(key.expires_at, "never"),
            key.state(now),
        )
        for key, used in keys
    ]
    output.say_table(("ID", "NAME", "PERMISSIONS", "CREATED", "LAST USED", "EXPIRES", "STATE"), rows)


@app.command
def revoke(key_id: str, /) -> None:
    """Revoke an API key: it fails from the server's next request on.

    Example: memtrace key revoke key_0123456789ab

    Parameters
    ----------
    key_id
        The key's id, from `memtrace key list`.
    """
    administer(lambda services: services.tenants.revoke_key(key_id))
    output.say(f"API key {key_id} revoked")


def _described(key: APIKey, used: datetime | None) -> dict[str, object]:
    return {
        "id": key.id,
        "org_id": key.org_id,
        "name": key.name,
        "permissions": str(key.permissions).split(","),
        "created_at": key.created_at,
        "last_used_at": used,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "superseded_at": key.superseded_at,
    }


def _show_new(made: tuple[APIKey, str], as_json: bool) -> None:
    key, secret = made
    with output.showing_key(key.id):
        if as_json:
            output.say_json({**_described(key, None), "key": secret})
        else:
            output.say("API key created (shown only once — save it now):")
            output.say(secret)
