"""What a server logs, and what it never writes anywhere."""

from __future__ import annotations

import re
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from e2e.processes import ARC_KEY, Deployment, Server, Tenant, eventually

CONSOLE_LINE = re.compile(r"(\S+) (DBG|INF|WRN|ERR) (\S.*)")


def requests(server: Server, number: int) -> list[dict[str, Any]]:
    """Wait for so many request events, and return them."""
    return eventually(
        lambda: events if len(events := server.events("request")) >= number else None,
        what="the requests are logged",
    )


def test_every_request_is_one_event(deployment: Deployment) -> None:
    """A request's event has time, method, path without query, status, latency, org if known, request id, client.

    The client is the one that connected, whatever a header says.
    """
    tenant = deployment.tenant()
    with deployment.serve() as server, server.client(tenant) as api:
        stored = api.post(
            "/api/v1/memories", json={"agent_id": "ada", "content": "x"}, headers={"x-request-id": "r-1"}
        )
        api.get("/api/v1/memories?agent_id=ada&limit=0")
        api.get("/health", headers={"x-api-key": "", "x-forwarded-for": "203.0.113.7"})
        api.get("/api/v1/agents/a%2Fb%0Ac")
        events = requests(server, 4)
    assert stored.status_code == 201
    first, second, third, fourth = events
    assert (first["method"], first["path"], first["status"]) == ("POST", "/api/v1/memories", 201)
    assert (first["org"], first["request_id"], first["level"]) == (tenant.org_id, "r-1", "info")
    assert 0 < first["latency_ms"] < 60_000
    assert (second["path"], second["status"], second["org"]) == ("/api/v1/memories", 400, tenant.org_id)
    assert (third["method"], third["path"], third["status"]) == ("GET", "/health", 200)
    assert "org" not in third
    assert fourth["path"].startswith("/api/v1/agents/a")
    assert fourth["status"] == 404
    for event in events:
        assert event["client"] == "127.0.0.1"
        at = datetime.fromisoformat(event["time"])
        assert datetime.now(UTC) - timedelta(hours=1) < at <= datetime.now(UTC)


def test_json_times_are_rfc_3339(server: Server) -> None:
    """Times in the log have the form that times have everywhere else."""
    (event,) = server.events("memtrace is listening")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", event["time"])


def test_the_console_form_is_for_people(deployment: Deployment) -> None:
    """Each line is time, three letters of level, the message, and key=value pairs; no value begins a line."""
    tenant = deployment.tenant()
    server = deployment.start(variables={"MEMTRACE_LOG_FORMAT": "console"})
    with server:
        server.url = eventually(
            lambda: listening[1] if (listening := re.search(r"url=(\S+)\n", server.err)) else None
        )
        with server.client(tenant) as api:
            api.get("/api/v1/agents/two%0Alines%20here")
            line = eventually(lambda: [one for one in server.err.splitlines() if " request " in one])[0]
        lines = server.err.splitlines()
        assert server.stop() == 0
    for one in lines:
        matched = CONSOLE_LINE.fullmatch(one)
        assert matched
        assert datetime.fromisoformat(matched[1]).tzinfo is not None
    assert re.search(r" INF request method=GET path=\S", line)
    assert re.search(r' path="/api/v1/agents/two\\nlines here" status=404 latency_ms=[\d.]+ org=', line)


def test_the_level_decides_what_is_logged(deployment: Deployment) -> None:
    """At `warn` requests are not logged, and a server still tells by its port that it runs."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    tenant = deployment.tenant()
    variables = {
        "MEMTRACE_LOG_LEVEL": "warn",
        "MEMTRACE_SERVER_PORT": str(port),
        "MEMTRACE_SERVER_HOST": "127.0.0.1",
    }
    with deployment.start(variables=variables) as server:
        server.url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                with server.client(tenant) as api:
                    return api.get("/api/v1/memories").status_code == 200
            except httpx.TransportError:
                return False

        eventually(answers)
        assert server.stop() == 0
        assert server.err == ""


def test_no_secret_is_written_anywhere(deployment: Deployment) -> None:
    """API keys, even in a query string, Arc keys and the master key are in no output at debug level and no file."""
    default = deployment.start(variables={"MEMTRACE_LOG_LEVEL": "debug"})
    with default:
        default.wait_until_listening()
        admin = default.out.split()[-1]
        assert admin.startswith("mtk_")
        tenant = deployment.tenant()
        other = deployment.org("other", bound=False)
        said = deployment.here(
            "org", "add-arc", other, "--url", "http://127.0.0.1:9", "--database", "d", "--api-key", ARC_KEY
        )
        reader = deployment.key(other, "read")
        wrong = "mtk_" + "W" * 43
        with default.client() as client:
            for key in (admin, tenant.key, reader.key, wrong):
                assert client.get(f"/api/v1/memories?x-api-key={key}").status_code == 401
                for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
                    client.get("/api/v1/memories", headers=headers)
                    client.post("/api/v1/memories", json={"agent_id": "ada", "content": "x"}, headers=headers)
                    client.post("/api/v1/memories", content=b"{", headers=headers)
            assert client.get("/ready").status_code == 503
        shown = deployment.here("org", "show-arc", other)
        listed = deployment.here("key", "list", "--org", other)
        requests(default, 28)
        assert default.stop() == 0
        log = default.err
    texts = {"log": log, "said": said.stdout + said.stderr, "shown": shown.stdout + shown.stderr + listed.stdout}
    secrets = {admin, tenant.key, reader.key, wrong, ARC_KEY, deployment.master_key}
    for name, text in texts.items():
        assert not [secret for secret in secrets if secret in text], name
    files = [file for file in deployment.data.iterdir() if file.is_file()]
    assert len(files) >= 2
    for file in files:
        content = file.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], file


def test_the_last_use_of_a_key_is_kept(deployment: Deployment) -> None:
    """When a server has stopped, `key list` tells when a key was used, and that another never was."""
    tenant = deployment.tenant()
    unused: Tenant = deployment.key(tenant.org_id, name="unused")
    with deployment.serve() as server, server.client(tenant) as api:
        assert api.get("/api/v1/memories").status_code == 200
        assert server.stop() == 0
    used = {key["id"]: key["last_used_at"] for key in deployment.told("key", "list", "--org", tenant.org_id)}
    assert used[unused.key_id] is None
    assert used[tenant.key_id] is not None
