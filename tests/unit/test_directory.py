import asyncio

import msgspec
import pytest
from builders import ORG, OTHER_ORG, START, api_key, instance, org, run, settle

from memtrace_core import directory as directory_module
from memtrace_core.directory import Directory
from memtrace_core.testing import InMemoryMetadataRepo

KEY = api_key()
NEW_URL = "http://new.example"


class WatchedRepo(InMemoryMetadataRepo):
    """A repo that counts what is read, and can be held up after it has read and before it answers."""

    def __init__(self):
        super().__init__()
        self.reads = 0
        self.gate = None
        self.digest_gate = None

    async def _answer(self, read):
        self.reads += 1
        answer = await read
        if self.gate is not None:
            await self.gate.wait()
        return answer

    async def key_digests(self):
        self.reads += 1
        digests = await super().key_digests()
        if self.digest_gate is not None:
            await self.digest_gate.wait()
        return digests

    async def find_key(self, digest):
        return await self._answer(super().find_key(digest))

    async def instance_of(self, org_id):
        return await self._answer(super().instance_of(org_id))

    async def list_instances(self):
        return await self._answer(super().list_instances())


async def watched():
    """Return a repo with a bound org and a key, and a directory over it."""
    repo = WatchedRepo()
    await repo.create_org(org())
    await repo.bind_instance(instance())
    await repo.create_key(KEY)
    return repo, Directory(repo)


LOOK_UPS = {
    "key": lambda directory: directory.key(KEY.digest),
    "unknown key": lambda directory: directory.key(b"unknown"),
    "instance": lambda directory: directory.instance(ORG),
    "no instance": lambda directory: directory.instance(OTHER_ORG),
    "instances": lambda directory: directory.instances(),
}
# A key is looked for among all digests first.
READS = {name: 2 if name == "key" else 1 for name in LOOK_UPS}
look_ups = pytest.mark.parametrize(
    ("look_up", "reads"), [(LOOK_UPS[name], READS[name]) for name in LOOK_UPS], ids=LOOK_UPS
)


@look_ups
def test_what_was_looked_up_is_not_read_again(look_up, reads):
    """A second look-up is answered from memory, also when the answer was that there is none."""

    async def body():
        repo, directory = await watched()
        assert await look_up(directory) == await look_up(directory)
        assert repo.reads == reads

    run(body())


@look_ups
def test_any_change_by_an_admin_makes_it_read_again(look_up, reads):
    """Once orgs, instances or keys have changed nothing remembered counts."""

    async def body():
        repo, directory = await watched()
        await look_up(directory)
        await repo.create_org(org("org_c"))
        await look_up(directory)
        assert repo.reads == 2 * reads

    run(body())


def test_a_directory_tells_keys_and_bindings_as_they_are():
    """Answers are those of the repo, before and after a change."""

    async def body():
        repo, directory = await watched()
        assert await directory.key(KEY.digest) == KEY
        assert await directory.instance(ORG) == instance()
        assert await directory.instance(OTHER_ORG) is None
        assert await directory.instances() == [instance()]
        await repo.revoke_key(KEY.id, START)
        await repo.rebind_instance(instance(url=NEW_URL))
        assert await directory.key(KEY.digest) == msgspec.structs.replace(KEY, revoked_at=START)
        assert await directory.instance(ORG) == instance(url=NEW_URL)
        assert await directory.instances() == [instance(url=NEW_URL)]

    run(body())


@pytest.mark.parametrize("look_up", [LOOK_UPS["key"], LOOK_UPS["instance"], LOOK_UPS["instances"]])
@pytest.mark.parametrize("noticed_meanwhile", [True, False])
def test_a_change_between_version_check_and_load_is_not_cached(look_up, noticed_meanwhile):
    """What was read before a change, and arrives after it, answers one look-up and is not remembered."""

    async def body():
        repo, directory = await watched()
        repo.gate = asyncio.Event()
        early = asyncio.create_task(look_up(directory))
        await settle()
        await repo.revoke_key(KEY.id, START)
        await repo.rebind_instance(instance(url=NEW_URL))
        if noticed_meanwhile:
            # Another request asks for something else, so that the directory knows the new version.
            other = asyncio.create_task(directory.key(b"other"))
            await settle()
        repo.gate.set()
        before = await early
        after = await look_up(directory)
        assert before != after
        assert after == await look_up(Directory(repo))
        if noticed_meanwhile:
            await other

    run(body())


def test_what_is_remembered_has_a_bound(monkeypatch):
    """Many org ids do not fill the memory: beyond the bound everything is forgotten, and read again."""
    monkeypatch.setattr(directory_module, "MAX_REMEMBERED", 10)

    async def body():
        repo, directory = await watched()
        for number in range(11):
            await directory.instance(f"org_{number}")
        await directory.instance(ORG)
        reads = repo.reads
        await directory.instance("org_0")
        assert repo.reads == reads + 1

    run(body())


def test_unknown_keys_cost_no_read_and_no_room():
    """Whoever tries keys at random neither makes the database work nor pushes out what is remembered."""

    async def body():
        repo, directory = await watched()
        await directory.key(KEY.digest)
        reads, size = repo.reads, len(directory._keys)
        for number in range(2, 1000):
            assert await directory.key(number.to_bytes(32, "big")) is None
        assert await directory.key(KEY.digest) == KEY
        assert (repo.reads, len(directory._keys)) == (reads, size)
        await repo.create_key(api_key(id="key_new", name="new", digest=bytes(32)))
        assert (await directory.key(bytes(32))).id == "key_new"

    run(body())


def test_a_key_that_is_made_while_the_digests_are_read_is_found():
    """Digests that were read before a change, and arrive after it, are not remembered."""

    async def body():
        repo, directory = await watched()
        repo.digest_gate = asyncio.Event()
        fresh = api_key(number=2)
        early = asyncio.create_task(directory.key(fresh.digest))
        await settle()
        await repo.create_key(fresh)
        repo.digest_gate.set()
        assert await early is None
        assert await directory.key(fresh.digest) == fresh

    run(body())
