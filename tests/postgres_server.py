"""A PostgreSQL of the tests' own: in a folder in memory where there is one, on a socket there and a free port.

Debian's `postgresql` package brings it. It refuses to run as root, so it then runs as `nobody`.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

# Bears a mark that tests look for in all output, files and processes.
PASSWORD = "postgres-secret-0/@:#?"
ENCODED = "postgres-secret-0%2F%40%3A%23%3F"
IN_MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None

_schemas = map("memtrace_{}".format, itertools.count())
_databases = map("deployment_{}".format, itertools.count())


def binaries() -> Path | None:
    """Return the folder with the newest server's programs, None if none is installed."""
    if found := shutil.which("postgres"):
        return Path(found).parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    return max((one.parent for one in versions), key=lambda folder: float(folder.parent.name), default=None)


class PostgresServer:
    """A cluster, and its server, which can be stopped and started again."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._user = "nobody" if os.getuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="memtrace-postgres-", dir=IN_MEMORY))
        self._data = self.folder / "data"
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if self._user:
            for path in (self.folder, password):
                shutil.chown(path, self._user)
        self._run(
            "initdb", "-D", str(self._data), "-U", "memtrace", "--pwfile", str(password), "--no-sync", "-E", "UTF8",
            "--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256",
        )  # fmt: skip
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """How tests get in, without a password."""
        return f"postgresql://memtrace@/postgres?host={self.folder}&port={self.port}"

    def new_database(self) -> str:
        """Make a database that nobody has used yet, and return how a deployment gets in, with a password."""
        name = next(_databases)
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql://memtrace:{ENCODED}@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start, and wait until connections are taken."""
        settings = {
            "unix_socket_directories": str(self.folder), "listen_addresses": "127.0.0.1", "port": str(self.port),
            "fsync": "off", "full_page_writes": "off", "shared_buffers": "16MB",
            "max_connections": "90", "log_destination": "stderr", "wal_level": "minimal", "max_wal_senders": "0",
        }  # fmt: skip
        command = [str(self._programs / "postgres"), "-D", str(self._data)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *(f"--{name}={value}" for name, value in settings.items())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=self._user, cwd=self.folder,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url).close()
                return
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, "PostgreSQL does not start"
                time.sleep(0.02)

    def stop(self) -> None:
        """End it at once, all connections with it, as a crash would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)
            self.process = None

    def remove(self) -> None:
        """End it, and leave nothing behind."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def execute(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        """Run a statement from outside, and return its rows if it has any."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else []

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments],
            check=True, capture_output=True, user=self._user, cwd=self.folder,
        )  # fmt: skip


def require() -> Path:
    """Return the programs, or skip the test where they are not installed; `.ci/run` sees to it that they are."""
    found = binaries()
    if found is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return found


@functools.cache
def shared_server() -> PostgresServer:
    """Return a server that lives as long as the process; whoever uses it takes a schema of its own."""
    server = PostgresServer(require())
    atexit.register(server.remove)
    return server


def new_schema() -> str:
    """Return the name of a schema that nobody has used yet."""
    return next(_schemas)
