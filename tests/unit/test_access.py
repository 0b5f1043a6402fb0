from datetime import timedelta

import pytest
from builders import MICROSECOND, ORG, OTHER_ORG, START, api_key, in_memory, org, run, settle
from hypothesis import given
from hypothesis import strategies as st

from memtrace_core.access import EVERYTHING, require
from memtrace_core.errors import Forbidden, InvalidInput, Unauthenticated
from memtrace_core.model import DEFAULT_ORG_ID, Permission, Principal
from memtrace_core.testing import InMemoryFormerKeys

READ, WRITE, ADMIN = Permission.READ, Permission.WRITE, Permission.ADMIN


async def prepared(*, authenticate=True):
    """Return services with two orgs."""
    services = in_memory(authenticate=authenticate)
    await services.repo.create_org(org(ORG))
    await services.repo.create_org(org(OTHER_ORG))
    return services


async def refused(services, api_key):
    """Return the error that a key gets."""
    with pytest.raises(Unauthenticated) as caught:
        await services.access.authenticate(api_key)
    return caught.value


def test_a_key_acts_for_its_org_with_its_permissions():
    """Who holds a key is that key's org and nobody else."""

    async def body():
        services = await prepared()
        for org_id, permissions in ((ORG, READ), (OTHER_ORG, READ | WRITE)):
            key, secret = await services.tenants.create_key(org_id, "k", permissions)
            principal = await services.access.authenticate(secret)
            assert principal == Principal(org_id=org_id, permissions=permissions, key_id=key.id)

    run(body())


def test_keys_from_before_are_looked_for_when_ours_are_not_meant():
    """A former key acts like any other; one of ours, and one too long to be any, is not asked about."""

    async def body():
        key = api_key(OTHER_ORG, 7)
        former = InMemoryFormerKeys({"mtk_former": key})
        services = in_memory(former_keys=former)
        await services.repo.create_org(org(ORG))
        _, secret = await services.tenants.create_key(ORG, "k")
        assert (await services.access.authenticate(secret)).org_id == ORG
        principal = await services.access.authenticate("mtk_former")
        assert (principal.org_id, principal.key_id) == (OTHER_ORG, key.id)
        await refused(services, "mtk_other")
        await refused(services, "x" * 513)
        assert former.asked == ["mtk_former", "mtk_other"]

    run(body())


@pytest.mark.parametrize("end", [{"revoked_at": START}, {"expires_at": START}], ids=["revoked", "expired"])
def test_a_former_key_that_counts_no_more_is_refused(end):
    """What has ended has ended, whoever made the key."""

    async def body():
        services = in_memory(former_keys=InMemoryFormerKeys({"mtk_former": api_key(ORG, 7, **end)}))
        assert (await refused(services, "mtk_former")).code == "invalid_api_key"

    run(body())


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_key_is_a_missing_key(nothing):
    """Without a key the error says that it is missing."""

    async def body():
        error = await refused(await prepared(), nothing)
        assert (str(error), error.code) == ("missing API key", "missing_api_key")

    run(body())


def test_unknown_revoked_and_expired_keys_are_refused_alike():
    """A caller cannot tell a key that never was from one that is no more."""

    async def body():
        services = await prepared()
        revoked, revoked_secret = await services.tenants.create_key(ORG, "revoked")
        await services.tenants.revoke_key(revoked.id)
        _, expired_secret = await services.tenants.create_key(ORG, "expired", lifetime=timedelta(seconds=1))
        services.clock.advance(timedelta(seconds=1))
        for secret in ("mtk_unknown", "mtk_\ud800", "x" * 100_000, revoked_secret, expired_secret):
            error = await refused(services, secret)
            assert (str(error), error.code) == ("invalid API key", "invalid_api_key")

    run(body())


def test_a_revoked_key_fails_on_the_next_request():
    """A key that was just used, and so is cached, fails right after it is revoked."""

    async def body():
        services = await prepared()
        key, secret = await services.tenants.create_key(ORG, "k")
        await services.access.authenticate(secret)
        await services.tenants.revoke_key(key.id)
        await refused(services, secret)

    run(body())


def test_a_key_works_right_after_it_was_refused_as_unknown():
    """That a key was unknown is not remembered beyond its creation."""

    async def body():
        services = await prepared()
        key, secret = await services.tenants.create_key(ORG, "k")
        await services.repo.delete_org(ORG)
        await refused(services, secret)
        await services.repo.create_org(org(ORG))
        await services.repo.create_key(key)
        assert (await services.access.authenticate(secret)).key_id == key.id

    run(body())


def test_a_key_expires_at_its_time():
    """A microsecond before its expiry a key works, at it no more, though it is cached."""

    async def body():
        services = await prepared()
        _, secret = await services.tenants.create_key(ORG, "k", lifetime=timedelta(hours=1))
        services.clock.advance(timedelta(hours=1) - MICROSECOND)
        await services.access.authenticate(secret)
        services.clock.advance(MICROSECOND)
        await refused(services, secret)

    run(body())


