import asyncio
from datetime import timedelta

import msgspec
import pytest
from builders import (
    MICROSECOND,
    ORG,
    OTHER_ORG,
    START,
    agent,
    api_key,
    embedded_instance,
    instance,
    org,
    run,
    session,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memtrace_core.errors import Conflict, InvalidInput, NotFound
from memtrace_core.model import Permission
from memtrace_core.query import Position

LATER = START + timedelta(hours=1)
over_implementations = settings(
    max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def with_repo(open_it, use):
    """Await `use` with a repo that has two orgs."""

    async def body():
        async with open_it() as held:
            for org_id in (ORG, OTHER_ORG):
                await held.repo.create_org(org(org_id))
            await use(held.repo)

    run(body())


# --- orgs


def test_an_org_is_what_was_stored(repo_harness):
    """An org comes back by its id, to the microsecond; another id has none."""

    async def use(repo):
        made = org("org_c", name="Ünïcode 🙂 'x'", created_at=START + MICROSECOND)
        await repo.create_org(made)
        assert await repo.get_org("org_c") == made
        assert await repo.get_org("org_x") is None

    with_repo(repo_harness, use)


def test_the_retention_of_an_org_is_kept(repo_harness):
    """Until it is set to another or taken away; other orgs have their own."""

    async def use(repo):
        for retention in (timedelta(days=90), timedelta(hours=1), None, timedelta(days=3653)):
            assert await repo.set_retention(ORG, retention)
            assert (await repo.get_org(ORG)).retention == retention
        assert [one.retention for one in await repo.list_orgs()] == [timedelta(days=3653), None]
        assert not await repo.set_retention("org_none", None)

    with_repo(repo_harness, use)


def test_orgs_are_listed_oldest_first(repo_harness):
    """All orgs are listed, by the time of their making."""

    async def use(repo):
        old = org("org_z", created_at=START - timedelta(days=1))
        young = org("org_0", created_at=LATER)
        await repo.create_org(young)
        await repo.create_org(old)
        assert await repo.list_orgs() == [old, org(ORG), org(OTHER_ORG), young]

    with_repo(repo_harness, use)


def test_an_org_id_is_taken_once(repo_harness):
    """The same id again is a conflict and leaves the first as it is."""

    async def use(repo):
        with pytest.raises(Conflict):
            await repo.create_org(org(ORG, name="another"))
        assert await repo.get_org(ORG) == org(ORG)

    with_repo(repo_harness, use)


def test_deleting_an_org_takes_everything_of_it_and_nothing_of_another(repo_harness):
    """Instances, retired ones too, keys, agents and sessions go with their org."""

    async def use(repo):
        for number, org_id in enumerate((ORG, OTHER_ORG)):
            await repo.bind_instance(instance(org_id, id=f"arc_former_{number}"))
            await repo.rebind_instance(instance(org_id))
            await repo.create_key(api_key(org_id, number))
            await repo.create_agent(agent(org_id, number))
            await repo.create_session(session(org_id, number))
        assert await repo.delete_org(ORG) is True
        assert await repo.delete_org(ORG) is False
        assert await repo.get_org(ORG) is None
        assert await repo.instance_of(ORG) is None
        assert await repo.get_instance(ORG, "arc_former_0") is None
        assert await repo.get_instance(ORG, instance(ORG).id) is None
        assert await repo.find_key(api_key(ORG, 0).digest) is None
        assert await repo.list_keys(ORG) == []
        assert await repo.find_agent(ORG, agent(ORG, 0).id) is None
        assert await repo.list_agents(ORG, 10, None) == []
        assert await repo.get_session(ORG, session(ORG, 0).id) is None
        assert await repo.list_sessions(ORG, None, 10, None) == []
        assert await repo.count_sessions(ORG, "ada") == (0, 0)
        assert await repo.list_orgs() == [org(OTHER_ORG)]
        assert await repo.list_instances() == [instance(OTHER_ORG)]
        assert await repo.get_instance(OTHER_ORG, "arc_former_1") == instance(OTHER_ORG, id="arc_former_1")
        assert await repo.find_key(api_key(OTHER_ORG, 1).digest) == api_key(OTHER_ORG, 1)
        assert await repo.list_agents(OTHER_ORG, 10, None) == [agent(OTHER_ORG, 1)]
        assert await repo.list_sessions(OTHER_ORG, None, 10, None) == [session(OTHER_ORG, 1)]

    with_repo(repo_harness, use)


def test_an_org_created_again_has_nothing_of_its_former_life(repo_harness):
    """The same id after a deletion is an empty org."""

    async def use(repo):
        await repo.bind_instance(instance(ORG))
        await repo.create_agent(agent(ORG))
        await repo.create_key(api_key(ORG))
        await repo.delete_org(ORG)
        await repo.create_org(org(ORG))
        assert await repo.instance_of(ORG) is None
        assert await repo.list_agents(ORG, 10, None) == []
        assert await repo.list_keys(ORG) == []

    with_repo(repo_harness, use)


@pytest.mark.parametrize(
    "create",
    [
        lambda repo: repo.bind_instance(instance("org_x")),
        lambda repo: repo.create_key(api_key("org_x")),
        lambda repo: repo.create_agent(agent("org_x")),
        lambda repo: repo.create_session(session("org_x")),
    ],
    ids=["instance", "key", "agent", "session"],
)
def test_nothing_is_created_in_an_org_that_is_not_there(repo_harness, create):
    """An unknown org is an error, and nothing came to be."""

    async def use(repo):
        with pytest.raises(NotFound):
            await create(repo)
        assert await repo.list_instances() == []
        assert await repo.find_key(api_key().digest) is None
        assert await repo.find_agent("org_x", agent().id) is None
        assert await repo.get_session("org_x", session().id) is None

    with_repo(repo_harness, use)


# --- instances


@pytest.mark.parametrize("make", [instance, embedded_instance])
def test_an_instance_is_what_was_bound(repo_harness, make):
    """A binding comes back with every field, the sealed bytes as they are, by org and by id."""

    async def use(repo):
        sealed = make(ORG).sealed_api_key and bytes(range(256))
        bound = make(ORG, sealed_api_key=sealed, created_at=START + MICROSECOND, updated_at=LATER)
        await repo.bind_instance(bound)
        assert await repo.instance_of(ORG) == bound
        assert await repo.get_instance(ORG, bound.id) == bound
        assert await repo.list_instances() == [bound]

    with_repo(repo_harness, use)


def test_an_instance_is_known_for_good(repo_harness):
    """It is when it is bound and when it is retired, and not before, nor when its org is gone."""

    async def use(repo):
        assert not await repo.knows_instances()
        await repo.bind_instance(instance(ORG))
        assert await repo.knows_instances()
        await repo.unbind_instance(ORG)
        assert await repo.knows_instances()
        await repo.delete_org(ORG)
        assert not await repo.knows_instances()

    with_repo(repo_harness, use)


def test_an_org_without_an_instance_has_none(repo_harness):
    """No binding is no instance, for an unknown org as well."""

    async def use(repo):
        await repo.bind_instance(instance(OTHER_ORG))
        for org_id in (ORG, "org_x"):
            assert await repo.instance_of(org_id) is None
            assert await repo.get_instance(org_id, "arc_x") is None
            assert await repo.unbind_instance(org_id) is False

    with_repo(repo_harness, use)


def test_a_bound_org_is_not_bound_again(repo_harness):
    """A second binding is a conflict and leaves the first."""

    async def use(repo):
        await repo.bind_instance(instance(ORG))
        with pytest.raises(Conflict):
            await repo.bind_instance(instance(ORG, id="arc_second"))
        assert await repo.instance_of(ORG) == instance(ORG)
        assert await repo.get_instance(ORG, "arc_second") is None

    with_repo(repo_harness, use)


def test_the_same_id_changes_an_instance_in_place(repo_harness):
    """Rebinding with the same id leaves one instance, the changed one."""

    async def use(repo):
        await repo.bind_instance(instance(ORG))
        changed = instance(ORG, sealed_api_key=b"new", updated_at=LATER)
        await repo.rebind_instance(changed)
        assert await repo.instance_of(ORG) == changed
        assert await repo.get_instance(ORG, changed.id) == changed
        assert await repo.list_instances() == [changed]

    with_repo(repo_harness, use)


def test_another_id_retires_the_former_instance(repo_harness):
    """After a rebinding the former is read by its id, is not listed, and can be followed by a third."""

    async def use(repo):
        await repo.bind_instance(instance(ORG))
        second = instance(ORG, id="arc_second", url="http://second.example")
        third = instance(ORG, id="arc_third", url="http://third.example")
        await repo.rebind_instance(second)
        await repo.rebind_instance(third)
        assert await repo.instance_of(ORG) == third
        assert await repo.list_instances() == [third]
        assert await repo.get_instance(ORG, instance(ORG).id) == instance(ORG)
        assert await repo.get_instance(ORG, "arc_second") == second

    with_repo(repo_harness, use)


def test_an_unbound_instance_is_retired_not_forgotten(repo_harness):
    """After unbinding the instance is read by its id, and the org is free for another."""

    async def use(repo):
        await repo.bind_instance(instance(ORG))
        assert await repo.unbind_instance(ORG) is True
        assert await repo.unbind_instance(ORG) is False
        assert await repo.instance_of(ORG) is None
        assert await repo.list_instances() == []
        assert await repo.get_instance(ORG, instance(ORG).id) == instance(ORG)
        second = instance(ORG, id="arc_second")
        await repo.bind_instance(second)
        assert await repo.instance_of(ORG) == second
        assert await repo.get_instance(ORG, instance(ORG).id) == instance(ORG)

    with_repo(repo_harness, use)


@pytest.mark.parametrize("how", ["bind", "rebind"])
def test_a_retired_instance_can_come_back(repo_harness, how):
    """An org may be bound again to an instance that it had before, under the same id."""

    async def use(repo):
        await repo.bind_instance(instance(ORG))
        again = instance(ORG, sealed_api_key=b"new", updated_at=LATER)
        if how == "bind":
            await repo.unbind_instance(ORG)
            await repo.bind_instance(again)
        else:
            await repo.rebind_instance(instance(ORG, id="arc_second"))
            await repo.rebind_instance(again)
        assert await repo.instance_of(ORG) == again
        assert await repo.get_instance(ORG, again.id) == again
        assert await repo.list_instances() == [again]

    with_repo(repo_harness, use)


def test_an_instance_is_read_by_its_own_org_only(repo_harness):
    """Neither a bound nor a retired instance is found through another org."""

    async def use(repo):
        await repo.bind_instance(instance(ORG))
        await repo.bind_instance(instance(OTHER_ORG))
        await repo.rebind_instance(instance(ORG, id="arc_second"))
        for instance_id in (instance(ORG).id, "arc_second"):
            assert await repo.get_instance(OTHER_ORG, instance_id) is None
            assert await repo.get_instance(ORG, instance_id) is not None

    with_repo(repo_harness, use)


def test_every_bound_instance_is_listed(repo_harness):
    """The list has one instance for each bound org."""

    async def use(repo):
        await repo.bind_instance(instance(ORG))
        await repo.bind_instance(embedded_instance(OTHER_ORG))
        listed = await repo.list_instances()
        assert {one.org_id: one for one in listed} == {ORG: instance(ORG), OTHER_ORG: embedded_instance(OTHER_ORG)}
        assert len(listed) == 2

    with_repo(repo_harness, use)


# --- keys


@pytest.mark.parametrize(
    "permissions",
    [Permission.READ, Permission.WRITE, Permission.ADMIN, Permission.READ | Permission.WRITE, ~Permission(0)],
    ids=str,
)
def test_a_key_is_found_by_its_digest_with_every_field(repo_harness, permissions):
    """A key comes back as it was stored, and an unknown digest finds none."""

    async def use(repo):
        made = api_key(permissions=permissions, expires_at=LATER + MICROSECOND, name="prod 'é")
        await repo.create_key(made)
        assert await repo.find_key(made.digest) == made
        assert await repo.find_key(bytes(32)) is None
        assert await repo.find_key(made.digest[:-1]) is None

    with_repo(repo_harness, use)


def test_keys_are_listed_oldest_first_with_revoked_ones(repo_harness):
    """An org's list has its own keys in the order of their making, revoked and expired ones included."""

    async def use(repo):
        keys = [api_key(number=number) for number in (1, 2, 3)]
        keys[2] = msgspec.structs.replace(keys[2], expires_at=START)
        for key in (keys[1], keys[2], keys[0], api_key(OTHER_ORG, 9)):
            await repo.create_key(key)
        await repo.revoke_key(keys[0].id, LATER)
        keys[0] = msgspec.structs.replace(keys[0], revoked_at=LATER)
        assert await repo.list_keys(ORG) == keys
        assert await repo.list_keys("org_x") == []

    with_repo(repo_harness, use)


def test_a_revoked_key_is_still_found_as_revoked(repo_harness):
    """Revoking stamps the key once: a second time keeps the first moment."""

    async def use(repo):
        await repo.create_key(api_key())
        await repo.create_key(api_key(number=2))
        assert await repo.revoke_key(api_key().id, START + MICROSECOND) is True
        assert await repo.revoke_key(api_key().id, LATER) is True
        found = await repo.find_key(api_key().digest)
        assert found == api_key(revoked_at=START + MICROSECOND)
        assert await repo.find_key(api_key(number=2).digest) == api_key(number=2)
        assert await repo.revoke_key("key_x", LATER) is False

    with_repo(repo_harness, use)


def test_a_key_name_is_taken_among_the_live_keys_of_an_org(repo_harness):
    """Another live key of the name is a conflict; another org, or a revoked key, leaves it free."""

    async def use(repo):
        await repo.create_key(api_key(number=1, name="prod"))
        with pytest.raises(Conflict):
            await repo.create_key(api_key(number=2, name="prod"))
        assert await repo.find_key(api_key(number=2).digest) is None
        await repo.create_key(api_key(OTHER_ORG, 3, name="prod"))
        await repo.revoke_key(api_key(number=1).id, LATER)
        await repo.create_key(api_key(number=4, name="prod"))
        assert len(await repo.list_keys(ORG)) == 2

    with_repo(repo_harness, use)


# --- agents


def test_an_agent_is_found_by_id_and_by_name_with_every_field(repo_harness):
    """An agent comes back as it was stored, its config included."""

    async def use(repo):
        made = agent(
            name="Ünï 'x'",
            description="two\nlines",
            config={"": None, "n": 2**53, "deep": {"list": [1, [], "🙂"]}},
            created_at=START + MICROSECOND,
        )
        await repo.create_agent(made)
        assert await repo.find_agent(ORG, made.id) == made
        assert await repo.find_agent(ORG, made.name) == made
        assert await repo.find_agent(ORG, "nobody") is None

    with_repo(repo_harness, use)


def test_an_agents_id_goes_before_anothers_name(repo_harness):
    """Where one agent is named as another's id, the id is found, whichever was stored first."""

    async def use(repo):
        await repo.create_agent(agent(number=1, name=agent(number=2).id))
        await repo.create_agent(agent(number=2))
        await repo.create_agent(agent(number=3, name=agent(number=1).id))
        for number in (1, 2, 3):
            assert (await repo.find_agent(ORG, agent(number=number).id)).id == agent(number=number).id

    with_repo(repo_harness, use)


def test_an_agents_name_is_taken_once_in_an_org(repo_harness):
    """The name again is a conflict in its org, free in another, and free after deletion."""

    async def use(repo):
        await repo.create_agent(agent(number=1, name="ada"))
        with pytest.raises(Conflict):
            await repo.create_agent(agent(number=2, name="ada"))
        assert await repo.list_agents(ORG, 10, None) == [agent(number=1, name="ada")]
        await repo.create_agent(agent(OTHER_ORG, 3, name="ada"))
        assert await repo.find_agent(OTHER_ORG, "ada") == agent(OTHER_ORG, 3, name="ada")
        await repo.delete_agent(ORG, agent(number=1).id)
        await repo.create_agent(agent(number=4, name="ada"))
        assert await repo.find_agent(ORG, "ada") == agent(number=4, name="ada")

    with_repo(repo_harness, use)


def test_an_agent_is_deleted_by_its_id_and_its_own_org_only(repo_harness):
    """A name or another org deletes nothing; the id does, once."""

    async def use(repo):
        await repo.create_agent(agent())
        await repo.create_session(session(agent_id=agent().id))
        assert await repo.delete_agent(OTHER_ORG, agent().id) is False
        assert await repo.delete_agent(ORG, agent().name) is False
        assert await repo.find_agent(ORG, agent().id) == agent()
        assert await repo.delete_agent(ORG, agent().id) is True
        assert await repo.delete_agent(ORG, agent().id) is False
        assert await repo.find_agent(ORG, agent().id) is None
        assert await repo.count_sessions(ORG, agent().id) == (1, 1)

    with_repo(repo_harness, use)


def test_an_agent_is_found_by_its_own_org_only(repo_harness):
    """Neither id nor name finds an agent of another org, nor does its list."""

    async def use(repo):
        await repo.create_agent(agent())
        assert await repo.find_agent(OTHER_ORG, agent().id) is None
        assert await repo.find_agent(OTHER_ORG, agent().name) is None
        assert await repo.list_agents(OTHER_ORG, 10, None) == []

    with_repo(repo_harness, use)


# --- sessions


def test_an_id_that_is_taken_is_a_conflict_also_of_another_org(repo_harness):
    """An agent or a session that is there, in whatever org, is never replaced by one with the same id."""

    async def use(repo):
        await repo.create_agent(agent(ORG))
        await repo.create_session(session(ORG))
        for org_id in (ORG, OTHER_ORG):
            with pytest.raises(Conflict):
                await repo.create_agent(agent(org_id, name="another name"))
            with pytest.raises(Conflict):
                await repo.create_session(session(org_id, status="closed"))
        assert await repo.get_session(ORG, session().id) == session(ORG)
        assert await repo.find_agent(ORG, agent().id) == agent(ORG)

    with_repo(repo_harness, use)


def test_a_session_is_what_was_stored(repo_harness):
    """A session comes back with every field, by its own org only."""

    async def use(repo):
        made = session(
            status="closed",
            metadata={"": None, "deep": {"list": [1, [], "🙂"]}},
            created_at=START + MICROSECOND,
            updated_at=LATER,
            closed_at=LATER + MICROSECOND,
        )
        await repo.create_session(made)
        assert await repo.get_session(ORG, made.id) == made
        assert await repo.get_session(OTHER_ORG, made.id) is None
        assert await repo.get_session(ORG, "sess_x") is None

    with_repo(repo_harness, use)


def test_a_session_is_closed_once_and_opened_again(repo_harness):
    """Closing sets `closed_at` once, reopening clears it, and every update sets `updated_at`."""

    async def use(repo):
        async def update(seconds, status=None):
            at = START + timedelta(seconds=seconds)
            changed = await repo.update_session(ORG, session().id, status=status, metadata=None, at=at)
            assert changed == await repo.get_session(ORG, session().id)
            assert changed.updated_at == at
            return changed.status, changed.closed_at and (changed.closed_at - START).total_seconds()

        await repo.create_session(session())
        assert await update(10) == ("active", None)
        assert await update(20, "closed") == ("closed", 20)
        assert await update(30, "closed") == ("closed", 20)
        assert await update(40) == ("closed", 20)
        assert await update(50, "active") == ("active", None)
        assert await update(60, "closed") == ("closed", 60)

    with_repo(repo_harness, use)


def test_metadata_are_merged_key_by_key(repo_harness):
    """New keys are added, given ones replaced as a whole, null is a value, and nothing given changes nothing."""

    async def use(repo):
        async def update(metadata):
            changed = await repo.update_session(ORG, session().id, status=None, metadata=metadata, at=LATER)
            assert changed == await repo.get_session(ORG, session().id)
            return changed.metadata

        await repo.create_session(session())
        assert await update(None) is None
        assert await update({}) is None
        assert await update({"a": {"x": 1}, "b": 2}) == {"a": {"x": 1}, "b": 2}
        assert await update({"a": {"y": 1}, "b": None, "c": [3]}) == {"a": {"y": 1}, "b": None, "c": [3]}
        assert await update({}) == {"a": {"y": 1}, "b": None, "c": [3]}

    with_repo(repo_harness, use)


def test_metadata_that_would_merge_into_too_large_an_object_change_nothing(repo_harness):
    """Beyond 256 KiB the update is refused as a whole, its status too."""

    async def use(repo):
        made = session(metadata={"a": "x" * (200 << 10)})
        await repo.create_session(made)
        with pytest.raises(InvalidInput, match="metadata"):
            await repo.update_session(ORG, made.id, status="closed", metadata={"b": "x" * (100 << 10)}, at=LATER)
        assert await repo.get_session(ORG, made.id) == made
        replaced = await repo.update_session(ORG, made.id, status=None, metadata={"a": "x" * (250 << 10)}, at=LATER)
        assert len(replaced.metadata["a"]) == 250 << 10

    with_repo(repo_harness, use)


def test_updates_at_the_same_time_lose_nothing(repo_harness):
    """Many merges at once all arrive."""

    async def use(repo):
        await repo.create_session(session())
        await asyncio.gather(
            *(
                repo.update_session(ORG, session().id, status=None, metadata={f"k{n}": n}, at=LATER)
                for n in range(20)
            )
        )
        merged = await repo.get_session(ORG, session().id)
        assert merged.metadata == {f"k{n}": n for n in range(20)}

    with_repo(repo_harness, use)


def test_a_session_that_is_not_the_orgs_is_not_updated(repo_harness):
    """An unknown session, or another org's, is None and stays as it is."""

    async def use(repo):
        await repo.create_session(session())
        for org_id, session_id in ((OTHER_ORG, session().id), (ORG, "sess_x")):
            changed = await repo.update_session(org_id, session_id, status="closed", metadata={"k": 1}, at=LATER)
            assert changed is None
        assert await repo.get_session(ORG, session().id) == session()

    with_repo(repo_harness, use)


def test_sessions_are_listed_and_counted_by_org_and_agent(repo_harness):
    """A list and a count have one org's sessions, of one agent where that is asked."""

    async def use(repo):
        mine = session(number=1)
        closed = session(number=2, status="closed", closed_at=LATER)
        bobs = session(number=3, agent_id="bob")
        others = session(OTHER_ORG, 4)
        for one in (mine, closed, bobs, others):
            await repo.create_session(one)
        assert await repo.list_sessions(ORG, None, 10, None) == [bobs, closed, mine]
        assert await repo.list_sessions(ORG, "ada", 10, None) == [closed, mine]
        assert await repo.list_sessions(OTHER_ORG, "ada", 10, None) == [others]
        assert await repo.list_sessions(OTHER_ORG, "bob", 10, None) == []
        assert await repo.count_sessions(ORG, "ada") == (2, 1)
        assert await repo.count_sessions(ORG, "bob") == (1, 1)
        assert await repo.count_sessions(OTHER_ORG, "ada") == (1, 1)
        assert await repo.count_sessions(ORG, "eve") == (0, 0)

    with_repo(repo_harness, use)


# --- paging


@over_implementations
@given(st.lists(st.integers(0, 3), max_size=8), st.integers(1, 9))
def test_pages_of_agents_and_sessions_are_the_whole_newest_first(repo_harness, seconds, limit):
    """Following the last of each page shows everything once, by time and then by id, ties included."""

    async def use(repo):
        made_agents, made_sessions = [], []
        for number, second in enumerate(seconds):
            at = START + second * MICROSECOND
            made_agents.append(agent(number=number, created_at=at))
            made_sessions.append(session(number=number, created_at=at))
            await repo.create_agent(made_agents[-1])
            await repo.create_session(made_sessions[-1])
            await repo.create_agent(agent(OTHER_ORG, 100 + number))
            await repo.create_session(session(OTHER_ORG, 100 + number))
        for made, page_after in (
            (made_agents, lambda after: repo.list_agents(ORG, limit, after)),
            (made_sessions, lambda after: repo.list_sessions(ORG, None, limit, after)),
            (made_sessions, lambda after: repo.list_sessions(ORG, "ada", limit, after)),
        ):
            seen, after = [], None
            while page := await page_after(after):
                assert len(page) <= limit
                seen += page
                after = Position(page[-1].created_at, page[-1].id)
            assert seen == sorted(made, key=lambda one: (one.created_at, one.id), reverse=True)

    with_repo(repo_harness, use)


# --- version


CONFIGURATION_CHANGES = [
    ("create_org", lambda repo: repo.create_org(org("org_c"))),
    ("bind_instance", lambda repo: repo.bind_instance(instance(ORG))),
    ("rebind_instance in place", lambda repo: repo.rebind_instance(instance(ORG, sealed_api_key=b"2"))),
    ("rebind_instance elsewhere", lambda repo: repo.rebind_instance(instance(ORG, id="arc_second"))),
    ("unbind_instance", lambda repo: repo.unbind_instance(ORG)),
    ("create_key", lambda repo: repo.create_key(api_key())),
    ("revoke_key", lambda repo: repo.revoke_key(api_key().id, LATER)),
    ("set_retention", lambda repo: repo.set_retention(ORG, timedelta(days=90))),
    ("delete_org", lambda repo: repo.delete_org("org_c")),
]

OTHER_CALLS = [
    ("create_agent", lambda repo: repo.create_agent(agent())),
    ("delete_agent", lambda repo: repo.delete_agent(ORG, agent().id)),
    ("create_session", lambda repo: repo.create_session(session())),
    (
        "update_session",
        lambda repo: repo.update_session(ORG, session().id, status="closed", metadata={"k": 1}, at=LATER),
    ),
    ("list_orgs", lambda repo: repo.list_orgs()),
    ("list_instances", lambda repo: repo.list_instances()),
    ("find_key", lambda repo: repo.find_key(api_key().digest)),
]


def test_the_version_changes_with_every_change_of_configuration(repo_harness):
    """Each change of orgs, instances and keys makes another version, at once and never an old one again."""

    async def use(repo):
        seen = [repo.version()]
        for name, change in CONFIGURATION_CHANGES:
            await change(repo)
            assert repo.version() not in seen, name
            seen.append(repo.version())

    with_repo(repo_harness, use)


def test_the_version_does_not_change_with_agents_sessions_or_reads(repo_harness):
    """What happens all the time makes nobody forget what is cached."""

    async def use(repo):
        before = repo.version()
        for name, call in OTHER_CALLS:
            await call(repo)
            assert repo.version() == before, name

    with_repo(repo_harness, use)
