"""What a server does once, before its port opens: the first key, and the move out of an old `[arc]` block."""

from __future__ import annotations

from contextlib import suppress

from loguru import logger

from memtrace_cli import output
from memtrace_cli.settings import Settings, SettingsError
from memtrace_core import Binding, Permission, Services
from memtrace_core.errors import Conflict, InvalidInput
from memtrace_core.model import DEFAULT_ORG_ID

FIRST_KEY_NAME = "admin"


async def bootstrap(services: Services, settings: Settings) -> None:
    """Make sure that a fresh installation can be used, and that an old one goes on working.

    Raises:
        SettingsError: an old `[arc]` block still counts, and cannot be used.
    """
    if settings.auth.enabled:
        await _first_run(services)
    else:
        logger.warning("authentication is off: whoever reaches this port may read and write org_default")
        await services.tenants.ensure_default_org()
    await _migrate_legacy(services, settings)


async def check_journal(services: Services) -> None:
    """Read what a server needs first: damage is told in one line here; from within it would be a traceback."""
    await services.journal.pending_orgs()
    await services.journal.unconfirmed_orgs()


async def _first_run(services: Services) -> None:
    orgs = [org for org, _ in await services.tenants.list_orgs()]
    # Without an org nobody could have a key. The same holds for a default org that was made without one: by a
    # server without authentication, or by one that was killed at this very point.
    if orgs and ([org.id for org in orgs] != [DEFAULT_ORG_ID] or await services.tenants.list_keys(DEFAULT_ORG_ID)):
        return
    org = await services.tenants.ensure_default_org()
    try:
        key, secret = await services.tenants.create_key(org.id, FIRST_KEY_NAME, Permission.ADMIN)
    except Conflict:
        return  # another server that starts on the same metadata has made it, and shown it
    with output.showing_key(key.id):
        output.say("FIRST RUN: Save your admin API key (shown only once)")
        output.say(f"API Key: {secret}")


async def _migrate_legacy(services: Services, settings: Settings) -> None:
    arc = settings.arc
    if arc.url is None or not await services.tenants.legacy_wanted():
        return
    logger.bind(url=arc.url).warning("legacy [arc] config detected — migrating to DB")
    binding = Binding(url=arc.url, api_key=arc.api_key, database=arc.database, measurement=arc.measurement)
    try:
        with suppress(Conflict):  # by another server that starts on the same metadata
            await services.tenants.migrate_legacy(binding)
    except InvalidInput as error:
        raise SettingsError(
            f"the legacy [arc] block cannot be used: {error}",
            hint="correct it, or take url, api_key, database and measurement out and use `memtrace org add-arc`",
        ) from None
    logger.info(
        "migration complete; remove [arc] url/api_key/database/measurement from memtrace.toml on next deploy"
    )
