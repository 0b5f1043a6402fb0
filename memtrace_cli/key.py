"""`memtrace key`: the API keys of an organization."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from cyclopts import App, Parameter

from memtrace_cli import output
from memtrace_cli.context import administer
from memtrace_core import APIKey, Permission, Services

app = App(name="key", help="API keys of an organization.")

Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")]


@app.command
def create(*, org: str, name: str, permissions: str = "read,write", as_json: Json = False) -> None:
    """Create an API key. It is shown once, and kept only as a hash.

    Example: memtrace key create --org org_a1b2c3 --name acme-prod

    Parameters
    ----------
    org
        The organization's id.
    name
        What people call the key; unique among the organization's live keys.
    permissions
        read, write, admin, separated by commas; admin implies the others.
    """
    granted = Permission.parse(permissions)
    key, secret = administer(lambda services: services.tenants.create_key(org, name, granted))
    if as_json:
        output.say_json({**_described(key, None), "key": secret})
        return
    output.say("API key created (shown only once — save it now):")
    output.say(secret)


@app.command(name="list")
def list_keys(*, org: str, as_json: Json = False) -> None:
    """List an organization's API keys.

    Example: memtrace key list --org org_a1b2c3

    Parameters
    ----------
    org
        The organization's id.
    """

    async def work(services: Services) -> list[tuple[APIKey, datetime | None]]:
        keys = await services.tenants.list_keys(org)
        uses = await services.journal.key_uses(key.id for key in keys)
        return [(key, uses.get(key.id)) for key in keys]

    keys = administer(work)
    if as_json:
        output.say_json([_described(key, used) for key, used in keys])
        return
    rows = [
        (
            key.id,
            key.name,
            str(key.permissions),
            output.shown_time(key.created_at),
            output.shown_time(used, "never"),
            output.shown_time(key.expires_at, "never"),
            _state(key),
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
    }


def _state(key: APIKey) -> str:
    return "active" if key.revoked_at is None else "revoked"
