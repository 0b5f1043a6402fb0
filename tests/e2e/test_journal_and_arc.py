"""What Arc refuses, beside a server that runs: set aside, sent again, given up; and seen once at every moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from arc_double import ArcDouble
from e2e.journals import counted, exported
from e2e.processes import Deployment, Server, Tenant, eventually
from e2e.test_arc import HASTY, bound_to

BAD = "unloved"


@pytest.fixture
def arc() -> Iterator[ArcDouble]:
    """Return an Arc that shows at once what it was sent, and refuses memories with a marker."""
    with ArcDouble(max_buffer_age_ms=0) as running:
        running.faults.reject = {BAD: 400}
        yield running


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Return a deployment that delivers and confirms at once."""
    return Deployment(tmp_path_factory.mktemp("hasty"), **HASTY)


@pytest.fixture(scope="module")
def server(hasty: Deployment) -> Iterator[Server]:
    """Return a server of the deployment, for organizations that each have an Arc of their own."""
    with hasty.serve() as running:
        yield running


@pytest.fixture
def tenant(arc: ArcDouble, hasty: Deployment, server: Server) -> Tenant:
    """Return an organization in that Arc."""
    return bound_to(arc, hasty)


@pytest.fixture
def api(server: Server, tenant: Tenant) -> Iterator[httpx.Client]:
    """Return a client of the organization."""
    with server.client(tenant) as client:
        yield client


def post(api: httpx.Client, *contents: str) -> list[str]:
    """Store memories one by one, and return their ids."""
    answers = [api.post("/api/v1/memories", json={"agent_id": "ada", "content": content}) for content in contents]
    assert {answer.status_code for answer in answers} == {201}
    return [answer.json()["memory_id"] for answer in answers]


def seen(api: httpx.Client) -> list[str]:
    """Return what readers see, oldest first, which list, search and counts must agree on."""
    listed = api.get("/api/v1/memories", params={"order": "asc", "limit": 100}).json()["memories"]
    found = api.post("/api/v1/search", json={"order": "asc", "limit": 100}).json()
    found = found["memories"] if "memories" in found else found["results"]
    count = api.get("/api/v1/agents/ada/stats").json()["memory_count"]
    contents = [memory["content"] for memory in listed]
    assert [memory["content"] for memory in found] == contents
    assert count == len(contents)
    return contents


def in_arc(arc: ArcDouble, tenant: Tenant) -> set[str]:
    """Return the contents of an org's rows in Arc."""
    return {
        str(row["content"])
        for folder in Path(arc.data).iterdir()
        for row in arc.rows(folder.name, "events")
        if row["org_id"] == tenant.org_id
    }


def settled(hasty: Deployment, tenant: Tenant, aside: int) -> None:
    """Wait until nothing is on its way, and so many memories are set aside."""
    eventually(lambda: counted(hasty, tenant.org_id) == (0, 0, aside), what=f"{aside} set aside, the others gone")


MIXED = ("a", f"{BAD} 1", "b", f"{BAD} 2", "c")


def test_what_arc_refuses_is_set_aside_and_shown_with_its_answer(
    arc: ArcDouble, hasty: Deployment, tenant: Tenant, api: httpx.Client
) -> None:
    """The neighbours reach Arc, the refused stay readable, and the list tells what Arc said."""
    ids = post(api, *MIXED)
    settled(hasty, tenant, 2)
    assert seen(api) == list(MIXED)
    assert in_arc(arc, tenant) == {"a", "b", "c"}
    listed = hasty.told("journal", "list", tenant.org_id, "--state", "set-aside")
    assert [one["memory_id"] for one in listed] == [ids[1], ids[3]]
    assert all("400" in one["answer"] or "reject" in one["answer"] for one in listed)
    assert [one["content"] for one in exported(hasty, tenant.org_id)] == [MIXED[1], MIXED[3]]


