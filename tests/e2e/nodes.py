"""Several nodes before one Arc: each with a disk of its own, the organizations copied from the first."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2e.processes import Deployment

from memtrace_core.identifiers import parse_memory_id


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
