"""A server of several processes: nothing is stored twice or out of order by them, and any of them may die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from arc_double import ArcDouble
from e2e.crew import Line, is_running, lines_to_all, owner_of, whole, workers_of
from e2e.journals import counted
from e2e.processes import Deployment, Server, Tenant, eventually

from memtrace_cli.listening import bound_socket
from memtrace_cli.orders import orders_of
from memtrace_cli.settings import Auth, Settings

Opener = Callable[..., list[Line]]

WORKERS = 2
SETTINGS = {
    "MEMTRACE_SERVER_WORKERS": str(WORKERS),
    "MEMTRACE_SERVER_TRUSTED_PROXIES": "10.0.0.0/8",
    "MEMTRACE_ARC_WRITE_FLUSH_INTERVAL_MS": "50",
}


@pytest.fixture(scope="module")
def arc() -> Iterator[ArcDouble]:
    """Return an Arc that keeps what it is sent in the order of its arrival."""
    with ArcDouble(max_buffer_age_ms=None) as running:
        yield running


@pytest.fixture(scope="module")
def crewed(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Return a deployment with several workers."""
    return Deployment(tmp_path_factory.mktemp("crewed"), **SETTINGS)


@pytest.fixture(scope="module")
def crew(crewed: Deployment) -> Iterator[Server]:
    """Return its server."""
    with crewed.serve() as running:
        yield running


@pytest.fixture
def open_lines() -> Iterator[Opener]:
    """Return `lines_to_all` as a function; the connections are closed after the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(lines_to_all(*arguments, **options))


def in_arc(arc: ArcDouble, tenant: Tenant) -> list[str]:
    """Return the contents of an org's rows in Arc, in the order in which they came."""
    return [str(row["content"]) for row in arc.rows(f"db_{tenant.org_id}", "events")]


def bound_to(arc: ArcDouble, deployment: Deployment) -> Tenant:
    """Return a fresh organization in an Arc."""
    tenant = deployment.tenant(bound=False)
    deployment.done(
        "org", "add-arc", tenant.org_id, "--url", arc.url, "--api-key", "-", "--database", f"db_{tenant.org_id}",
        stdin=arc.write_token + "\n",
    )  # fmt: skip
    return tenant


def test_of_identical_posts_to_all_workers_one_is_stored(
    crewed: Deployment, crew: Server, open_lines: Opener
) -> None:
    """Each time that all connections post the same at once, one answer is 201 and the others name its memory."""
    lines = open_lines(crew, crewed.tenant(), each=4)
    with ThreadPoolExecutor(len(lines)) as threads:
        for number in range(25):
            start = threading.Barrier(len(lines))

            def post(line: Line, number: int = number, start: threading.Barrier = start) -> tuple[int, Any]:
                start.wait()
                return line.post(f"the same {number}")

            answers = list(threads.map(post, lines))
            statuses = Counter(status for status, _ in answers)
            assert statuses == {201: 1, 409: len(lines) - 1}
            assert len({answer["memory_id"] for _, answer in answers}) == 1


def test_a_reader_that_follows_skips_nothing_while_all_workers_write(
    arc: ArcDouble, crewed: Deployment, crew: Server, open_lines: Opener
) -> None:
    """Times grow strictly over all workers, and whoever follows by cursor meets each memory once, in that order."""
    tenant = bound_to(arc, crewed)
    writers = open_lines(crew, tenant, each=2)
    (reader, *_) = open_lines(crew, tenant)

    def write(line: Line) -> list[dict[str, Any]]:
        answers = [line.post(f"{id(line)} {number}") for number in range(40)]
        assert {status for status, _ in answers} == {201}
        return [memory for _, memory in answers]

    met: list[dict[str, Any]] = []
    cursor, seen = "", 0
    with ThreadPoolExecutor(len(writers)) as threads:
        written = [threads.submit(write, line) for line in writers]
        while True:
            finished = all(one.done() for one in written)
            status, page = reader.ask("GET", f"/api/v1/memories?order=asc&limit=7{cursor}")
            assert status == 200, page
            # The last page is read again until there is more behind it.
            met += page["memories"][seen:]
            seen = len(page["memories"])
            if page["has_more"]:
                cursor, seen = f"&cursor={page['next_cursor']}", 0
            elif finished:
                break
    stored = sorted((memory for one in written for memory in one.result()), key=lambda one: str(one["time"]))
    assert len({one["time"] for one in stored}) == len(stored)
    assert met == stored
    eventually(lambda: len(in_arc(arc, tenant)) >= len(stored), what="all are in Arc")
    assert in_arc(arc, tenant) == [one["content"] for one in stored]


def test_a_revoked_key_fails_on_the_next_request_to_every_worker(
    crewed: Deployment, crew: Server, open_lines: Opener
) -> None:
    """Each worker has known the key, and knows of its end as soon as the command has ended."""
    tenant = crewed.tenant()
    lines = open_lines(crew, tenant)
    assert [line.ask("GET", "/api/v1/memories")[0] for line in lines] == [200] * WORKERS
    crewed.done("key", "revoke", tenant.key_id)
    assert [line.ask("GET", "/api/v1/memories")[0] for line in lines] == [401] * WORKERS


