"""The life of API keys in a metadata repo: expiry, rotation, and names that are free again."""

import asyncio
from datetime import timedelta

import msgspec
import pytest
from builders import MICROSECOND, ORG, OTHER_ORG, START, api_key
from contracts.test_metadata import with_repo

from memtrace_core.errors import Conflict
from memtrace_core.model import Permission

NOW = START + timedelta(days=30)
DAY = timedelta(days=1)
FORMER = api_key(name="prod", permissions=Permission.READ)
FRESH = api_key(number=2, name="prod", permissions=Permission.READ, created_at=NOW)


async def everything(repo):
    """Return all that a repo knows of keys, and its version."""
    return [await repo.list_keys(org_id) for org_id in (ORG, OTHER_ORG)], repo.version()


def test_a_key_is_found_by_its_id(repo_harness):
    """A key comes back by its id with every field, revoked or not; an unknown id has none."""

    async def use(repo):
        made = msgspec.structs.replace(FORMER, expires_at=NOW + MICROSECOND)
        await repo.create_key(made)
        await repo.create_key(api_key(OTHER_ORG, 9))
        assert await repo.get_key(made.id) == made
        await repo.revoke_key(made.id, NOW)
        assert await repo.get_key(made.id) == msgspec.structs.replace(made, revoked_at=NOW)
        assert await repo.get_key("key_x") is None
        assert await repo.get_key(made.name) is None

    with_repo(repo_harness, use)


@pytest.mark.parametrize(
    ("own_end", "until", "end"),
    [
        (None, NOW + DAY, NOW + DAY),
        (NOW + 2 * DAY, NOW + DAY, NOW + DAY),
        (NOW + DAY, NOW + DAY, NOW + DAY),
        (NOW + MICROSECOND, NOW + DAY, NOW + MICROSECOND),
    ],
    ids=["it had no end", "its end is later", "its end is the same", "its end is earlier"],
)
def test_a_rotated_key_ends_with_the_overlap_or_by_itself(repo_harness, own_end, until, end):
    """The former is superseded and ends at the earlier of the two; the fresh one is stored as it is given."""

    async def use(repo):
        former = msgspec.structs.replace(FORMER, expires_at=own_end)
        await repo.create_key(former)
        before = repo.version()
        assert await repo.rotate_key(former.id, FRESH, until) is True
        superseded = msgspec.structs.replace(former, superseded_at=NOW, expires_at=end)
        assert await repo.list_keys(ORG) == [superseded, FRESH]
        assert await repo.find_key(former.digest) == superseded
        assert await repo.get_key(FRESH.id) == await repo.find_key(FRESH.digest) == FRESH
        assert repo.version() != before

    with_repo(repo_harness, use)


async def _revoked(repo):
    await repo.create_key(FORMER)
    await repo.revoke_key(FORMER.id, START)


async def _expired(repo):
    await repo.create_key(msgspec.structs.replace(FORMER, expires_at=NOW))


async def _superseded(repo):
    await repo.create_key(FORMER)
    assert await repo.rotate_key(FORMER.id, api_key(number=3, name="prod", created_at=START), NOW + DAY)


async def _of_another_org(repo):
    await repo.create_key(msgspec.structs.replace(FORMER, org_id=OTHER_ORG))


async def _unknown(repo):
    await repo.create_key(api_key(number=4))


@pytest.mark.parametrize("prepare", [_revoked, _expired, _superseded, _of_another_org, _unknown])
def test_a_key_that_is_not_active_is_not_rotated(repo_harness, prepare):
    """One that is revoked, expired, superseded, another org's or unknown stays as it is, and no fresh one comes."""

    async def use(repo):
        await prepare(repo)
        before = await everything(repo)
        assert await repo.rotate_key(FORMER.id, FRESH, NOW + DAY) is False
        assert await everything(repo) == before
        assert await repo.find_key(FRESH.digest) is None

    with_repo(repo_harness, use)


def test_of_rotations_at_once_one_wins(repo_harness):
    """Of several rotations of one key under way together one is done, and the others leave nothing behind."""

    async def use(repo):
        await repo.create_key(FORMER)
        candidates = [api_key(number=number, name="prod", created_at=NOW) for number in range(2, 10)]
        outcomes = await asyncio.gather(*(repo.rotate_key(FORMER.id, key, NOW + DAY) for key in candidates))
        assert sorted(outcomes) == [False] * 7 + [True]
        winner = candidates[outcomes.index(True)]
        superseded = msgspec.structs.replace(FORMER, superseded_at=NOW, expires_at=NOW + DAY)
        assert await repo.list_keys(ORG) == [superseded, winner]

    with_repo(repo_harness, use)


def test_a_chain_of_rotations_keeps_every_end(repo_harness):
    """Rotating the successor leaves the first key's end alone."""

    async def use(repo):
        last = api_key(number=3, name="prod", created_at=NOW + MICROSECOND)
        await repo.create_key(FORMER)
        assert await repo.rotate_key(FORMER.id, FRESH, NOW + DAY)
        assert await repo.rotate_key(FRESH.id, last, NOW + 2 * DAY)
        states = [(key.id, key.expires_at, key.state(last.created_at)) for key in await repo.list_keys(ORG)]
        assert states == [
            (FORMER.id, NOW + DAY, "superseded"),
            (FRESH.id, NOW + 2 * DAY, "superseded"),
            (last.id, None, "active"),
        ]

    with_repo(repo_harness, use)


def test_the_name_of_a_rotated_key_is_its_successors(repo_harness):
    """While the successor is active the name is taken; when it is revoked, the name is free for another."""

    async def use(repo):
        await repo.create_key(FORMER)
        assert await repo.rotate_key(FORMER.id, FRESH, NOW + DAY)
        another = api_key(number=3, name="prod", created_at=NOW)
        with pytest.raises(Conflict):
            await repo.create_key(another)
        assert await repo.find_key(another.digest) is None
        await repo.revoke_key(FORMER.id, NOW)
        with pytest.raises(Conflict):
            await repo.create_key(another)
        await repo.revoke_key(FRESH.id, NOW)
        await repo.create_key(another)
        assert (await repo.get_key(another.id)).state(NOW) == "active"

    with_repo(repo_harness, use)


def test_an_expired_key_leaves_its_name_free(repo_harness):
    """From its end on, and not before, another key may have the name; the expired one stays expired."""

    async def use(repo):
        await repo.create_key(msgspec.structs.replace(FORMER, expires_at=NOW))
        await repo.create_key(api_key(OTHER_ORG, 8, name="prod", expires_at=NOW))
        with pytest.raises(Conflict):
            await repo.create_key(msgspec.structs.replace(FRESH, created_at=NOW - MICROSECOND))
        await repo.create_key(FRESH)
        assert [key.state(NOW) for key in await repo.list_keys(ORG)] == ["expired", "active"]
        assert (await repo.get_key(FORMER.id)).expires_at == NOW
        (theirs,) = await repo.list_keys(OTHER_ORG)
        assert theirs == api_key(OTHER_ORG, 8, name="prod", expires_at=NOW)

    with_repo(repo_harness, use)
