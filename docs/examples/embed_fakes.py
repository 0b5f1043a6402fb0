"""The core with fakes: how a program that embeds Memtrace tests itself, without disk, network or waiting.

`memtrace_core.testing` has an implementation of every port in memory, and a clock that moves by hand. They keep the
promises of the real ones, the one about disks apart.

    python embed_fakes.py
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from memtrace_core import Binding, Duplicate, Memory, MemoryQuery, NewMemory, build_services
from memtrace_core.testing import (
    InMemoryGateway,
    InMemoryJournal,
    InMemoryMetadataRepo,
    ManualClock,
    TransparentVault,
)


async def main() -> None:
    """Store a memory while its Arc is away, let the Arc come back, and let a day pass."""
    clock = ManualClock()
    journal = InMemoryJournal(clock)
    gateway = InMemoryGateway(journal)
    services = build_services(
        repo=InMemoryMetadataRepo(), journal=journal, gateway=gateway, vault=TransparentVault(), clock=clock
    )
    org = await services.tenants.create_org("acme")
    # Not embedded: memories wait in the journal until they are delivered, as they do for a real Arc.
    arc = await services.tenants.bind(
        org.id, Binding(url="https://arc.example.com", api_key="secret", database="memory")
    )
    gateway.unreachable.add(arc.id)
    await services.start()

    new = NewMemory(agent_id="crawler", content="Crawled example.com", tags=["pricing"])
    (stored,) = await services.memories.remember(org.id, [new])
    assert isinstance(stored, Memory)
    print(f"stored     {stored.memory_id} at {stored.time:%H:%M:%S}")

    (again,) = await services.memories.remember(org.id, [new])
    assert isinstance(again, Duplicate)
    assert again.memory_id == stored.memory_id
    print("refused    the same memory again")

    gateway.unreachable.clear()
    while not gateway.written:
        clock.advance(timedelta(seconds=1))  # nobody sleeps: the delivery's retry is due when this clock says so
        await asyncio.sleep(0)  # lets it run
    assert [[memory.memory_id for memory in batch] for batch in gateway.written] == [[stored.memory_id]]
    print("delivered  when the Arc was back")

    page = await services.memories.find(MemoryQuery(org_id=org.id, tags=("pricing",)))
    assert page.memories == [stored]
    print("found      once, though the journal still has it until it is confirmed")

    clock.advance(timedelta(hours=25))  # the window in which equal memories are one
    (later,) = await services.memories.remember(org.id, [new])
    assert isinstance(later, Memory)
    print(f"stored     a day later, at {later.time:%H:%M:%S}, as a new memory")
    await services.stop(timedelta(0))


if __name__ == "__main__":
    asyncio.run(main())
