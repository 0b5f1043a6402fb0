"""`memtrace backup` beside a server, `memtrace restore` into an empty place, and a server that starts there."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import apsw
import httpx
import pytest
from arc_double import ArcDouble
from e2e.journals import assert_one_line, counted
from e2e.processes import COMMAND, Deployment, eventually
from e2e.test_arc import HASTY, bound_to
from e2e.test_crash import everything

BACKUP_BYTES_ALLOWED = 64 << 10


@pytest.fixture
def arc() -> Iterator[ArcDouble]:
    """Return an Arc that shows at once what it was sent."""
    with ArcDouble(max_buffer_age_ms=0) as running:
        yield running


@pytest.fixture
def elsewhere(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Return an empty place with the same settings and master key."""
    other = Deployment(tmp_path_factory.mktemp("elsewhere"))
    other.master_key = other.environment["MEMTRACE_MASTER_KEY"] = deployment.master_key
    return other


def post(api: httpx.Client, content: str) -> dict[str, object]:
    """Store a memory, and return it."""
    answer = api.post("/api/v1/memories", json={"agent_id": "ada", "content": content})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_a_restored_installation_goes_on_where_the_backup_was_taken(
    deployment: Deployment, elsewhere: Deployment, tmp_path: Path
) -> None:
    """Keys work, memories, agents and sessions are there, duplicates are known, and time goes on."""
    tenant = deployment.tenant()
    archive = tmp_path / "b.tar"
    with deployment.serve() as server, server.client(tenant) as api:
        api.post("/api/v1/agents", json={"name": "ada"})
        session = api.post("/api/v1/sessions", json={"agent_id": "ada"}).json()
        kept = [post(api, f"number {number}") for number in range(5)]
        ended = deployment.here("backup", str(archive))
        lost = post(api, "after the backup")
    assert ended.returncode == 0
    assert ended.stdout.startswith(f"Backup written to {archive}\n")
    assert "master key" in ended.stderr
    said = elsewhere.here("restore", str(archive))
    assert said.returncode == 0
    assert "memtrace doctor" in said.stderr
    with elsewhere.serve() as server, server.client(tenant) as api:
        assert "FIRST RUN" not in server.out
        assert everything(api) == kept
        assert api.get("/api/v1/agents/ada/stats").json()["memory_count"] == 5
        assert api.get(f"/api/v1/sessions/{session['id']}").json() == session
        again = api.post("/api/v1/memories", json={"agent_id": "ada", "content": "number 3"})
        assert (again.status_code, again.json()["memory_id"]) == (409, kept[3]["memory_id"])
        new = post(api, "after the backup")
        assert str(new["time"]) > str(lost["time"])
        assert everything(api) == [*kept, new]


def test_memories_that_reached_arc_since_the_backup_are_seen_once_in_the_end(
    arc: ArcDouble, deployment: Deployment, elsewhere: Deployment, tmp_path: Path
) -> None:
    """What the backup has as pending, and what Arc took after it, are all there when everything has settled."""
    deployment.environment.update(HASTY)
    elsewhere.environment.update(HASTY)
    tenant = bound_to(arc, deployment)
    with deployment.serve() as server, server.client(tenant) as api:
        stored = [post(api, "long in Arc")]
        eventually(lambda: counted(deployment, tenant.org_id) == (0, 0, 0), what="confirmed")
        arc.faults.down = True
        stored += [post(api, f"pending {number}") for number in range(3)]
        deployment.done("backup", str(tmp_path / "b.tar"))
        arc.faults.down = False
        stored += [post(api, f"after the backup {number}") for number in range(3)]
        eventually(lambda: counted(deployment, tenant.org_id) == (0, 0, 0), what="confirmed")
        assert everything(api) == stored
    elsewhere.done("restore", str(tmp_path / "b.tar"))
    assert counted(elsewhere, tenant.org_id) == (3, 0, 0)
    with elsewhere.serve() as server, server.client(tenant) as api:
        stored.append(post(api, "after the restore"))
        eventually(lambda: counted(elsewhere, tenant.org_id) == (0, 0, 0), what="settled")
        assert everything(api) == stored
        assert api.get("/api/v1/agents/ada/stats").json()["memory_count"] == len(stored)
        assert api.post("/api/v1/memories", json={"agent_id": "ada", "content": "pending 1"}).status_code == 409


