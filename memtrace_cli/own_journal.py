"""The journal of this node: the one that its metadata know; another one would hide what was acknowledged."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from memtrace_cli.settings import Settings
from memtrace_core import DedupPolicy
from memtrace_core.errors import StorageUnavailable
from memtrace_core.ports import Clock, MetadataRepo
from memtrace_sqlite import Mode, SqliteJournal

_LOST = "memories that were acknowledged may be in it alone"
_HINT = (
    "put it back, or restore a backup; if it is lost for good, or if this is a further node with a copy of "
    "another's metadata, begin a journal with `memtrace serve --new-journal`"
)


class Metadata(MetadataRepo, Protocol):
    """Metadata that also know which journals belong to them."""

    def known_journals(self) -> Mapping[str, str | None]:
        """Return the node ids of these journals, each with its place, None if there is but one place for all."""
        ...

    def know_journal(self, node: str, place: str) -> None:
        """Remember a journal, and where it lies."""
        ...

    def release(self) -> None:
        """Let go of the database, for who never ran anything on it."""
        ...


def open_journal(
    repo: Metadata, settings: Settings, clock: Clock, dedup: DedupPolicy, mode: Mode, *, may_be_new: bool
) -> SqliteJournal:
    """Open the journal that belongs to the metadata, or begin it.

    Metadata that several nodes share know a journal of each: a node without one is lost if one was in this place,
    and else is a new node.

    Raises:
        StorageUnavailable: the journal is lost, unknown, or cannot be used.
    """
    path = settings.journal_file
    place = place_of(path)
    known = repo.known_journals()
    # A -wal file that is left alone has a message of its own.
    there = any(map(_has_content, (path, path.with_name(path.name + "-wal"))))
    if not there and not may_be_new and any(one in (None, place) for one in known.values()):
        raise StorageUnavailable(f"the journal {path} is gone; {_LOST}", hint=_HINT)
    journal = SqliteJournal(path, clock, dedup, max_bytes=settings.journal.max_bytes, mode=mode)
    try:
        if there and not may_be_new and journal.node not in known:
            _refuse_unknown(journal, known, settings)
        repo.know_journal(journal.node, place)
    except BaseException:
        journal.release()
        raise
    return journal


def place_of(journal: Path) -> str:
    """Return where a journal lies, as metadata that several machines share must tell it."""
    return f"{platform.node()}:{journal.absolute()}"


def _refuse_unknown(journal: SqliteJournal, known: Mapping[str, str | None], settings: Settings) -> None:
    path = settings.journal_file
    if settings.auth.db_url is None:
        if not known:  # as in a file from before it knew any
            return
        raise StorageUnavailable(
            f"{path} is not the journal of {settings.database_file}, which is elsewhere; {_LOST}", hint=_HINT
        )
    if journal.unused:  # its node ended before it was known
        return
    raise StorageUnavailable(
        f"{path} is a journal that the PostgreSQL in auth.db_url does not know; {_LOST}",
        hint="let journal.path name this node's own, or a new place; "
        "if it is to be this node's from now on, `memtrace serve --new-journal`",
    )


def _has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0
