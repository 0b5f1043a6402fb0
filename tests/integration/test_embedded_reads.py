"""Reads of an organization in the embedded store, whose former Arc has yet to take some of its memories."""

from types import SimpleNamespace

from builders import draft, embedded_instance, instance, run

from memtrace_core.dedup import DedupPolicy
from memtrace_core.memories import Memories
from memtrace_core.query import MemoryQuery
from memtrace_core.testing import ManualClock
from memtrace_sqlite import SqliteEmbeddedGateway, SqliteJournal

ARC, EMBEDDED = instance(), embedded_instance()
ORG = ARC.org_id


class BoundTo:
    """A directory that knows one org."""

    def __init__(self, bound):
        self._bound = bound

    async def instance(self, org_id):
        return self._bound

    async def org(self, org_id):
        return SimpleNamespace(retention=None)


def memories_over(journal, gateway):
    """Return the service, of an org that is in the embedded store."""
    return Memories(
        BoundTo(EMBEDDED),
        journal,
        gateway,
        ManualClock(),
        DedupPolicy(),
        on_pending=lambda org_id: None,
        on_use=lambda used: None,
    )


def test_every_page_cuts_waiting_and_stored_memories_as_one_list(tmp_path):
    """Whichever of both sets they are from, in both orders, wherever a page begins and however long it is."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        kept = []
        for number, target in enumerate((ARC, EMBEDDED, EMBEDDED, ARC, ARC, EMBEDDED)):
            kept += await journal.append(target, [draft(f"m{number}")])
        service = memories_over(journal, SqliteEmbeddedGateway(journal))
        for order, ordered in (("asc", kept), ("desc", kept[::-1])):
            for offset in range(8):
                for limit in range(1, 8):
                    query = MemoryQuery(org_id=ORG, order=order, offset=offset, limit=limit)
                    page = await service.find(query)
                    assert page.memories == ordered[offset : offset + limit]
                    assert (page.next is None) is (offset + limit >= len(kept))
        await journal.close()

    run(scenario())


def test_journal_and_embedded_store_are_read_in_one_snapshot(tmp_path):
    """A memory that moves from the one into the other just then is seen once: nobody asks a second time."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "journal.db", ManualClock())
        kept = await journal.append(ARC, [draft("waits", session_id="s1", dedup_key="first")])
        kept += await journal.append(EMBEDDED, [draft("is stored", session_id="s1", dedup_key="second")])
        service = memories_over(journal, gateway=None)  # so there is nobody to ask
        assert (await service.find(MemoryQuery(org_id=ORG, order="asc"))).memories == kept
        for memory in kept:
            assert await service.get(ORG, memory.memory_id) == memory
            assert await service.get(ORG, memory.dedup_key) == memory
        context = await service.context(ORG, "s1", since=None)
        assert context.memory_count == len(kept)
        await journal.close()

    run(scenario())
