"""Memtrace as its users run it: processes of their own, in a folder of their own, with a clean environment."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from unittest import mock

import httpx
from e2e import marks
from e2e.marks import new_master_key

from memtrace_cli.admin import administer
from memtrace_cli.app import run as run_in_process
from memtrace_cli.context import config_file
from memtrace_core import Binding, Permission, Services
from memtrace_core.model import EMBEDDED_URL

Result = TypeVar("Result")

EMBEDDED = Binding(url=EMBEDDED_URL, database="memory")
ARC_KEY = "arc-secret-key-0123456789"
COMMAND = (sys.executable, "-m", "memtrace_cli")
# What tests need and servers do not: litestar loads it where it is, which is a quarter of a server's start.
NOT_INSTALLED = Path(__file__).parent / "not_installed"

made: list[Deployment] = []
"""Every deployment that is looked at for leaks in the end, the newest last."""

# Loading the machine's certificates takes longer than a request, and nothing here speaks TLS.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def eventually(condition: Callable[[], Result], *, within: float = 20, what: str = "") -> Result:
    """Wait until a condition holds, and return what it gave; fail when it does not hold in time."""
    deadline = time.monotonic() + within
    pause = 0.01
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what or condition}")
        time.sleep(pause)
        # Looking is work, of which what is waited for gets more the longer it takes.
        pause = min(pause * 1.2, 0.1)


@dataclass(frozen=True)
class Tenant:
    """An organization and a key of it."""

    org_id: str
    key: str
    key_id: str


class Deployment:
    """A folder with a master key, in which commands and servers run; settings are given as variables."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.master_key = new_master_key()
        self.data = folder / "data"
        self.leaks: set[str] = set()
        self.running: list[Server] = []
        made.append(self)
        (folder / "tmp").mkdir(exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MEMTRACE_")}
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PYTEST_CURRENT_TEST"):
            inherited.pop(name, None)
        self.environment = {
            **inherited,
            "HOME": str(folder),
            "TMPDIR": str(folder / "tmp"),
            "MEMTRACE_MASTER_KEY": self.master_key,
            **variables,
        }

    def memtrace(
        self, *arguments: str, stdin: str = "", variables: Mapping[str, str | None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; a variable that is None is left out."""
        ended = subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=self.folder,
            env=self.variables(variables),
            timeout=60,
            check=False,
        )
        self._look_at_answer(arguments, ended.stdout, ended.stderr)
        return ended

    def variables(self, changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
        """Return the environment with changes; a variable that is None is left out."""
        merged = {**self.environment, **(changes or {})}
        return {name: value for name, value in merged.items() if value is not None}

    def here(
        self, *arguments: str, stdin: str = "", variables: Mapping[str, str | None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run an admin command to its end in this process, which spares the start of another."""
        with (
            self._as_a_command(variables) as (said, complaints),
            mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        ):
            code = run_in_process(list(arguments))
        self._look_at_answer(arguments, said.getvalue(), complaints.getvalue())
        return subprocess.CompletedProcess(arguments, code, said.getvalue(), complaints.getvalue())

    @contextlib.contextmanager
    def _as_a_command(self, variables: Mapping[str, str | None] | None = None) -> Iterator[tuple[io.StringIO, ...]]:
        said, complaints = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.folder),
            mock.patch.dict(os.environ, self.variables(variables), clear=True),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(complaints),
        ):
            yield said, complaints

    def done(self, *arguments: str, stdin: str = "") -> str:
        """Run an admin command that must succeed, and return its output."""
        ended = self.here(*arguments, stdin=stdin)
        assert ended.returncode == 0, ended
        return ended.stdout

    def told(self, *arguments: str) -> Any:
        """Run an admin command with `--json`, and return what it tells."""
        return json.loads(self.done(*arguments, "--json"))

    def administer(self, work: Callable[[Services], Awaitable[Result]]) -> Result:
        """Do what an admin command does, without its command line, whose reading takes most of a command's time."""
        config_file.set(None)
        with self._as_a_command() as (said, complaints):
            result = administer(work)
        self._look_at_answer(("administer",), said.getvalue(), complaints.getvalue())
        return result

    def org(self, name: str = "acme", *, bound: bool = True) -> str:
        """Create an organization, bound to the embedded store or not at all, and return its id."""
        return self.administer(lambda services: _new_org(services, name, bound))

    def bind(self, org_id: str) -> None:
        """Bind an organization to the embedded store."""
        self.administer(lambda services: services.tenants.bind(org_id, EMBEDDED))

    def key(self, org_id: str, permissions: str = "admin", name: str = "test") -> Tenant:
        """Create a key."""
        return self.administer(lambda services: _new_key(services, org_id, permissions, name))

    def tenant(self, name: str = "acme", *, permissions: str = "admin", bound: bool = True) -> Tenant:
        """Create an organization and a key for it."""

        async def work(services: Services) -> Tenant:
            return await _new_key(services, await _new_org(services, name, bound), permissions, "test")

        return self.administer(work)

    def serve(self, *arguments: str, variables: Mapping[str, str | None] | None = None) -> Server:
        """Start a server on a free port, and wait until it listens."""
        started = self.start(*arguments, variables=variables)
        try:
            started.wait_until_listening()
        except BaseException:
            started.kill()
            raise
        return started

    def start(self, *arguments: str, variables: Mapping[str, str | None] | None = None) -> Server:
        """Start a server on a free port."""
        own = {
            "MEMTRACE_SERVER_PORT": "0",
            "MEMTRACE_LOG_FORMAT": "json",
            "MEMTRACE_LOG_LEVEL": "debug",
            "PYTHONPATH": str(NOT_INSTALLED),
        }
        return Server(self, arguments or ("serve",), self.variables({**own, **(variables or {})}))

    def _look_at_answer(self, arguments: tuple[str, ...], *said: str) -> None:
        out, err = (text.encode(errors="backslashreplace") for text in said)
        self.leaks |= marks.in_output(arguments, out, err)

    def look_at_output(self) -> None:
        """Look for secrets in what the running servers have said since the last look."""
        for server in self.running:
            server.look()

    def look_at_files(self) -> None:
        """Look for secrets in all files, whoever has written them."""
        self.leaks |= marks.in_files(self.folder)


async def _new_org(services: Services, name: str, bound: bool) -> str:
    org = await services.tenants.create_org(name)
    if bound:
        await services.tenants.bind(org.id, EMBEDDED)
    return org.id


async def _new_key(services: Services, org_id: str, permissions: str, name: str) -> Tenant:
    key, secret = await services.tenants.create_key(org_id, name, Permission.parse(permissions))
    return Tenant(org_id, secret, key.id)


class Server:
    """A server process, its output in files; killed on leaving if it still runs."""

    def __init__(self, deployment: Deployment, arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._deployment = deployment
        self.out_file = deployment.folder / "server.stdout"
        self.err_file = deployment.folder / "server.stderr"
        with self.out_file.open("wb") as out, self.err_file.open("wb") as err:
            self.process = subprocess.Popen(
                [*COMMAND, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=deployment.folder,
                env=environment,
            )
        self.url = ""
        self._looked_at = dict.fromkeys((self.out_file, self.err_file), 0)
        deployment.running.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def out(self) -> str:
        """What it has printed."""
        return self.out_file.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """What it has logged."""
        return self.err_file.read_text(encoding="utf-8")

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rpartition(":")[2])

    def events(self, message: str | None = None) -> list[dict[str, Any]]:
        """Return the log, which must be of JSON lines; only the events with a message if one is given."""
        found = [json.loads(line) for line in self.err.splitlines()]
        return [event for event in found if message in (None, event["message"])]

    def wait_until_listening(self) -> None:
        """Wait for the log line that tells the URL."""

        def listening() -> str | None:
            assert self.process.poll() is None, f"the server ended: {self.err}"
            complete = self.err.rpartition("\n")[0].splitlines()
            events = [json.loads(line) for line in complete]
            return next((event["url"] for event in events if event["message"] == "memtrace is listening"), None)

        self.url = eventually(listening, what="the server listens")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to stop, and return its exit code."""
        self.look()
        self.process.send_signal(how)
        return self.process.wait(20)

    def kill(self) -> None:
        """End it at once."""
        if self.process.poll() is None:
            self.look()
            self.process.kill()
        self.process.wait(20)
        if self in self._deployment.running:
            self.look()
            self._deployment.running.remove(self)

    def look(self) -> None:
        """Look for secrets in the lines that it has written since the last look, and in what the machine shows."""
        ended = self.process.poll() is not None
        out, err = (self._unseen(file, whole=ended) for file in (self.out_file, self.err_file))
        self._deployment.leaks |= marks.in_output(("serve",), out, err)
        if not ended:
            self._deployment.leaks |= marks.in_process(self.process.pid)

    def _unseen(self, file: Path, *, whole: bool) -> bytes:
        with file.open("rb") as stream:
            stream.seek(self._looked_at[file])
            found = stream.read()
        found = found if whole else found[: found.rfind(b"\n") + 1]
        self._looked_at[file] += len(found)
        return found

    def client(self, tenant: Tenant | None = None) -> httpx.Client:
        """Return an HTTP client, with the tenant's key if one is given."""
        headers = {"x-api-key": tenant.key} if tenant else {}
        return httpx.Client(base_url=self.url, headers=headers, verify=_NO_TLS, timeout=30, trust_env=False)


def read_response(connection: socket.socket) -> httpx.Response:
    """Read one whole response, which must have a content-length, from a socket."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65536)
        assert part, "the connection was closed before an answer"
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    length = int({name.lower(): value for name, value in headers.items()}["content-length"])
    while len(body) < length:
        body += connection.recv(65536)
    return httpx.Response(int(status_line.split()[1]), headers=headers, content=body)