def test_a_backup_needs_no_master_key(deployment: Deployment, elsewhere: Deployment, tmp_path: Path) -> None:
    """Neither do a restore nor the help of both; the master key is in none of what they write."""
    deployment.tenant()
    none = {"MEMTRACE_MASTER_KEY": None}
    archive = tmp_path / "b.tar"
    for ended in (
        deployment.here("backup", str(archive), variables=none),
        elsewhere.here("restore", str(archive), variables=none),
    ):
        assert ended.returncode == 0, ended
        assert deployment.master_key not in ended.stdout + ended.stderr
    for command in ("backup", "restore"):
        ended = elsewhere.here(command, "--help", variables=none)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "Example: " in ended.stdout
    assert deployment.master_key.encode() not in archive.read_bytes()


def test_what_a_backup_cannot_do_is_said_in_one_line(deployment: Deployment, tmp_path: Path) -> None:
    """No databases, a target that exists, a folder that does not, too few words: an exit code and one line."""
    assert_one_line(deployment.here("backup", str(tmp_path / "b.tar")), 1, "memtrace.db")
    assert not deployment.data.exists()
    deployment.org()
    (tmp_path / "there").write_text("precious")
    assert_one_line(deployment.here("backup", str(tmp_path / "there")), 1, "there exists already")
    assert (tmp_path / "there").read_text() == "precious"
    assert_one_line(deployment.here("backup", str(tmp_path / "nowhere" / "b.tar")), 1, "nowhere/b.tar")
    assert_one_line(deployment.here("backup"), 2)
    assert_one_line(deployment.here("restore"), 2)
    journal = deployment.data / "journal.db"
    content = journal.read_bytes()
    journal.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))
    assert_one_line(deployment.here("backup", str(tmp_path / "b.tar")), 1, "journal.db is damaged")
    assert not (tmp_path / "b.tar").exists()


def test_what_a_restore_cannot_do_is_said_in_one_line(deployment: Deployment, elsewhere: Deployment) -> None:
    """Existing databases and files that are no backup: exit code 1, one line, and nothing is changed."""
    deployment.org()
    deployment.done("backup", "b.tar")
    before = {path.name: path.read_bytes() for path in deployment.data.iterdir()}
    assert_one_line(deployment.here("restore", "b.tar"), 1, "exists already", "stop the server")
    assert {path.name: path.read_bytes() for path in deployment.data.iterdir()} == before
    (elsewhere.folder / "foreign").write_bytes(b"foreign" * 1000)
    (elsewhere.folder / "empty").write_bytes(b"")
    (elsewhere.folder / "short").write_bytes((deployment.folder / "b.tar").read_bytes()[:5_000])
    for name in ("foreign", "empty", "short", "nowhere"):
        assert_one_line(elsewhere.here("restore", name), 1, name)
    assert not elsewhere.data.exists()


@pytest.mark.slow
def test_a_backup_without_room_leaves_nothing(deployment: Deployment, tmp_path: Path) -> None:
    """A disk that is too small for it: one line, exit code 1, no half file, and the installation is as before."""
    tenant = deployment.tenant()
    with deployment.serve() as server, server.client(tenant) as api:
        for number in range(4):
            post(api, f"{number} " + "x" * BACKUP_BYTES_ALLOWED)
        target = tmp_path / "room" / "b.tar"
        target.parent.mkdir()
        # What is allowed to a process is as good as what a disk has room for: in blocks of 1,024 bytes.
        limited = ("bash", "-c", f'ulimit -f {BACKUP_BYTES_ALLOWED // 1024}; exec "$@"', "limited")
        ended = subprocess.run(
            [*limited, *COMMAND, "backup", str(target)],
            capture_output=True, text=True, timeout=60, check=False,
            cwd=deployment.folder, env=deployment.environment,
        )  # fmt: skip
        assert_one_line(ended, 1)
        assert list(target.parent.iterdir()) == []
        assert len(everything(api)) == 4
    deployment.done("backup", str(target))


def test_a_backup_that_is_killed_leaves_no_file_under_its_name(deployment: Deployment, tmp_path: Path) -> None:
    """Not a half one, and the next backup to the same name is a good one."""
    deployment.tenant()
    target = tmp_path / "room" / "b.tar"
    target.parent.mkdir()
    # While somebody writes, a backup waits, with its work begun.
    writer = apsw.Connection(str(deployment.data / "memtrace.db"))
    writer.execute("BEGIN IMMEDIATE")
    process = subprocess.Popen([*COMMAND, "backup", str(target)], cwd=deployment.folder, env=deployment.environment)
    try:
        eventually(lambda: list(target.parent.iterdir()), what="the backup has begun")
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait(20) == -signal.SIGKILL
        writer.execute("ROLLBACK")
        writer.close()
    assert not target.exists()
    deployment.done("backup", str(target))
    assert target.stat().st_mode & 0o777 == 0o600
