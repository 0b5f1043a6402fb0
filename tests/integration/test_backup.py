"""A backup holds both databases as of one moment, and is a new file, private and whole, or none."""

import base64
import hashlib
import os
import stat
import tarfile
from contextlib import closing

import apsw
import msgspec
import pytest
from builders import draft, org, run
from integration.backups import (
    ARC,
    EMBEDDED,
    KEY,
    LATER,
    Files,
    backed_up,
    contents,
    everything,
    installed,
    members,
    opened,
)

from memtrace_core.errors import Conflict, StorageUnavailable, WrongMasterKey
from memtrace_core.tenants import Binding, Tenants
from memtrace_core.testing import ManualClock
from memtrace_sqlite import EnvelopeVault, MasterKey, SqliteMetadataRepo
from memtrace_sqlite import backup as backup_module
from memtrace_sqlite.backup import restore_backup, write_backup
from memtrace_sqlite.schema import JOURNAL, METADATA


@pytest.fixture
def files(tmp_path):
    """Return the databases of an installation."""
    folder = tmp_path / "data"
    folder.mkdir()
    return run(installed(folder))


def restored(archive, folder):
    """Restore a backup into a new folder, and return its databases."""
    there = Files.of(folder)
    restore_backup(archive, *there, LATER)
    return there


def test_a_backup_describes_what_it_holds(tmp_path, files):
    """A manifest with time, sizes and hashes comes first, then the two databases, and nothing else."""
    found = members(backed_up(files, tmp_path / "b.tar"))
    assert list(found) == ["manifest.json", "memtrace.db", "journal.db"]
    manifest = msgspec.json.decode(found["manifest.json"])
    assert manifest["format"] == 1
    assert manifest["made_at"] == LATER.isoformat().replace("+00:00", "Z")
    assert manifest["contents"] == [
        {"name": name, "size_bytes": len(found[name]), "sha256": hashlib.sha256(found[name]).hexdigest()}
        for name in ("memtrace.db", "journal.db")
    ]


def test_a_backup_changes_nothing_of_what_it_copies(tmp_path, files):
    """The databases are as before, and nothing is left beside them or beside the backup."""
    before, names = everything(files), set(files.journal.parent.iterdir())
    backed_up(files, tmp_path / "b.tar")
    assert everything(files) == before
    assert set(files.journal.parent.iterdir()) == names
    assert {path.name for path in tmp_path.iterdir()} == {"data", "b.tar"}


def test_a_backup_is_for_its_owner_alone(tmp_path, files):
    """Whatever the umask, its mode is 0600 and so is what is restored of it; a new folder gets 0700."""
    former = os.umask(0)
    try:
        archive = backed_up(files, tmp_path / "b.tar")
        there = restored(archive, tmp_path / "new" / "data")
    finally:
        os.umask(former)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (archive, *there, there.metadata.parent)}
    assert modes == {"b.tar": 0o600, "memtrace.db": 0o600, "journal.db": 0o600, "data": 0o700}
    with tarfile.open(archive) as opened:
        assert {one.mode for one in opened} == {0o600}


def test_secrets_are_in_a_backup_only_sealed(tmp_path):
    """Neither the master key nor an Arc's key nor an API key can be read in it; memories can."""
    files = Files.of(tmp_path)
    vault = EnvelopeVault(KEY)

    async def body():
        async with opened(files) as (repo, journal):
            tenants = Tenants(repo, journal, vault, ManualClock())
            made = await tenants.create_org("acme")
            binding = Binding(
                url="http://arc.example", database="d", measurement="events", api_key="arc-secret-key"
            )
            one = await tenants.bind(made.id, binding)
            _, api_key = await tenants.create_key(made.id, "k")
            await journal.append(one, [draft("what everybody may read")])
            return api_key

    api_key = run(body())
    content = backed_up(files, tmp_path / "b.tar").read_bytes()
    assert b"what everybody may read" in content
    raw = bytes(range(32))
    for secret in (b"arc-secret-key", api_key.encode(), raw, base64.b64encode(raw), raw.hex().encode()):
        assert secret not in content


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(b"precious"), lambda path: path.mkdir()])
def test_a_backup_overwrites_nothing(tmp_path, files, make):
    """Whatever bears the name of the target already is kept, and named in the refusal."""
    target = tmp_path / "b.tar"
    make(target)
    before = contents(tmp_path)
    with pytest.raises(Conflict, match=r"b\.tar exists already"):
        backed_up(files, target)
    assert contents(tmp_path) == before


