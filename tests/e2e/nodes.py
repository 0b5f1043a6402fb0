"""Several nodes before one Arc: each with a disk of its own, the organizations copied from the first."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from arc_double import ArcDouble
from e2e.processes import Deployment, Server, Tenant
from e2e.test_arc import HASTY, bound_to

from memtrace_core.identifiers import parse_memory_id

MEMORIES = "/api/v1/memories"
# Its journal answers for its own memories all the time; the other's lets them go at once.
SLOW_TO_CONFIRM = {**HASTY, "MEMTRACE_JOURNAL_SETTLE_SECONDS": "3600"}


@dataclass(frozen=True)
class Pair:
    """Two servers with the same organizations, each of which has a database of its own in one Arc."""

    deployments: tuple[Deployment, Deployment]
    servers: tuple[Server, Server]
    arc: ArcDouble
    tenants: Sequence[Tenant]
    other_keys: Sequence[Tenant]
    """The same organizations, each with another key."""


@contextmanager
def two_nodes(first_folder: Path, second_folder: Path, *, orgs: int) -> Iterator[Pair]:
    """Run two nodes; the metadata of the second are a copy of the first's."""
    first = Deployment(first_folder, **HASTY)
    with ExitStack() as stack:
        arc = stack.enter_context(ArcDouble(max_buffer_age_ms=0))
        tenants = [bound_to(arc, first) for _ in range(orgs)]
        other_keys = [first.key(tenant.org_id, name="other") for tenant in tenants]
        second = further_node(first, second_folder, **SLOW_TO_CONFIRM)
        servers = stack.enter_context(first.serve()), stack.enter_context(second.serve("serve", "--new-journal"))
        yield Pair((first, second), servers, arc, tenants, other_keys)


def further_node(first: Deployment, folder: Path, **variables: str) -> Deployment:
    """Return another node's place, with the organizations and keys that the first has, and no journal yet."""
    other = Deployment(folder, **variables)
    other.master_key = other.environment["MEMTRACE_MASTER_KEY"] = first.master_key
    archive = folder / "nodes.tar"
    first.done("backup", str(archive))
    with tarfile.open(archive) as opened:
        opened.extract("memtrace.db", other.data, filter="data")
    archive.unlink()
    return other


def node_of(memory: Mapping[str, Any]) -> str:
    """Return the id of the node that has stored a memory."""
    parsed = parse_memory_id(memory["memory_id"])
    assert parsed is not None
    return parsed[1]


def post(api: httpx.Client, content: str) -> dict[str, Any]:
    """Store a memory, and return it."""
    answer = api.post(MEMORIES, json={"agent_id": "ada", "content": content})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def listed(api: httpx.Client, **parameters: str | int) -> list[dict[str, Any]]:
    """Return the memories of one page, a long one unless told otherwise."""
    answer = api.get(MEMORIES, params={"limit": 1000, **parameters})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["memories"])
