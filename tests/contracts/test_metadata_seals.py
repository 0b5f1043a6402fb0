"""Sealed secrets in a metadata repo: all of them are found, and replaced together or not at all."""

import msgspec
import pytest
from builders import ORG, OTHER_ORG, embedded_instance, instance
from contracts.test_metadata import with_repo

from memtrace_core.errors import SealBroken
from memtrace_core.model import SealedSecret

FORMER = instance(id="arc_former", sealed_api_key=b"one")
CURRENT = instance(id="arc_current", sealed_api_key=b"two")
UNBOUND = instance(OTHER_ORG, id="arc_unbound", sealed_api_key=b"three")


async def prepare(repo):
    """Bind an org a second time, and take another org's instance away."""
    await repo.bind_instance(FORMER)
    await repo.rebind_instance(CURRENT)
    await repo.bind_instance(UNBOUND)
    await repo.unbind_instance(OTHER_ORG)


async def instances(repo):
    """Return all the instances that were made."""
    return [await repo.get_instance(one.org_id, one.id) for one in (FORMER, CURRENT, UNBOUND)]


def fresh(secret):
    """Seal anew, to be recognized."""
    return b"fresh " + secret.value


def test_every_sealed_secret_is_listed_with_its_context(repo_harness):
    """Bound, replaced and taken away: each instance's secret is told with what it is bound to."""

    async def use(repo):
        await prepare(repo)
        found = await repo.sealed_secrets()
        for one in (FORMER, CURRENT, UNBOUND):
            assert found.count(SealedSecret(one.key_context, one.sealed_api_key)) == 1

    with_repo(repo_harness, use)


def test_an_embedded_instance_has_no_secret(repo_harness):
    """What has no key is neither listed nor sealed."""

    async def use(repo):
        before = await repo.sealed_secrets()
        await repo.bind_instance(embedded_instance())
        assert await repo.sealed_secrets() == before
        contexts = []
        await repo.reseal(lambda secret: (contexts.append(secret.context), secret.value)[1])
        assert embedded_instance().key_context not in contexts
        assert await repo.instance_of(ORG) == embedded_instance()

    with_repo(repo_harness, use)


def test_every_secret_is_resealed_and_nothing_else_changes(repo_harness):
    """Each instance, retired or not, has its own fresh value, all else as it was; readers are told of a change."""

    async def use(repo):
        await prepare(repo)
        number, before = len(await repo.sealed_secrets()), repo.version()
        assert await repo.reseal(fresh) == number
        for one, found in zip((FORMER, CURRENT, UNBOUND), await instances(repo), strict=True):
            assert found == msgspec.structs.replace(one, sealed_api_key=b"fresh " + one.sealed_api_key)
        assert all(secret.value.startswith(b"fresh ") for secret in await repo.sealed_secrets())
        assert (await repo.instance_of(ORG)).id == CURRENT.id
        assert await repo.instance_of(OTHER_ORG) is None
        assert repo.version() != before

    with_repo(repo_harness, use)


def test_what_is_left_as_it_is_does_not_count_as_changed(repo_harness):
    """Only the secrets that the function changes are counted; when it changes none, nobody is told of a change."""

    async def use(repo):
        await prepare(repo)
        assert (
            await repo.reseal(lambda secret: b"new" if secret.context == FORMER.key_context else secret.value) == 1
        )
        assert [one.sealed_api_key for one in await instances(repo)] == [b"new", b"two", b"three"]
        before = repo.version()
        assert await repo.reseal(lambda secret: secret.value) == 0
        assert repo.version() == before

    with_repo(repo_harness, use)


@pytest.mark.parametrize("damaged", [FORMER, CURRENT, UNBOUND], ids=lambda one: one.id)
def test_a_secret_that_does_not_open_leaves_all_as_they_are(repo_harness, damaged):
    """Whichever of them fails, first or last, its error comes out, no secret is changed, and nobody is told."""

    async def use(repo):
        await prepare(repo)
        before = (await repo.sealed_secrets(), await instances(repo), repo.version())

        def reseal(secret):
            if secret.context == damaged.key_context:
                raise SealBroken(damaged.id)
            return fresh(secret)

        with pytest.raises(SealBroken, match=damaged.id):
            await repo.reseal(reseal)
        assert (await repo.sealed_secrets(), await instances(repo), repo.version()) == before
        # And the repo works on.
        assert await repo.reseal(fresh) == len(before[0])

    with_repo(repo_harness, use)


def test_secrets_of_a_deleted_org_are_gone(repo_harness):
    """With an org go the secrets of all its instances, the retired ones too, and no other org's."""

    async def use(repo):
        await prepare(repo)
        await repo.delete_org(ORG)
        contexts = {secret.context for secret in await repo.sealed_secrets()}
        assert contexts.isdisjoint({FORMER.key_context, CURRENT.key_context})
        assert UNBOUND.key_context in contexts

    with_repo(repo_harness, use)
