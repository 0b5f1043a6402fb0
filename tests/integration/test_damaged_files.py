"""Files that are damaged, or taken away while the server runs: no lie, no 500, and no worthless acknowledgement."""

import asyncio
import shutil

import pytest
from builders import run
from damage import cut_in_half, execute, replace_bytes, spoil_page
from integration.local_server import post, seen, serving

CONTENTS = [f"memory {number} {'x' * 200}" for number in range(300)]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A folder with databases that hold three hundred memories."""
    folder = tmp_path_factory.mktemp("healthy")

    async def fill():
        async with serving(folder) as client:
            memories = [{"agent_id": "ada", "content": each, "metadata": {"key": "value"}} for each in CONTENTS]
            answer = await client.post("/api/v1/memories", {"memories": memories})
            assert answer.json["count"] == len(CONTENTS)

    run(fill())
    return folder


@pytest.fixture
def folder(healthy, new_folder):
    """A copy of the databases for a test to damage."""
    return shutil.copytree(healthy, new_folder(), dirs_exist_ok=True)


def check_answer(answer):
    """An answer over a damaged file is complete, or a 503 that tells what to do."""
    if answer.status == 200:
        listed = [memory["content"] for memory in answer.json.get("memories", [])]
        assert [content for content in listed if content in CONTENTS] == CONTENTS
    else:
        assert (answer.status, answer.json["code"]) == (503, "storage_unavailable"), answer.body
        assert answer.json["error"] == "the server cannot use its own storage at the moment"


PARTS = (
    "embedded",
    "embedded_time",
    "embedded_agent",
    "recent_claims",
    "sqlite_autoindex_stores_1",
    "agent_activity",
)


@pytest.mark.parametrize("part", PARTS)
def test_a_spoiled_page_is_a_503_or_does_not_matter(folder, part):
    """Whichever page is unreadable, every answer is complete or a 503 that says what to do; none is a 500."""
    spoil_page(folder / "journal.db", part)
    statuses = set()

    async def scenario():
        async with serving(folder) as client:
            listed = await client.get("/api/v1/memories?limit=1000&order=asc")
            check_answer(listed)
            stored = await post(client, "one more")
            assert stored.status in (201, 503)
            stats = await client.get("/api/v1/agents/ada/stats")
            assert stats.status == 503 or stats.json["memory_count"] == len(CONTENTS) + (stored.status == 201)
            same = [{"agent_id": "ada", "content": content} for content in CONTENTS]
            again = await client.post("/api/v1/memories", {"memories": same})
            assert again.status == 503 or again.json["count"] == 0
            newest = await client.get("/api/v1/memories?limit=1")
            if stored.status == 201 and newest.status == 200:
                assert newest.json["memories"][0]["content"] == "one more"
            for answer in (stored, stats, again, newest):
                assert answer.status != 503 or answer.json["code"] == "storage_unavailable"
            statuses.update(answer.status for answer in (listed, stored, stats, again))

    run(scenario())
    assert 503 in statuses, "the damage was met"


def test_other_orgs_and_pages_go_on_beside_a_damaged_one(folder):
    """Memories on sound pages can be read and stored although one page is spoiled."""
    spoil_page(folder / "journal.db", "embedded", which=0)

    async def scenario():
        async with serving(folder) as client:
            assert (await client.get("/api/v1/memories?limit=1000")).status == 503
            newest = await client.get("/api/v1/memories?limit=10")
            assert [memory["content"] for memory in newest.json["memories"]] == CONTENTS[:-11:-1]

    run(scenario())


UNREADABLE = {
    "a text that is no UTF-8": (b"memory 150 xxxx", b"memory 150 \xff\xfexx"),
    "metadata that are no JSON": (b'{"key":"value"}', b'}"key":"value"}'),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_damaged_value_is_a_503_and_the_log_names_the_file(folder, kind, caplog):
    """Bytes that flip within a row, which SQLite cannot notice, are reported as damage and not as a 500."""
    replace_bytes(folder / "journal.db", *UNREADABLE[kind])

    async def scenario():
        async with serving(folder) as client:
            answer = await client.get("/api/v1/memories?limit=1000&order=asc")
            assert answer.status == 503
            check_answer(answer)
            assert (
                f"{folder / 'journal.db'} is damaged (a value cannot be read); restore it from a backup"
                in caplog.text
            )

    run(scenario())


def cut_off_running(folder):
    """Cut the journal's file while it is in use."""
    cut_in_half(folder / "journal.db")


