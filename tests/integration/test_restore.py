"""A restore puts back the databases of a whole backup, where there are none, or does nothing at all."""

import hashlib
import stat
import tarfile
from datetime import timedelta

import msgspec
import pytest
from builders import draft, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from integration.backups import (
    ARC,
    EMBEDDED,
    LATER,
    Files,
    backed_up,
    contents,
    everything,
    installed,
    last_time,
    members,
    opened,
    packed,
)

from memtrace_core.entries import Duplicate
from memtrace_core.errors import Conflict, StorageUnavailable
from memtrace_core.testing import ManualClock
from memtrace_core.timewindow import to_us
from memtrace_sqlite.backup import restore_backup

BLOCK = 512


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the files of an installation, and a backup of it, which no test changes."""
    folder = tmp_path_factory.mktemp("made")
    files = run(installed(folder))
    return files, backed_up(files, folder / "b.tar")


@pytest.fixture
def files(made):
    """Return the databases that were backed up."""
    return made[0]


@pytest.fixture
def archive(made):
    """Return the backup."""
    return made[1]


def restored(archive, folder, now=LATER):
    """Restore a backup into a new folder, and return its databases."""
    there = Files.of(folder)
    restore_backup(archive, *there, now)
    return there


def assert_refused(source, folder, *words):
    """Expect that a restore is refused with these words, in one line that names the source, and leaves no file."""
    before = contents(folder)
    with pytest.raises(StorageUnavailable) as caught:
        restore_backup(source, *Files.of(folder / "new" / "data"), LATER)
    message = str(caught.value)
    assert str(source) in message
    assert "\n" not in message
    for word in words:
        assert word in message
    assert contents(folder) == before


def test_time_goes_on_from_the_restore(tmp_path, archive):
    """Nothing new is as old as the restore, or as what is in the backup, even when the clock is behind."""
    now = LATER + timedelta(days=7)
    there = restored(archive, tmp_path, now)
    assert last_time(there.journal) == to_us(now)

    async def body():
        async with opened(there, ManualClock()) as (_, journal):
            return await journal.append(EMBEDDED, [draft("new", dedup_key="new")])

    (new,) = run(body())
    assert new.time > now


def test_time_never_goes_back_in_a_restore(tmp_path, files, archive):
    """Where the backup's own time is ahead of the clock, that one stays."""
    there = restored(archive, tmp_path, ManualClock().now() - timedelta(days=1))
    assert last_time(there.journal) == last_time(files.journal)


def test_claims_are_restored_and_loaded_from_arc_once_more(tmp_path, archive):
    """What is in the backup cannot be stored twice; what Arc has since then is asked of it."""

    async def body():
        async with opened(restored(archive, tmp_path, ManualClock().now())) as (_, journal):
            assert not await journal.claims_loaded(ARC)
            for one in (ARC, EMBEDDED):
                (again,) = await journal.append(one, [draft("again", dedup_key="k7")])
                assert isinstance(again, Duplicate)

    run(body())


def test_the_two_databases_may_be_in_two_folders(tmp_path, files, archive):
    """Each is put where the settings say, in a folder that is made for it."""
    there = Files(tmp_path / "a" / "meta.sqlite", tmp_path / "b" / "c" / "queue.sqlite")
    restore_backup(archive, *there, LATER)
    assert everything(there) == everything(files)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(there)
    assert stat.S_IMODE(there.journal.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["memtrace.db", "journal.db"])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("content", [b"", b"precious"])
def test_what_is_there_is_not_overwritten(tmp_path, archive, name, suffix, content):
    """One file of an installation, even an empty one or a rest, makes the restore stop before it does anything."""
    (tmp_path / (name + suffix)).write_bytes(content)
    with pytest.raises(Conflict, match=f"{name}{suffix} exists already") as caught:
        restored(archive, tmp_path)
    assert "move" in caught.value.hint
    assert contents(tmp_path) == {name + suffix: content}


def test_a_second_restore_is_refused(tmp_path, archive):
    """The first one's databases stay as they are."""
    before = everything(restored(archive, tmp_path))
    with pytest.raises(Conflict):
        restored(archive, tmp_path)
    assert everything(Files.of(tmp_path)) == before


def foreign(folder, kind, parts):
    """Make a file that is no backup of ours, or not a whole one."""
    target = folder / "foreign"
    manifest = msgspec.json.decode(parts["manifest.json"])
    if kind == "empty":
        target.write_bytes(b"")
    elif kind == "text":
        target.write_text("not an archive\n" * 1000)
    elif kind == "zeros":
        target.write_bytes(bytes(10_240))
    elif kind == "a database":
        target.write_bytes(parts["memtrace.db"])
    elif kind == "another archive":
        packed(target, {"README": b"hello"})
    elif kind == "no manifest":
        packed(target, {name: parts[name] for name in ("memtrace.db", "journal.db")})
    elif kind == "manifest of another shape":
        packed(target, {**parts, "manifest.json": b'{"format": 1}'})
    elif kind == "manifest that is no JSON":
        packed(target, {**parts, "manifest.json": b"\xff\xfe"})
    elif kind == "format of the future":
        packed(target, {**parts, "manifest.json": msgspec.json.encode({**manifest, "format": 2})})
    elif kind == "path in the manifest":
        manifest["contents"][0]["name"] = "../memtrace.db"
        packed(target, {**parts, "manifest.json": msgspec.json.encode(manifest)})
    elif kind == "exchanged databases":
        packed(target, {**parts, **exchanged(parts)})
    return target


def exchanged(parts):
    """Return each database under the other's name."""
    return {"memtrace.db": parts["journal.db"], "journal.db": parts["memtrace.db"]}


