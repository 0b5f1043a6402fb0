"""Files that disappear while they are in use: nothing more is acknowledged, because it would be lost."""

import shutil

import pytest
from builders import ORG, draft, embedded_instance, instance, org, run

from memtrace_core.errors import StorageUnavailable
from memtrace_core.query import MemoryQuery
from memtrace_core.testing import ManualClock
from memtrace_sqlite import EnvelopeVault, MasterKey, SqliteJournal, SqliteMetadataRepo

SUFFIXES = ("", "-wal", "-shm")


def gone(path):
    """Delete a file."""
    path.unlink()


def replaced(path):
    """Put a copy in a file's place, as an editor or a careless restore does."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)


def some(count):
    """Return drafts that are no duplicates."""
    return [draft(f"m{number}") for number in range(count)]


ways = pytest.mark.parametrize("lose", [gone, replaced])


def with_suffix(path, suffix):
    """Return the name of a file that belongs to a database."""
    return path.with_name(path.name + suffix)


@ways
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("one", [instance(), embedded_instance()], ids=["arc", "embedded"])
def test_a_journal_that_lost_a_file_acknowledges_nothing(tmp_path, suffix, lose, one):
    """Whichever of its files is gone or another one; what is wrong and what to do is said."""

    async def body():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        try:
            await journal.append(one, some(2))
            lost = with_suffix(tmp_path / "journal.db", suffix)
            lose(lost)
            with pytest.raises(StorageUnavailable, match=f"{lost} was deleted, moved or replaced") as caught:
                await journal.append(one, some(2))
            assert "start again" in caught.value.hint
        finally:
            await journal.close()

    run(body())


@ways
def test_a_journal_that_lost_its_file_is_not_read(tmp_path, lose):
    """Memories that nobody will find again must not look safe."""

    async def body():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        try:
            await journal.append(instance(), some(2))
            lose(tmp_path / "journal.db")
            with pytest.raises(StorageUnavailable):
                await journal.view(MemoryQuery(org_id=ORG))
        finally:
            await journal.close()

    run(body())


def test_a_file_that_comes_back_is_used_again(tmp_path):
    """The very same one, moved away and back: nothing is lost, and writing goes on."""

    async def body():
        path = tmp_path / "journal.db"
        journal = SqliteJournal(path, ManualClock())
        try:
            kept = await journal.append(instance(), some(2))
            path.rename(tmp_path / "away")
            with pytest.raises(StorageUnavailable):
                await journal.append(instance(), some(1))
            (tmp_path / "away").rename(path)
            kept += await journal.append(instance(), some(1))
            assert (await journal.view(MemoryQuery(org_id=ORG, order="asc"))).memories == kept
        finally:
            await journal.close()

    run(body())


@ways
def test_metadata_that_lost_its_file_answers_nothing(tmp_path, lose):
    """Neither writes nor the look that every request takes first."""

    async def body():
        repo = SqliteMetadataRepo(tmp_path / "memtrace.db", EnvelopeVault(MasterKey(bytes(32))))
        try:
            await repo.create_org(org())
            lose(tmp_path / "memtrace.db")
            with pytest.raises(StorageUnavailable):
                repo.version()
            with pytest.raises(StorageUnavailable):
                await repo.create_org(org("org_new"))
        finally:
            await repo.close()

    run(body())


def test_a_journal_whose_folder_is_gone_says_so(tmp_path):
    """As it does of its files: whoever writes is told that the storage is unavailable, not of a defect."""

    async def body():
        folder = tmp_path / "data"
        journal = SqliteJournal(folder / "journal.db", ManualClock())
        try:
            shutil.rmtree(folder)
            with pytest.raises(StorageUnavailable, match="No such file"):
                await journal.append(instance(), some(1))
        finally:
            journal.release()

    run(body())
