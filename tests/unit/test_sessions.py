import re
from datetime import timedelta

import pytest
from builders import ORG, OTHER_ORG, in_memory, org, run

from memtrace_core.errors import InvalidInput, NotFound
from memtrace_core.query import Position

SECOND = timedelta(seconds=1)


async def prepared():
    """Return services with two orgs."""
    services = in_memory()
    await services.repo.create_org(org(ORG))
    await services.repo.create_org(org(OTHER_ORG))
    return services


def test_a_session_starts_active():
    """A new session is active, has its metadata and the time of its making."""

    async def body():
        services = await prepared()
        made = await services.sessions.create(ORG, "ada", {"k": 1})
        assert re.fullmatch(r"sess_[0-9a-f]{24}", made.id)
        assert (made.org_id, made.agent_id, made.status, made.metadata) == (ORG, "ada", "active", {"k": 1})
        assert made.created_at == made.updated_at == services.clock.now()
        assert made.closed_at is None
        assert await services.sessions.get(ORG, made.id) == made

    run(body())


def test_empty_metadata_are_none():
    """An empty object is kept as no metadata."""

    async def body():
        services = await prepared()
        assert (await services.sessions.create(ORG, "ada", {})).metadata is None

    run(body())


@pytest.mark.parametrize(
    ("agent_id", "metadata", "field"),
    [("not good", None, "agent_id"), ("", None, "agent_id"), ("ada", {"k": "x" * (256 << 10)}, "metadata")],
)
def test_a_session_with_a_bad_value_is_refused(agent_id, metadata, field):
    """The refusal names the field, and nothing was stored."""

    async def body():
        services = await prepared()
        with pytest.raises(InvalidInput, match=field):
            await services.sessions.create(ORG, agent_id, metadata)
        assert await services.sessions.page(ORG) == ([], None)

    run(body())


def test_a_session_is_unknown_to_another_org():
    """Neither reading nor changing reaches over to another org."""

    async def body():
        services = await prepared()
        made = await services.sessions.create(ORG, "ada")
        with pytest.raises(NotFound, match=r"^session not found$") as caught:
            await services.sessions.get(OTHER_ORG, made.id)
        assert caught.value.code == "session_not_found"
        with pytest.raises(NotFound, match=r"^session not found$"):
            await services.sessions.update(OTHER_ORG, made.id, status="closed")
        assert await services.sessions.page(OTHER_ORG) == ([], None)
        assert await services.sessions.get(ORG, made.id) == made

    run(body())


def test_closing_sets_the_time_once_and_reopening_clears_it():
    """`closed_at` is the first closing's time until the session is opened again."""

    async def body():
        services = await prepared()
        made = await services.sessions.create(ORG, "ada")
        services.clock.advance(SECOND)
        closed = await services.sessions.update(ORG, made.id, status="closed")
        assert closed.status == "closed"
        assert closed.closed_at == closed.updated_at == made.created_at + SECOND
        services.clock.advance(SECOND)
        again = await services.sessions.update(ORG, made.id, status="closed", metadata={"k": 1})
        assert (again.closed_at, again.updated_at) == (closed.closed_at, made.created_at + 2 * SECOND)
        reopened = await services.sessions.update(ORG, made.id, status="active")
        assert (reopened.status, reopened.closed_at, reopened.metadata) == ("active", None, {"k": 1})

    run(body())


def test_metadata_are_merged_key_by_key():
    """New keys are added, given ones replaced as a whole, others stay, and null is a value."""

    async def body():
        services = await prepared()
        made = await services.sessions.create(ORG, "ada", {"a": 1, "b": {"x": 1}, "c": 3})
        changed = await services.sessions.update(ORG, made.id, metadata={"b": {"y": 2}, "c": None, "d": 4})
        assert changed.metadata == {"a": 1, "b": {"y": 2}, "c": None, "d": 4}
        assert changed.status == "active"
        assert await services.sessions.get(ORG, made.id) == changed

    run(body())


def test_an_update_of_nothing_keeps_everything_but_the_time():
    """Without status and metadata only `updated_at` moves."""

    async def body():
        services = await prepared()
        made = await services.sessions.create(ORG, "ada", {"a": 1})
        services.clock.advance(SECOND)
        changed = await services.sessions.update(ORG, made.id)
        assert (changed.status, changed.metadata, changed.closed_at) == ("active", {"a": 1}, None)
        assert changed.updated_at == made.updated_at + SECOND

    run(body())


def test_metadata_that_break_the_rule_change_nothing():
    """Too large an object is refused before anything is stored."""

    async def body():
        services = await prepared()
        made = await services.sessions.create(ORG, "ada")
        with pytest.raises(InvalidInput, match="metadata"):
            await services.sessions.update(ORG, made.id, status="closed", metadata={"k": "x" * (256 << 10)})
        assert await services.sessions.get(ORG, made.id) == made

    run(body())


def test_metadata_that_break_the_rule_only_when_merged_change_nothing():
    """Two objects within the rule that merge into one beyond it are refused, and the session stays."""

    async def body():
        services = await prepared()
        made = await services.sessions.create(ORG, "ada", {"a": "x" * (200 << 10)})
        with pytest.raises(InvalidInput, match="metadata"):
            await services.sessions.update(ORG, made.id, metadata={"b": "x" * (200 << 10)})
        assert await services.sessions.get(ORG, made.id) == made

    run(body())


def test_an_unknown_session_cannot_be_updated():
    """Updating what is not there is an error."""

    async def body():
        services = await prepared()
        with pytest.raises(NotFound, match="session not found"):
            await services.sessions.update(ORG, "sess_x", status="closed")

    run(body())


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 1000])
def test_pages_of_sessions_are_the_whole_newest_first(limit):
    """Following the positions shows every session once, and the last page has none."""

    async def body():
        services = await prepared()
        made = []
        for number in range(5):
            made.append(await services.sessions.create(ORG, "ada" if number % 2 else "bob"))
            if number != 2:  # two of them at the same time
                services.clock.advance(SECOND)
        expected = sorted(made, key=lambda one: (one.created_at, one.id), reverse=True)
        for agent_id in (None, "ada"):
            seen, after = [], None
            while True:
                page, after = await services.sessions.page(ORG, agent_id, limit, after)
                seen += page
                if after is None:
                    break
                assert len(page) == limit
                assert after == Position(page[-1].created_at, page[-1].id)
            assert seen == [one for one in expected if agent_id in (None, one.agent_id)]

    run(body())


def test_a_page_that_just_holds_all_is_the_last():
    """With exactly `limit` sessions there is no further page."""

    async def body():
        services = await prepared()
        made = await services.sessions.create(ORG, "ada")
        assert await services.sessions.page(ORG, limit=1) == ([made], None)

    run(body())


@pytest.mark.parametrize(
    ("limit", "agent_id", "field"), [(0, None, "limit"), (1001, None, "limit"), (1, "a b", "agent_id")]
)
def test_a_page_with_a_bad_value_is_refused(limit, agent_id, field):
    """The refusal names what is out of its range."""

    async def body():
        services = await prepared()
        with pytest.raises(InvalidInput, match=field):
            await services.sessions.page(ORG, agent_id, limit)

    run(body())
