"""`memtrace backup` and `memtrace restore`."""

from __future__ import annotations

from pathlib import Path

from memtrace_cli import output
from memtrace_cli.context import settings
from memtrace_cli.settings import Settings
from memtrace_core.clock import SystemClock
from memtrace_sqlite.backup import restore_backup, write_backup

_APART = "the metadata are in PostgreSQL, and not in this backup: {} is for them"


def backup(file: Path) -> None:
    """Write both databases into a new file; the journal alone where the metadata are in PostgreSQL."""
    loaded = settings().settings
    manifest = write_backup(_metadata(loaded), loaded.journal_file, file, SystemClock().now())
    output.say(f"Backup written to {file}")
    output.say_fields([(content.name, output.shown_bytes(content.size_bytes)) for content in manifest.contents])
    if loaded.auth.db_url is not None:
        output.note(_APART.format("pg_dump, after this,"))
        return
    output.note("keep the master key elsewhere: without it the backup's Arc keys cannot be opened")


def restore(file: Path) -> None:
    """Put the databases of a backup where there are none."""
    loaded = settings().settings
    metadata = _metadata(loaded)
    manifest = restore_backup(file, metadata, loaded.journal_file, SystemClock().now())
    output.say(f"Restored the backup of {output.shown_time(manifest.made_at)}")
    places = [("metadata", metadata), ("journal", loaded.journal_file)]
    output.say_fields([(name, str(place)) for name, place in places if place is not None])
    if metadata is None:
        output.note(_APART.format("pg_restore"))
    output.suggest("memtrace doctor")


def _metadata(loaded: Settings) -> Path | None:
    return loaded.database_file if loaded.auth.db_url is None else None