def test_a_retry_after_arc_was_mended_delivers_and_everything_is_seen_once_meanwhile(
    arc: ArcDouble, hasty: Deployment, tenant: Tenant, api: httpx.Client
) -> None:
    """A running server takes the retried memories up by itself, and no read lacks one or shows it twice."""
    post(api, *MIXED)
    settled(hasty, tenant, 2)
    arc.faults.reject = {}
    assert hasty.done("journal", "retry", tenant.org_id) == "2 memories will be sent again\n"
    younger = [*MIXED, "younger"]
    post(api, "younger")

    def gone() -> bool:
        assert seen(api) == younger
        return counted(hasty, tenant.org_id) == (0, 0, 0)

    eventually(gone, what="the journal is empty")
    assert seen(api) == younger
    assert in_arc(arc, tenant) == set(younger)
    again = api.post("/api/v1/memories", json={"agent_id": "ada", "content": MIXED[1]})
    assert again.status_code == 409


def test_only_the_named_memory_is_retried(
    arc: ArcDouble, hasty: Deployment, tenant: Tenant, api: httpx.Client
) -> None:
    """The other one stays set aside, though Arc would take it now."""
    ids = post(api, *MIXED)
    settled(hasty, tenant, 2)
    arc.faults.reject = {}
    assert hasty.done("journal", "retry", tenant.org_id, ids[3]) == "1 memory will be sent again\n"
    settled(hasty, tenant, 1)
    assert in_arc(arc, tenant) == {"a", "b", "c", MIXED[3]}
    assert seen(api) == list(MIXED)


def test_a_retry_that_arc_refuses_again_sets_aside_again(
    arc: ArcDouble, hasty: Deployment, tenant: Tenant, api: httpx.Client
) -> None:
    """The memory is tried once more, keeps its place among the refused, and holds nobody up."""
    post(api, *MIXED)
    settled(hasty, tenant, 2)
    refusals = sum(write.status == 400 for write in arc.writes)
    hasty.done("journal", "retry", tenant.org_id)
    eventually(lambda: sum(write.status == 400 for write in arc.writes) > refusals, what="another try")
    settled(hasty, tenant, 2)
    post(api, "younger")
    settled(hasty, tenant, 2)
    assert seen(api) == [*MIXED, "younger"]
    assert in_arc(arc, tenant) == {"a", "b", "c", "younger"}


def test_a_dropped_memory_is_gone_and_may_be_stored_again(
    arc: ArcDouble, hasty: Deployment, tenant: Tenant, api: httpx.Client
) -> None:
    """Reads and counts forget it at once, its content is no duplicate any more, and the others stay."""
    ids = post(api, *MIXED)
    settled(hasty, tenant, 2)
    refused = {"agent_id": "ada", "content": MIXED[1]}
    assert api.post("/api/v1/memories", json=refused).status_code == 409
    assert hasty.done("journal", "drop", tenant.org_id, ids[1], "--yes") == "1 memory dropped\n"
    assert seen(api) == ["a", "b", MIXED[3], "c"]
    assert api.get(f"/api/v1/memories/{ids[1]}").status_code == 404
    arc.faults.reject = {}
    assert api.post("/api/v1/memories", json=refused).status_code == 201
    settled(hasty, tenant, 1)
    assert seen(api) == ["a", "b", MIXED[3], "c", MIXED[1]]
    assert in_arc(arc, tenant) == {"a", "b", "c", MIXED[1]}


def test_pending_memories_can_be_dropped_while_arc_is_away(
    arc: ArcDouble, hasty: Deployment, tenant: Tenant, api: httpx.Client
) -> None:
    """They never reach Arc, room is freed for others, and what comes later does."""
    arc.faults.down = True
    post(api, "never", "ever")
    assert counted(hasty, tenant.org_id) == (2, 0, 0)
    assert hasty.done("journal", "drop", tenant.org_id, "--state", "pending", "--yes") == "2 memories dropped\n"
    (told,) = [one for one in hasty.told("journal", "status") if one["org_id"] == tenant.org_id]
    assert (told["pending"], told["pending_bytes"], told["oldest"]) == (0, 0, None)
    post(api, "later")
    arc.faults.down = False
    settled(hasty, tenant, 0)
    assert in_arc(arc, tenant) == {"later"}
    assert seen(api) == ["later"]
