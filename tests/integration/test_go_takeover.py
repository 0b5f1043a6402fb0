"""A database of the Go service becomes one of ours: with all that is in it, or not at all."""

import hashlib
import os
import random
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import apsw
import go_service
import pytest
from builders import START, run
from damage import execute, overwrite, pages_of, spoil_page
from go_service import ACME, ARC_KEYS, CRAWLER, DEFAULT_ORG
from power_loss import Disk, Recorder
from power_loss.crashes import all_points

from memtrace_core.errors import StorageUnavailable, WrongMasterKey
from memtrace_core.model import Agent, Org, Session
from memtrace_sqlite import EnvelopeVault, MasterKey, SqliteMetadataRepo, go_takeover
from memtrace_sqlite.go_database import is_go_database
from memtrace_sqlite.go_takeover import rehearse, take_over

KEY = MasterKey.parse(go_service.MASTER_KEY)
VAULT = EnvelopeVault(KEY)
ANOTHER = MasterKey(bytes(32))
ORPHAN = "INSERT INTO agents (id, org_id, name, created_at) VALUES ('a', 'org_gone', 'x', '2026-11-22 12:44:33')"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Wait for nobody: whoever has a database open here keeps it."""
    monkeypatch.setattr(go_takeover, "BUSY_TIMEOUT_MS", 0)


def taken(path, vault=VAULT):
    """Take a database over, and return what was told of that."""
    done = take_over(path, vault, START)
    assert done is not None
    return done


def asked(path, question, vault=VAULT):
    """Return what a repo over a database answers."""

    async def body():
        repo = SqliteMetadataRepo(path, vault)
        try:
            return await question(repo)
        finally:
            await repo.close()

    return run(body())


def contents(folder):
    """Return every file of a folder, byte for byte."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def left_by_a_kill(folder, *statements):
    """Put a database into a folder whose last changes are in its -wal file alone."""
    (folder / "alive").mkdir(parents=True)
    path = go_service.database(folder / "alive")
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement)
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{path}{suffix}", folder / f"memtrace.db{suffix}")
    connection.close()
    shutil.rmtree(folder / "alive")
    return folder / "memtrace.db"


def test_orgs_agents_and_sessions_are_what_they_were(tmp_path):
    """Ids, names, times to the microsecond, metadata, configs and states stay; what was empty is absent."""
    path = go_service.database(tmp_path)
    taken(path)

    async def everything(repo):
        orgs = await repo.list_orgs()
        agents = [agent for org in orgs for agent in await repo.list_agents(org.id, 10, None)]
        sessions = [one for org in orgs for one in await repo.list_sessions(org.id, None, 10, None)]
        return orgs, agents, sessions

    def at(second, microsecond=0):
        return datetime(2026, 11, 22, 12, 44, second, microsecond, tzinfo=UTC)

    orgs, agents, sessions = asked(path, everything)
    assert orgs == [
        Org(id=DEFAULT_ORG, name="Default", created_at=at(33)),
        Org(id=ACME, name="acme", created_at=at(35)),
    ]
    assert agents == [
        Agent(
            id=CRAWLER,
            org_id=DEFAULT_ORG,
            name="web_crawler",
            description="Crawls product pages",
            config={"max_depth": 3},
            created_at=at(35),
        ),
        Agent(id="agent_ba00b7531815c72a10637ab7", org_id=ACME, name="web_crawler", created_at=at(36)),
    ]
    assert sessions == [
        Session(
            id="sess_4f259524efd7e29b2b68cdb9",
            org_id=DEFAULT_ORG,
            agent_id=CRAWLER,
            status="closed",
            created_at=at(35, 930000),
            updated_at=at(36, 48726),
            closed_at=at(36, 48726),
        ),
        Session(
            id="sess_94a00e7006fd422b805cd059",
            org_id=DEFAULT_ORG,
            agent_id=CRAWLER,
            status="active",
            metadata={"task": "product_research"},
            created_at=at(35, 807189),
            updated_at=at(35, 807189),
        ),
    ]