def test_a_backup_does_not_overwrite_what_another_one_wrote_meanwhile(tmp_path, files, monkeypatch):
    """Of two backups to one target, the one that ends later is refused."""
    copy = backup_module._copy
    target = tmp_path / "b.tar"

    def slow(*arguments):
        copy(*arguments)
        target.write_bytes(b"precious")

    monkeypatch.setattr(backup_module, "_copy", slow)
    with pytest.raises(Conflict):
        backed_up(files, target)
    assert target.read_bytes() == b"precious"


def test_no_org_can_appear_between_the_two_databases(tmp_path, files, monkeypatch):
    """While the snapshots begin nobody can create an org, whose memories would then be in a backup without it."""
    appended = []

    def create_and_write(_connection, statement, _bindings):
        """Do at the worst moment what an admin and a server do: create an org, and store a memory of it."""
        if statement == "BEGIN" and not appended:
            with closing(apsw.Connection(str(files.metadata))) as admin:
                try:
                    admin.execute("INSERT INTO orgs (org_id, name, created_at) VALUES ('org_new', 'new', 1)")
                except apsw.BusyError:
                    appended.append(False)
                    return True
            with closing(apsw.Connection(str(files.journal))) as server:
                server.execute("UPDATE journal SET org_id = 'org_new' WHERE seq = 20")
            appended.append(True)
        return True

    open_reader = backup_module.open_reader

    def watched(path):
        connection = open_reader(path)
        if path == files.journal:
            connection.exec_trace = create_and_write
        return connection

    monkeypatch.setattr(backup_module, "open_reader", watched)
    there = restored(backed_up(files, tmp_path / "b.tar"), tmp_path / "new")
    assert appended
    metadata, journal = everything(there)
    assert {row[1] for row in journal["journal"]} <= {row[0] for row in metadata["orgs"]}


def test_a_backup_is_of_one_moment_though_others_write_meanwhile(tmp_path, files, monkeypatch):
    """What is stored while pages are copied is not in it, not even a part, and the writers do not wait."""
    monkeypatch.setattr(backup_module, "PAGES_AT_ONCE", 1)
    before = everything(files)
    written = []

    class Backup:
        """A copy that goes one page at a time, with a write before each."""

        def __init__(self, backup, write):
            self._backup, self._write = backup, write

        def __enter__(self):
            self._backup.__enter__()
            return self

        def __exit__(self, *error):
            return self._backup.__exit__(*error)

        @property
        def done(self):
            return self._backup.done

        def step(self, pages):
            self._write()
            return self._backup.step(pages)

    with closing(apsw.Connection(str(files.journal))) as server:

        def write():
            server.execute("INSERT INTO key_use VALUES (?, 1)", (f"key_{len(written)}",))
            server.execute("UPDATE journal SET content = content || 'x'")
            written.append(1)

        class Copy(apsw.Connection):
            """The connection of the copy, whose backup lets others write."""

            def backup(self, *arguments):
                return Backup(super().backup(*arguments), write)

        monkeypatch.setattr(backup_module.apsw, "Connection", Copy)
        archive = backed_up(files, tmp_path / "b.tar")
        monkeypatch.undo()
    assert len(written) > 20
    assert everything(restored(archive, tmp_path / "new")) == before
    assert len(everything(files)[1]["key_use"]) == len(written)


