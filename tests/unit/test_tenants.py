import re
from datetime import timedelta

import msgspec
import pytest
from builders import ORG, OTHER_ORG, bound, draft, embedded_instance, in_memory, instance, org, run
from hypothesis import given
from hypothesis import strategies as st

from memtrace_core.entries import OrgHoldings
from memtrace_core.errors import Conflict, InvalidInput, NotFound, OrgClosing, SealBroken, StorageUnavailable
from memtrace_core.identifiers import api_key_digest
from memtrace_core.memories import NewMemory
from memtrace_core.model import DEFAULT_ORG_ID, LEGACY_INSTANCE_ID, Permission
from memtrace_core.query import MemoryQuery
from memtrace_core.tenants import Binding, mask
from memtrace_core.testing import TransparentVault

ARC = Binding(url="https://arc.example", api_key="arc-secret", database="memory")
NEW = [NewMemory(agent_id="ada", content="kept")]
HOUR = timedelta(hours=1)


async def prepared():
    """Return services with two orgs and no instance."""
    services = in_memory()
    await services.repo.create_org(org(ORG))
    await services.repo.create_org(org(OTHER_ORG))
    return services


def opened(one):
    """Return the Arc key of an instance in the clear."""
    return TransparentVault().open(one.sealed_api_key, one.key_context)


def test_an_org_is_created_with_an_id_of_its_own():
    """Two orgs of one name are two orgs."""

    async def body():
        services = in_memory()
        one = await services.tenants.create_org("acme")
        two = await services.tenants.create_org("acme")
        assert re.fullmatch(r"org_[0-9a-f]{24}", one.id)
        assert one.id != two.id
        assert await services.tenants.get_org(one.id) == one
        assert (one.name, one.created_at) == ("acme", services.clock.now())

    run(body())


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 129])
def test_an_org_with_a_bad_name_is_refused(name):
    """The refusal names the field, and no org came to be."""

    async def body():
        services = in_memory()
        with pytest.raises(InvalidInput, match="name"):
            await services.tenants.create_org(name)
        assert await services.tenants.list_orgs() == []

    run(body())


def test_the_default_org_is_created_once():
    """Ensuring it twice leaves the first one as it is."""

    async def body():
        services = in_memory()
        first = await services.tenants.ensure_default_org()
        services.clock.advance(HOUR)
        assert await services.tenants.ensure_default_org() == first
        assert (first.id, first.name) == (DEFAULT_ORG_ID, "Default")

    run(body())


def test_orgs_are_listed_oldest_first_with_their_instances():
    """Each org comes with the instance that it is bound to, or none."""

    async def body():
        services = in_memory()
        one = await services.tenants.create_org("one")
        services.clock.advance(HOUR)
        two = await services.tenants.create_org("two")
        arc = await services.tenants.bind(two.id, ARC)
        assert await services.tenants.list_orgs() == [(one, None), (two, arc)]

    run(body())


@pytest.mark.parametrize(
    "act",
    [
        lambda tenants: tenants.get_org("org_x"),
        lambda tenants: tenants.holdings("org_x"),
        lambda tenants: tenants.delete_org("org_x"),
        lambda tenants: tenants.bind("org_x", ARC),
        lambda tenants: tenants.rebind("org_x", ARC),
        lambda tenants: tenants.move_pending("org_x"),
        lambda tenants: tenants.unbind("org_x"),
        lambda tenants: tenants.instance_of("org_x"),
        lambda tenants: tenants.create_key("org_x", "k"),
        lambda tenants: tenants.list_keys("org_x"),
    ],
    ids=["get", "holdings", "delete", "bind", "rebind", "move", "unbind", "instance", "create key", "list keys"],
)
def test_an_unknown_org_is_named_in_the_error(act):
    """Whatever is done to an org that is not there fails, and says where to look."""

    async def body():
        services = await prepared()
        with pytest.raises(NotFound, match="org_x") as caught:
            await act(services.tenants)
        assert (caught.value.code, caught.value.hint) == ("org_not_found", "see `memtrace org list`")

    run(body())


def test_a_binding_seals_the_arc_key_for_its_place():
    """The key opens for this org and this instance, and for no other."""

    async def body():
        services = await prepared()
        made = await services.tenants.bind(ORG, ARC)
        assert re.fullmatch(r"arc_[0-9a-f]{24}", made.id)
        assert (made.org_id, made.url, made.database, made.measurement) == (
            ORG,
            "https://arc.example",
            "memory",
            "events",
        )
        assert opened(made) == "arc-secret"
        assert made.key_context == f"{ORG}|{made.id}|arc_api_key"
        for moved in ({"org_id": OTHER_ORG}, {"id": "arc_other"}):
            with pytest.raises(SealBroken):
                opened(msgspec.structs.replace(made, **moved))
        assert await services.tenants.instance_of(ORG) == made
        assert await services.memories._directory.instance(ORG) == made

    run(body())


