import asyncio
from datetime import timedelta

import msgspec
import pytest
from builders import MICROSECOND, ORG, OTHER_ORG, START, api_key, bound, in_memory, instance, run

from memtrace_core.errors import Conflict, NotFound, Unauthenticated
from memtrace_core.model import Permission
from memtrace_core.testing import InMemoryMetadataRepo

DAY = timedelta(days=1)
OVERLAP = timedelta(hours=24)


async def prepared(**others):
    """Return services with two orgs."""
    return await bound(in_memory(**others), instance(ORG), instance(OTHER_ORG))


async def holder(services, secret):
    """Return whom a key lets in, None if nobody."""
    try:
        return await services.access.authenticate(secret)
    except Unauthenticated:
        return None


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "active"),
        ({"expires_at": START + MICROSECOND}, "active"),
        ({"expires_at": START}, "expired"),
        ({"superseded_at": START}, "superseded"),
        ({"superseded_at": START, "expires_at": START + MICROSECOND}, "superseded"),
        ({"superseded_at": START, "expires_at": START}, "expired"),
        ({"revoked_at": START}, "revoked"),
        ({"revoked_at": START, "expires_at": START, "superseded_at": START}, "revoked"),
    ],
)
def test_a_key_has_one_state(changes, state):
    """Revoked goes before expired, expired before superseded, and a key is expired from its very end on."""
    assert api_key(**changes).state(START) == state


def test_a_rotated_key_has_a_successor_of_its_kind():
    """Org, name and permissions are the former's, the secret is new, and both count until the overlap ends."""

    async def body():
        services = await prepared()
        former, old = await services.tenants.create_key(ORG, "prod", Permission.READ)
        services.clock.advance(30 * DAY)
        now = services.clock.now()
        fresh, new = await services.tenants.rotate_key(former.id, OVERLAP)
        assert (fresh.org_id, fresh.name, fresh.permissions) == (ORG, "prod", Permission.READ)
        assert (fresh.created_at, fresh.expires_at, fresh.superseded_at) == (now, None, None)
        assert fresh.id != former.id
        assert new != old
        assert await services.tenants.list_keys(ORG) == [
            msgspec.structs.replace(former, superseded_at=now, expires_at=now + OVERLAP),
            fresh,
        ]
        services.clock.advance(OVERLAP - MICROSECOND)
        assert (await holder(services, old)).key_id == former.id
        assert (await holder(services, new)).key_id == fresh.id
        services.clock.advance(MICROSECOND)
        assert await holder(services, old) is None
        assert (await holder(services, new)).permissions == Permission.READ

    run(body())


def test_an_overlap_does_not_lengthen_a_keys_life():
    """A key that would end before the overlap does ends when it would have ended."""

    async def body():
        services = await prepared()
        former, old = await services.tenants.create_key(ORG, "prod", lifetime=OVERLAP)
        services.clock.advance(OVERLAP - MICROSECOND)
        await services.tenants.rotate_key(former.id, OVERLAP)
        assert await holder(services, old)
        services.clock.advance(MICROSECOND)
        assert await holder(services, old) is None

    run(body())


@pytest.mark.parametrize(
    ("lifetime", "wanted", "expected"),
    [(None, None, None), (90 * DAY, None, 90 * DAY), (90 * DAY, 7 * DAY, 7 * DAY), (None, 7 * DAY, 7 * DAY)],
    ids=["for ever", "as long as the former", "as long as is said", "no longer for ever"],
)
def test_a_successor_lives_as_long_as_the_former_was_to(lifetime, wanted, expected):
    """The whole lifetime begins anew, unless another one is wanted, and so again at the next rotation."""

    async def body():
        services = await prepared()
        key, _ = await services.tenants.create_key(ORG, "prod", lifetime=lifetime)
        for _ in range(2):
            services.clock.advance(5 * DAY)
            key, _ = await services.tenants.rotate_key(key.id, OVERLAP, lifetime=wanted)
            assert key.expires_at == (None if expected is None else services.clock.now() + expected)

    run(body())


