"""The core with SQLite, and no server: durable memory inside a program of your own.

One folder holds all of it. What `remember` has returned is on disk, synced; the program below opens the folder,
remembers, and finds again what earlier runs have left there.

    MEMTRACE_MASTER_KEY=$(memtrace keygen master) python embed_sqlite.py FOLDER [WHAT TO REMEMBER]

A folder is opened with the master key that it was begun with.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from memtrace_core import (
    Binding,
    DedupPolicy,
    Duplicate,
    MemoryQuery,
    MemtraceError,
    NewMemory,
    Services,
    build_services,
)
from memtrace_core.clock import SystemClock
from memtrace_core.model import DEFAULT_ORG_ID, EMBEDDED_URL
from memtrace_sqlite import EnvelopeVault, MasterKey, Mode, SqliteEmbeddedGateway, SqliteJournal, SqliteMetadataRepo

AGENT = "notebook"


def services_in(folder: Path, master_key: str) -> Services:
    """Open the databases of a folder, made if they are not there, and wire the services over them."""
    clock = SystemClock()
    dedup = DedupPolicy()  # one policy for both: the services make keys by it, the journal enforces it
    vault = EnvelopeVault(MasterKey.parse(master_key))
    repo = SqliteMetadataRepo(folder / "memtrace.db", vault, mode=Mode.MIGRATE)
    journal = SqliteJournal(folder / "journal.db", clock, dedup, mode=Mode.MIGRATE)
    return build_services(
        repo=repo,
        journal=journal,
        gateway=SqliteEmbeddedGateway(journal),  # the only kind of store here, so nothing is ever delivered
        vault=vault,
        clock=clock,
        dedup=dedup,
    )


async def bind_default_org(services: Services) -> None:
    """Make sure that there is an organization, and that its memories live in the embedded store."""
    org = await services.tenants.ensure_default_org()
    if await services.repo.instance_of(org.id) is None:
        await services.tenants.bind(org.id, Binding(url=EMBEDDED_URL, database="memory"))


async def main(folder: Path, master_key: str, content: str | None) -> None:
    """Remember something if there is something, and show everything."""
    services = services_in(folder, master_key)
    try:
        await bind_default_org(services)
        if content:
            new = NewMemory(agent_id=AGENT, content=content)
            (outcome,) = await services.memories.remember(DEFAULT_ORG_ID, [new], batch=False)
            print("known already" if isinstance(outcome, Duplicate) else f"remembered {outcome.memory_id}")
        query = MemoryQuery(org_id=DEFAULT_ORG_ID, agent_ids=(AGENT,), order="asc", limit=100)
        while True:
            page = await services.memories.find(query)
            for memory in page.memories:
                print(f"{memory.time:%Y-%m-%d %H:%M:%S}  {memory.content}")
            if page.next is None:
                return
            query = query.following(page.next)
    finally:
        await services.close()  # `stop` is for who has called `start`; without deliveries there is nothing to start


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not os.environ.get("MEMTRACE_MASTER_KEY"):
        print("usage: MEMTRACE_MASTER_KEY=... embed_sqlite.py FOLDER [WHAT TO REMEMBER]", file=sys.stderr)
        sys.exit(2)
    try:
        asyncio.run(main(Path(sys.argv[1]), os.environ["MEMTRACE_MASTER_KEY"], "".join(sys.argv[2:]) or None))
    except MemtraceError as error:
        sys.exit(f"embed_sqlite: {error}")