def test_an_org_is_bound_once():
    """A second binding is a conflict and leaves the first."""

    async def body():
        services = await prepared()
        made = await services.tenants.bind(ORG, ARC)
        with pytest.raises(Conflict):
            await services.tenants.bind(ORG, ARC)
        assert await services.tenants.instance_of(ORG) == made

    run(body())


def test_the_embedded_store_needs_no_key():
    """An embedded binding has nothing sealed."""

    async def body():
        services = await prepared()
        made = await services.tenants.bind(ORG, Binding(url="embedded:", database="memory"))
        assert made.embedded
        assert made.sealed_api_key is None
        assert services.tenants.masked_api_key(made) is None

    run(body())


BAD_BINDINGS = [
    ({"url": None}, "url"),
    ({"url": ""}, "url"),
    ({"url": "arc.example"}, "url"),
    ({"url": "ftp://arc.example"}, "url"),
    ({"url": "file:///etc/passwd"}, "url"),
    ({"url": "embedded"}, "url"),
    ({"url": "embedded:/x"}, "url"),
    ({"url": "http://"}, "url"),
    ({"url": "http:///"}, "url"),
    ({"url": "http://:8000"}, "url"),
    ({"url": "http:///path"}, "url"),
    ({"url": "http://user:pw@arc.example"}, "url"),
    ({"url": "http://arc.example?q=1"}, "url"),
    ({"url": "http://arc.example#f"}, "url"),
    ({"url": "http://arc example"}, "url"),
    ({"url": "http://arc.example\n"}, "url"),
    ({"url": "http://ärc.example"}, "url"),
    ({"url": "http://" + "a" * 2042}, "url"),
    ({"api_key": None}, "api-key"),
    ({"api_key": ""}, "api-key"),
    ({"api_key": "with space"}, "api-key"),
    ({"api_key": "line\nbreak"}, "api-key"),
    ({"api_key": "kéy"}, "api-key"),
    ({"database": None}, "database"),
    ({"database": ""}, "database"),
    ({"database": "a.b"}, "database"),
    ({"measurement": "a-b"}, "measurement"),
    ({"measurement": "pg_x"}, "measurement"),
    ({"url": "embedded:", "api_key": "secret"}, "api-key"),
]


@pytest.mark.parametrize(("changes", "field"), BAD_BINDINGS, ids=lambda value: ascii(value)[:60])
def test_a_bad_binding_is_refused_by_name(changes, field):
    """The refusal names the field, never the secret, and the org stays unbound."""

    async def body():
        services = await prepared()
        with pytest.raises(InvalidInput, match=field) as caught:
            await services.tenants.bind(ORG, msgspec.structs.replace(ARC, **changes))
        assert "secret" not in str(caught.value)
        assert await services.repo.instance_of(ORG) is None

    run(body())


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("http://arc.example:8000", "http://arc.example:8000"),
        ("https://arc.example/", "https://arc.example"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://" + "a" * 2041, "http://" + "a" * 2041),
    ],
    ids=lambda url: url[:30],
)
def test_a_url_is_kept_without_a_slash_at_its_end(given, kept):
    """A good url is taken, up to 2,048 characters."""

    async def body():
        services = await prepared()
        assert (await services.tenants.bind(ORG, msgspec.structs.replace(ARC, url=given))).url == kept

    run(body())


def test_a_new_api_key_changes_the_binding_in_place():
    """Rebinding with another key alone keeps the instance's id, so everything uses it at once."""

    async def body():
        services = await prepared()
        former = await services.tenants.bind(ORG, ARC)
        services.clock.advance(HOUR)
        changed = await services.tenants.rebind(ORG, Binding(api_key="arc-second"))
        assert opened(changed) == "arc-second"
        assert (changed.updated_at, changed.created_at) == (former.created_at + HOUR, former.created_at)
        assert changed == msgspec.structs.replace(
            former, sealed_api_key=changed.sealed_api_key, updated_at=changed.updated_at
        )
        assert await services.tenants.instance_of(ORG) == changed
        assert await services.repo.get_instance(ORG, former.id) == changed

    run(body())


