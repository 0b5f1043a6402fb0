"""What is measured: a server in processes of its own, and how load is put on it."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
from benchmarks.load import Load
from benchmarks.requests import Template
from benchmarks.sample import Sample
from e2e.processes import Deployment, eventually

from memtrace_cli.settings import Server as ServerSettings

TESTS = Path(__file__).parents[1]
HOST = "127.0.0.1"
_PER_RUN = 10**8  # numbers that one run may use up
# A server that is kept for later must not meet a number again, and a run takes longer than a second.
_runs = itertools.count(1 + int(time.time()) % 900_000)


@dataclass(frozen=True)
class Effort:
    """How long and how often everything is measured."""

    seconds: float
    warm_seconds: float
    repeats: int


@dataclass(frozen=True)
class Subject:
    """A server that listens."""

    port: int
    process: int

    def measure(
        self, template: Template | Sequence[Template], concurrency: int, effort: Effort, rate: float = 0
    ) -> Sample:
        """Put it under load once: with one request or several that take turns, at most `rate` a second if not 0."""
        load = Load(
            host=HOST,
            port=self.port,
            process=self.process,
            templates=(template,) if isinstance(template, Template) else tuple(template),
            concurrency=concurrency,
            warm_seconds=effort.warm_seconds,
            seconds=effort.seconds,
            first=next(_runs) * _PER_RUN,
            rate=rate,
        )
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.load"],
            input=msgspec.json.encode(load),
            stdout=subprocess.PIPE,
            env=_environment(),
            timeout=effort.seconds + effort.warm_seconds + 60,
            check=True,
        )
        return msgspec.json.decode(ended.stdout, type=Sample)

    def client(self, key: str | None = None) -> httpx.Client:
        """Return a client for what is not measured."""
        headers = {"x-api-key": key} if key else {}
        return httpx.Client(base_url=f"http://{HOST}:{self.port}", headers=headers, timeout=60, trust_env=False)


def can_have_workers() -> bool:
    """Tell whether this version of Memtrace has the setting `server.workers`."""
    return "workers" in ServerSettings.__struct_fields__


@contextmanager
def memtrace(deployment: Deployment, workers: int = 1) -> Iterator[Subject]:
    """Serve a deployment, with the settings that it has by default."""
    port = free_port()
    # The deployment's own default is JSON; people get lines.
    variables = {"MEMTRACE_SERVER_PORT": str(port), "MEMTRACE_LOG_FORMAT": "console", "MEMTRACE_SERVER_HOST": HOST}
    if workers > 1:
        variables["MEMTRACE_SERVER_WORKERS"] = str(workers)
    with deployment.start(variables=variables) as server:
        eventually(lambda: "memtrace is listening" in server.err, what="Memtrace listens")
        yield Subject(port, server.process.pid)
        server.stop()


@contextmanager
def floor_app(workers: int = 1, answers: Path | None = None) -> Iterator[Subject]:
    """Serve the floor app."""
    options = ["--workers", str(workers), *(["--answers", str(answers)] if answers else [])]
    with serving("benchmarks.floor", free_port(), *options) as subject:
        yield subject


@contextmanager
def ceiling() -> Iterator[Subject]:
    """Serve what shows the load generator's own limit."""
    with serving("benchmarks.ceiling", free_port()) as subject:
        yield subject


@contextmanager
def serving(module: str, port: int, *options: str) -> Iterator[Subject]:
    """Run a module that listens on the port that it is given."""
    command = [sys.executable, "-m", module, "--port", str(port), *options]
    with subprocess.Popen(command, env=_environment()) as process:
        try:
            eventually(lambda: _listens(port), what=f"{module} listens")
            yield Subject(port, process.pid)
        finally:
            process.terminate()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TESTS)}


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        return int(unused.getsockname()[1])


def _listens(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection((HOST, port)):
        return True
    return False