def test_arc_keys_are_sealed_anew(tmp_path):
    """Each instance is bound as before, and its key opens by our envelope, in its place alone."""
    path = go_service.database(tmp_path)
    taken(path)
    instances = {one.org_id: one for one in asked(path, lambda repo: repo.list_instances())}
    assert {org: VAULT.open(one.sealed_api_key, one.key_context) for org, one in instances.items()} == ARC_KEYS
    acme = instances[ACME]
    assert (acme.id, acme.url) == ("arc_c1f35703d596d1466e3616c4", "https://arc.acme.example.com")
    assert (acme.database, acme.measurement) == ("acme_memory", "memories")


def test_keys_stay_with_what_they_may(tmp_path):
    """Name, org, permissions and times are kept; the number of a key can still be seen in its id."""
    path = go_service.database(
        tmp_path,
        "UPDATE api_keys SET enabled = 0 WHERE id = 1",
        "UPDATE api_keys SET expires_at = '2027-01-01 02:00:00+02:00' WHERE id = 3",
    )
    taken(path)
    (admin,) = asked(path, lambda repo: repo.list_keys(DEFAULT_ORG))
    prod, reader = asked(path, lambda repo: repo.list_keys(ACME))
    assert (admin.id, admin.name, str(admin.permissions)) == ("key_000000000001", "admin", "read,write,admin")
    assert (prod.id, prod.name, str(prod.permissions)) == ("key_000000000002", "acme-prod", "read,write")
    assert (reader.id, reader.name, str(reader.permissions)) == ("key_000000000003", "acme-reader", "read")
    assert (admin.revoked_at, prod.revoked_at) == (START, None)
    assert (prod.expires_at, reader.expires_at) == (None, datetime(2027, 1, 1, tzinfo=UTC))
    assert admin.created_at == datetime(2026, 11, 22, 12, 44, 33, tzinfo=UTC)


def test_a_database_is_taken_over_once(tmp_path):
    """Another start finds a database of ours, and changes nothing."""
    path = go_service.database(tmp_path)
    done = taken(path)
    assert done.counts == {"orgs": 2, "arc_instances": 2, "api_keys": 3, "agents": 2, "sessions": 2}
    assert done.remarks == ()
    before = contents(tmp_path)
    assert take_over(path, VAULT, START) is None
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["memtrace.db", "nothing.db"])
def test_what_is_no_go_database_is_left_alone(tmp_path, name):
    """A database of ours, and a path at which there is nothing, are for others to open."""
    asked(tmp_path / "memtrace.db", lambda repo: repo.list_orgs())
    before = contents(tmp_path)
    assert take_over(tmp_path / name, VAULT, START) is None
    assert contents(tmp_path) == before


def test_the_backup_is_the_database_of_the_go_service(tmp_path):
    """It holds every row as it was, for its owner alone; and it can be taken over in its turn."""
    path = go_service.database(tmp_path)
    path.chmod(0o644)
    before = go_service.rows(path)
    backup = taken(path).backup
    assert backup == tmp_path / "memtrace.db.go-backup"
    assert go_service.rows(backup) == before
    assert [stat.S_IMODE(file.stat().st_mode) for file in (path, backup)] == [0o600, 0o600]
    again = taken(backup)
    assert again.backup == tmp_path / "memtrace.db.go-backup.go-backup"
    assert asked(backup, lambda repo: repo.list_orgs()) == asked(path, lambda repo: repo.list_orgs())


def test_a_backup_is_never_overwritten(tmp_path):
    """Who went back and comes again gets another one; one that is there already and is the same is enough."""
    path = go_service.database(tmp_path)
    first = taken(path).backup
    kept = first.read_bytes()
    shutil.copyfile(first, path)
    assert taken(path).backup == first
    shutil.copyfile(first, path)
    execute(path, "UPDATE organizations SET name = 'renamed'")
    second = taken(path).backup
    assert second == tmp_path / "memtrace.db.go-backup-2"
    assert first.read_bytes() == kept
    assert {row[1] for row in go_service.rows(second)["organizations"]} == {"renamed"}


