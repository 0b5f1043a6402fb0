"""Bytes that flip anywhere in the databases: no answer is a 500, and none shows another org's memories."""

import random
import shutil
from contextlib import suppress

import pytest
from builders import OTHER_ORG, bound, embedded_instance, run
from damage import execute
from integration.asgi import ORG
from integration.local_server import serving

from memtrace_core.errors import MemtraceError
from memtrace_core.model import Permission

MEMORIES = 40
READS = ("memories?limit=1000", "agents", "sessions", "agents/ada/stats", "sessions/s1/memories")
DOCUMENTED = {200, 201, 204, 400, 401, 403, 404, 409, 503}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A folder with databases in which two orgs have stored all that can be stored."""
    folder = tmp_path_factory.mktemp("healthy")

    async def fill():
        async with serving(folder) as client:
            await bound(client.services, embedded_instance(OTHER_ORG))
            for key in (client.key, await client.key_of(Permission.ADMIN, OTHER_ORG)):
                batch = [
                    {
                        "agent_id": "ada",
                        "session_id": "s1",
                        "content": f"{number}",
                        "tags": ["t"],
                        "metadata": {"k": 1},
                    }
                    for number in range(MEMORIES)
                ]
                for path, body in (
                    ("memories", {"memories": batch}),
                    ("agents", {"name": "ada", "config": {"k": 1}}),
                    ("sessions", {"agent_id": "ada", "metadata": {"k": 1}}),
                ):
                    answer = await client.post(f"/api/v1/{path}", body, key=key)
                    assert answer.status == 201

    run(fill())
    return folder


def flip(file, chance):
    """Change some bytes of a file: in its header, or in one page, or anywhere."""
    content = bytearray(file.read_bytes())
    first, last = chance.choice(
        [(0, 100), (0, len(content) - 1), (4096 * chance.randrange(len(content) // 4096),) * 2]
    )
    if first == last:
        last = first + 4095
    for _ in range(chance.choice([1, 4, 40])):
        content[chance.randint(first, last)] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


ROWS = [
    ("journal.db", "UPDATE embedded SET time = 1 << 62", "memories"),
    ("memtrace.db", "UPDATE sessions SET updated_at = 1 << 62", "sessions"),
    ("memtrace.db", "UPDATE agents SET config_json = '{'", "agents"),
    ("memtrace.db", "UPDATE api_keys SET permissions = 'raed'", "agents"),
]


@pytest.mark.parametrize(("name", "change", "path"), ROWS)
def test_a_row_that_was_never_written_is_a_503(healthy, new_folder, name, change, path):
    """Times out of range, broken JSON, an unknown permission: the caller hears of the storage, not of a defect."""
    folder = shutil.copytree(healthy, new_folder(), dirs_exist_ok=True)

    async def use():
        async with serving(folder) as client:
            execute(folder / name, change)
            answer = await client.get(f"/api/v1/{path}")
            assert (answer.status, answer.json["code"]) == (503, "storage_unavailable")

    run(use())


@pytest.mark.parametrize("name", ["journal.db", "memtrace.db"])
@pytest.mark.parametrize("rounds", [12, pytest.param(400, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_flipped_bytes_are_noticed_or_do_not_matter(healthy, new_folder, name, rounds):
    """The server does not start, saying why, or answers as documented and shows no org another's memories."""
    started = 0

    async def use(folder):
        nonlocal started
        async with serving(folder) as client:
            started += 1
            for path in READS:
                answer = await client.get(f"/api/v1/{path}")
                assert answer.status in DOCUMENTED, (path, answer)
                if answer.status == 200 and "memories" in answer.json:
                    assert {one["org_id"] for one in answer.json["memories"]} <= {ORG}
            for method, path, body in (
                ("POST", "memories", {"agent_id": "ada", "content": "one more"}),
                ("POST", "search", {"content_contains": "1"}),
                ("POST", "agents", {"name": "bob"}),
                ("POST", "sessions", {"agent_id": "ada"}),
                ("DELETE", "agents/ada", None),
            ):
                answer = await client.request(method, f"/api/v1/{path}", body)
                assert answer.status in DOCUMENTED, (path, answer)

    for seed in range(rounds):
        folder = shutil.copytree(healthy, new_folder(), dirs_exist_ok=True)
        flip(folder / name, random.Random(seed))
        try:
            with suppress(MemtraceError):  # what `serve` tells in one line, and does not start
                run(use(folder))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert started > rounds / 4
