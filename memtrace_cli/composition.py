"""The one place where everything is wired."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from memtrace_cli.own_journal import Metadata, open_journal
from memtrace_cli.settings import Settings, SettingsError
from memtrace_core import ConfirmationPolicy, DedupPolicy, DeliveryPolicy, FairUse, Services, build_services
from memtrace_core.clock import SystemClock
from memtrace_core.errors import SealBroken, StorageUnavailable, WrongMasterKey
from memtrace_core.meter import SILENT, Meter
from memtrace_core.metering import MeteredGateway
from memtrace_core.ports import ArcGateway, Clock
from memtrace_core.routing import GatewayByURL
from memtrace_sqlite import (
    EnvelopeVault,
    JournalOwnership,
    Mode,
    SqliteEmbeddedGateway,
    SqliteFormerKeys,
    SqliteMetadataRepo,
)
from memtrace_sqlite.go_database import is_go_database

if TYPE_CHECKING:
    from memtrace_postgres import Inspection


def compose(
    settings: Settings,
    vault: EnvelopeVault,
    mode: Mode,
    clock: Clock | None = None,
    *,
    new_journal: bool = False,
    meter: Meter | None = None,
) -> Services:
    """Open the databases and wire the services over them.

    Args:
        settings: name the databases.
        vault: seals Arc keys.
        mode: whether an older schema is migrated or refused, and a database of the Go service taken over.
        clock: the machine's if not given.
        new_journal: whether a journal that the metadata do not know may take the place of the one they do.
        meter: is told what happens.

    Raises:
        SettingsError: the metadata database was sealed with another master key.
        StorageUnavailable: a database is not ours, of another version, or cannot be used; or the journal is lost.
    """
    clock = clock or SystemClock()
    if mode is Mode.MIGRATE and settings.auth.db_url is None:
        from memtrace_cli.moving_in import move_in  # logs, as admin commands do not

        move_in(settings.database_file, vault, clock.now())
    dedup = DedupPolicy(settings.dedup.enabled, timedelta(hours=settings.dedup.window_hours))
    repo = _metadata(settings, vault, mode)
    try:
        journal = open_journal(repo, settings, clock, dedup, mode, may_be_new=new_journal)
    except BaseException:
        repo.release()
        raise
    return build_services(
        repo=repo,
        journal=journal,
        gateway=GatewayByURL(
            embedded=SqliteEmbeddedGateway(journal), http=lambda: _arc_gateway(settings, vault, clock, meter)
        ),
        vault=vault,
        clock=clock,
        dedup=dedup,
        delivery=DeliveryPolicy(
            batch_size=settings.arc.write_batch_size,
            flush_interval=timedelta(milliseconds=settings.arc.write_flush_interval_ms),
        ),
        confirmation=ConfirmationPolicy(settle=timedelta(seconds=settings.journal.settle_seconds)),
        fair_use=FairUse(
            requests_per_second=settings.limits.requests_per_second,
            burst=settings.limits.burst,
            in_flight=settings.limits.in_flight,
        ),
        ownership=JournalOwnership(settings.journal_file),
        former_keys=SqliteFormerKeys(repo) if isinstance(repo, SqliteMetadataRepo) else None,
        authenticate=settings.auth.enabled,
        meter=meter or SILENT,
    )


def _arc_gateway(settings: Settings, vault: EnvelopeVault, clock: Clock, meter: Meter | None) -> ArcGateway:
    from memtrace_arc import ArcGateway as Gateway  # its HTTP client would double the time of an admin command

    arc = settings.arc
    gateway = Gateway(vault, clock, connect_timeout=arc.connect_timeout, query_timeout=arc.query_timeout)
    return MeteredGateway(gateway, clock, meter) if meter else gateway


def _metadata(settings: Settings, vault: EnvelopeVault, mode: Mode) -> Metadata:
    path, url = settings.database_file, settings.auth.db_url
    name = str(path) if url is None else "the PostgreSQL in auth.db_url"
    try:
        if url is None:
            return SqliteMetadataRepo(path, vault, mode=mode)
        refuse_database_of_go(path)
        return _in_postgres(url, vault, mode)
    except WrongMasterKey:
        raise SettingsError(
            f"{name} was sealed with another master key than the one given",
            hint="set MEMTRACE_MASTER_KEY to this database's key; MEMTRACE_MASTER_KEY_PREVIOUS names former ones",
        ) from None
    except SealBroken as error:
        raise SettingsError(f"{name}: its check of the master key is damaged: {error}") from None


def _in_postgres(url: str, vault: EnvelopeVault, mode: Mode) -> Metadata:
    with needing_psycopg():
        from memtrace_postgres import PostgresMetadataRepo
    return PostgresMetadataRepo(url, vault, mode=mode)


def look_into_postgres(url: str) -> Inspection:
    """Return what the PostgreSQL of the settings is, without making or changing anything there.

    Raises:
        SettingsError: psycopg is not installed.
        StorageUnavailable: the database cannot be used.
    """
    with needing_psycopg():
        from memtrace_postgres import inspect
    return inspect(url)


def refuse_database_of_go(path: Path) -> None:
    """Do not begin in a PostgreSQL where somebody may expect that this database is taken over.

    Raises:
        StorageUnavailable: the Go service's database is there.
    """
    with suppress(OSError):  # it is not there, or none that this user could take over
        if is_go_database(path):
            raise StorageUnavailable(
                f"{path} is a database of the Go service, which cannot be taken over into the PostgreSQL in "
                "auth.db_url; it was left untouched",
                hint="leave auth.db_url out to take it over into a file, or move it away and begin in PostgreSQL",
            )


@contextmanager
def needing_psycopg() -> Iterator[None]:
    """Import what the extra `postgres` is for.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        yield
    except ImportError:
        raise SettingsError(
            "auth.db_url needs psycopg, which is not installed",
            hint="install it with `pip install 'memtrace[postgres]'`, or leave auth.db_url out",
        ) from None