def test_nothing_of_the_old_file_is_left_in_the_new_one(tmp_path):
    """Rows that were deleted, and Arc keys as Go had sealed them, are in the backup alone."""
    secret = "an arc key that somebody once kept unsealed"
    path = go_service.database(
        tmp_path,
        f"CREATE TABLE scratch (text); INSERT INTO scratch VALUES ('{secret}')",
        "PRAGMA secure_delete = OFF; DROP TABLE scratch",
    )
    sealed = go_service.rows(path)["arc_instances"][0][3]
    backup = taken(path).backup
    for former in (secret.encode(), sealed):
        assert former in backup.read_bytes()
        assert former not in path.read_bytes()


def test_a_wrong_master_key_changes_nothing(tmp_path):
    """It is told as such; database and folder stay byte for byte, what a killed service has left included."""
    path = go_service.database(tmp_path / "closed")
    killed = left_by_a_kill(tmp_path / "killed", "UPDATE organizations SET name = 'last words'")
    for one in (path, killed):
        before = contents(one.parent)
        with pytest.raises(WrongMasterKey):
            take_over(one, EnvelopeVault(ANOTHER), START)
        assert contents(one.parent) == before


def test_a_previous_master_key_opens_what_go_sealed(tmp_path):
    """Who changes the master key on the way names the former one; everything is sealed with the new one then."""
    path = go_service.database(tmp_path)
    taken(path, EnvelopeVault(ANOTHER, [KEY]))
    vault = EnvelopeVault(ANOTHER)
    instances = asked(path, lambda repo: repo.list_instances(), vault)
    assert {one.org_id: vault.open(one.sealed_api_key, one.key_context) for one in instances} == ARC_KEYS


def test_what_a_killed_service_has_left_in_its_wal_is_taken_over(tmp_path):
    """Changes that were never brought into the database itself are neither lost nor played into the new one."""
    path = left_by_a_kill(tmp_path / "killed", "UPDATE organizations SET name = 'last words'")
    (path.parent / "memtrace.db-shm").write_bytes(bytes(32768))
    backup = taken(path).backup
    assert {file.name for file in path.parent.iterdir()} == {path.name, backup.name}
    assert {org.name for org in asked(path, lambda repo: repo.list_orgs())} == {"last words"}
    assert {row[1] for row in go_service.rows(backup)["organizations"]} == {"last words"}


def test_a_database_that_is_in_its_wal_alone_is_recognised(tmp_path):
    """A service that was killed in its first minutes has written nothing but the WAL."""
    folder = tmp_path / "alive"
    folder.mkdir()
    source = apsw.Connection(str(go_service.database(tmp_path / "source")))
    young = apsw.Connection(str(folder / "memtrace.db"))
    young.pragma("journal_mode", "wal")
    with young.backup("main", source, "main") as copying:
        copying.step(-1)
    source.close()
    for suffix in ("", "-wal"):
        shutil.copyfile(folder / f"memtrace.db{suffix}", tmp_path / f"memtrace.db{suffix}")
    young.close()
    path = tmp_path / "memtrace.db"
    assert path.stat().st_size == 4096
    before = contents_of_files(tmp_path)
    assert is_go_database(path)
    assert contents_of_files(tmp_path) == before
    assert taken(path).counts["sessions"] == 2


