"""Two nodes before one Arc: each shows its own memories at once, the other's when Arc has them, and each once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from arc_double import ArcDouble
from e2e.journals import assert_one_line, counted
from e2e.nodes import MEMORIES, Pair, further_node, listed, node_of, post, two_nodes
from e2e.processes import Deployment, Tenant, eventually
from e2e.test_arc import HASTY, bound_to

from memtrace_core import Services

pytestmark = pytest.mark.slow

Apis = tuple[httpx.Client, httpx.Client]

ORGS = 5


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Return two nodes."""
    with two_nodes(tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second"), orgs=ORGS) as running:
        yield running


@pytest.fixture(scope="module")
def tenants(pair: Pair) -> Iterator[Tenant]:
    """Return organizations, each to be taken once."""
    return iter(pair.tenants)


@pytest.fixture
def tenant(tenants: Iterator[Tenant]) -> Tenant:
    """Return an organization that no other test uses."""
    return next(tenants)


@pytest.fixture
def apis(pair: Pair, tenant: Tenant) -> Iterator[Apis]:
    """Return its clients of both nodes."""
    first, second = pair.servers
    with first.client(tenant) as one, second.client(tenant) as other:
        yield one, other


def total(api: httpx.Client) -> int:
    """Return how many memories are counted."""
    return int(api.get("/api/v1/agents/ada/stats").json()["memory_count"])


def wait_until_all_show(apis: Apis, everything: list[dict[str, Any]]) -> None:
    """Wait until both nodes list and count everything, oldest first."""
    for api in apis:

        def shown(api: httpx.Client = api) -> bool:
            return listed(api, order="asc") == everything and total(api) == len(everything)

        eventually(shown, what=f"{len(everything)} memories at {api.base_url}")


def oldest_first(memories: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return memories in the order of their ids, which is that of their times."""
    return sorted(memories, key=lambda memory: memory["memory_id"])


def test_a_node_with_copied_metadata_wants_to_be_told_to_begin_a_journal(
    deployment: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nothing is made unasked, and the one line says what a further node does."""
    deployment.tenant()
    other = further_node(deployment, tmp_path_factory.mktemp("other"))
    assert_one_line(other.here("journal", "status"), 1, "journal.db is gone", "further node", "--new-journal")
    assert not (other.data / "journal.db").exists()


def test_a_node_shows_its_own_at_once_and_the_others_when_arc_has_them(pair: Pair, apis: Apis) -> None:
    """While Arc takes nothing each shows what it has acknowledged; then both show everything, in one order."""
    pair.arc.faults.hang_writes = True
    try:
        stored = [
            [post(api, f"{name} {number}") for number in range(3)] for name, api in zip("ab", apis, strict=True)
        ]
        for api, own in zip(apis, stored, strict=True):
            assert listed(api, order="asc") == own
            assert total(api) == len(own)
    finally:
        pair.arc.faults.hang_writes = False
    everything = oldest_first([*stored[0], *stored[1]])
    assert len({node_of(memory) for memory in everything}) == 2
    wait_until_all_show(apis, everything)
    for api in apis:
        for memory in everything:
            assert api.get(f"{MEMORIES}/{memory['memory_id']}").json() == memory


def test_nothing_is_seen_twice_while_both_nodes_write_and_deliver(
    apis: Apis,
) -> None:
    """Each page has all that its node has stored, whatever of the other's has arrived, in order, and each once."""

    def work(api: httpx.Client, name: str) -> list[dict[str, Any]]:
        own: list[dict[str, Any]] = []
        most = 0
        for number in range(12):
            own.append(post(api, f"{name} {number}"))
            least = total(api)
            page = listed(api, order="asc")
            ids = [memory["memory_id"] for memory in page]
            assert ids == sorted(set(ids))
            mine = node_of(own[0])
            assert [memory for memory in page if node_of(memory) == mine] == own
            assert len(own) <= least <= len(page)
            assert most <= least
            most = total(api)
            assert most >= len(page)
        return own

    with ThreadPoolExecutor(2) as threads:
        stored = list(itertools.chain(*threads.map(work, apis, "ab")))
    wait_until_all_show(apis, oldest_first(stored))


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_cursor_of_one_node_leads_on_at_the_other(apis: Apis, order: str) -> None:
    """Pages fetched from both nodes in turn make up the whole, without a gap or a double."""
    stored = [post(api, f"number {number}") for number, api in enumerate(apis * 4)]
    everything = oldest_first(stored)
    wait_until_all_show(apis, everything)
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    for api in itertools.cycle(apis):
        page = api.get(MEMORIES, params={"order": order, "limit": 3, **cursor}).json()
        found += page["memories"]
        if not page["has_more"]:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert found == (everything if order == "asc" else everything[::-1])


def test_a_dedup_key_is_refused_by_the_node_that_knows_it(pair: Pair, tenant: Tenant, apis: Apis) -> None:
    """The node that has stored a memory refuses it; the other, which has read Arc's before, stores it once more."""
    stored = [post(api, f"first at {api.base_url.port}") for api in apis]
    eventually(lambda: all(knows_claims(one, tenant) for one in pair.deployments), what="both know the claims")
    first, second = apis
    memory = {"agent_id": "ada", "content": "deploy failed", "dedup_key": "deploy 17"}
    stored.append(first.post(MEMORIES, json=memory).json())
    answers = [first.post(MEMORIES, json=memory) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [409, 409]
    assert {answer.json()["memory_id"] for answer in answers} == {stored[-1]["memory_id"]}
    again = second.post(MEMORIES, json=memory)
    assert again.status_code == 201
    wait_until_all_show(apis, oldest_first([*stored, again.json()]))


def knows_claims(deployment: Deployment, tenant: Tenant) -> bool:
    """Tell whether a node has read the claims that an organization has in Arc, which it does once."""

    async def work(services: Services) -> bool:
        return await services.journal.claims_loaded(await services.tenants.instance_of(tenant.org_id))

    return deployment.administer(work)


@pytest.mark.slow
def test_the_memories_of_a_dead_node_are_seen_again_when_a_server_runs_on_its_disk(
    deployment: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Another node goes on without what it had not delivered, and shows that when its journal is served again."""
    deployment.environment.update(HASTY)
    with ArcDouble(max_buffer_age_ms=0) as arc:
        tenant = bound_to(arc, deployment)
        other = further_node(deployment, tmp_path_factory.mktemp("other"), **HASTY)
        with deployment.serve() as dying, dying.client(tenant) as api:
            arc.faults.hang_writes = True
            stored = [post(api, f"number {number}") for number in range(3)]
            dying.kill()
        arc.faults.hang_writes = False
        with other.serve("serve", "--new-journal") as server, server.client(tenant) as api:
            assert listed(api) == []
            stored.append(post(api, "in its stead"))
            assert listed(api) == stored[3:]
            # Only its journal is brought: a server beside the other, on the same metadata, takes it.
            places = {
                "MEMTRACE_AUTH_DB_PATH": str(other.data / "memtrace.db"),
                "MEMTRACE_JOURNAL_PATH": str(deployment.data / "journal.db"),
            }
            with deployment.serve(variables=places) as heir, heir.client(tenant) as there:
                wait_until_all_show((api, there), stored)
                eventually(lambda: counted(deployment, tenant.org_id) == (0, 0, 0), what="its journal is empty")
                assert there.post(MEMORIES, json={"agent_id": "ada", "content": "number 0"}).status_code == 409
