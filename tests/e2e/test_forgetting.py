"""`memtrace org forget` and `org show`, beside a server that runs and without one."""

from __future__ import annotations

import json

import httpx
import pytest
from e2e.processes import Deployment, Server, Tenant
from e2e.test_terminal import on_terminal

pytestmark = pytest.mark.slow


def remember(api: httpx.Client, agent: str, *contents: str) -> None:
    """Store memories."""
    made = [{"agent_id": agent, "content": content} for content in contents]
    assert api.post("/api/v1/memories", json={"memories": made}).status_code == 201


def seen(api: httpx.Client) -> list[str]:
    """Return the contents that a list shows."""
    return [one["content"] for one in api.get("/api/v1/memories", params={"order": "asc"}).json()["memories"]]


def test_an_order_counts_at_once_in_a_server_that_runs(
    shared: Deployment, server: Server, tenant: Tenant, api: httpx.Client
) -> None:
    """The next read does not show what the command forgot; what it covers is said before."""
    remember(api, "ada", "one", "two")
    remember(api, "bob", "three")
    ended = shared.here("org", "forget", tenant.org_id, "--agent", "ada", "--yes", "--json")
    assert (ended.returncode, json.loads(ended.stdout)["removed"]) == (0, 2)
    assert "2 memories here, 0 rows in Arc" in ended.stderr
    assert seen(api) == ["three"]
    remember(api, "ada", "one")
    assert seen(api) == ["three", "one"]
    (order,) = shared.told("org", "show", tenant.org_id)["forgetting"]
    assert (order["agent_id"], order["state"], order["removed"]) == ("ada", "done", 2)
    assert "1 done" in shared.done("org", "show", tenant.org_id)


def test_an_order_needs_no_server(deployment: Deployment) -> None:
    """It is taken in the journal, and the server that starts later shows nothing of it."""
    tenant = deployment.tenant()
    with deployment.serve() as server, server.client(tenant) as api:
        remember(api, "ada", "one")
        remember(api, "bob", "two")
    assert deployment.done("org", "forget", tenant.org_id, "--before", "1m", "--agent", "ada", "--yes").startswith(
        "Forgotten, 0 memories"
    )
    assert deployment.done("org", "forget", tenant.org_id, "--agent", "ada", "--yes").startswith(
        "Forgotten, 1 memory here removed"
    )
    with deployment.serve() as server, server.client(tenant) as api:
        assert seen(api) == ["two"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "give at least one of --agent, --session, --before"),
        (("--agent", "ada"), 2, "needs --yes where there is no terminal"),
        (("--agent", "1", "--yes"), 1, "agent_id must"),
        (("--before", "soon", "--yes"), 2, "--before must be"),
        (("--agent", "ada", "--before", "", "--yes"), 2, "--before must be"),
        (("--agent", "", "--yes"), 1, "agent_id must"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    shared: Deployment, server: Server, tenant: Tenant, arguments: tuple[str, ...], status: int, message: str
) -> None:
    """One line that says what is wrong, and nothing is forgotten."""
    ended = shared.here("org", "forget", tenant.org_id, *arguments)
    assert (ended.returncode, ended.stdout) == (status, "")
    assert message in ended.stderr
    assert shared.told("org", "show", tenant.org_id)["forgetting"] == []


def test_an_unknown_org_is_named(shared: Deployment, server: Server) -> None:
    """Neither command makes anything up."""
    for command in (("forget", "org_none", "--agent", "ada", "--yes"), ("show", "org_none")):
        ended = shared.here("org", *command)
        assert ended.returncode == 1
        assert "no organization 'org_none'" in ended.stderr


def test_on_a_terminal_it_asks(shared: Deployment, server: Server, tenant: Tenant, api: httpx.Client) -> None:
    """Anything but yes leaves everything as it is."""
    remember(api, "ada", "one")
    code, shown = on_terminal(shared, "org", "forget", tenant.org_id, "--agent", "ada", answers=(("[y/N]", "n"),))
    assert code != 0
    assert "Forget them? [y/N]" in shown
    assert seen(api) == ["one"]


def test_a_retention_counts_on_the_next_read(
    shared: Deployment, server: Server, tenant: Tenant, api: httpx.Client
) -> None:
    """It is kept with the organization, shown, and taken away again; a shorter one needs to be meant."""
    remember(api, "ada", "one")
    refused = shared.here("org", "set-retention", tenant.org_id, "90d")
    assert (refused.returncode, "needs --yes" in refused.stderr) == (2, True)
    assert shared.told("org", "show", tenant.org_id)["retention"] == "none"
    assert "90d" in shared.done("org", "set-retention", tenant.org_id, "90d", "--yes")
    assert shared.told("org", "show", tenant.org_id)["retention"] == "90d"
    assert seen(api) == ["one"]
    assert "36h" in shared.done("org", "set-retention", tenant.org_id, "36h", "--yes")
    assert "none" in shared.done("org", "set-retention", tenant.org_id, "none")
    for wrong, code in (("1m", 1), ("soon", 2), ("0d", 2), ("99999d", 2), ("", 2)):
        ended = shared.here("org", "set-retention", tenant.org_id, wrong, "--yes")
        assert (ended.returncode, "retention must be" in ended.stderr) == (code, True)
