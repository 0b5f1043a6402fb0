"""A journal at its limit: it refuses what is new, keeps what is old, and takes memories again by itself."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from builders import draft, embedded_instance, instance, run

from memtrace_core.errors import JournalFull
from memtrace_core.model import Memory
from memtrace_core.query import MemoryQuery
from memtrace_core.testing import ManualClock
from memtrace_sqlite import SqliteEmbeddedGateway, SqliteJournal

ARC, OTHER = instance(), instance("org_b")
EMBEDDED = embedded_instance(id="embedded_of_org_a")
LIMIT = 10_000
EVERYTHING = 1 << 30


@asynccontextmanager
async def journals(path, count):
    """Open a file as so many processes do."""
    opened = [SqliteJournal(path, ManualClock(), max_bytes=LIMIT) for _ in range(count)]
    try:
        yield opened
    finally:
        for one in opened:
            await one.close()


async def fill(journal, target=ARC):
    """Append until the journal refuses; return what it took."""
    kept = []
    for _ in range(LIMIT // 700 + 2):
        try:
            kept += await journal.append(target, [draft("x" * 700)])
        except JournalFull:
            return kept
    raise AssertionError("the journal is never full")


async def held(journal, target=ARC):
    """Return everything the journal holds of an org, oldest first."""
    view = await journal.view(MemoryQuery(org_id=target.org_id, order="asc", limit=1000))
    return view.memories


async def deliver(journal, count, target=ARC):
    """Let Arc take the oldest memories of an org."""
    batch = await journal.next_batch(target.org_id, count, EVERYTHING)
    await journal.mark_delivered(batch, durable=False)
    return batch


def test_processes_share_one_limit(tmp_path):
    """What one process took counts for another, and what one has delivered makes room for both."""

    async def scenario():
        async with journals(tmp_path / "journal.db", 2) as (first, second):
            kept = await fill(first)
            with pytest.raises(JournalFull):
                await second.append(ARC, [draft("one too many")])
            await deliver(second, 2)
            kept += await second.append(ARC, [draft("room again")])
            kept += await fill(first)
            with pytest.raises(JournalFull):
                await second.append(ARC, [draft("full again")])
            assert await held(first) == await held(second) == kept

    run(scenario())


def test_of_many_appends_at_the_limit_each_is_stored_or_refused(tmp_path):
    """Writers of two processes that reach the limit together lose nothing, and never store what was refused."""

    async def scenario():
        async with journals(tmp_path / "journal.db", 2) as both:
            texts = [f"{number} " + "x" * 700 for number in range(40)]
            answers = await asyncio.gather(
                *(both[number % 2].append(ARC, [draft(text)]) for number, text in enumerate(texts)),
                return_exceptions=True,
            )
            kept = [answer[0] for answer in answers if isinstance(answer, list)]
            refused = [answer for answer in answers if not isinstance(answer, list)]
            assert {type(error) for error in refused} == {JournalFull}
            assert sorted(kept, key=lambda one: one.time) == await held(both[0])
            # Only the one that reaches the limit may go beyond it.
            sizes = [700 * number for number in (len(kept) - 1, len(kept))]
            assert sizes[0] < LIMIT <= sizes[1] + 300 * len(kept)

    run(scenario())


def test_a_batch_at_the_limit_is_stored_whole_or_not_at_all(tmp_path):
    """A batch that begins below the limit is taken to its last memory; the next one leaves no trace."""

    async def scenario():
        async with journals(tmp_path / "journal.db", 1) as (journal,):
            batch = [draft("x" * 700, dedup_key=f"k{number}") for number in range(30)]
            kept = await journal.append(ARC, batch)
            assert len(kept) == 30
            refused = [draft("y" * 700, dedup_key=f"l{number}") for number in range(30)]
            with pytest.raises(JournalFull):
                await journal.append(ARC, refused)
            assert await held(journal) == kept
            await deliver(journal, 30)
            again = await journal.append(ARC, refused)
            assert all(isinstance(one, Memory) for one in again), "nothing of the refused batch was claimed"

    run(scenario())


def test_what_arc_refuses_does_not_keep_the_journal_full(tmp_path):
    """Memories set aside weigh nothing: a journal that was full of them takes new ones, and shows them all."""

    async def scenario():
        async with journals(tmp_path / "journal.db", 1) as (journal,):
            kept = await fill(journal)
            await journal.set_aside(await journal.next_batch(ARC.org_id, 100, EVERYTHING), "no")
            more = await fill(journal)
            assert len(more) == len(kept)
            assert await held(journal) == kept + more

    run(scenario())


def test_an_org_goes_on_beside_one_that_has_filled_the_journal(tmp_path):
    """Whose Arc takes everything is never refused, and the embedded store neither, however full the journal is."""

    async def scenario():
        async with journals(tmp_path / "journal.db", 1) as (journal,):
            full = await fill(journal)
            others = []
            for number in range(50):
                others += await journal.append(OTHER, [draft(f"number {number}")])
                await deliver(journal, 10, OTHER)
                await journal.append(EMBEDDED, [draft(f"embedded {number}")])
            assert await held(journal, OTHER) == others
            assert await held(journal) == full
            with pytest.raises(JournalFull):
                await journal.append(ARC, [draft("still full")])
            query = MemoryQuery(org_id=ARC.org_id, limit=1000)
            assert len(await SqliteEmbeddedGateway(journal).query(EMBEDDED, query)) == 50

    run(scenario())


def test_moving_what_waits_into_the_embedded_store_makes_room(tmp_path):
    """A journal that is full for an Arc that never comes back is emptied by giving its memories another place."""

    async def scenario():
        async with journals(tmp_path / "journal.db", 1) as (journal,):
            kept = await fill(journal)
            await journal.move_pending(EMBEDDED)
            (new,) = await journal.append(ARC, [draft("room again")])
            query = MemoryQuery(org_id=ARC.org_id, order="asc", limit=1000)
            assert await SqliteEmbeddedGateway(journal).query(EMBEDDED, query) == kept
            assert await held(journal) == [new]

    run(scenario())