@pytest.mark.parametrize("api_key", [None, "", "anything"])
def test_anybody_acts_for_the_default_org_with_authentication_off(api_key):
    """Without authentication everybody has all permissions in the default org."""

    async def body():
        services = await prepared(authenticate=False)
        principal = await services.access.authenticate(api_key)
        assert principal == Principal(org_id=DEFAULT_ORG_ID, permissions=EVERYTHING)
        assert principal.permissions == READ | WRITE | ADMIN

    run(body())


def test_uses_of_keys_are_written_down_together():
    """Nothing is written while keys are used; one flush writes the last use of each."""

    async def body():
        services = await prepared()
        one, one_secret = await services.tenants.create_key(ORG, "one")
        two, two_secret = await services.tenants.create_key(ORG, "two")
        three, _ = await services.tenants.create_key(ORG, "three")
        first = services.clock.now()
        await services.access.authenticate(one_secret)
        await services.access.authenticate(two_secret)
        services.clock.advance(timedelta(seconds=5))
        await services.access.authenticate(two_secret)
        assert await services.journal.key_uses([one.id, two.id, three.id]) == {}
        await services.access.flush_uses()
        assert await services.journal.key_uses([one.id, two.id, three.id]) == {
            one.id: first,
            two.id: first + timedelta(seconds=5),
        }

    run(body())


def test_nothing_is_written_while_no_key_is_used():
    """A flush without a use since the last one leaves the journal alone."""

    async def body():
        services = await prepared()
        _, secret = await services.tenants.create_key(ORG, "k")
        await services.access.authenticate(secret)
        await services.access.flush_uses()
        written = []

        async def record(used):
            written.append(used)

        services.journal.record_key_use = record
        await services.access.flush_uses()
        await settle()
        assert written == []

    run(body())


def test_a_refused_key_counts_as_no_use():
    """Trying an expired key does not make it used."""

    async def body():
        services = await prepared()
        key, secret = await services.tenants.create_key(ORG, "k", lifetime=timedelta(0))
        await refused(services, secret)
        await services.access.flush_uses()
        assert await services.journal.key_uses([key.id]) == {}

    run(body())


@pytest.mark.parametrize(
    ("held", "wanted", "allowed"),
    [
        (READ, READ, True),
        (READ, WRITE, False),
        (READ, ADMIN, False),
        (WRITE, WRITE, True),
        (WRITE, READ, False),
        (WRITE, ADMIN, False),
        (READ | WRITE, READ, True),
        (READ | WRITE, WRITE, True),
        (READ | WRITE, ADMIN, False),
        (READ | WRITE, READ | WRITE, True),
        (READ, READ | WRITE, False),
        (ADMIN, READ, True),
        (ADMIN, WRITE, True),
        (ADMIN, ADMIN, True),
        (Permission(0), READ, False),
    ],
)
def test_a_principal_may_do_what_its_permissions_say(held, wanted, allowed):
    """Each permission stands for itself, admin implies the others."""
    principal = Principal(org_id=ORG, permissions=held)
    if allowed:
        require(principal, wanted)
    else:
        with pytest.raises(Forbidden):
            require(principal, wanted)


def test_a_missing_permission_is_named():
    """The error says which permission the key lacks."""
    with pytest.raises(Forbidden, match="lacks the write permission") as caught:
        require(Principal(org_id=ORG, permissions=READ), WRITE)
    assert caught.value.code == "missing_permission"


@pytest.mark.parametrize(
    ("text", "permissions"),
    [
        ("read", READ),
        ("read,write", READ | WRITE),
        ("write, read", READ | WRITE),
        (" Admin ", ADMIN),
        ("read,read", READ),
    ],
)
def test_permissions_are_read_as_people_write_them(text, permissions):
    """Names in any order and case, with spaces or repeated, are the permissions they name."""
    assert Permission.parse(text) == permissions


@pytest.mark.parametrize("text", ["", ",", "read,", "owner", "read write", "read;write", "0", "allows"])
def test_what_is_no_permission_is_refused(text):
    """An unknown name, or none at all, grants nothing."""
    with pytest.raises(InvalidInput, match="read, write and admin"):
        Permission.parse(text)


@given(st.lists(st.sampled_from(list(Permission)), min_size=1))
def test_permissions_survive_being_written_and_read(chosen):
    """The text of permissions reads back as the same permissions."""
    permissions = Permission(0)
    for one in chosen:
        permissions |= one
    assert Permission.parse(str(permissions)) == permissions


@pytest.mark.parametrize(
    ("permissions", "text"), [(READ, "read"), (READ | WRITE, "read,write"), (EVERYTHING, "read,write,admin")]
)
def test_permissions_are_written_as_the_cli_writes_them(permissions, text):
    """The text of permissions is their names with commas."""
    assert str(permissions) == text
