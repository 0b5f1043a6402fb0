"""The disk fails for a while: what cannot be kept is refused, what was kept stays, and all goes on by itself."""

import asyncio
import re
import shutil
from contextlib import asynccontextmanager
from datetime import timedelta

import apsw
import pytest
from builders import bound, draft, embedded_instance, in_memory, instance, run, settle
from integration.asgi import ORG
from integration.local_server import post, seen, serving
from integration.troubled_disk import troubled_disk
from small_disk import fill, small_disk

from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import Duplicate
from memtrace_core.errors import StorageUnavailable
from memtrace_core.memories import NewMemory
from memtrace_core.model import Memory
from memtrace_core.query import MemoryQuery
from memtrace_core.testing import InMemoryGateway, InMemoryJournal, ManualClock
from memtrace_sqlite import SqliteEmbeddedGateway, SqliteJournal
from memtrace_sqlite import journal as journal_module

EMBEDDED = embedded_instance(ORG)
ARC = instance("org_arc")

# What fails, how, and with which code a post is refused then.
TROUBLES = {
    "no room to write": ("write", apsw.FullError, "journal_full"),
    "no room to sync": ("sync", apsw.FullError, "journal_full"),
    "writes fail": ("write", apsw.IOError, "storage_unavailable"),
    "syncs fail": ("sync", apsw.IOError, "storage_unavailable"),
    "a disk that has become read-only": ("write", apsw.ReadOnlyError, "storage_unavailable"),
}
troubles = pytest.mark.parametrize("trouble", TROUBLES)


def check_refusal(answer, code):
    """A refusal is a 503 that says what is wrong and when to come again, and tells nothing of our insides."""
    assert (answer.status, answer.json["code"]) == (503, code), answer.body
    assert "retry-after" in answer.headers
    assert re.search(r"storage|disk", answer.json["error"])
    assert not re.search(r"Traceback|apsw|\.py|\.db|\n", answer.json["error"])


@troubles
def test_what_cannot_be_written_is_refused_and_reads_go_on(new_folder, trouble):
    """While writes fail, posts are 503 and reads complete; then posts work again, and nothing refused appears."""
    operation, error, code = TROUBLES[trouble]

    async def scenario(disk, folder):
        async with serving(folder) as client:
            kept = [f"before {number}" for number in range(3)]
            assert [(await post(client, content)).status for content in kept] == [201] * 3
            batch = {"memories": [{"agent_id": "ada", "content": f"{number} of a batch"} for number in range(5)]}
            with disk.failing(operation, error):
                check_refusal(await post(client, "refused"), code)
                check_refusal(await client.post("/api/v1/memories", batch), code)
                check_refusal(await client.post("/api/v1/agents", {"name": "bob"}), "storage_unavailable")
                assert disk.hits >= 3
                assert await seen(client) == kept
                assert (await client.get("/api/v1/agents/ada/stats")).json["memory_count"] == 3
            assert await seen(client) == kept
            assert (await post(client, "refused")).status == 201
            assert (await client.post("/api/v1/memories", batch)).json["count"] == 5
            assert (await client.post("/api/v1/agents", {"name": "bob"})).status == 201
            expected = [*kept, "refused", *(each["content"] for each in batch["memories"])]
            assert await seen(client) == expected
        async with serving(folder) as client:
            assert await seen(client) == expected
            assert (await post(client, "refused")).status == 409

    with troubled_disk() as disk:
        run(scenario(disk, new_folder()))


