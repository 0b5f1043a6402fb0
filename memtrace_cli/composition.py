"""The one place where everything is wired."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

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
    SqliteJournal,
    SqliteMetadataRepo,
)


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
    if mode is Mode.MIGRATE:
        from memtrace_cli.moving_in import move_in  # logs, as admin commands do not

        move_in(settings.database_file, vault, clock.now())
    dedup = DedupPolicy(settings.dedup.enabled, timedelta(hours=settings.dedup.window_hours))
    repo = _metadata(settings.database_file, vault, mode)
    try:
        journal = _journal(repo, settings, clock, dedup, mode, may_be_new=new_journal)
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
        former_keys=SqliteFormerKeys(repo),
        authenticate=settings.auth.enabled,
        meter=meter or SILENT,
    )


def _arc_gateway(settings: Settings, vault: EnvelopeVault, clock: Clock, meter: Meter | None) -> ArcGateway:
    from memtrace_arc import ArcGateway as Gateway  # its HTTP client would double the time of an admin command

    arc = settings.arc
    gateway = Gateway(vault, clock, connect_timeout=arc.connect_timeout, query_timeout=arc.query_timeout)
    return MeteredGateway(gateway, clock, meter) if meter else gateway


def _journal(
    repo: SqliteMetadataRepo, settings: Settings, clock: Clock, dedup: DedupPolicy, mode: Mode, *, may_be_new: bool
) -> SqliteJournal:
    """Open the journal that belongs to the metadata; another one would hide memories that were acknowledged."""
    path = settings.journal_file
    known = repo.known_journals()
    lost = "memories that were acknowledged may be in it alone"
    hint = (
        "put it back, or restore a backup; if it is lost for good, or if this is a further node with a copy of "
        "another's metadata, begin a journal with `memtrace serve --new-journal`"
    )
    # A -wal file that is left alone has a message of its own.
    if known and not may_be_new and not any(map(_has_content, (path, path.with_name(path.name + "-wal")))):
        raise StorageUnavailable(f"the journal {path} is gone; {lost}", hint=hint)
    journal = SqliteJournal(path, clock, dedup, max_bytes=settings.journal.max_bytes, mode=mode)
    if known and not may_be_new and journal.node not in known:
        journal.release()
        raise StorageUnavailable(
            f"{path} is not the journal of {settings.database_file}, which is elsewhere; {lost}", hint=hint
        )
    repo.know_journal(journal.node)
    return journal


def _has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _metadata(path: Path, vault: EnvelopeVault, mode: Mode) -> SqliteMetadataRepo:
    try:
        return SqliteMetadataRepo(path, vault, mode=mode)
    except WrongMasterKey:
        raise SettingsError(
            f"{path} was sealed with another master key than the one given",
            hint="set MEMTRACE_MASTER_KEY to this database's key; MEMTRACE_MASTER_KEY_PREVIOUS names former ones",
        ) from None
    except SealBroken as error:
        raise SettingsError(f"{path}: its check of the master key is damaged: {error}") from None
