"""Both databases in one file, as of one moment, while servers go on working; and back again.

A backup is a tar archive of `memtrace.db`, `journal.db` and `manifest.json`. It holds memories in the clear, but
Arc keys only sealed: the master key is not in it. Where the metadata are in no file of ours, it is of the journal
alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

import apsw
import msgspec

from memtrace_core.errors import Conflict, StorageUnavailable
from memtrace_core.opening import Mode
from memtrace_core.timewindow import to_us
from memtrace_sqlite.database import (
    HEADER_BYTES,
    make_folder,
    open_database,
    open_existing,
    open_reader,
    recognise,
    recognise_header,
    reporting,
    sync_folder,
    transaction,
)
from memtrace_sqlite.inspection import check_pages
from memtrace_sqlite.schema import JOURNAL, METADATA

FORMAT = 1
PAGES_AT_ONCE = 4_096
PIECE_BYTES = 1 << 20
SCHEMAS = {"memtrace.db": METADATA, "journal.db": JOURNAL}
MANIFEST = "manifest.json"


class Content(msgspec.Struct, frozen=True):
    """One database in a backup."""

    name: str
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself."""

    format: int
    made_at: datetime
    contents: list[Content]


def write_backup(metadata: Path | None, journal: Path, target: Path, now: datetime) -> Manifest:
    """Copy both databases, as of one moment, or the journal alone, into a new file that only its owner may read.

    Raises:
        Conflict: the target exists.
        StorageUnavailable: a database is not there, not ours or damaged, or the target cannot be written.
    """
    with reporting(target):
        if target.exists():
            raise Conflict(f"{target} exists already; a backup never overwrites a file", code="file_exists")
    with reporting(target), _workshop(target) as workshop:
        if metadata is None:
            _copy_journal(journal, workshop)
        else:
            _copy(metadata, journal, workshop)
        names = _names(metadata)
        contents = [_described(workshop / name) for name in names]
        manifest = Manifest(format=FORMAT, made_at=now, contents=contents)
        (workshop / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        packed = workshop / "backup.tar"
        with tarfile.open(packed, "x") as archive:
            for name in (MANIFEST, *names):
                (workshop / name).chmod(0o600)  # as it comes out again, by whatever program
                archive.add(workshop / name, arcname=name)
        _publish(packed, target)
    return manifest


def restore_backup(source: Path, metadata: Path | None, journal: Path, now: datetime) -> Manifest:
    """Put the databases of a backup where there are none; a backup of the journal alone where `metadata` is None.

    The journal's time begins no earlier than `now`, so that nothing new is older than what a server has stored
    since the backup; and dedup claims are loaded from Arc again.

    Raises:
        Conflict: there is a database already, or a rest of one.
        StorageUnavailable: the backup is none of ours, incomplete or damaged, or a database cannot be written. Then
            nothing was restored.
    """
    places = {"journal.db": journal} if metadata is None else {"memtrace.db": metadata, "journal.db": journal}
    for place in places.values():
        _refuse_existing(place)
    with _opened(source) as archive:
        manifest = _manifest(archive, source)
        found = [content.name for content in manifest.contents]
        if found != _names(metadata):
            raise Conflict(
                f"{source} is a backup of {' and '.join(found)}, and this installation has {' and '.join(places)}",
                hint="auth.db_url decides: with it, the metadata are in a PostgreSQL, which pg_restore restores",
            )
        for content in manifest.contents:
            _check(archive, content, source)
        for place in places.values():
            make_folder(place.parent)
        with reporting(journal), ExitStack() as workshops:
            homes = {name: workshops.enter_context(_workshop(place)) for name, place in places.items()}
            for name, home in homes.items():
                with (home / name).open("xb") as file:
                    shutil.copyfileobj(_member(archive, name, source), file, PIECE_BYTES)
            _bring_to_now(homes["journal.db"] / "journal.db", now)
            # The metadata come last: as long as they are missing, nothing looks like a whole installation.
            for name in reversed(places):
                _publish(homes[name] / name, places[name])
    return manifest


def _names(metadata: Path | None) -> list[str]:
    """Return what a backup holds."""
    return ["journal.db"] if metadata is None else list(SCHEMAS)


def _refuse_existing(place: Path) -> None:
    with reporting(place):
        for rest in (place, *(place.with_name(place.name + suffix) for suffix in ("-wal", "-shm"))):
            if rest.exists():
                raise Conflict(
                    f"{rest} exists already; a restore never overwrites a database",
                    code="file_exists",
                    hint="stop the server, and move its databases (with -wal and -shm) away first",
                )


def _copy(metadata: Path, journal: Path, workshop: Path) -> None:
    for path, schema in ((metadata, METADATA), (journal, JOURNAL)):
        with reporting(path):
            recognise(path, schema)
    # A connection that may write closes last: a reader would leave -wal and -shm behind.
    with reporting(metadata), closing(open_existing(metadata)) as gate, closing(open_reader(metadata)) as orgs:
        with (
            reporting(journal),
            closing(open_existing(journal)),
            closing(open_reader(journal)) as memories,
        ):
            # Nobody changes orgs while the two snapshots begin: each memory's org and instance is in the backup.
            with transaction(gate):
                for reader in (orgs, memories):
                    reader.execute("BEGIN")
                    reader.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            _copy_one(memories, journal, workshop / "journal.db")
        _copy_one(orgs, metadata, workshop / "memtrace.db")


def _copy_journal(journal: Path, workshop: Path) -> None:
    with reporting(journal):
        recognise(journal, JOURNAL)
        with closing(open_existing(journal)), closing(open_reader(journal)) as memories:
            _copy_one(memories, journal, workshop / "journal.db")


def _copy_one(source: apsw.Connection, path: Path, target: Path) -> None:
    with closing(apsw.Connection(str(target))) as copy:
        with copy.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step(PAGES_AT_ONCE)
        check_pages(copy, path)


@contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(source, "r:") as archive:
            yield archive
    except (tarfile.TarError, EOFError):
        raise StorageUnavailable(f"{source} is not a backup of Memtrace, or is damaged") from None
    except OSError as error:
        raise StorageUnavailable(f"{source} cannot be restored: {error.strerror or error}") from error


def _member(archive: tarfile.TarFile, name: str, source: Path) -> IO[bytes]:
    file = archive.extractfile(name) if name in archive.getnames() else None
    if file is None:
        raise StorageUnavailable(f"{source} is not a backup of Memtrace, or is damaged: it holds no {name}")
    return file


def _manifest(archive: tarfile.TarFile, source: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode(_member(archive, MANIFEST, source).read(), type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise StorageUnavailable(f"{source} is not a backup of Memtrace, or is damaged") from None
    if (
        manifest.format != FORMAT
        or not manifest.contents
        or not {one.name for one in manifest.contents} <= {*SCHEMAS}
    ):
        raise StorageUnavailable(f"{source} is a backup of another version of Memtrace")
    return manifest


def _check(archive: tarfile.TarFile, content: Content, source: Path) -> None:
    """Return if a database in a backup is the one that was backed up, and one of ours."""
    file = _member(archive, content.name, source)
    start = file.read(HEADER_BYTES)
    digest, size = hashlib.sha256(start), len(start)
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
        size += len(piece)
    if Content(content.name, size, digest.hexdigest()) != content:
        raise StorageUnavailable(f"{source} is damaged: its {content.name} is not what was backed up")
    recognise_header(start, SCHEMAS[content.name], f"{source}: {content.name}")


def _bring_to_now(journal: Path, now: datetime) -> None:
    with closing(open_database(journal, JOURNAL, Mode.MIGRATE)) as connection, transaction(connection):
        # Arc may have memories that were stored between the backup and now, of which this journal knows nothing.
        connection.execute("INSERT OR IGNORE INTO gaps SELECT DISTINCT org_id, last_time + 1 FROM journal, ledger")
        connection.execute("UPDATE ledger SET last_time = max(last_time, ?)", (to_us(now),))
        connection.execute("DELETE FROM loaded_claims")


def _described(file: Path) -> Content:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return Content(file.name, file.stat().st_size, digest)


@contextmanager
def _workshop(target: Path) -> Iterator[Path]:
    """Make a private folder beside a target, on the same file system, and remove it in the end."""
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        yield Path(folder)


def _publish(file: Path, target: Path) -> None:
    """Give a finished file its name, so that it is there whole or not at all, and stays."""
    file.chmod(0o600)
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    try:
        target.hardlink_to(file)  # a rename would replace what has come there meanwhile
    except FileExistsError:
        raise Conflict(f"{target} exists already", code="file_exists") from None
    except OSError:  # not every file system has links
        file.rename(target)
    sync_folder(target.parent)
