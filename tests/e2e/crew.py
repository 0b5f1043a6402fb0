"""The worker processes of a server, seen from outside: which there are, which delivers, and which answers."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from e2e.processes import Deployment, Server, Tenant, eventually


def workers_of(server: Server) -> list[int]:
    """Return the process ids of the workers that run."""
    pid = server.process.pid
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and was not asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def owner_of(deployment: Deployment) -> int | None:
    """Return the process that holds the lock on delivery, None while nobody does."""
    inode = (deployment.data / "journal.db-delivery").stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, _, _, pid, place, *_ = line.split()
        if kind == "FLOCK" and place.endswith(f":{inode}"):
            return int(pid)
    return None


class Line:
    """One connection to a server, and the worker that has taken it; a worker never hands one on."""

    def __init__(self, server: Server, tenant: Tenant | None = None) -> None:
        self._headers = {"x-api-key": tenant.key} if tenant else {}
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        assert self.ask("GET", "/health")[0] == 200
        self.worker = self._taken_by(server)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send a request, and return status and content of the answer."""
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, content, self._headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def read(self, path: str) -> str:
        """Return the content of an answer that is no JSON."""
        self._connection.request("GET", path)
        return self._connection.getresponse().read().decode()

    def post(self, content: str) -> tuple[int, Any]:
        """Store a memory of ada."""
        return self.ask("POST", "/api/v1/memories", {"agent_id": "ada", "content": content})

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _taken_by(self, server: Server) -> int:
        assert isinstance(self._connection.sock, socket.socket)
        theirs, ours = (f":{port:04X}" for port in (server.port, self._connection.sock.getsockname()[1]))
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, *others = line.split()
            if local.endswith(theirs) and remote.endswith(ours):
                link = f"socket:[{others[6]}]"
                for pid in workers_of(server):
                    if link in _links(pid):
                        return pid
        raise AssertionError("nobody has taken the connection")


@contextmanager
def lines_to_all(server: Server, tenant: Tenant, each: int = 1) -> Iterator[list[Line]]:
    """Open so many connections to each worker; whatever comes beyond that is closed."""
    lines: list[Line] = []

    def enough() -> bool:
        line = Line(server, tenant)
        if sum(one.worker == line.worker for one in lines) < each:
            lines.append(line)
        else:
            line.close()
        return len(lines) == each * len(workers_of(server))

    try:
        eventually(enough, what=f"{each} connections to each worker")
        yield lines
    finally:
        for line in lines:
            line.close()


def whole(server: Server, count: int) -> list[int]:
    """Wait until so many workers take connections, and return them."""
    eventually(lambda: len(workers_of(server)) == count, what=f"{count} workers")
    seen: set[int] = set()
    for _ in itertools.count():
        found = workers_of(server)
        if seen >= set(found) and len(found) == count:
            return found
        line = Line(server)
        seen.add(line.worker)
        line.close()
    raise AssertionError


def _links(pid: int) -> set[str]:
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.add(str(file.readlink()))
    return found
