"""Does the product behave after a crash, as readers and writers see it?"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import pytest
from builders import draft

from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import Draft, Duplicate
from memtrace_core.errors import OrgClosing
from memtrace_core.model import ArcInstance, Memory
from memtrace_core.query import MemoryQuery
from memtrace_sqlite import SqliteEmbeddedGateway, SqliteJournal, SqliteMetadataRepo
from power_loss.workload import JOURNAL, State, memories_in


async def check_reading(
    journal: SqliteJournal, repo: SqliteMetadataRepo, state: State, safe: Iterable[Memory]
) -> None:
    """Readers are shown each memory once, and each that was acknowledged as it was then."""
    shown = await _shown(journal, repo)
    by_id = {memory.memory_id: memory for memory in shown}
    assert len(by_id) == len(shown)
    assert by_id.keys() == memories_in(state).keys()
    for memory in safe:
        assert by_id.get(memory.memory_id) == memory, memory.content[:60]


async def check_writing(
    journal: SqliteJournal, repo: SqliteMetadataRepo, state: State, latest: datetime | None
) -> None:
    """What is stored within the window is its own duplicate, and what is new is younger than all before."""
    closed = {org_id for (org_id,) in state[JOURNAL, "closed_orgs"]}
    shown = await _shown(journal, repo)
    for instance in await repo.list_instances():
        own = [memory for memory in shown if memory.org_id == instance.org_id]
        new = draft("after the crash", dedup_key="after the crash")
        if instance.org_id in closed:
            with pytest.raises(OrgClosing):
                await journal.append(instance, [new])
            continue
        ((outcome),) = await journal.append(instance, [new])
        assert isinstance(outcome, Memory)
        assert latest is None or outcome.time > latest
        assert all(memory.time < outcome.time for memory in own)
        await _check_duplicates(journal, instance, own, outcome.time)
        latest = outcome.time


async def _check_duplicates(
    journal: SqliteJournal, instance: ArcInstance, stored: list[Memory], now: datetime
) -> None:
    recent = [memory for memory in stored if now - memory.time < DedupPolicy().window]
    outcomes = await journal.append(instance, [again(memory) for memory in recent])
    assert outcomes == [Duplicate(memory.memory_id) for memory in recent]


def again(memory: Memory) -> Draft:
    """Return the draft that a memory once was."""
    return draft(memory.content, dedup_key=memory.dedup_key, tags=memory.tags)


async def _shown(journal: SqliteJournal, repo: SqliteMetadataRepo) -> list[Memory]:
    gateway = SqliteEmbeddedGateway(journal)
    shown: list[Memory] = []
    for org in await repo.list_orgs():
        query = MemoryQuery(org_id=org.id, limit=1000)
        shown += (await journal.view(query)).memories
        bound = await repo.instance_of(org.id)
        if bound is not None and bound.embedded:
            shown += await gateway.query(bound, query)
    return shown