@pytest.mark.parametrize(
    "changes", [{"url": "http://new.example"}, {"database": "other"}, {"measurement": "other"}], ids=str
)
def test_another_place_makes_another_instance_with_the_same_key(changes):
    """Rebinding to another place retires the former instance, which stays readable, and carries the key over."""

    async def body():
        services = await prepared()
        former = await services.tenants.bind(ORG, ARC)
        changed = await services.tenants.rebind(ORG, Binding(**changes))
        assert changed.id != former.id
        for field in ("url", "database", "measurement"):
            assert getattr(changed, field) == changes.get(field, getattr(former, field))
        assert opened(changed) == "arc-secret"
        assert await services.tenants.instance_of(ORG) == changed
        assert await services.repo.get_instance(ORG, former.id) == former

    run(body())


def test_a_rebinding_to_the_embedded_store_drops_the_key():
    """The embedded store keeps no secret of the former Arc."""

    async def body():
        services = await prepared()
        await services.tenants.bind(ORG, ARC)
        changed = await services.tenants.rebind(ORG, Binding(url="embedded:"))
        assert changed.embedded
        assert changed.sealed_api_key is None

    run(body())


def test_a_rebinding_from_the_embedded_store_needs_a_key():
    """An Arc over HTTP needs a key of its own; without one the binding stays."""

    async def body():
        services = await prepared()
        former = await services.tenants.bind(ORG, Binding(url="embedded:", database="memory"))
        with pytest.raises(InvalidInput, match="api-key"):
            await services.tenants.rebind(ORG, Binding(url="http://arc.example"))
        assert await services.tenants.instance_of(ORG) == former
        changed = await services.tenants.rebind(ORG, Binding(url="http://arc.example", api_key="k"))
        assert opened(changed) == "k"

    run(body())


@pytest.mark.parametrize(
    "changes", [{"url": "ftp://x"}, {"database": "a b"}, {"measurement": "a-b"}, {"api_key": "a b"}]
)
def test_a_bad_rebinding_leaves_the_former(changes):
    """A value that breaks its rule changes nothing."""

    async def body():
        services = await prepared()
        former = await services.tenants.bind(ORG, ARC)
        with pytest.raises(InvalidInput):
            await services.tenants.rebind(ORG, Binding(**changes))
        assert await services.tenants.instance_of(ORG) == former

    run(body())


def test_waiting_memories_can_be_moved_to_the_present_instance():
    """After a rebinding what waited for the former instance goes where the org is bound now."""

    async def body():
        services = await bound(in_memory(), instance(ORG), instance(OTHER_ORG))
        await services.memories.remember(ORG, NEW)
        await services.memories.remember(OTHER_ORG, NEW)
        await services.repo.rebind_instance(instance(ORG, id="arc_new", database="new"))
        assert await services.tenants.move_pending(ORG) == 1
        assert (await services.journal.next_batch(ORG, 10, 1 << 20)).instance_id == "arc_new"
        assert (await services.journal.next_batch(OTHER_ORG, 10, 1 << 20)).instance_id == instance(OTHER_ORG).id

    run(body())


def test_an_unbound_org_has_nowhere_to_move_memories_to():
    """Without an instance moving is an error, and the memories stay."""

    async def body():
        services = await bound(in_memory())
        await services.memories.remember(ORG, NEW)
        await services.tenants.unbind(ORG)
        with pytest.raises(NotFound):
            await services.tenants.move_pending(ORG)
        assert await services.journal.holdings(ORG) == OrgHoldings(pending=1)

    run(body())


def test_an_org_can_be_unbound():
    """An unbound org has no instance; its former one is retired, not forgotten."""

    async def body():
        services = await prepared()
        former = await services.tenants.bind(ORG, ARC)
        await services.tenants.unbind(ORG)
        for act in (services.tenants.instance_of, services.tenants.unbind):
            with pytest.raises(NotFound) as caught:
                await act(ORG)
            assert caught.value.code == "instance_not_found"
            assert caught.value.hint == f"bind one with `memtrace org add-arc {ORG}`"
        with pytest.raises(NotFound):
            await services.tenants.rebind(ORG, ARC)
        assert await services.repo.get_instance(ORG, former.id) == former

    run(body())


@pytest.mark.parametrize(
    ("secret", "masked"),
    [
        ("", ""),
        ("a", "*"),
        ("12345678", "********"),
        ("123456789", "1234*6789"),
        ("arc-secret-key", "arc-******-key"),
    ],
)
def test_a_masked_secret_shows_its_ends_only(secret, masked):
    """Four characters at each end, and none of a secret of eight or fewer."""
    assert mask(secret) == masked