def contents_of_files(folder):
    """Return the files of a folder, those below it apart."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_database_that_is_in_use_is_refused_untouched(tmp_path):
    """A service that still runs is not undercut: nothing is changed, and the line says whom to stop."""
    path = go_service.database(tmp_path)
    service = apsw.Connection(str(path))
    assert service.execute("SELECT count(*) FROM organizations").fetchall() == [(2,)]
    before = path.read_bytes()
    with pytest.raises(StorageUnavailable, match="in use; it was left untouched") as caught:
        take_over(path, VAULT, START)
    assert "stop the Go service" in caught.value.hint
    service.execute("UPDATE organizations SET name = 'still at work'")
    service.close()
    assert is_go_database(path)
    assert before != path.read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {path.name}
    assert taken(path)


CANNOT_BE = {
    "an older version": ("DROP TABLE arc_instances", "another version of the Go service than 0.2.0"),
    "a newer version": ("ALTER TABLE agents ADD COLUMN colour TEXT", "another version of the Go service"),
    "a numbered version": ("PRAGMA user_version = 3", "another version of the Go service"),
    "a time": ("UPDATE agents SET created_at = 'yesterday'", "agent agent_.*: created_at cannot be read"),
    "no time": ("UPDATE organizations SET created_at = NULL", "organization org_.*: created_at cannot be read"),
    "a permission": (
        "UPDATE api_keys SET permissions = 'read,fly' WHERE id = 2",
        "API key 'acme-prod': permissions cannot be read",
    ),
    "a hash": ("UPDATE api_keys SET key_hash = 'plain'", "API key 'admin': key_hash cannot be read"),
    "a hash that takes hours": (
        "UPDATE api_keys SET key_hash = replace(key_hash, '$10$', '$31$')",
        "API key 'admin': key_hash cannot be read",
    ),
    "a prefix": ("UPDATE api_keys SET key_prefix = 'mtk_'", "API key 'admin': key_prefix cannot be read"),
    "twins": (
        "UPDATE api_keys SET key_prefix = '31373a2333644fd7'",
        "UNIQUE constraint failed: api_keys.digest",
    ),
}


@pytest.mark.parametrize(("change", "words"), CANNOT_BE.values(), ids=CANNOT_BE)
def test_a_database_that_cannot_be_taken_over_is_left_untouched(tmp_path, change, words):
    """One line names the file and what is wrong in it, and not a byte in the folder is another one."""
    path = go_service.database(tmp_path, change)
    before = contents(tmp_path)
    with pytest.raises(StorageUnavailable, match=words) as caught:
        take_over(path, VAULT, START)
    assert str(path) in str(caught.value)
    assert "left untouched" in str(caught.value)
    assert caught.value.hint
    assert contents(tmp_path) == before


def test_a_damaged_database_is_refused_untouched(tmp_path):
    """Pages that cannot be read are found before anything is changed."""
    path = go_service.database(tmp_path)
    spoil_page(path, "sessions")
    before = contents(tmp_path)
    with pytest.raises(StorageUnavailable, match="damaged"):
        take_over(path, VAULT, START)
    assert contents(tmp_path) == before


def test_rows_that_an_index_has_lost_are_not_lost(tmp_path):
    """An index that says a table is empty is found out, before anybody reads the table through it."""
    path = go_service.database(tmp_path)
    (leaf,) = pages_of(path, "sqlite_autoindex_sessions_1")
    overwrite(path, leaf, bytes([10, 0, 0, 0, 0, 16, 0, 0]))
    before = contents(tmp_path)
    with pytest.raises(StorageUnavailable, match="damaged"):
        take_over(path, VAULT, START)
    assert contents(tmp_path) == before


def test_text_that_is_none_is_damage(tmp_path):
    """A name that is not UTF-8 is no reason for a traceback."""
    path = go_service.database(tmp_path)
    overwrite(path, path.read_bytes().index(b"Crawls product"), b"\xff\xfe")
    with pytest.raises(StorageUnavailable, match="a value cannot be read"):
        take_over(path, VAULT, START)


REMARKS = {
    "an Arc key that does not open": (
        f"UPDATE arc_instances SET api_key_cipher = x'00' WHERE org_id = '{ACME}'",
        f"{ACME} has no Arc key any more (its Arc key does not open); "
        f"give it one with `memtrace org set-arc {ACME} --api-key -`",
    ),
    "a measurement that cannot be queried": (
        f"UPDATE arc_instances SET measurement = 'my-events' WHERE org_id = '{ACME}'",
        f"{ACME} is not bound to its Arc any more (measurement must be a letter and then up to 127 letters, digits "
        f"or '_' (Arc cannot query a hyphen)); bind it with `memtrace org add-arc {ACME}`",
    ),
    "rows of an org that is gone": (
        ORPHAN,
        "left out what belongs to organizations that are gone: 1 agents",
    ),
    "a status of its own": (
        "UPDATE sessions SET status = 'paused' WHERE closed_at IS NULL",
        "1 sessions of status 'paused' are closed now",
    ),
    "a table of its own": (
        "CREATE TABLE webhooks (id TEXT)",
        "left out the table webhooks, which the Go service 0.2.0 does not have",
    ),
}


@pytest.mark.parametrize(("change", "remark"), REMARKS.values(), ids=REMARKS)
def test_what_cannot_be_kept_as_it_was_is_told(tmp_path, change, remark):
    """The rest is taken over, and a sentence says what is not, and what to do."""
    path = go_service.database(tmp_path, change)
    done = taken(path)
    assert done.remarks == (remark,)
    assert (done.counts["orgs"], done.counts["api_keys"], done.counts["sessions"]) == (2, 3, 2)
    assert len(asked(path, lambda repo: repo.list_orgs())) == 2


def test_tables_of_a_replicating_tool_are_nobodys_concern(tmp_path):
    """What Litestream leaves in a database that it copies is dropped without a word."""
    path = go_service.database(tmp_path, "CREATE TABLE _litestream_seq (id INTEGER)")
    assert taken(path).remarks == ()


def test_an_instance_without_a_key_is_bound_all_the_same(tmp_path):
    """Its org keeps its place in Arc, so that nothing but the key has to be given again."""
    path = go_service.database(tmp_path, f"UPDATE arc_instances SET api_key_cipher = '' WHERE org_id = '{ACME}'")
    taken(path)
    instance = asked(path, lambda repo: repo.instance_of(ACME))
    assert (instance.sealed_api_key, instance.database) == (None, "acme_memory")


@pytest.mark.parametrize("text", ["", "null", "{}"])
def test_empty_objects_are_absent(tmp_path, text):
    """All the ways in which Go wrote nothing are nothing."""
    path = go_service.database(tmp_path, f"UPDATE agents SET config_json = '{text}', description = ''")
    taken(path)
    (agent,) = asked(path, lambda repo: repo.list_agents(DEFAULT_ORG, 10, None))
    assert (agent.config, agent.description) == (None, None)


def test_text_that_is_no_object_is_kept_within_one(tmp_path):
    """What Go let pass as metadata is shown rather than dropped."""
    path = go_service.database(tmp_path, "UPDATE sessions SET metadata_json = '[1, 2'")
    taken(path)
    sessions = asked(path, lambda repo: repo.list_sessions(DEFAULT_ORG, None, 10, None))
    assert [one.metadata for one in sessions] == [{"metadata_json": "[1, 2"}] * 2


def test_a_database_without_any_arc_takes_any_master_key(tmp_path):
    """Nothing was ever sealed in it, so nothing tells one key from another; from then on it is this one's."""
    path = go_service.database(tmp_path, "DELETE FROM arc_instances")
    taken(path, EnvelopeVault(ANOTHER))
    with pytest.raises(WrongMasterKey):
        SqliteMetadataRepo(path, VAULT)


