"""`memtrace backup` and `memtrace restore`."""

from __future__ import annotations

from pathlib import Path

from memtrace_cli import output
from memtrace_cli.context import settings
from memtrace_core.clock import SystemClock
from memtrace_sqlite.backup import restore_backup, write_backup


def backup(file: Path) -> None:
    """Write both databases into a new file."""
    loaded = settings().settings
    manifest = write_backup(loaded.database_file, loaded.journal_file, file, SystemClock().now())
    output.say(f"Backup written to {file}")
    output.say_fields([(content.name, output.shown_bytes(content.size_bytes)) for content in manifest.contents])
    output.note("keep the master key elsewhere: without it the backup's Arc keys cannot be opened")


def restore(file: Path) -> None:
    """Put the databases of a backup where there are none."""
    loaded = settings().settings
    manifest = restore_backup(file, loaded.database_file, loaded.journal_file, SystemClock().now())
    output.say(f"Restored the backup of {output.shown_time(manifest.made_at)}")
    output.say_fields([("metadata", str(loaded.database_file)), ("journal", str(loaded.journal_file))])
    output.suggest("memtrace doctor")