@given(st.text())
def test_a_mask_is_as_long_as_its_secret(secret):
    """A mask hides all but eight characters and keeps the length."""
    masked = mask(secret)
    assert len(masked) == len(secret)
    assert masked[4:-4] == "*" * max(0, len(secret) - 8)
    assert len(secret) > 8 or set(masked) <= {"*"}


def test_the_key_of_an_instance_is_shown_masked():
    """What an operator sees of an Arc key is its mask."""

    async def body():
        services = await prepared()
        made = await services.tenants.bind(ORG, ARC)
        assert services.tenants.masked_api_key(made) == "arc-**cret"

    run(body())


def test_a_legacy_block_binds_the_default_org():
    """The instance of an old `[arc]` block becomes `arc_default` of `org_default`."""

    async def body():
        services = in_memory()
        made = await services.tenants.migrate_legacy(Binding(url="http://old.example", api_key="k"))
        assert (made.id, made.org_id) == (LEGACY_INSTANCE_ID, DEFAULT_ORG_ID) == ("arc_default", "org_default")
        assert (made.database, made.measurement) == ("memory", "events")
        assert opened(made) == "k"
        assert await services.tenants.instance_of(DEFAULT_ORG_ID) == made

    run(body())


def test_a_legacy_block_keeps_its_database_and_measurement():
    """What the block says goes before the defaults."""

    async def body():
        services = in_memory()
        legacy = msgspec.structs.replace(ARC, database="olddb", measurement="oldm")
        made = await services.tenants.migrate_legacy(legacy)
        assert (made.database, made.measurement) == ("olddb", "oldm")

    run(body())


@pytest.mark.parametrize("of", ["default", "another"])
@pytest.mark.parametrize("unbound", [False, True], ids=["bound", "unbound since"])
def test_a_legacy_block_is_ignored_once_any_org_is_bound(of, unbound):
    """Migrating twice, or beside another org's binding, changes nothing, though that may be gone by now."""

    async def body():
        services = await prepared()
        if of == "default":
            first = await services.tenants.migrate_legacy(ARC)
        else:
            first = await services.tenants.bind(ORG, ARC)
        if unbound:
            await services.tenants.unbind(first.org_id)
        assert await services.tenants.migrate_legacy(Binding(url="http://x.example", api_key="x")) is None
        assert await services.repo.list_instances() == ([] if unbound else [first])

    run(body())


def test_a_default_org_is_open_before_it_is_there():
    """One of its id may have been deleted: whoever finds it later does not open its journal any more."""

    async def body():
        services = in_memory()
        await services.journal.close_org(DEFAULT_ORG_ID)

        async def fail(org_id):
            raise StorageUnavailable("the disk is away")

        reopen, services.journal.reopen_org = services.journal.reopen_org, fail
        with pytest.raises(StorageUnavailable):
            await services.tenants.ensure_default_org()
        services.journal.reopen_org = reopen
        await services.tenants.ensure_default_org()
        await services.journal.append(embedded_instance(DEFAULT_ORG_ID), [draft("kept")])

    run(body())


def test_a_key_is_shown_once_and_kept_as_its_digest():
    """What is stored of a key is its SHA-256, and that finds it."""

    async def body():
        services = await prepared()
        key, secret = await services.tenants.create_key(ORG, "prod")
        assert secret.startswith("mtk_")
        assert re.fullmatch(r"key_[0-9a-f]{12}", key.id)
        assert key.digest == api_key_digest(secret)
        assert secret not in repr(key)
        assert (key.org_id, key.name, key.created_at) == (ORG, "prod", services.clock.now())
        assert (key.expires_at, key.revoked_at) == (None, None)
        assert await services.repo.find_key(api_key_digest(secret)) == key

    run(body())


def test_a_key_may_read_and_write_unless_said_otherwise():
    """The default is read and write, never admin; a lifetime sets the expiry."""

    async def body():
        services = await prepared()
        plain, _ = await services.tenants.create_key(ORG, "plain")
        assert plain.permissions == Permission.READ | Permission.WRITE
        special, _ = await services.tenants.create_key(ORG, "special", Permission.ADMIN, lifetime=HOUR)
        assert special.permissions == Permission.ADMIN
        assert special.expires_at == services.clock.now() + HOUR

    run(body())


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 129])
def test_a_key_with_a_bad_name_is_refused(name):
    """The refusal names the field, and no key came to be."""

    async def body():
        services = await prepared()
        with pytest.raises(InvalidInput, match="name"):
            await services.tenants.create_key(ORG, name)
        assert await services.tenants.list_keys(ORG) == []

    run(body())


