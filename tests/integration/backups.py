"""An installation to back up, and what is compared of one."""

from __future__ import annotations

import io
import tarfile
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import apsw
from builders import draft, embedded_instance, instance, org

from memtrace_core.dedup import DedupPolicy
from memtrace_core.testing import ManualClock
from memtrace_sqlite import EnvelopeVault, MasterKey, SqliteJournal, SqliteMetadataRepo
from memtrace_sqlite.backup import write_backup

KEY = MasterKey(bytes(range(32)))
ARC, EMBEDDED = instance("org_arc"), embedded_instance("org_embedded")
LATER = ManualClock().now() + timedelta(days=1)


class Files(NamedTuple):
    """Where the two databases of an installation are."""

    metadata: Path
    journal: Path

    @classmethod
    def of(cls, folder: Path) -> Files:
        """Return the usual places in a folder."""
        return cls(folder / "memtrace.db", folder / "journal.db")


@asynccontextmanager
async def opened(files, clock=None):
    """Open both databases as a server does."""
    repo = SqliteMetadataRepo(files.metadata, EnvelopeVault(KEY))
    journal = SqliteJournal(files.journal, clock or ManualClock(), DedupPolicy())
    try:
        yield repo, journal
    finally:
        await journal.close()
        await repo.close()


async def installed(folder):
    """Make an installation with memories of every kind, and return its files."""
    files = Files.of(folder)
    async with opened(files) as (repo, journal):
        for one in (ARC, EMBEDDED):
            await repo.create_org(org(one.org_id))
            await repo.bind_instance(one)
            await journal.append(one, [draft(f"{one.org_id} {n}", dedup_key=f"k{n}") for n in range(20)])
        batch = await journal.next_batch(ARC.org_id, 5, 1 << 30)
        refused, taken = batch.halves()
        await journal.set_aside(refused, "bad column")
        await journal.mark_delivered(taken, durable=False)
        await journal.mark_claims_loaded(ARC)
    return files


def backed_up(files, target):
    """Write a backup, and return it."""
    write_backup(*files, target, LATER)
    return target


def rows(path):
    """Return the rows of all tables of a database, which must be sound; what a restore sets anew is left out."""
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = {}
        for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"):
            columns = "node, pending_bytes" if table == "ledger" else "*"
            found[table] = sorted(connection.execute(f"SELECT {columns} FROM {table}"), key=repr)
        for renewed in ("loaded_claims", "gaps"):
            found.pop(renewed, None)
        return found


def last_time(path):
    """Return the time that a journal stamped last."""
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
        ((found,),) = connection.execute("SELECT last_time FROM ledger")
    return found


def everything(files):
    """Return what both databases hold."""
    return rows(files.metadata), rows(files.journal)


def contents(folder):
    """Return what a folder holds: the bytes of each file, None for each folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def members(archive):
    """Return the contents of an archive's members, in their order."""
    with tarfile.open(archive) as opened_archive:
        return {one.name: opened_archive.extractfile(one).read() for one in opened_archive.getmembers()}


def packed(target, parts):
    """Make an archive of members."""
    with tarfile.open(target, "w") as archive:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target