def test_figures_are_those_of_all_workers_together(crewed: Deployment, crew: Server, open_lines: Opener) -> None:
    """Whichever worker is asked for the metrics tells of what all have accepted."""
    lines = open_lines(crew, crewed.tenant())

    def accepted() -> float:
        with crew.client() as api:
            told = api.get("/metrics").text
        return sum(
            float(line.rpartition(" ")[2])
            for line in told.splitlines()
            if line.startswith("memtrace_memories_total") and "stored" in line
        )

    before = accepted()
    assert [line.post(f"counted by {line.worker}")[0] for line in lines] == [201] * WORKERS
    # Each worker adds up not more often than once a second.
    eventually(lambda: [accepted() for _ in range(2 * WORKERS)] == [before + WORKERS] * 2 * WORKERS, what="the sum")


def test_delivery_goes_on_when_its_owner_is_killed_and_another_worker_takes_its_place(
    arc: ArcDouble, crewed: Deployment, crew: Server, open_lines: Opener
) -> None:
    """Memories of the worker that lives on reach Arc; soon there are as many workers as before; it is logged."""
    tenant = bound_to(arc, crewed)
    owner = owner_of(crewed)
    (line,) = (one for one in open_lines(crew, tenant) if one.worker != owner)
    assert line.post("before")[0] == 201
    # Killed between Arc's answer and its note of it, the owner would leave the memory to be sent once more.
    eventually(lambda: counted(crewed, tenant.org_id)[0] == 0, what="delivered by the other worker, and noted")
    assert in_arc(arc, tenant) == ["before"]
    assert owner is not None
    os.kill(owner, signal.SIGKILL)
    assert line.post("after")[0] == 201
    eventually(lambda: in_arc(arc, tenant) == ["before", "after"], what="delivered by this worker")
    assert owner_of(crewed) == line.worker
    assert owner not in whole(crew, WORKERS)
    assert [event["code"] for event in crew.events("a worker has ended, another one takes its place")] == [-9]
    contents = [
        f"by worker {one.worker}" for one in open_lines(crew, tenant) if one.post(f"by worker {one.worker}")
    ]
    eventually(lambda: in_arc(arc, tenant)[2:] == contents, what="delivered from all workers")


@pytest.fixture
def hurried(deployment: Deployment) -> Deployment:
    """Return a deployment of the test's own with several workers, which have a second to end."""
    deployment.environment.update(SETTINGS, MEMTRACE_SERVER_SHUTDOWN_TIMEOUT="1")
    return deployment


def test_a_worker_whose_parent_dies_while_it_starts_ends_in_good_order(deployment: Deployment) -> None:
    """It finds nobody to tell that it is ready, and says nothing about that."""
    deployment.org()
    settings = Settings(auth=Auth(db_path=str(deployment.data / "memtrace.db")))
    orders = orders_of(settings, {"MEMTRACE_MASTER_KEY": deployment.master_key})
    with bound_socket("127.0.0.1", 0) as bound:
        worker = subprocess.Popen(
            [sys.executable, "-m", "memtrace_cli.worker", str(bound.fileno())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=[bound.fileno()], cwd=deployment.folder,
        )  # fmt: skip
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdout.close()
        worker.stdin.write(orders)
        _, said = worker.communicate(timeout=60)
    assert (worker.returncode, said) == (0, b"")


@pytest.mark.slow
def test_the_workers_end_with_their_parent_and_free_the_port(
    arc: ArcDouble, hurried: Deployment, open_lines: Opener
) -> None:
    """When the parent is killed nobody goes on serving: the port can be bound again, and all memories are there."""
    tenant = bound_to(arc, hurried)
    with hurried.serve() as server:
        workers = workers_of(server)
        assert len(workers) == WORKERS
        lines = open_lines(server, tenant)
        for number, line in enumerate(lines):
            assert line.post(f"number {number}")[0] == 201
        server.kill()
        eventually(lambda: not any(map(is_running, workers)), what="the workers have ended")
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", server.port))
            free.listen()
    # They ended in good order: what waited was delivered.
    assert in_arc(arc, tenant) == [f"number {number}" for number in range(WORKERS)]


@pytest.mark.slow
def test_told_to_stop_all_finish_and_the_server_ends_with_0(
    arc: ArcDouble, hurried: Deployment, open_lines: Opener
) -> None:
    """The log tells of one start and one end, a request under way is answered, and no process is left."""
    hurried.environment["MEMTRACE_ARC_WRITE_FLUSH_INTERVAL_MS"] = "3600000"
    tenant = bound_to(arc, hurried)
    with hurried.serve() as server:
        assert server.out.count("API Key:") == 0
        workers = workers_of(server)
        lines = open_lines(server, tenant)
        for number, line in enumerate(lines):
            assert line.post(f"number {number}")[0] == 201
        assert in_arc(arc, tenant) == []
        assert server.stop(signal.SIGTERM) == 0
        assert not any(map(is_running, workers))
        assert [len(server.events(f"memtrace {what}")) for what in ("is listening", "has stopped")] == [1, 1]
    assert counted(hurried, tenant.org_id) == (0, WORKERS, 0)
    assert in_arc(arc, tenant) == [f"number {number}" for number in range(WORKERS)]
