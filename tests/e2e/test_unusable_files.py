"""Databases that cannot be used: one clear line and exit code 1 at the start, and nothing touched."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import cut_in_half, execute, overwrite, spoil_page
from e2e.processes import Deployment, Tenant, eventually
from small_disk import fill, free_bytes, make_read_only, small_disk

from memtrace_sqlite.journal import LEAST_FREE_BYTES

pytestmark = pytest.mark.slow

MEMORIES = 200


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Deployment, Tenant]:
    """Return a deployment with memories, whose server has stopped."""
    deployment = Deployment(tmp_path_factory.mktemp("original"))
    tenant = deployment.tenant()
    with deployment.serve() as server, server.client(tenant) as api:
        memories = [{"agent_id": "ada", "content": f"{number} {'x' * 300}"} for number in range(MEMORIES)]
        assert api.post("/api/v1/memories", json={"memories": memories}).json()["count"] == MEMORIES
        assert server.stop() == 0
    return deployment, tenant


def copied(original: Deployment, folder: Path) -> Deployment:
    """Return a deployment over a copy of the databases."""
    shutil.copytree(original.data, folder / "data")
    return Deployment(folder, MEMTRACE_MASTER_KEY=original.master_key)


@pytest.fixture
def copy(original: tuple[Deployment, Tenant], tmp_path: Path) -> Deployment:
    """Return a copy of the deployment for a test to damage."""
    return copied(original[0], tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder, what SQLite makes beside a database apart."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix == ".db"}


def check_line(ended: subprocess.CompletedProcess[str], *words: str) -> None:
    """It ended with code 1 and one line on stderr that holds the words, besides a hint."""
    assert ended.returncode == 1, ended
    first, *others = ended.stderr.splitlines()
    assert first.startswith("memtrace: "), ended.stderr
    assert all(line.startswith("  hint: ") for line in others), ended.stderr
    assert all(word in first for word in words), ended.stderr
    assert ended.stdout == ""


def cut(data: Path) -> None:
    """Lose half of the journal."""
    cut_in_half(data / "journal.db")


def overwritten(data: Path) -> None:
    """Put something else at its beginning."""
    overwrite(data / "journal.db", 0, b"\xff" * 4096)


def schema_spoiled(data: Path) -> None:
    """Spoil the page that tells which tables there are."""
    overwrite(data / "journal.db", 100, b"\xff" * 3996)


def orgs_spoiled(data: Path) -> None:
    """Spoil what every command reads first."""
    for table in ("orgs", "config_version", "meta"):
        spoil_page(data / "memtrace.db", table)


def swapped(data: Path) -> None:
    """Put the other database in its place."""
    shutil.copy(data / "memtrace.db", data / "journal.db")


def of_a_newer_version(data: Path) -> None:
    """Let it be of a later program."""
    execute(data / "journal.db", "PRAGMA user_version = 99")


def without_its_database(data: Path) -> None:
    """Leave a -wal file alone."""
    (data / "journal.db").rename(data / "journal.db-wal")


def wal_in_the_way(data: Path) -> None:
    """Put a folder where the -wal file goes."""
    (data / "journal.db-wal").mkdir()


def not_in_wal_mode(data: Path) -> None:
    """Change its mode as another program may."""
    execute(data / "journal.db", "PRAGMA journal_mode = DELETE")


Damage = Callable[[Path], None]
UNUSABLE: list[tuple[Damage, tuple[str, ...]]] = [
    (cut, ("data/journal.db is damaged", "restore it from a backup")),
    (overwritten, ("data/journal.db is not a database", "left untouched")),
    (schema_spoiled, ("data/journal.db is damaged", "restore it from a backup")),
    (orgs_spoiled, ("data/memtrace.db is damaged", "restore it from a backup")),
    (swapped, ("data/journal.db is not a Memtrace journal", "left untouched")),
    (of_a_newer_version, ("data/journal.db has schema version 99", "use a newer memtrace")),
    (without_its_database, ("journal.db-wal has lost its database", "restore that, or move the -wal file away")),
    (wal_in_the_way, ("data/journal.db cannot be used",)),
    (not_in_wal_mode, ("data/journal.db is not in WAL mode",)),
]
unusable = pytest.mark.parametrize(("damage", "words"), UNUSABLE, ids=[one.__name__ for one, _ in UNUSABLE])


@unusable
def test_a_command_says_in_one_line_what_is_wrong_with_a_file(
    copy: Deployment, damage: Damage, words: tuple[str, ...]
) -> None:
    """An admin command over an unusable file ends with code 1 and a line that names it, and changes no file."""
    damage(copy.data)
    before = contents(copy.data)
    check_line(copy.here("org", "list"), *words)
    assert contents(copy.data) == before


def served(deployment: Deployment) -> subprocess.CompletedProcess[str]:
    """Start a server that must end by itself, and return how it ended."""
    with deployment.start() as server:
        code = server.process.wait(30)
        return subprocess.CompletedProcess(["serve"], code, server.out, server.err)


@pytest.mark.parametrize(("damage", "words"), [UNUSABLE[0], UNUSABLE[6]], ids=["cut", "without_its_database"])
def test_a_server_does_not_start_over_an_unusable_file(
    copy: Deployment, damage: Damage, words: tuple[str, ...]
) -> None:
    """`serve` says the same line, ends with code 1, and changes no file."""
    damage(copy.data)
    before = contents(copy.data)
    check_line(served(copy), *words)
    assert contents(copy.data) == before


def ledger_spoiled(data: Path) -> None:
    """Spoil the page of the ledger."""
    spoil_page(data / "journal.db", "ledger")


def ledger_empty(data: Path) -> None:
    """Take the ledger's only row."""
    execute(data / "journal.db", "DELETE FROM ledger")