@troubles
def test_of_posts_at_once_each_is_refused_and_can_be_sent_again(new_folder, trouble):
    """Posts that share a transaction which fails are refused, every one, and each is stored once when repeated."""
    operation, error, code = TROUBLES[trouble]
    contents = [f"memory {number}" for number in range(20)]

    async def scenario(disk):
        async with serving(new_folder()) as client:
            with disk.failing(operation, error):
                for answer in await asyncio.gather(*(post(client, content) for content in contents)):
                    check_refusal(answer, code)
            answers = await asyncio.gather(*(post(client, content) for content in contents * 2))
            assert sorted(answer.status for answer in answers) == [201] * 20 + [409] * 20
            assert sorted(await seen(client)) == sorted(contents)

    with troubled_disk() as disk:
        run(scenario(disk))


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_a_refused_write_that_a_crash_brings_back_is_there_once(new_folder, operation):
    """After a failed commit and a crash the memories of a batch are all there or none, and repeating is safe."""
    drafts = [draft(f"memory {number}", dedup_key=f"k{number}") for number in range(3)]

    async def refused(disk, folder):
        journal = SqliteJournal(folder / "journal.db", ManualClock())
        (kept,) = await journal.append(EMBEDDED, [draft("kept", dedup_key="kept")])
        crashed = new_folder()
        with disk.failing(operation):
            with pytest.raises(StorageUnavailable):
                await journal.append(EMBEDDED, drafts)
            for name in ("journal.db", "journal.db-wal"):
                shutil.copy(folder / name, crashed / name)
        await journal.close()
        return kept, crashed

    async def after(kept, folder):
        journal = SqliteJournal(folder / "journal.db", ManualClock())
        gateway, query = SqliteEmbeddedGateway(journal), MemoryQuery(org_id=ORG, order="asc")
        first, *others = await gateway.query(EMBEDDED, query)
        assert first == kept
        assert len(others) in (0, 3)
        again = await journal.append(EMBEDDED, drafts)
        assert [type(outcome) for outcome in again] == [Duplicate if others else Memory] * 3
        found = await gateway.query(EMBEDDED, query)
        assert [memory.content for memory in found] == ["kept", "memory 0", "memory 1", "memory 2"]
        await journal.close()

    with troubled_disk() as disk:
        kept, crashed = run(refused(disk, new_folder()))
    run(after(kept, crashed))


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_an_answer_that_says_no_after_a_commit_can_be_repeated(new_folder, operation):
    """Where an error comes after a commit, a repeated post is a 409 and the memory is there once."""

    async def scenario(disk):
        async with serving(new_folder()) as client:
            # Every commit is followed by a checkpoint, which is what fails.
            client.services.journal._connection.pragma("wal_autocheckpoint", 1)
            with disk.failing(operation, files=("journal.db",)):
                answers = [await post(client, "one") for _ in range(3)]
                assert disk.hits
            assert [answer.status for answer in answers] in ([503, 409, 409], [201, 409, 409])
            assert (await post(client, "one")).status == 409
            assert (await post(client, "two")).status == 201
            assert await seen(client) == ["one", "two"]

    with troubled_disk() as disk:
        run(scenario(disk))


def test_what_cannot_be_read_is_no_empty_answer(new_folder):
    """While reads fail, questions about memories are 503 instead of answers without them; then all are there."""
    contents = [f"memory {number} {'x' * 2000}" for number in range(60)]

    async def scenario(disk, folder):
        async with serving(folder) as client:
            memories = [{"agent_id": "ada", "content": content} for content in contents]
            assert (await client.post("/api/v1/memories", {"memories": memories})).json["count"] == 60
        async with serving(folder) as client:  # with nothing in any cache
            with disk.failing("read", files=("journal.db", "journal.db-wal")):
                for target in ("memories", "memories?agent_id=ada", "agents/ada/stats"):
                    check_refusal(await client.get(f"/api/v1/{target}"), "storage_unavailable")
                assert disk.hits
            assert await seen(client) == contents

    with troubled_disk() as disk:
        run(scenario(disk, new_folder()))


def test_an_arc_cannot_answer_for_a_journal_that_cannot_be_read(new_folder):
    """While the journal fails, an org's Arc is not asked in its place: it does not know the newest memories."""

    async def scenario(disk):
        async with delivering(new_folder()) as (services, _):
            await services.memories.remember(ARC.org_id, [NewMemory(agent_id="ada", content=c) for c in "abc"])
            asked = []
            services.gateway.query = services.gateway.count = asked.append
            with disk.failing("read"), pytest.raises(StorageUnavailable):
                await services.memories.find(MemoryQuery(org_id=ARC.org_id))
            assert asked == []

    with troubled_disk() as disk:
        run(scenario(disk))


