"""The parent of several server processes: it prepares what they share, starts them, and replaces those that die.

A worker is a fresh process that inherits the listening socket, so that a connection that waits for one of them is
taken by another if it dies. Its standard input is a pipe: through it come the settings, the same for all whatever
happens to their file, and the master key, so that it is in no worker's environment. When it breaks, the parent
is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loguru import logger

from memtrace_cli import output
from memtrace_cli.bootstrap import bootstrap, check_journal
from memtrace_cli.composition import compose
from memtrace_cli.listening import address_of, announce, bound_socket, raise_open_files
from memtrace_cli.orders import orders_of
from memtrace_cli.settings import PREFIX, Settings, SettingsError
from memtrace_cli.tls import certificate_of
from memtrace_cli.tracing import tracing_of
from memtrace_sqlite import EnvelopeVault, Mode

READY = b"ready\n"
LONG_LIFE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 30.0
KILL_AFTER_SECONDS = 10.0  # beyond what finishing requests and the last deliveries may take

_FIGURES = "PROMETHEUS_MULTIPROC_DIR"  # the name is the library's
_Readiness = asyncio.Future[None]
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def supervise(settings: Settings, key: EnvelopeVault, *, new_journal: bool) -> int:
    """Run the server in `server.workers` processes until it is told to stop, and return the exit code.

    It is that of a worker that cannot even start, after what that one has said about it.
    """
    raise_open_files()  # for the workers, too
    certificate = certificate_of(settings.server)
    tracing_of(settings)  # what stops tracing is told before anything is written
    with bound_socket(settings.server.host, settings.server.port) as bound, _shared_figures(settings):
        url = address_of(bound, tls=certificate is not None)
        await _prepare(settings, key, new_journal=new_journal)
        workers = Workers(settings, bound)
        loop = asyncio.get_running_loop()
        for one in _STOPS:
            loop.add_signal_handler(one, workers.stop)
        try:
            code = await workers.run(lambda: announce(settings, url))
        finally:
            for one in _STOPS:
                loop.remove_signal_handler(one)
    if code == output.DONE:
        logger.info("memtrace has stopped")
    return code


@contextmanager
def _shared_figures(settings: Settings) -> Iterator[None]:
    """Name a folder in which the workers add up what they count; those that die leave theirs to the sum."""
    if not settings.metrics.enabled or _FIGURES in os.environ:
        yield
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix="memtrace-metrics-")
    except OSError as error:
        raise SettingsError(
            f"several workers need a temporary folder for /metrics: {error.strerror or error}",
            hint="name one in TMPDIR, or set metrics.enabled = false",
        ) from None
    with folder as name:
        os.environ[_FIGURES] = name
        try:
            yield
        finally:
            del os.environ[_FIGURES]


async def _prepare(settings: Settings, key: EnvelopeVault, *, new_journal: bool) -> None:
    """Do what is done once: migrate, print a first key, move an old `[arc]` block, refuse what is damaged."""
    services = compose(settings, key, Mode.MIGRATE, new_journal=new_journal)
    try:
        await bootstrap(services, settings)
        await check_journal(services)
    finally:
        await services.close()


class CannotStart(Exception):
    """A worker has ended before it was ever ready; it has said itself why."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        # One that was killed by a signal has no code of its own.
        self.code = code if code > 0 else output.FAILED


class Workers:
    """The worker processes: started, replaced when they die, and ended together."""

    def __init__(self, settings: Settings, bound: socket.socket) -> None:
        self._settings = settings
        self._bound = bound
        self._stopping = asyncio.Event()
        self._processes: set[asyncio.subprocess.Process] = set()

    def stop(self) -> None:
        """Tell all to finish what they do and end; told again, do not wait for that."""
        if self._stopping.is_set():
            self._kill()
        self._stopping.set()

    async def run(self, on_ready: Callable[[], None]) -> int:
        """Keep the workers running until `stop`, and return the exit code.

        `on_ready` is called once, when all of them take connections.
        """
        ready = [_Readiness() for _ in range(self._settings.server.workers)]
        posts = [asyncio.create_task(self._keep(one)) for one in ready]
        for post in posts:
            post.add_done_callback(self._stop_if_failed)
        all_ready: asyncio.Future[list[None]] = asyncio.gather(*ready)
        stopped: asyncio.Future[bool] = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((all_ready, stopped), return_when=asyncio.FIRST_COMPLETED)
            if all_ready.done():
                all_ready.result()
                on_ready()
            await stopped
        except CannotStart as error:
            return error.code
        finally:
            self._stopping.set()
            stopped.cancel()
            await self._end(posts)
        return output.DONE

    async def _keep(self, ready: _Readiness) -> None:
        """Keep one worker running; the first must become ready, or it makes no sense to start others."""
        short_lives = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                code = await self._one_life(ready)
            except OSError as error:
                logger.error(output.one_line(f"a worker cannot be started: {error.strerror or error}"))
                code = output.FAILED
            if self._stopping.is_set():
                return
            if not ready.done():
                ready.set_exception(CannotStart(code))
                return
            short_lives = 0 if time.monotonic() - began >= LONG_LIFE_SECONDS else short_lives + 1
            logger.bind(code=code).warning("a worker has ended, another one takes its place")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_before_next(short_lives))

    async def _one_life(self, ready: _Readiness) -> int:
        """Start a worker, and return its exit code when it has ended."""
        orders = orders_of(self._settings, os.environ)
        # Its own group: what is typed on a terminal (Ctrl-C) reaches this process alone, which passes it on.
        process = await asyncio.create_subprocess_exec(
            *_command(self._bound.fileno()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
            pass_fds=(self._bound.fileno(),),
            process_group=0,
        )
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both were asked for")
        self._processes.add(process)
        try:
            if self._stopping.is_set():
                process.terminate()
            process.stdin.write(orders)
            async for line in process.stdout:
                if line == READY and not ready.done():
                    ready.set_result(None)
            return await process.wait()
        finally:
            self._processes.discard(process)
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _stop_if_failed(self, post: asyncio.Task[None]) -> None:
        """End the server when a worker can be kept no longer by a defect of ours, rather than go on without."""
        if not post.cancelled() and post.exception() is not None:
            self._stopping.set()

    async def _end(self, posts: Iterable[asyncio.Task[None]]) -> None:
        """End all workers, and come back when they are gone."""
        self._bound.close()  # whoever comes now is turned away, as the workers do, too
        for process in self._processes:
            with suppress(ProcessLookupError):  # it has ended, and this is not told yet
                process.terminate()
        patience = 2 * self._settings.server.shutdown_timeout + KILL_AFTER_SECONDS
        await asyncio.wait(posts, timeout=patience)
        self._kill()
        await asyncio.gather(*posts)

    def _kill(self) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.kill()


def pause_before_next(short_lives: int) -> float:
    """Return how many seconds to wait before a worker is started after so many short lives in a row."""
    return min(2.0 ** (short_lives - 2), LONGEST_PAUSE_SECONDS) if short_lives > 1 else 0.0


def _command(listening: int) -> list[str]:
    """Return the command line of a worker; nothing secret may be on it."""
    # -m would look for modules in the working directory first, as this process does only if it was started so.
    here = [] if str(Path.cwd()) in sys.path else ["-P"]
    return [sys.executable, *here, "-m", "memtrace_cli.worker", str(listening)]
