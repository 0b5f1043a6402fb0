"""API keys that the Go service made go on working, and others cost next to nothing."""

import asyncio
import threading
from contextlib import asynccontextmanager
from datetime import timedelta

import bcrypt
import go_service
import pytest
from builders import START, run
from go_service import ACME, ACME_PROD, ACME_READER, ADMIN, DEFAULT_ORG

from memtrace_core.access import Access
from memtrace_core.directory import Directory
from memtrace_core.errors import StorageUnavailable, Unauthenticated
from memtrace_core.identifiers import api_key_digest
from memtrace_core.model import Permission, Principal
from memtrace_core.tenants import Tenants
from memtrace_core.testing import InMemoryJournal, ManualClock
from memtrace_sqlite import EnvelopeVault, MasterKey, SqliteFormerKeys, SqliteMetadataRepo, former_keys
from memtrace_sqlite.go_takeover import take_over

VAULT = EnvelopeVault(MasterKey.parse(go_service.MASTER_KEY))
DAY = timedelta(days=1)


class Entrance:
    """What stands between a key and an org, over a database that was taken over."""

    def __init__(self, path):
        self.path = path
        self.clock = ManualClock()
        self.journal = InMemoryJournal(self.clock)
        self.repo = SqliteMetadataRepo(path, VAULT)
        self.former = SqliteFormerKeys(self.repo)
        self.access = Access(Directory(self.repo), self.journal, self.clock, former_keys=self.former)
        self.tenants = Tenants(self.repo, self.journal, VAULT, self.clock)

    async def refuses(self, key):
        """Expect that a key is refused like one that never was."""
        with pytest.raises(Unauthenticated, match="invalid API key"):
            await self.access.authenticate(key)

    def unused(self):
        """Return the ids of the keys that are known by their bcrypt hash alone."""
        return [key_id for key_id, _ in go_service.rows(self.path)["former_keys"]]


@asynccontextmanager
async def opened(folder, *changes):
    """Take a database over, and open it."""
    path = go_service.database(folder, *changes)
    assert take_over(path, VAULT, START) is not None
    entrance = Entrance(path)
    try:
        yield entrance
    finally:
        await entrance.repo.close()


@pytest.fixture
def checked(monkeypatch):
    """Collect the keys that bcrypt is asked about."""
    asked = []
    check = bcrypt.checkpw

    def noting(password, hashed):
        asked.append(password.decode(errors="replace"))
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", noting)
    return asked


def test_every_key_of_the_go_service_opens_what_it_did(tmp_path, checked):
    """Each acts for its org with its permissions; bcrypt is asked once a key, however often it is used."""

    async def body():
        async with opened(tmp_path) as entrance:
            for _ in range(3):
                for key, org_id, permissions, key_id in (
                    (ADMIN, DEFAULT_ORG, "read,write,admin", "key_000000000001"),
                    (ACME_PROD, ACME, "read,write", "key_000000000002"),
                    (ACME_READER, ACME, "read", "key_000000000003"),
                ):
                    expected = Principal(org_id=org_id, permissions=Permission.parse(permissions), key_id=key_id)
                    assert await entrance.access.authenticate(key) == expected
            assert entrance.unused() == []
        assert checked == [ADMIN, ACME_PROD, ACME_READER]

    run(body())


def test_a_key_that_was_used_is_one_of_ours(tmp_path, checked):
    """After the first use it is found by its SHA-256, by every process and after a restart, without bcrypt."""

    async def body():
        async with opened(tmp_path) as entrance:
            other = Entrance(entrance.path)
            await other.refuses("mtk_nobody")
            await entrance.access.authenticate(ADMIN)
            assert (await entrance.repo.find_key(api_key_digest(ADMIN))).id == "key_000000000001"
            await other.access.authenticate(ADMIN)
            await other.repo.close()
            again = Entrance(entrance.path)
            await again.access.authenticate(ADMIN)
            await again.repo.close()
        assert checked == [ADMIN]

    run(body())


def test_many_first_requests_at_once_cost_one_check(tmp_path, checked):
    """Who comes while a key is being checked waits for that, and not for a check of their own."""

    async def body():
        async with opened(tmp_path) as entrance:
            found = await asyncio.gather(*(entrance.access.authenticate(ADMIN) for _ in range(50)))
            assert len(set(found)) == 1
        assert checked == [ADMIN]

    run(body())


def test_a_wrong_key_costs_no_bcrypt(tmp_path, checked):
    """However many come, of whatever form, nothing slow is done for a key whose SHA-256 begins otherwise."""

    async def body():
        async with opened(tmp_path) as entrance:
            for wrong in (ADMIN[:-2] + "x=", ADMIN + "\n", "mtk_", "\ud800", "x" * 500, "\0"):
                await entrance.refuses(wrong)
            for number in range(500):
                await entrance.refuses(f"mtk_{number:043}=")
            assert len(entrance.unused()) == 3
        assert checked == []

    run(body())


@pytest.mark.parametrize("key", ["mtk_almost", "mtk_" + "x" * 70, "mtk_\ud800\0"])
def test_a_key_that_begins_alike_is_checked_once_and_refused(tmp_path, checked, key):
    """Should the first 64 bits of a SHA-256 ever be hit, bcrypt says no, once, and the real key still works."""

    async def body():
        async with opened(tmp_path) as entrance:
            digest = api_key_digest(ADMIN)[:8] + bytes(24)
            for _ in range(5):
                assert await entrance.former.find(key, digest) is None
            assert len(checked) <= 1
            await entrance.access.authenticate(ADMIN)
            assert await entrance.repo.find_key(digest) is None

    run(body())