@pytest.mark.parametrize("damage", [ledger_spoiled, ledger_empty])
def test_a_damaged_ledger_is_said_in_one_line(copy: Deployment, damage: Damage) -> None:
    """A journal that does not know its node or its last time is damaged, and no traceback."""
    damage(copy.data)
    check_line(served(copy), "data/journal.db is damaged")


def queue_spoiled(data: Path) -> None:
    """Spoil the index of what waits."""
    spoil_page(data / "journal.db", "journal_pending")


def queue_gone(data: Path) -> None:
    """Take the table of what waits."""
    execute(data / "journal.db", "DROP TABLE journal")


@pytest.mark.parametrize("damage", [queue_spoiled, queue_gone])
def test_damage_that_shows_when_deliveries_are_taken_up_is_said_in_one_line(
    copy: Deployment, damage: Damage
) -> None:
    """A queue that cannot be read stops the server with code 1 and the line that any damage gets."""
    damage(copy.data)
    check_line(served(copy), "data/journal.db is damaged")


def journal_removed(data: Path) -> None:
    """Remove the journal."""
    (data / "journal.db").unlink()


def journal_emptied(data: Path) -> None:
    """Leave an empty file."""
    os.truncate(data / "journal.db", 0)


@pytest.mark.parametrize("damage", [journal_removed, journal_emptied])
def test_a_journal_that_was_there_and_is_gone_is_missed(copy: Deployment, damage: Damage) -> None:
    """Where memtrace.db knows of a journal, a server does not begin an empty one as if nothing had been stored."""
    damage(copy.data)
    with copy.start() as server:
        eventually(lambda: server.process.poll() is not None or "memtrace is listening" in server.err)
        assert server.process.poll() == 1


def test_what_is_not_a_wal_beside_a_database_is_no_harm(
    original: tuple[Deployment, Tenant], copy: Deployment
) -> None:
    """Rubbish in place of a -wal file holds no memories: the database's own are all there."""
    (copy.data / "journal.db-wal").write_bytes(os.urandom(5000))
    with copy.serve() as server, server.client(original[1]) as api:
        assert api.get("/api/v1/memories?limit=1000").json()["count"] == MEMORIES


def test_shared_memory_that_cannot_be_made_refuses_writes(
    original: tuple[Deployment, Tenant], copy: Deployment
) -> None:
    """Where the -shm file cannot be made posts are refused, and what is stored can be read."""
    (copy.data / "journal.db-shm").mkdir()
    with copy.serve() as server, server.client(original[1]) as api:
        answer = api.post("/api/v1/memories", json={"agent_id": "ada", "content": "new"})
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
        assert api.get("/api/v1/memories?limit=1000").json()["count"] == MEMORIES


def test_a_read_only_file_system_is_said_in_one_line(original: tuple[Deployment, Tenant]) -> None:
    """Where nothing can be written the server does not start, and says which file it cannot use."""
    with small_disk(32) as folder:
        deployment = copied(original[0], folder)
        make_read_only(folder)
        check_line(deployment.here("org", "list"), "data/memtrace.db cannot be used")


def test_a_server_on_a_full_disk_answers_or_says_why_not(original: tuple[Deployment, Tenant]) -> None:
    """Without any room, not even for what SQLite puts beside a database, there is a clear line and no damage."""
    with small_disk(32) as folder:
        deployment = copied(original[0], folder)
        ballast = fill(folder)
        assert free_bytes(folder) == 0
        check_line(deployment.here("org", "list"), "data/memtrace.db cannot be used")
        ballast.unlink()
        assert original[1].org_id in deployment.done("org", "list")


def test_a_disk_that_fills_up_refuses_until_there_is_room(original: tuple[Deployment, Tenant]) -> None:
    """A running server on a disk that others fill refuses posts, answers reads, and recovers by itself."""
    with small_disk((LEAST_FREE_BYTES >> 20) + 32) as folder:
        deployment = copied(original[0], folder)
        with deployment.serve() as server, server.client(original[1]) as api:

            def posted(content: str) -> int:
                answer = api.post("/api/v1/memories", json={"agent_id": "ada", "content": content})
                assert answer.status_code == 201 or answer.json()["code"] == "journal_full"
                return answer.status_code

            assert posted("with room") == 201
            ballast = fill(folder, leaving=LEAST_FREE_BYTES // 2)
            tries = itertools.count()
            # The server looks at the disk once a second.
            eventually(lambda: posted(f"{next(tries)} without room") == 503, what="posts are refused")
            assert api.get("/api/v1/memories?limit=1").status_code == 200
            ballast.unlink()
            eventually(lambda: posted("with room again") == 201, what="posts are taken again")
            stored = MEMORIES + 2 + (next(tries) - 1)
            assert api.get("/api/v1/agents/ada/stats").json()["memory_count"] == stored
            assert server.stop() == 0
