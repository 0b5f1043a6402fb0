"""Fill a deployment's journal without a server, and read what `memtrace journal` says of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from builders import instance
from e2e.processes import Deployment

from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import Draft
from memtrace_core.model import Memory
from memtrace_core.testing import ManualClock
from memtrace_sqlite import SqliteJournal

A_WHILE_AGO = datetime.now(UTC) - timedelta(hours=3)
MANY_BYTES = 1 << 30
ANSWER = "arc rejected it:\n\x1b[31mbad column\x1b[0m " + "y" * 500


def fill(
    deployment: Deployment, org_id: str, drafts: Sequence[Draft], *, aside: int = 0, delivered: int = 0
) -> list[Memory]:
    """Put memories of three hours ago into the journal; the first are set aside, the next are delivered."""

    async def work() -> list[Memory]:
        journal = SqliteJournal(
            deployment.data / "journal.db", ManualClock(A_WHILE_AGO), DedupPolicy(enabled=False)
        )
        try:
            stored = await journal.append(instance(org_id), drafts)
            if aside and (batch := await journal.next_batch(org_id, aside, MANY_BYTES)):
                await journal.set_aside(batch, ANSWER)
            if delivered and (batch := await journal.next_batch(org_id, delivered, MANY_BYTES)):
                await journal.mark_delivered(batch, durable=False)
        finally:
            await journal.close()
        return [memory for memory in stored if isinstance(memory, Memory)]

    return asyncio.run(work())


def exported(deployment: Deployment, org_id: str, *arguments: str) -> list[dict[str, Any]]:
    """Return what `memtrace journal export` prints, line by line."""
    return [json.loads(line) for line in lines_of(deployment.done("journal", "export", org_id, *arguments))]


def lines_of(text: str) -> list[str]:
    """Return lines that end in a line feed; other characters that break lines may stand in them."""
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]


def status(deployment: Deployment, org_id: str) -> dict[str, Any]:
    """Return an org's line of `memtrace journal status`."""
    (found,) = [one for one in deployment.told("journal", "status") if one["org_id"] == org_id]
    return dict(found)


def counted(deployment: Deployment, org_id: str) -> tuple[int, int, int]:
    """Return how many memories of an org are pending, delivered and set aside."""
    found = status(deployment, org_id)
    return found["pending"], found["delivered"], found["set_aside"]


def as_exported(memory: Memory) -> dict[str, Any]:
    """Return the fields of a memory as an export has them, the absent ones too."""
    fields = {name: getattr(memory, name) for name in memory.__struct_fields__ if name != "org_id"}
    return dict(json.loads(msgspec.json.encode(fields)))


def assert_one_line(ended: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Expect an exit code, nothing on stdout, and one line of complaint, beside a hint, with these words."""
    assert (ended.returncode, ended.stdout) == (code, ""), ended
    first, *rest = lines_of(ended.stderr)
    assert first.startswith("memtrace: "), ended.stderr
    assert len(rest) <= 1, ended.stderr
    assert all(line.startswith("  hint: ") for line in rest), ended.stderr
    for word in words:
        assert word in ended.stderr, ended.stderr