def empty_wal(folder):
    """Cut the WAL while it is in use."""
    (folder / "journal.db-wal").open("wb").close()


@pytest.mark.parametrize("damage", [cut_off_running, empty_wal])
def test_a_file_that_is_cut_while_the_server_runs_is_not_read_as_if_it_were_whole(folder, damage):
    """What is left of a file is not passed off as all there is: answers are complete or 503."""

    async def scenario():
        async with serving(folder) as client:
            assert (await post(client, "one more")).status == 201
            damage(folder)
            for _ in range(3):
                check_answer(await client.get("/api/v1/memories?limit=1000&order=asc"))
                check_answer(await client.get("/api/v1/memories?agent_id=ada&limit=1000&order=asc"))

    run(scenario())


def remove(folder):
    """Remove the database."""
    (folder / "journal.db").unlink()


def remove_all(folder):
    """Remove the database and all that lies beside it."""
    for path in folder.glob("journal.db*"):
        path.unlink()


def rename(folder):
    """Give the database another name."""
    (folder / "journal.db").rename(folder / "moved.db")


def replace(folder):
    """Put a copy in its place, as a restored backup is."""
    shutil.copy(folder / "journal.db", folder / "copy.db")
    (folder / "copy.db").replace(folder / "journal.db")


def remove_wal(folder):
    """Remove the WAL alone."""
    (folder / "journal.db-wal").unlink()


def move_folder(folder):
    """Move the whole folder away."""
    folder.rename(folder.with_name(folder.name + "-moved"))


@pytest.mark.parametrize("take_away", [remove, remove_all, rename, replace, remove_wal, move_folder])
def test_a_journal_that_is_gone_takes_no_more_memories(folder, take_away):
    """SQLite goes on writing to a file without a name: what is acknowledged then is lost, so it must be refused."""

    async def scenario():
        async with serving(folder) as client:
            assert (await post(client, "before")).status == 201
            take_away(folder)
            answer = await post(client, "after")
            assert answer.status == 503
            assert answer.json["code"] == "storage_unavailable"

    run(scenario())


def test_a_metadata_database_that_was_replaced_is_not_believed_any_more(folder):
    """A key that is revoked in the file that is there now does not go on working by the one that was before."""

    def replace_and_revoke():
        path = folder / "memtrace.db"
        shutil.copy(path, folder / "copy.db")
        for old in folder.glob("memtrace.db*"):
            old.unlink()
        (folder / "copy.db").rename(path)
        execute(path, "UPDATE api_keys SET revoked_at = 1")

    async def scenario():
        async with serving(folder) as client:
            assert (await client.get("/api/v1/memories?limit=1")).status == 200
            replace_and_revoke()
            async with asyncio.timeout(10):  # it looks once a second
                while (await client.get("/api/v1/memories?limit=1")).status == 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert (await client.get("/api/v1/memories?limit=1")).status in (401, 503)

    run(scenario())


def test_the_shared_memory_of_the_wal_is_not_needed_to_keep_memories(folder):
    """Without the -shm file nothing is acknowledged: another process would make one of its own. Nothing is lost."""

    async def scenario():
        async with serving(folder) as client:
            assert (await post(client, "before")).status == 201
            (folder / "journal.db-shm").unlink()
            assert (await post(client, "after")).status == 503
        async with serving(folder) as client:
            assert await seen(client) == [*CONTENTS, "before"]
            assert (await post(client, "after")).status == 201

    run(scenario())