def test_a_key_name_is_free_again_after_revocation_and_in_another_org():
    """Names are unique among an org's live keys only."""

    async def body():
        services = await prepared()
        first, _ = await services.tenants.create_key(ORG, "prod")
        with pytest.raises(Conflict):
            await services.tenants.create_key(ORG, "prod")
        await services.tenants.create_key(OTHER_ORG, "prod")
        await services.tenants.revoke_key(first.id)
        services.clock.advance(HOUR)
        second, _ = await services.tenants.create_key(ORG, "prod")
        assert [key.id for key in await services.tenants.list_keys(ORG)] == [first.id, second.id]

    run(body())


def test_revoking_an_unknown_key_is_an_error():
    """The error names the key and says where to look."""

    async def body():
        services = await prepared()
        with pytest.raises(NotFound, match="key_x") as caught:
            await services.tenants.revoke_key("key_x")
        assert caught.value.code == "key_not_found"
        assert caught.value.hint == "see `memtrace key list --org <org_id>`"

    run(body())


def test_an_org_with_undelivered_memories_is_not_deleted():
    """Deleting is refused while memories exist nowhere else, and the org goes on as before."""

    async def body():
        services = await bound(in_memory())
        await services.memories.remember(ORG, NEW)
        with pytest.raises(Conflict, match="1 memories") as caught:
            await services.tenants.delete_org(ORG)
        assert caught.value.code == "undelivered_memories"
        assert "--discard-pending" in caught.value.hint
        assert await services.tenants.get_org(ORG) == org()
        (second,) = await services.memories.remember(ORG, [NewMemory(agent_id="ada", content="another")])
        assert (await services.memories.find(MemoryQuery(org_id=ORG, limit=1))).memories == [second]

    run(body())


def test_an_org_is_deleted_with_its_pending_memories_if_that_is_said():
    """`discard_pending` takes the org away with everything, and says what it held."""

    async def body():
        services = await bound(in_memory(), instance(ORG), instance(OTHER_ORG))
        _, secret = await services.tenants.create_key(ORG, "k")
        await services.memories.remember(ORG, NEW)
        await services.memories.remember(OTHER_ORG, NEW)
        assert await services.tenants.delete_org(ORG, discard_pending=True) == OrgHoldings(pending=1)
        with pytest.raises(NotFound):
            await services.tenants.get_org(ORG)
        assert await services.repo.find_key(api_key_digest(secret)) is None
        assert await services.journal.holdings(ORG) == OrgHoldings()
        assert await services.journal.holdings(OTHER_ORG) == OrgHoldings(pending=1)

    run(body())


def test_an_org_on_the_embedded_store_is_deleted_with_its_memories():
    """Embedded memories are no hindrance, are counted, and go."""

    async def body():
        services = await bound(in_memory(), embedded_instance())
        await services.memories.remember(ORG, NEW)
        assert await services.tenants.holdings(ORG) == OrgHoldings(embedded=1)
        assert await services.tenants.delete_org(ORG) == OrgHoldings(embedded=1)
        assert await services.journal.holdings(ORG) == OrgHoldings()

    run(body())


@pytest.mark.parametrize("step", ["holdings", "purge_org"])
def test_no_memory_slips_in_while_an_org_is_deleted(step):
    """From before the check on, a server that still knows the org cannot store anything in it."""

    async def body():
        services = await bound(in_memory())
        original = getattr(services.journal, step)
        refused = []

        async def write_first(org_id):
            with pytest.raises(OrgClosing):
                await services.memories.remember(ORG, NEW)
            refused.append(step)
            return await original(org_id)

        setattr(services.journal, step, write_first)
        await services.tenants.delete_org(ORG)
        assert refused == [step]
        assert await services.journal.pending_orgs() == []

    run(body())


def test_a_deletion_that_was_interrupted_can_be_repeated():
    """If the metadata could not be deleted, the org is still there, closed, and is deleted the next time."""

    async def body():
        services = await bound(in_memory())
        original = services.repo.delete_org

        async def fail(org_id):
            raise OSError

        services.repo.delete_org = fail
        with pytest.raises(OSError):  # noqa: PT011 - it has no message
            await services.tenants.delete_org(ORG)
        with pytest.raises(OrgClosing):
            await services.memories.remember(ORG, NEW)
        services.repo.delete_org = original
        await services.tenants.delete_org(ORG)
        assert await services.tenants.list_orgs() == []

    run(body())