def test_a_link_stays_a_link(tmp_path):
    """What lies behind it is taken over, and the backup lies there."""
    path = go_service.database(tmp_path / "volume")
    link = tmp_path / "memtrace.db"
    link.symlink_to(path)
    assert taken(link).backup.parent == tmp_path / "volume"
    assert link.is_symlink()
    assert len(asked(link, lambda repo: repo.list_orgs())) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")
def test_files_stay_their_owners(tmp_path):
    """A database that root takes over can still be opened by the user whose it is."""
    path = go_service.database(tmp_path)
    os.chown(path, 12345, 12346)
    backup = taken(path).backup
    assert {(file.stat().st_uid, file.stat().st_gid) for file in (path, backup)} == {(12345, 12346)}


def test_of_several_at_once_one_takes_over(tmp_path):
    """The others wait until it is done, and find a database of ours."""
    path = go_service.database(tmp_path)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: take_over(path, VAULT, START), range(4)))
    assert sum(one is not None for one in found) == 1
    assert len(asked(path, lambda repo: repo.list_orgs())) == 2


def test_a_rehearsal_changes_nothing(tmp_path):
    """It tells what would be done, and refuses what would be refused, about the real file."""
    path = left_by_a_kill(tmp_path / "killed", ORPHAN)
    before = contents(path.parent)
    for name in ("stage", "other"):
        (tmp_path / name).mkdir()
    done = rehearse(path, VAULT, START, tmp_path / "stage")
    assert done.counts["agents"] == 2
    assert len(done.remarks) == 1
    execute(path, "PRAGMA user_version = 3")
    with pytest.raises(StorageUnavailable, match=str(path)):
        rehearse(path, VAULT, START, tmp_path / "other")
    execute(path, "PRAGMA user_version = 0")
    assert before.keys() - contents(path.parent).keys() <= {"memtrace.db-wal"}