def test_delivery_goes_on_when_the_disk_is_well_again(new_folder):
    """While the journal cannot note deliveries memories are sent again and seen once; then they leave it."""

    async def scenario(disk):
        async with delivering(new_folder()) as (services, clock):

            async def contents():
                page = await services.memories.find(MemoryQuery(org_id=ARC.org_id, order="asc"))
                return [memory.content for memory in page.memories]

            async def sent_twice():
                return len(services.gateway.written) >= 2

            async def left():
                return (await services.journal.holdings(ARC.org_id)).undelivered == 0

            await services.memories.remember(ARC.org_id, [NewMemory(agent_id="ada", content=c) for c in "abc"])
            with disk.failing("write"):
                await ticks(clock, sent_twice)
                assert await contents() == ["a", "b", "c"]
            await ticks(clock, left)
            assert await contents() == ["a", "b", "c"]

    with troubled_disk() as disk:
        run(scenario(disk))


@asynccontextmanager
async def delivering(folder):
    """Run services over a real journal and an Arc in memory that takes everything."""
    clock, dedup = ManualClock(), DedupPolicy(enabled=False)
    journal = SqliteJournal(folder / "journal.db", clock, dedup)
    services = in_memory(clock=clock, journal=journal, gateway=InMemoryGateway(InMemoryJournal(clock)), dedup=dedup)
    await bound(services, ARC)
    await services.start()
    try:
        yield services, clock
    finally:
        await services.stop(timedelta(0))


async def ticks(clock, condition, most=2000):
    """Let seconds pass on the clock until a condition holds."""
    for _ in range(most):
        if await condition():
            return
        clock.advance(timedelta(seconds=1))
        await settle()
        await asyncio.sleep(0.001)
    raise AssertionError("this never came true")


def test_a_file_system_without_room_refuses_and_loses_nothing(monkeypatch):
    """On a disk that is really full posts are refused, reads are complete, and with room all goes on."""
    monkeypatch.setattr(journal_module, "LEAST_FREE_BYTES", 0)

    async def scenario(folder):
        async with serving(folder / "data") as client:
            ballast = fill(folder, leaving=2 << 20)
            kept = []
            for number in range(200):
                answer = await post(client, f"{number} {'x' * 30_000}")
                if answer.status != 201:
                    break
                kept.append(answer.json["content"])
            check_refusal(answer, "journal_full")
            assert len(kept) > 3
            assert await seen(client) == kept
            check_refusal(await post(client, "y" * 30_000), "journal_full")
            ballast.unlink()
            for content in ("y" * 30_000, "small"):
                assert (await post(client, content)).status == 201
                kept.append(content)
            assert await seen(client) == kept
        async with serving(folder / "data") as client:
            assert await seen(client) == kept

    with small_disk(16) as folder:
        run(scenario(folder))


def test_a_disk_that_is_filled_by_others_is_noticed_before_it_is_full(monkeypatch):
    """With less than 64 MiB free posts are refused, however small, and taken again when others make room."""
    monkeypatch.setattr(journal_module, "DISK_LOOK_SECONDS", 0)

    async def scenario(folder):
        async with serving(folder / "data") as client:
            assert (await post(client, "one")).status == 201
            ballast = fill(folder, leaving=journal_module.LEAST_FREE_BYTES - (1 << 20))
            answer = await post(client, "two")
            assert (answer.status, answer.json["code"]) == (503, "journal_full")
            assert await seen(client) == ["one"]
            ballast.unlink()
            assert (await post(client, "two")).status == 201
            assert await seen(client) == ["one", "two"]

    with small_disk(80) as folder:
        run(scenario(folder))
