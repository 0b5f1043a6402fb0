"""`/metrics` of the server as it is run, and what there is to read it with."""

from __future__ import annotations

import socket

import httpx
from e2e.processes import ARC_KEY, Deployment, Server, Tenant, eventually
from prometheus_client.parser import text_string_to_metric_families

from memtrace_cli.asgi import metrics_of
from memtrace_cli.settings import Metrics, Settings

TOKEN = "operators-token-0123456789"


def figures(api: httpx.Client, **headers: str) -> dict[tuple[str, ...], float]:
    """Return every sample: name and values of its labels → value."""
    answer = api.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    return {
        (one.name, *(value for _, value in sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(answer.text)
        for one in family.samples
    }


def test_a_server_tells_figures_without_being_asked_to(server: Server, tenant: Tenant) -> None:
    """A server with default settings counts, and tells of its process, vault and journal; no org is named."""
    with server.client(tenant) as api, server.client() as anybody:
        before = figures(anybody)
        api.post("/api/v1/memories", json={"agent_id": "ada", "content": "counted"})
        after = figures(anybody)
        named = api.get("/metrics").text
    stored = ("memtrace_memories_total", "stored")
    assert after[stored] == before[stored] + 1
    assert after["process_resident_memory_bytes",] > 1 << 20
    assert after["memtrace_journal_limit_bytes",] == 1 << 30
    assert any(name == "memtrace_vault_secrets" for name, *_ in after)
    assert tenant.org_id not in named


def test_an_operator_sees_which_tenants_arc_is_away(deployment: Deployment) -> None:
    """With per_org and a token: the Arc is down, a memory waits, and is tried again; no log has the token."""
    deployment.environment |= {"MEMTRACE_METRICS_PER_ORG": "true", "MEMTRACE_METRICS_TOKEN": TOKEN}
    org_id = deployment.org(bound=False)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        deployment.done(
            "org", "add-arc", org_id, "--url", url, "--api-key", "-", "--database", "memory", stdin=ARC_KEY
        )
        tenant = deployment.key(org_id)
        with deployment.serve() as server, server.client(tenant) as api:
            api.post("/api/v1/memories", json={"agent_id": "ada", "content": "waits"})
            api.get("/health")

            def told() -> dict[tuple[str, ...], float] | None:
                found = figures(api, **{"x-api-key": TOKEN})
                tried = found["memtrace_delivery_retries_total",] >= 1
                return found if tried and ("memtrace_org_arc_up", org_id) in found else None

            found = eventually(told, what="the Arc's failures are counted")
            log = server.err
    assert found["memtrace_org_arc_up", org_id] == 0
    assert found["memtrace_arc_instances", "down"] == 1
    assert found["memtrace_org_journal_memories", org_id, "pending"] == 1
    assert found["memtrace_arc_request_seconds_count", "write", "arc_unreachable"] >= 1
    assert TOKEN not in log


def test_metrics_can_be_turned_off() -> None:
    """With `[metrics] enabled = false` nothing counts, and so there is no route."""
    assert metrics_of(Settings(metrics=Metrics(enabled=False))) is None
    assert metrics_of(Settings()) is not None
