import re
from datetime import timedelta

import pytest
from builders import ORG, OTHER_ORG, bound, embedded_instance, in_memory, instance, run

from memtrace_core.errors import ArcUnreachable, Conflict, InvalidInput, NoArcInstance, NotFound
from memtrace_core.memories import NewMemory

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


async def prepared(make_instance=instance):
    """Return services with two orgs, each bound."""
    return await bound(in_memory(), make_instance(ORG), make_instance(OTHER_ORG))


def remember(services, agent_id, org_id=ORG, **fields):
    """Store a memory whose content is unlike any other's."""
    content = f"at {services.clock.now()}"
    return services.memories.remember(org_id, [NewMemory(agent_id=agent_id, content=content, **fields)])


def test_an_agent_is_registered_with_what_was_given():
    """A new agent has an id, its fields and the time of its making."""

    async def body():
        services = await prepared()
        made = await services.agents.register(ORG, "The Crawler", "Crawls.\nA lot.", {"depth": 2})
        assert re.fullmatch(r"agent_[0-9a-f]{24}", made.id)
        assert (made.name, made.description, made.config) == ("The Crawler", "Crawls.\nA lot.", {"depth": 2})
        assert (made.org_id, made.created_at, made.last_active_at) == (ORG, services.clock.now(), None)
        assert await services.agents.get(ORG, made.id) == made
        assert await services.agents.get(ORG, "The Crawler") == made

    run(body())


def test_an_empty_description_and_config_are_none():
    """What is empty is kept as absent."""

    async def body():
        services = await prepared()
        made = await services.agents.register(ORG, "ada", "", {})
        assert (made.description, made.config) == (None, None)

    run(body())


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("",), "name"),
        (("a\nb",), "name"),
        (("x" * 129,), "name"),
        (("ada", "x" * 4097), "description"),
        (("ada", None, {"k": "x" * (256 << 10)}), "config"),
    ],
    ids=["no name", "line break", "long name", "long description", "large config"],
)
def test_an_agent_with_a_bad_value_is_refused(arguments, field):
    """The refusal names the field, and nothing was stored."""

    async def body():
        services = await prepared()
        with pytest.raises(InvalidInput, match=field):
            await services.agents.register(ORG, *arguments)
        assert await services.agents.page(ORG) == ([], None)

    run(body())


def test_a_name_is_taken_once_in_an_org():
    """The same name again is a conflict in its org, and free in another."""

    async def body():
        services = await prepared()
        made = await services.agents.register(ORG, "ada")
        with pytest.raises(Conflict):
            await services.agents.register(ORG, "ada")
        other = await services.agents.register(OTHER_ORG, "ada")
        assert await services.agents.get(ORG, "ada") == made
        assert await services.agents.get(OTHER_ORG, "ada") == other

    run(body())


def test_an_agent_of_this_id_goes_before_one_of_this_name():
    """A name that equals another agent's id does not hide that agent."""

    async def body():
        services = await prepared()
        first = await services.agents.register(ORG, "ada")
        second = await services.agents.register(ORG, first.id)
        assert await services.agents.get(ORG, first.id) == first
        assert await services.agents.get(ORG, second.id) == second

    run(body())


def test_an_agent_is_unknown_to_another_org():
    """Neither reading nor deleting reaches over to another org."""

    async def body():
        services = await prepared()
        made = await services.agents.register(ORG, "ada")
        for reference in (made.id, "ada"):
            with pytest.raises(NotFound, match=r"^agent not found$") as caught:
                await services.agents.get(OTHER_ORG, reference)
            assert caught.value.code == "agent_not_found"
            with pytest.raises(NotFound, match=r"^agent not found$"):
                await services.agents.delete(OTHER_ORG, reference)
        assert await services.agents.page(OTHER_ORG) == ([], None)
        assert await services.agents.get(ORG, made.id) == made

    run(body())


@pytest.mark.parametrize("by_name", [True, False])
def test_a_deleted_agent_is_gone_but_its_memories_and_sessions_stay(by_name):
    """Deleting an agent takes away the registration and nothing else."""

    async def body():
        services = await prepared()
        made = await services.agents.register(ORG, "ada")
        await remember(services, "ada")
        await services.sessions.create(ORG, "ada")
        await services.agents.delete(ORG, "ada" if by_name else made.id)
        for reference in ("ada", made.id):
            with pytest.raises(NotFound):
                await services.agents.get(ORG, reference)
            with pytest.raises(NotFound):
                await services.agents.delete(ORG, reference)
        stats = await services.agents.stats(ORG, "ada")
        assert (stats.memory_count, stats.session_count) == (1, 1)

    run(body())


