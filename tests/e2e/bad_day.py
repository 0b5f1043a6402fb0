"""A day on which all kinds of things go wrong, and everything that was to be seen of it."""

from __future__ import annotations

import base64
import gzip
import io
import secrets
import socket
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import httpx
from damage import execute
from e2e.processes import COMMAND, Deployment, Server, Tenant, eventually, new_master_key
from e2e.secret_hunt import children, files_below, forms, master_key_forms, shown_of_process

AT_ONCE = {"MEMTRACE_ARC_WRITE_FLUSH_INTERVAL_MS": "0"}


class Day:
    """A deployment at debug level; all that it says, answers, prints and writes is kept in `places`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.deployment = Deployment(folder, MEMTRACE_LOG_LEVEL="debug", **AT_ONCE)
        self.places: dict[str, bytes] = {}
        self.secrets: dict[str, set[bytes]] = {}

    def keep(self, place: str, *contents: str | bytes) -> None:
        """Keep what was seen in a place."""
        for content in contents:
            self.places[f"{place} ({len(self.places)})"] = content.encode() if isinstance(content, str) else content

    def keep_files(self) -> None:
        """Keep all files of the deployment, the temporary ones too."""
        for name, content in files_below(self.folder).items():
            self.keep(name, content)

    def command(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """Run an admin command, keep what it says, and return its output."""
        ended = self.deployment.here(*arguments, stdin=stdin)
        assert ended.returncode == code, ended
        self.keep(" ".join(arguments[:2]), ended.stdout, ended.stderr)
        return ended.stdout

    def arc_key(self, name: str) -> str:
        """Return a marked key for an Arc."""
        key = f"arc-{name}-{secrets.token_hex(12)}"
        self.secrets[f"the Arc key of {name}"] = forms(key.encode())
        return key

    def tenant(self, name: str, url: str, key: str, *, from_file: bool = False) -> Tenant:
        """Return a fresh organization with an Arc, whose key comes from standard input or from a file."""
        tenant = self.deployment.tenant(name, bound=False)
        self.secrets[f"an API key of {name}"] = forms(tenant.key.encode())
        given = ("add-arc", tenant.org_id, "--url", url, "--database", name)
        if from_file:
            file = self.folder.parent / f"key of {name}"
            file.write_text(key)
            self.command("org", *given, "--api-key-file", str(file))
        else:
            self.command("org", *given, "--api-key", "-", stdin=key)
        return tenant

    def client(self, server: Server, tenant: Tenant | None = None) -> httpx.Client:
        """Return a client of which every answer is kept, headers included."""

        def keep(response: httpx.Response) -> None:
            head = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
            self.keep(f"the answer to {response.request.method} {response.request.url.path}", head, response.read())

        client = server.client(tenant)
        client.event_hooks = {"response": [keep]}
        return client


def live(day: Day, arc: str, arc_key: str, gossip: str) -> None:
    """Let everything happen: good and bad commands, a rotation, all kinds of requests, a backup, a crash."""
    deployment = day.deployment
    old, new = deployment.master_key, new_master_key()
    day.secrets["the previous master key"] = master_key_forms(old)
    day.secrets["the master key"] = master_key_forms(new)
    good = day.tenant("good", arc, arc_key)
    talked = day.tenant("gossip", gossip, day.arc_key("gossip"), from_file=True)
    away = day.tenant("away", "http://127.0.0.1:9", day.arc_key("away"))
    refused = day.tenant("refused", arc, day.arc_key("refused"))
    commands_that_fail(day, good)
    deployment.environment |= {"MEMTRACE_MASTER_KEY": new, "MEMTRACE_MASTER_KEY_PREVIOUS": old}
    with deployment.serve() as server:
        day.command("vault", "status", "--json")
        day.command("vault", "rewrap")
        requests_of_all_kinds(day, server, [good, talked, away, refused])
        eventually(lambda: refused_by(deployment, talked), what="a memory is set aside with what the Arc said")
        commands_of_an_operator(day, [good, talked, away, refused])
        provoke_a_traceback(day, server, good)
        for child in children(server.process.pid):
            for place, content in shown_of_process(child, "cmdline", "environ").items():
                day.keep(place, content)
        for place, content in shown_of_process(server.process.pid, "cmdline").items():
            day.keep(place, content)
        keep_a_waiting_command(day, good)
        day.keep_files()
        assert server.stop() == 0
    with deployment.start(variables={"MEMTRACE_MASTER_KEY": "x" + new[:-1]}) as misconfigured:
        assert misconfigured.process.wait(20) == 1
        day.keep("the log of a server with a bad master key", misconfigured.out, misconfigured.err)
    day.keep_files()


def commands_that_fail(day: Day, tenant: Tenant) -> None:
    """Give keys in commands that are refused."""
    key = day.arc_key("a refused command")
    arc = ("org", "add-arc", tenant.org_id, "--database", "d", "--api-key", "-")
    day.command(*arc, "--url", "ftp://arc", stdin=key, code=1)
    day.command(*arc, "--url", "http://arc", stdin=key, code=1)
    day.command(*arc, "--url", "http://arc", "--api-key-file", "/nowhere", stdin=key, code=1)
    day.command("org", "set-arc", tenant.org_id, "--api-key", "-", stdin=f"two words {key}", code=1)
    day.command("org", "set-arc", tenant.org_id, "--api-key", key, "--measurement", "bad name", code=1)
    day.command("key", "revoke", "key_x", code=1)


def refused_by(deployment: Deployment, tenant: Tenant) -> bool:
    """Tell whether a memory of an organization was set aside."""
    (mine,) = [one for one in deployment.told("journal", "status") if one["org_id"] == tenant.org_id]
    return bool(mine["set_aside"])


def requests_of_all_kinds(day: Day, server: Server, tenants: list[Tenant]) -> None:
    """Ask for everything that there is with good keys, and send nonsense with good, bad and odd ones."""
    for tenant in tenants:
        with day.client(server, tenant) as api:
            assert api.post("/api/v1/memories", json={"agent_id": "ada", "content": "x"}).status_code == 201
            for path in ("memories", "agents", "agents/ada/stats", "memories/mem_x", "sessions/s/memories"):
                assert api.get(f"/api/v1/{path}").status_code in (200, 404, 503)
            api.post("/api/v1/search", json={"content_contains": tenant.org_id})
            api.post("/api/v1/memories", content=b'{"agent_id": ')
            api.get("/api/v1/memories", params={"api_key": tenant.key})
            api.get("/api/v1/memories", params={"since": tenant.key})
            api.get("/api/v1/nothing")
    wrong = f"mtk_{secrets.token_urlsafe(32)}"
    day.secrets["a wrong API key"] = forms(wrong.encode())
    with day.client(server) as api:
        for path in ("/health", "/ready", "/schema/openapi.json"):
            api.get(path)
        for headers in (
            {"x-api-key": wrong},
            {"authorization": f"Bearer {wrong}"},
            {"authorization": f"Basic {base64.b64encode(wrong.encode()).decode()}"},
            {"x-api-key": tenants[0].key * 20},
            {"x-api-key": tenants[0].key[:-1] + "é"},
        ):
            encoded = {name: value.encode("latin-1") for name, value in headers.items()}
            api.get("/api/v1/memories", headers=encoded)
    for head in (
        f"GET /api/v1/memories HTTP/1.1\r\nx-api-key {tenants[0].key}\r\n\r\n",
        f"x-api-key: {tenants[0].key}\r\n\r\n",
        f"GET / HTTP/1.1\r\nhost: x\r\nx-api-key: {tenants[0].key}\0\r\ncontent-length: {tenants[0].key}\r\n\r\n",
        f"GET / HTTP/1.1\r\nx-api-key: {tenants[0].key}\r\nx: {'y' * 200_000}\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
            connection.sendall(head.encode())
            connection.settimeout(20)
            try:
                day.keep("the answer to a malformed request", connection.recv(65536))
            except ConnectionResetError:
                continue


def commands_of_an_operator(day: Day, tenants: list[Tenant]) -> None:
    """Look at everything, rotate and revoke a key, and write a backup."""
    for tenant in tenants:
        day.command("org", "show-arc", tenant.org_id)
        day.command("org", "show-arc", tenant.org_id, "--json")
        checked = day.deployment.here("org", "check-arc", tenant.org_id)
        day.keep("org check-arc", checked.stdout, checked.stderr)
        day.command("journal", "list", tenant.org_id, "--json")
        day.command("journal", "export", tenant.org_id)
        day.command("key", "list", "--org", tenant.org_id, "--json")
    for arguments in (("org", "list", "--json"), ("journal", "status", "--json"), ("vault", "status")):
        day.command(*arguments)
    rotated = day.deployment.here("key", "rotate", tenants[0].key_id, "--json")
    fresh = rotated.stdout.split('"key": "')[1].split('"')[0]
    day.secrets["an API key from a rotation"] = forms(fresh.encode())
    day.keep("key rotate", rotated.stdout.replace(fresh, ""), rotated.stderr)
    day.command("doctor", "--json", code=1)
    day.command("doctor", code=1)
    file = day.folder / "backup.tar"
    day.command("backup", str(file))
    keep_unpacked(day, file)


def keep_unpacked(day: Day, file: Path) -> None:
    """Keep what is in a backup, unpacked as far as it is packed."""
    content = file.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        assert members
        for member in members:
            packed = archive.extractfile(member)
            assert packed is not None
            day.keep(f"the backup's {member.name}", packed.read())


def provoke_a_traceback(day: Day, server: Server, tenant: Tenant) -> None:
    """Forbid something in the journal that no journal forbids, so that storing a memory is a defect."""
    made: dict[str, Any] = day.deployment.told("key", "create", "--org", tenant.org_id, "--name", "crash")
    day.secrets["an API key that crashes the server"] = forms(made["key"].encode())
    journal = day.deployment.data / "journal.db"
    execute(
        journal,
        "CREATE TRIGGER forbidden BEFORE INSERT ON journal WHEN new.content = 'crash' "
        "BEGIN SELECT raise(ABORT, 'forbidden'); END",
    )
    with day.client(server, Tenant(tenant.org_id, made["key"], made["id"])) as api:
        response = api.post("/api/v1/memories", json={"agent_id": "ada", "content": "crash"})
        assert (response.status_code, response.json()["code"]) == (500, "internal")
    (event,) = eventually(lambda: [event for event in server.events() if "exception" in event], what="a traceback")
    assert "Traceback" in event["exception"]
    execute(journal, "DROP TRIGGER forbidden")


def keep_a_waiting_command(day: Day, tenant: Tenant) -> None:
    """Keep what the machine shows of a command that has been given a key on its standard input."""
    key = day.arc_key("a command's input")
    arguments = ("org", "set-arc", tenant.org_id, "--api-key", "-")
    environment = day.deployment.variables()
    with subprocess.Popen(
        [*COMMAND, *arguments], stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=day.folder, env=environment
    ) as waiting:
        assert waiting.stdin is not None
        waiting.stdin.write(key.encode())  # and no end of line, so that it waits for more
        waiting.stdin.flush()
        day.keep("the command line of set-arc", Path(f"/proc/{waiting.pid}/cmdline").read_bytes())
        for child in children(waiting.pid):
            day.keep("a child of set-arc", *shown_of_process(child, "cmdline", "environ").values())
        waiting.kill()