@pytest.mark.parametrize("step", ["_copy_one", "_described", "_publish"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_backup_that_fails_leaves_nothing(tmp_path, files, monkeypatch, step, error):
    """A full disk or an interruption at any step: no file under the target's name, and nothing beside it."""

    def fail(*arguments):
        raise error

    monkeypatch.setattr(backup_module, step, fail)
    before = everything(files)
    with pytest.raises(StorageUnavailable if isinstance(error, OSError) else KeyboardInterrupt):
        backed_up(files, tmp_path / "b.tar")
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    assert everything(files) == before


@pytest.mark.parametrize("name", ["memtrace.db", "journal.db"])
def test_a_damaged_database_is_not_backed_up(tmp_path, files, name):
    """A page that was overwritten makes the backup fail, naming the database, and no file is written."""
    path = files.journal.with_name(name)
    content = bytearray(path.read_bytes())
    for page in range(4096, len(content), 4096):
        content[page : page + 100] = b"\xa5" * 100
    path.write_bytes(content)
    with pytest.raises(StorageUnavailable, match=rf"{name} is damaged"):
        backed_up(files, tmp_path / "b.tar")
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


@pytest.mark.parametrize("name", ["memtrace.db", "journal.db"])
@pytest.mark.parametrize("content", [None, b"", b"something else " * 100])
def test_only_databases_of_ours_are_backed_up(tmp_path, files, name, content):
    """One that is missing, empty or another program's is named, and neither made nor touched."""
    path = files.journal.with_name(name)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    before = contents(tmp_path)
    with pytest.raises(StorageUnavailable, match=str(path)):
        backed_up(files, tmp_path / "b.tar")
    assert contents(tmp_path) == before


def test_the_two_databases_are_not_mistaken_for_each_other(tmp_path, files):
    """Settings that exchange the two files make no backup."""
    with pytest.raises(StorageUnavailable, match="is not a Memtrace metadata database"):
        write_backup(files.journal, files.metadata, tmp_path / "b.tar", LATER)
    assert not (tmp_path / "b.tar").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path, files):
    """A target in a folder that nobody made is refused in one line."""
    with pytest.raises(StorageUnavailable, match=r"nowhere/b\.tar cannot be used: No such file"):
        backed_up(files, tmp_path / "nowhere" / "b.tar")


def test_a_folder_of_the_databases_that_may_not_be_entered_is_named(unprivileged):
    """Another user than the owner is told which file cannot be used."""
    with unprivileged() as folder:
        (folder / "data").mkdir()
        files = run(installed(folder / "data"))
        (folder / "data").chmod(0)
        with pytest.raises(StorageUnavailable, match=r"memtrace\.db cannot be used: Permission denied"):
            backed_up(files, folder / "b.tar")


def test_a_folder_of_the_target_that_may_not_be_entered_is_named(unprivileged):
    """A target where this user may not even look is refused in one line."""
    with unprivileged() as folder:
        (folder / "data").mkdir()
        files = run(installed(folder / "data"))
        (folder / "backups").mkdir()
        (folder / "backups").chmod(0)
        with pytest.raises(StorageUnavailable, match="Permission denied"):
            backed_up(files, folder / "backups" / "b.tar")


def test_a_restore_gives_everything_back(tmp_path, files):
    """Every row of every table, in files that a server of this version opens."""
    there = restored(backed_up(files, tmp_path / "b.tar"), tmp_path / "new")
    assert everything(there) == everything(files)
    assert {path.name for path in there.journal.parent.iterdir()} == {"memtrace.db", "journal.db"}


def test_an_open_installation_is_backed_up_with_what_is_in_its_wal(tmp_path, files):
    """What was acknowledged and is not yet in the main files is in the backup."""

    async def body():
        async with opened(files) as (repo, journal):
            await repo.create_org(org("org_last"))
            await journal.append(EMBEDDED, [draft("last")])
            assert files.journal.with_name("journal.db-wal").stat().st_size > 0
            return backed_up(files, tmp_path / "b.tar")

    metadata, journal = everything(restored(run(body()), tmp_path / "new"))
    assert "org_last" in [row[0] for row in metadata["orgs"]]
    assert "last" in [value for row in journal["embedded"] for value in row]


def test_arc_keys_of_a_backup_open_with_the_master_key_only(tmp_path, files):
    """A restored installation belongs to the master key that it was begun with."""
    there = restored(backed_up(files, tmp_path / "b.tar"), tmp_path / "new")

    async def body():
        async with opened(there) as (repo, _):
            return await repo.instance_of(ARC.org_id)

    assert run(body()) == ARC
    with pytest.raises(WrongMasterKey):
        SqliteMetadataRepo(there.metadata, EnvelopeVault(MasterKey(bytes(32))))


def test_backups_name_their_formats(tmp_path, files):
    """The databases in an archive carry the marks by which they are recognised, and are of this version."""
    found = members(backed_up(files, tmp_path / "b.tar"))
    for name, schema in (("memtrace.db", METADATA), ("journal.db", JOURNAL)):
        assert found[name].startswith(b"SQLite format 3\0")
        assert int.from_bytes(found[name][68:72], "big") == schema.application_id
        assert int.from_bytes(found[name][60:64], "big") == schema.version