CRASHES = 3
"""Ways in which the disk is left for each operation; by default one of them, for every third operation."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Record a takeover of what a killed service has left, and return the operations and the rows before."""
    root = tmp_path_factory.mktemp("recorded")
    path = left_by_a_kill(root / "data", "UPDATE organizations SET name = 'last words'")
    shutil.copytree(root / "data", root.parent / "before")
    before = go_service.rows(root.parent / "before" / "memtrace.db")
    with Recorder(root) as recorder:
        taken(path)
    return recorder, before


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, CRASHES + 1))]
)
def test_a_crash_at_any_operation_leaves_the_one_or_the_other(recorded, tmp_path, part):
    """Wherever it is cut off, there is a whole database of Go, or a whole one of ours with its backup.

    The next start finishes what was begun, and leaves nothing but the two files.
    """
    recorder, before = recorded
    disk, reached = Disk(), 0
    for point in all_points(recorder.operations, recorder.beginning)[:: 1 if part else 3]:
        for operation in recorder.operations[reached:point]:
            disk.apply(operation)
        reached = point
        target = tmp_path / str(point)
        target.mkdir()
        disk.lay_out(target, random.Random(f"{part} {point}"))
        path = target / "data" / "memtrace.db"
        try:
            check_crash(path, before)
        except BaseException as error:
            error.add_note(f"crash before operation {point} of {len(recorder.operations)}, part {part}")
            raise
        shutil.rmtree(target)


def check_crash(path, before):
    """Start on what a crash has left, and expect everything to be there."""
    was_gos = is_go_database(path)
    if was_gos:
        assert take_over(path, VAULT, START + timedelta(days=1)) is not None
    backups = sorted(path.parent.glob("*.go-backup*"))
    assert [backup.name for backup in backups] == ["memtrace.db.go-backup"]
    assert go_service.rows(backups[0]) == before
    assert take_over(path, VAULT, START) is None
    orgs = asked(path, lambda repo: repo.list_orgs())
    assert [org.name for org in orgs] == ["last words"] * 2
    rows = go_service.rows(path)
    tables = ("arc_instances", "api_keys", "former_keys", "agents", "sessions")
    assert [len(rows[name]) for name in tables] == [2, 3, 3, 2, 2]
    if was_gos:
        left = {file.name for file in path.parent.iterdir()}
        assert left <= {path.name, "memtrace.db.go-backup"}


def test_the_database_that_the_tests_are_about_is_the_one_that_was_made(tmp_path):
    """Nobody has opened the original, which SQLite would change."""
    digest = hashlib.sha256(go_service.FILE.read_bytes()).hexdigest()
    assert digest.startswith("964971e21429b580")