def test_an_agent_was_active_when_it_last_wrote_under_its_id_or_name():
    """The newest memory under either counts, that of another agent or org does not."""

    async def body():
        services = await prepared()
        made = await services.agents.register(ORG, "ada")
        start = services.clock.now()
        assert made.last_active_at is None
        await remember(services, "ada")
        services.clock.advance(SECOND)
        await remember(services, made.id)
        services.clock.advance(SECOND)
        await remember(services, "bob")
        await remember(services, "ada", OTHER_ORG)
        assert (await services.agents.get(ORG, "ada")).last_active_at == start + SECOND
        ((listed,), _) = await services.agents.page(ORG)
        assert listed.last_active_at == start + SECOND
        for reference in ("ada", made.id):
            assert (await services.agents.stats(ORG, reference)).last_active_at == start + SECOND

    run(body())


def test_an_agent_that_wrote_before_it_was_registered_was_active_then():
    """Registering tells about memories that were there already."""

    async def body():
        services = await prepared()
        await remember(services, "ada")
        at = services.clock.now()
        services.clock.advance(SECOND)
        assert (await services.agents.register(ORG, "ada")).last_active_at == at

    run(body())


@pytest.mark.parametrize("limit", [1, 2, 4, 1000])
def test_pages_of_agents_are_the_whole_newest_first(limit):
    """Following the positions shows every agent once, with its own activity."""

    async def body():
        services = await prepared()
        for name in ("a", "b", "c", "d"):
            await services.agents.register(ORG, name)
            services.clock.advance(SECOND)
        await remember(services, "b")
        seen, after = [], None
        while True:
            page, after = await services.agents.page(ORG, limit, after)
            seen += page
            if after is None:
                break
            assert len(page) == limit
        assert [one.name for one in seen] == ["d", "c", "b", "a"]
        assert [one.last_active_at is not None for one in seen] == [False, False, True, False]

    run(body())


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_has_1_to_1000_agents(limit):
    """A limit out of its range is refused."""

    async def body():
        services = await prepared()
        with pytest.raises(InvalidInput, match="limit"):
            await services.agents.page(ORG, limit)

    run(body())


@pytest.mark.parametrize("make_instance", [instance, embedded_instance])
@pytest.mark.parametrize("delivered", [True, False])
def test_an_agents_numbers_are_exact(make_instance, delivered):
    """Memories, those of a day, errors, sessions and types are counted, the newest included, on any store."""

    async def body():
        services = await prepared(make_instance)
        await remember(services, "ada", event_type="error")
        services.clock.advance(timedelta(hours=24))
        await remember(services, "ada", memory_type="decision")
        services.clock.advance(SECOND)
        if delivered:
            await services.delivery.drain(SECOND)
        await remember(services, "ada", event_type="error")
        await remember(services, "bob")
        await remember(services, "ada", OTHER_ORG)
        last = services.clock.now()
        closed = await services.sessions.create(ORG, "ada")
        await services.sessions.update(ORG, closed.id, status="closed")
        await services.sessions.create(ORG, "ada")
        await services.sessions.create(ORG, "bob")
        await services.sessions.create(OTHER_ORG, "ada")
        stats = await services.agents.stats(ORG, "ada")
        assert (stats.agent_id, stats.memory_count, stats.memories_24h, stats.errors_24h) == ("ada", 3, 2, 1)
        assert (stats.session_count, stats.active_sessions) == (2, 1)
        assert stats.memory_types == {"episodic": 2, "decision": 1}
        assert stats.last_active_at == last
        await services.delivery.drain(timedelta(0))

    run(body())


def test_any_valid_id_has_numbers():
    """An agent that nobody registered and that never wrote is all zeros."""

    async def body():
        services = await prepared()
        stats = await services.agents.stats(ORG, "nobody")
        assert (stats.memory_count, stats.memories_24h, stats.errors_24h) == (0, 0, 0)
        assert (stats.session_count, stats.active_sessions) == (0, 0)
        assert (stats.last_active_at, stats.memory_types) == (None, {})

    run(body())


def test_an_invalid_id_has_no_numbers():
    """What can be no agent's id is refused."""

    async def body():
        services = await prepared()
        with pytest.raises(InvalidInput, match="agent_id"):
            await services.agents.stats(ORG, "not good")

    run(body())


def test_numbers_that_cannot_be_counted_are_an_error():
    """A failing Arc is an error and never a zero, and so is an org without one."""

    async def body():
        services = await prepared()
        services.gateway.unreachable.add(instance(ORG).id)
        with pytest.raises(ArcUnreachable):
            await services.agents.stats(ORG, "ada")
        await services.repo.unbind_instance(ORG)
        with pytest.raises(NoArcInstance):
            await services.agents.stats(ORG, "ada")

    run(body())
