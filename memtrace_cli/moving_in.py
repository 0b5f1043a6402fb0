"""Moving in from the Go service: a server that finds its database takes it over, and says what it did."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from loguru import logger

from memtrace_cli.settings import SettingsError
from memtrace_core.errors import WrongMasterKey
from memtrace_sqlite import EnvelopeVault
from memtrace_sqlite.go_takeover import take_over


def move_in(path: Path, vault: EnvelopeVault, now: datetime) -> None:
    """Take over the database at a path if the Go service made it.

    Raises:
        SettingsError: its Arc keys were sealed with another master key.
        StorageUnavailable: it is in use, damaged, of another version, or cannot be replaced.
    """
    try:
        taken = take_over(path, vault, now)
    except WrongMasterKey:
        raise wrong_key(path) from None
    if taken is None:
        return
    logger.bind(path=str(path), **taken.counts).info("took over the database of the Go service")
    for remark in taken.remarks:
        logger.warning(remark)
    logger.bind(backup=str(taken.backup)).warning(
        "the former database was kept, with its secrets as the Go service had them; "
        "remove it when you will not go back"
    )


def wrong_key(path: Path) -> SettingsError:
    """Return what is said of a database whose Arc keys the master key does not open."""
    return SettingsError(
        f"{path} is a database of the Go service, sealed with another master key than the one given; "
        "it was left untouched",
        hint="set MEMTRACE_MASTER_KEY to the key that the Go service had",
    )