def test_the_memory_of_refused_keys_is_bounded(tmp_path, checked, monkeypatch):
    """Whoever could make any number of such keys would be checked again, and fill no memory."""
    monkeypatch.setattr(former_keys, "MOST_REFUSED", 2)

    async def body():
        async with opened(tmp_path) as entrance:
            for number in range(3):
                digest = api_key_digest(ADMIN)[:8] + bytes([number]) * 24
                assert await entrance.former.find("mtk_almost", digest) is None
            assert len(entrance.former._refused) <= 2

    run(body())


def test_checks_go_one_at_a_time_beside_the_event_loop(tmp_path, monkeypatch):
    """While bcrypt works for one key, the next one waits, and everybody else is served."""
    under_way, most, release = 0, 0, threading.Event()
    begun, loop = asyncio.Event(), None
    check = bcrypt.checkpw

    def slow(password, hashed):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        loop.call_soon_threadsafe(begun.set)
        assert release.wait(20)
        under_way -= 1
        return check(password, hashed)

    async def body():
        nonlocal loop
        loop = asyncio.get_running_loop()
        async with opened(tmp_path) as entrance:
            await entrance.access.authenticate(ACME_READER)
            monkeypatch.setattr(bcrypt, "checkpw", slow)
            waiting = [asyncio.create_task(entrance.access.authenticate(key)) for key in (ADMIN, ACME_PROD)]
            await asyncio.wait_for(begun.wait(), 20)
            await entrance.access.authenticate(ACME_READER)
            await entrance.refuses("mtk_nobody")
            assert not any(task.done() for task in waiting)
            release.set()
            assert {one.org_id for one in await asyncio.gather(*waiting)} == {DEFAULT_ORG, ACME}
        assert most == 1

    run(body())


@pytest.mark.parametrize(
    "change",
    ["UPDATE api_keys SET enabled = 0", "UPDATE api_keys SET expires_at = '2026-11-22 12:45:00+00:00'"],
    ids=["switched off", "expired"],
)
def test_a_key_that_did_not_count_any_more_does_not(tmp_path, checked, change):
    """What the Go service would have refused is refused, and costs bcrypt at most once."""

    async def body():
        async with opened(tmp_path, change) as entrance:
            entrance.clock.advance(timedelta(days=3650))
            for _ in range(3):
                await entrance.refuses(ADMIN)
        assert len(checked) <= 1

    run(body())


def test_a_key_that_is_switched_off_leaves_no_hash(tmp_path):
    """Neither one that the Go service had switched off nor one that is revoked here is kept by its hash."""

    async def body():
        async with opened(tmp_path, "UPDATE api_keys SET enabled = 0 WHERE id = 1") as entrance:
            assert entrance.unused() == ["key_000000000002", "key_000000000003"]
            await entrance.refuses("mtk_nobody")
            await entrance.tenants.revoke_key("key_000000000002")
            assert entrance.unused() == ["key_000000000003"]
            await entrance.refuses(ACME_PROD)
            await entrance.tenants.delete_org(ACME)
            assert entrance.unused() == []
            await entrance.refuses(ACME_READER)

    run(body())


def test_a_key_can_be_rotated_before_it_was_used(tmp_path):
    """The former one works on for as long as it was given, and not longer."""

    async def body():
        async with opened(tmp_path) as entrance:
            entrance.clock.advance(timedelta(days=3650))
            _, fresh = await entrance.tenants.rotate_key("key_000000000001", DAY)
            for key in (fresh, ADMIN):
                assert (await entrance.access.authenticate(key)).org_id == DEFAULT_ORG
            entrance.clock.advance(DAY)
            await entrance.refuses(ADMIN)
            await entrance.access.authenticate(fresh)

    run(body())


def test_a_full_disk_locks_nobody_out(tmp_path, checked, monkeypatch):
    """A key that cannot be kept in its new form yet counts all the same, and is not checked again for that."""

    async def body():
        async with opened(tmp_path) as entrance:
            with monkeypatch.context() as patched:

                async def full(*_):
                    raise StorageUnavailable("no room")

                patched.setattr(entrance.repo, "change", full)
                for _ in range(3):
                    assert (await entrance.access.authenticate(ADMIN)).org_id == DEFAULT_ORG
                assert len(entrance.unused()) == 3
            await entrance.access.authenticate(ADMIN)
            assert len(entrance.unused()) == 2
        assert checked == [ADMIN]

    run(body())


def test_a_hash_that_is_damaged_refuses_its_key(tmp_path, caplog):
    """The log names the key; its holder is told what anybody with a wrong key is told."""

    async def body():
        async with opened(tmp_path) as entrance:
            entrance.repo.execute("UPDATE former_keys SET bcrypt = 'spoiled' WHERE key_id = 'key_000000000001'")
            await entrance.refuses(ADMIN)
            assert (await entrance.access.authenticate(ACME_PROD)).org_id == ACME

    run(body())
    assert [record.getMessage() for record in caplog.records if record.name.startswith("memtrace")] == [
        "the hash of API key key_000000000001 cannot be used: Invalid salt"
    ]