@pytest.mark.parametrize(
    "kind",
    [
        "empty", "text", "zeros", "a database", "another archive", "no manifest", "manifest of another shape",
        "manifest that is no JSON", "format of the future", "path in the manifest",
        "exchanged databases",
    ],
)  # fmt: skip
def test_what_is_no_backup_is_refused(tmp_path, archive, kind):
    """A foreign file is named in one line, and no database is made of it."""
    assert_refused(foreign(tmp_path, kind, members(archive)), tmp_path)


def test_databases_that_are_not_ours_are_refused_though_the_manifest_fits_them(tmp_path, archive):
    """Each must be of its kind, whatever hash the manifest has for it."""
    parts = members(archive)
    parts.update(exchanged(parts))
    manifest = msgspec.json.decode(parts["manifest.json"])
    for content in manifest["contents"]:
        data = parts[content["name"]]
        content.update(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    source = packed(tmp_path / "b.tar", {**parts, "manifest.json": msgspec.json.encode(manifest)})
    with pytest.raises(StorageUnavailable, match="is not a Memtrace"):
        restored(source, tmp_path / "new")
    assert not list((tmp_path / "new").rglob("*"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    """A restore from nowhere says so."""
    assert_refused(tmp_path / "nowhere.tar", tmp_path, "No such file")


def test_a_folder_is_no_backup(tmp_path):
    """A folder in place of the file is refused like any other thing that is no backup."""
    (tmp_path / "b.tar").mkdir()
    assert_refused(tmp_path / "b.tar", tmp_path)


def test_a_backup_that_may_not_be_read_is_named(unprivileged, archive):
    """Without the permission to read it the refusal says so."""
    with unprivileged() as folder:
        (folder / "b.tar").write_bytes(b"x")
        (folder / "b.tar").chmod(0)
        with pytest.raises(StorageUnavailable, match=r"b\.tar .*Permission denied"):
            restore_backup(folder / "b.tar", *Files.of(folder / "data"), LATER)


@pytest.mark.parametrize("name", ["memtrace.db", "journal.db"])
def test_a_backup_without_one_of_its_databases_is_refused(tmp_path, archive, name):
    """What the manifest names must be there."""
    parts = members(archive)
    del parts[name]
    assert_refused(packed(tmp_path / "b.tar", parts), tmp_path, name)


def places(archive):
    """Return, by name, a place in the middle of each region of an archive."""
    found = {}
    with tarfile.open(archive) as opened_archive:
        for one in opened_archive.getmembers():
            found[one.name] = one.offset_data + one.size // 2
            found[f"header of {one.name}"] = one.offset_data - BLOCK // 2
            found[f"first header of {one.name}"] = one.offset + BLOCK // 2
    return found


REGIONS = [
    f"{part}{name}"
    for name in ("manifest.json", "memtrace.db", "journal.db")
    for part in ("first header of ", "header of ", "")
]
regions = pytest.mark.parametrize("region", REGIONS)


@regions
def test_an_altered_backup_is_refused(tmp_path, archive, region):
    """A changed byte in any region of the archive is noticed, and no file is left behind."""
    content = bytearray(archive.read_bytes())
    content[places(archive)[region]] ^= 0xFF
    source = tmp_path / "b.tar"
    source.write_bytes(content)
    assert_refused(source, tmp_path)


@regions
def test_a_backup_that_was_cut_short_is_refused(tmp_path, archive, region):
    """Wherever it ends, and no file is left behind."""
    source = tmp_path / "b.tar"
    source.write_bytes(archive.read_bytes()[: places(archive)[region]])
    assert_refused(source, tmp_path)


def test_a_refused_restore_makes_no_folder(tmp_path, archive):
    """Where the databases would have been put there is nothing, not even an empty folder."""
    source = foreign(tmp_path, "exchanged databases", members(archive))
    with pytest.raises(StorageUnavailable):
        restored(source, tmp_path / "new" / "data")
    assert not (tmp_path / "new").exists()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_changed_byte_changes_what_is_restored(new_folder, files, archive, data):
    """An archive with one byte changed anywhere gives back exactly what was backed up, or no database at all."""
    content = bytearray(archive.read_bytes())
    place = data.draw(st.sampled_from(sorted(places(archive).values())) | st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    folder = new_folder()
    (folder / "b.tar").write_bytes(content)
    try:
        there = restored(folder / "b.tar", folder / "new")
    except Exception:  # how it is refused is looked at above
        assert not list((folder / "new").rglob("*"))
    else:
        assert everything(there) == everything(files)


@pytest.mark.parametrize("failing", ["memtrace.db", "journal.db"])
def test_a_restore_that_fails_leaves_no_database_that_looks_whole(tmp_path, archive, failing, monkeypatch):
    """A full disk at the last step leaves no metadata, so that nobody mistakes the rest for an installation."""
    from memtrace_sqlite import backup

    publish = backup._publish

    def fail(file, target):
        if target.name == failing:
            raise OSError(28, "No space left on device")
        publish(file, target)

    monkeypatch.setattr(backup, "_publish", fail)
    there = Files.of(tmp_path)
    with pytest.raises(StorageUnavailable, match="No space left"):
        restore_backup(archive, *there, LATER)
    assert not there.metadata.exists()
    assert there.journal.exists() is (failing == "memtrace.db")
    assert {path.name for path in tmp_path.iterdir()} <= {"journal.db"}


def test_a_folder_that_may_not_be_written_is_named(unprivileged, archive):
    """A restore where this user may not write says which file, and changes nothing."""
    content = archive.read_bytes()
    with unprivileged() as folder:
        (folder / "b.tar").write_bytes(content)
        (folder / "new").mkdir()
        (folder / "new").chmod(0o500)
        with pytest.raises(StorageUnavailable, match="Permission denied"):
            restored(folder / "b.tar", folder / "new")
        assert list((folder / "new").iterdir()) == []
