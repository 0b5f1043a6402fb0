"""The parent of the workers, with scripts in their places."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from builders import run
from e2e.crew import is_running
from e2e.processes import eventually
from loguru import logger

from memtrace_cli import supervisor
from memtrace_cli.listening import bound_socket
from memtrace_cli.orders import orders_of, read_orders
from memtrace_cli.settings import Server, Settings, load_settings
from memtrace_cli.supervisor import Workers, pause_before_next

SETTINGS = Settings(server=Server(host="127.0.0.1", port=0, workers=2, shutdown_timeout=0))
READY = "import sys; settings = sys.stdin.readline(); print('ready', flush=True);"
WAITS = READY + "sys.stdin.read()"
STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, lambda *_: None);" + READY + "[signal.pause() for _ in 'ab']"
)

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def heard():
    """Collect what the parent logs."""
    messages = []
    logger.remove()
    handler = logger.add(lambda message: messages.append((message.record["message"], message.record["extra"])))
    yield messages
    logger.remove(handler)


def with_scripts(monkeypatch, scripts, patience=3600):
    """Let each worker that is started run the next script, the last one again and again; return those started."""
    started = []

    def command(_):
        started.append(scripts[min(len(started), len(scripts) - 1)])
        return [sys.executable, "-S", "-c", started[-1]]

    monkeypatch.setattr(supervisor, "_command", command)
    monkeypatch.setattr(supervisor, "KILL_AFTER_SECONDS", patience)
    return started


async def working(act=None):
    """Run workers; when they are ready, do something with them, or stop. Return the exit code and how often."""
    with bound_socket("127.0.0.1", 0) as bound:
        workers, ready = Workers(SETTINGS, bound), []

        def on_ready():
            ready.append(1)
            if act is None:
                workers.stop()
            else:
                asyncio.get_running_loop().create_task(act(workers))

        code = await workers.run(on_ready)
    return code, len(ready)


def test_all_workers_get_the_settings_and_end_when_told(monkeypatch, tmp_path, heard):
    """Each reads the settings and its secrets from its standard input; ready is said once; the end is a 0."""
    monkeypatch.setenv("MEMTRACE_OF_OURS", "1")
    monkeypatch.setenv("MEMTRACE_MASTER_KEY", "secret")
    keep = (
        "import json, os, sys; given = json.loads(sys.stdin.readline());"
        "given['environ'] = [name for name in os.environ if name.startswith('MEMTRACE_')];"
        f"json.dump(given, open({str(tmp_path)!r} + '/' + str(os.getpid()), 'w'));"
    )
    started = with_scripts(monkeypatch, [keep + "print('ready', flush=True); sys.stdin.read()"])
    assert run(working()) == (0, 1)
    assert len(started) == 2
    given = [json.loads(file.read_text()) for file in tmp_path.iterdir()]
    assert [one["settings"]["server"]["workers"] for one in given] == [2, 2]
    assert [one["secrets"] for one in given] == [{"MEMTRACE_MASTER_KEY": "c2VjcmV0"}] * 2
    assert [one["environ"] for one in given] == [[], []]
    assert heard == []


def test_orders_are_read_as_they_were_given():
    """Settings of every kind come through, and so does a variable that is not UTF-8; others do not go with them."""
    environ = {
        "MEMTRACE_SERVER_TRUSTED_PROXIES": "10.0.0.1, fd00::/8",
        "MEMTRACE_METRICS_TOKEN": "t",
        "MEMTRACE_LIMITS_REQUESTS_PER_SECOND": "0.5",
    }
    settings = load_settings(None, environ, system_file=Path("none")).settings
    secrets = {"MEMTRACE_MASTER_KEY_FILE": "/caf\udce9", "MEMTRACE_MASTER_KEY_PREVIOUS": "b, c"}
    orders = read_orders(orders_of(settings, {**environ, **secrets, "MEMTRACE_OTHER": "\udce9"}))
    assert orders.settings == settings
    assert orders.variables == secrets


def test_a_parent_that_can_keep_no_worker_ends(monkeypatch, tmp_path):
    """A defect there is raised when the workers are gone, instead of leaving one that nobody looks after."""
    note = f"open({str(tmp_path)!r} + '/' + str(os.getpid()), 'w').close();"
    endless = f"import os; {note} print('x' * 200_000, flush=True); import time; time.sleep(60)"
    with_scripts(monkeypatch, [endless])
    with pytest.raises(ValueError, match="chunk"):
        run(working())
    started = [int(file.name) for file in tmp_path.iterdir()]
    assert started
    assert not any(map(is_running, started))


def test_a_worker_that_cannot_start_ends_the_server_with_its_code(monkeypatch, heard):
    """The other worker is ended, ready is never said, and no other one is tried."""
    started = with_scripts(monkeypatch, ["import sys; sys.exit(7)", WAITS])
    assert run(working()) == (7, 0)
    assert len(started) == 2


def test_a_worker_that_is_killed_at_its_start_ends_the_server_with_1(monkeypatch):
    """What has no exit code of its own counts as failed."""
    with_scripts(monkeypatch, ["import os; os.kill(os.getpid(), 9)", WAITS])
    assert run(working()) == (1, 0)


def test_a_worker_that_ends_is_replaced(monkeypatch, heard):
    """Another one is started in its place at once, and the log tells how it has ended."""
    started = with_scripts(monkeypatch, [READY + "sys.stdin.read(1); sys.exit(3)", WAITS])
    lives = []

    async def end_one(workers):
        (process,) = (one for one in workers._processes if one.pid == min(each.pid for each in workers._processes))
        process.stdin.write(b"x")
        await process.wait()
        await asyncio.to_thread(
            eventually, lambda: len(workers._processes) == 2 and process not in workers._processes
        )
        lives.append(len(started))
        workers.stop()

    assert run(working(end_one)) == (0, 1)
    assert lives == [3]
    assert heard == [("a worker has ended, another one takes its place", {"code": 3})]


def test_workers_that_end_again_and_again_are_replaced_more_and_more_slowly():
    """The first short life costs no time; from then on the pause doubles, up to half a minute."""
    assert [pause_before_next(lives) for lives in range(9)] == [0, 0, 1, 2, 4, 8, 16, 30, 30]


def test_told_twice_it_does_not_wait(monkeypatch):
    """A worker that does not end by itself is killed at the second call."""
    with_scripts(monkeypatch, [STUBBORN])

    async def twice(workers):
        workers.stop()
        await asyncio.sleep(0)
        workers.stop()

    assert run(working(twice)) == (0, 1)


def test_a_worker_that_does_not_end_in_time_is_killed(monkeypatch):
    """Told once, the parent waits for as long as finishing may take, and no longer."""
    with_scripts(monkeypatch, [STUBBORN], patience=0)
    assert run(working()) == (0, 1)


def test_a_worker_that_has_ended_unnoticed_holds_up_no_other(monkeypatch):
    """It cannot be told to end any more; the others are, and all of them are waited for."""
    with_scripts(monkeypatch, [WAITS])

    async def stop(workers):
        gone = next(iter(workers._processes))

        def too_late():
            raise ProcessLookupError

        gone.terminate, terminate = too_late, gone.terminate
        asyncio.get_running_loop().call_later(0.1, terminate)  # by itself
        workers.stop()

    assert run(working(stop)) == (0, 1)
