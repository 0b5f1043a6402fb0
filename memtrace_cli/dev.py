"""A throw-away server: its own master key, a temporary folder, the embedded store, loopback only."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from memtrace_cli.composition import compose
from memtrace_cli.listening import LOOPBACK
from memtrace_cli.settings import Auth, Settings
from memtrace_cli.settings import Server as ServerSettings
from memtrace_core import Binding, Permission, Services
from memtrace_core.model import EMBEDDED_URL
from memtrace_http import Metrics
from memtrace_sqlite import EnvelopeVault, MasterKey, Mode


class DevSetup(msgspec.Struct, frozen=True):
    """What a throw-away server needs: services over a fresh folder, figures, settings, a key for `org_default`."""

    services: Services
    metrics: Metrics
    settings: Settings
    api_key: str


@asynccontextmanager
async def dev_setup(port: int) -> AsyncIterator[DevSetup]:
    """Make one, and remove its folder in the end. It reads no settings and no existing database."""
    with tempfile.TemporaryDirectory(prefix="memtrace-dev-") as folder:
        settings = Settings(
            server=ServerSettings(host=LOOPBACK, port=port),
            auth=Auth(db_path=str(Path(folder, "memtrace.db"))),
        )
        metrics = Metrics(journal_limit=settings.journal.max_bytes)
        vault = EnvelopeVault(MasterKey.parse(MasterKey.generate()))
        services = compose(settings, vault, Mode.MIGRATE, meter=metrics.counting)
        try:
            org = await services.tenants.ensure_default_org()
            await services.tenants.bind(org.id, Binding(url=EMBEDDED_URL, database="memory"))
            _, api_key = await services.tenants.create_key(org.id, "dev", Permission.ADMIN)
            yield DevSetup(services, metrics, settings, api_key)
        finally:
            await services.close()