async def _revoked(services, key):
    await services.tenants.revoke_key(key.id)


async def _expired(services, key):
    services.clock.advance(90 * DAY)


async def _superseded(services, key):
    await services.tenants.rotate_key(key.id, OVERLAP)


@pytest.mark.parametrize("ended", [_revoked, _expired, _superseded])
def test_only_an_active_key_is_rotated(ended):
    """The refusal says how the key stands, and neither it nor any other key is changed."""

    async def body():
        services = await prepared()
        key, _ = await services.tenants.create_key(ORG, "prod", lifetime=90 * DAY)
        await ended(services, key)
        before = await services.tenants.list_keys(ORG)
        with pytest.raises(Conflict, match=f"{key.id} is {ended.__name__[1:]}; only an active") as caught:
            await services.tenants.rotate_key(key.id, OVERLAP)
        assert caught.value.code == "key_not_active"
        assert await services.tenants.list_keys(ORG) == before

    run(body())


def test_an_unknown_key_is_not_rotated():
    """The error names the id that was given, and where to look."""

    async def body():
        services = await prepared()
        with pytest.raises(NotFound, match="key_x") as caught:
            await services.tenants.rotate_key("key_x", OVERLAP)
        assert caught.value.code == "key_not_found"
        assert "memtrace key list" in caught.value.hint

    run(body())


class SlowRepo(InMemoryMetadataRepo):
    """Lets others go on between looking a key up and whatever follows."""

    async def get_key(self, key_id):
        found = await super().get_key(key_id)
        await asyncio.sleep(0)
        return found


async def rotate_twice_at_once(services):
    """Rotate one key twice at the same time, and return the key and both outcomes."""
    key, _ = await services.tenants.create_key(ORG, "prod")
    rotations = (services.tenants.rotate_key(key.id, OVERLAP) for _ in range(2))
    return key, await asyncio.gather(*rotations, return_exceptions=True)


def test_of_two_rotations_at_once_one_wins():
    """Both have seen an active key; one gets a successor, the other is refused."""

    async def body():
        services = await prepared(repo=SlowRepo())
        key, outcomes = await rotate_twice_at_once(services)
        (refused,) = [one for one in outcomes if isinstance(one, BaseException)]
        assert isinstance(refused, Conflict)
        ((fresh, new),) = [one for one in outcomes if one is not refused]
        assert {one.id for one in await services.tenants.list_keys(ORG)} == {key.id, fresh.id}
        assert await holder(services, new)

    run(body())


def test_who_loses_the_race_is_told_how_the_key_stands_now():
    """The refused one of two rotations at once hears that the key is superseded, not that it is active."""

    async def body():
        _, outcomes = await rotate_twice_at_once(await prepared(repo=SlowRepo()))
        (refused,) = [one for one in outcomes if isinstance(one, BaseException)]
        assert "is superseded" in str(refused)

    run(body())


def test_the_name_of_an_expired_key_can_be_used_again():
    """While the key counts its name is taken; from its end on another may have it."""

    async def body():
        services = await prepared()
        _, old = await services.tenants.create_key(ORG, "prod", lifetime=DAY)
        services.clock.advance(DAY - MICROSECOND)
        with pytest.raises(Conflict):
            await services.tenants.create_key(ORG, "prod")
        services.clock.advance(MICROSECOND)
        _, new = await services.tenants.create_key(ORG, "prod")
        assert await holder(services, old) is None
        assert await holder(services, new)

    run(body())


def test_revoking_ends_a_superseded_key_at_once_and_no_other():
    """A former key that got out is ended before its overlap is over, and the successor goes on."""

    async def body():
        services = await prepared()
        former, old = await services.tenants.create_key(ORG, "prod")
        _, new = await services.tenants.rotate_key(former.id, OVERLAP)
        await services.tenants.revoke_key(former.id)
        assert await holder(services, old) is None
        assert await holder(services, new)

    run(body())
