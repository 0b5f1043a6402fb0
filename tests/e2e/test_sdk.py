"""The published client, unmodified."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import memtrace
import pytest
from e2e.client_walk import Recorder, fail, public_methods, walk
from e2e.processes import Deployment, Server, Tenant
from memtrace import (
    AsyncMemtrace,
    AuthenticationError,
    CreateSessionRequest,
    Memtrace,
    NoArcInstanceError,
    RegisterAgentRequest,
    SearchQuery,
)


@pytest.mark.parametrize("kind", [Memtrace, AsyncMemtrace])
def test_every_method_of_the_published_client_works(
    kind: type[Memtrace | AsyncMemtrace], server: Server, tenant: Tenant
) -> None:
    """Each public method of the client does what its name says, and none is left out of this walk."""
    client = Recorder(kind(server.url, tenant.key))
    asyncio.run(walk(client, tenant.org_id))
    assert client.called == public_methods(kind)


@pytest.mark.parametrize("kind", [Memtrace, AsyncMemtrace])
def test_the_published_client_tells_errors_apart(
    kind: type[Memtrace | AsyncMemtrace], server: Server, tenant: Tenant
) -> None:
    """Conflicts, unknown things and bad input reach the caller as the client's own exceptions."""
    client = kind(server.url, tenant.key)

    async def work() -> None:
        await fail(Recorder(client))
        await Recorder(client).close()

    asyncio.run(work())


@pytest.mark.parametrize("key", ["mtk_unknown", ""])
def test_a_key_that_does_not_count_is_an_authentication_error(key: str, server: Server) -> None:
    """A wrong key and an empty one raise AuthenticationError."""
    with Memtrace(server.url, key) as client, pytest.raises(AuthenticationError, match="API key"):
        client.recall("crawler")


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.remember("crawler", "something"),
        lambda client: client.recall("crawler"),
        lambda client: client.search_memories(SearchQuery()),
        lambda client: client.get_agent_stats("crawler"),
        lambda client: client.get_agent_memories("crawler"),
        lambda client: client.get_session_memories("sess_a"),
        lambda client: client.get_session_context("sess_a"),
    ],
)
def test_an_org_without_arc_is_told_so(
    call: Callable[[Memtrace], object], shared: Deployment, server: Server
) -> None:
    """Whatever needs memories raises NoArcInstanceError while the org has no Arc instance."""
    tenant = shared.tenant(bound=False)
    with (
        Memtrace(server.url, tenant.key) as client,
        pytest.raises(NoArcInstanceError, match=r"^no arc instance configured for this org$"),
    ):
        call(client)


def test_agents_and_sessions_need_no_arc(shared: Deployment, server: Server) -> None:
    """Agents and sessions live in the metadata, so an org without Arc can have them."""
    tenant = shared.tenant(bound=False)
    with Memtrace(server.url, tenant.key) as client:
        client.register_agent(RegisterAgentRequest(name="crawler"))
        session = client.create_session(CreateSessionRequest(agent_id="crawler"))
        assert client.list_agents().count == 1
        assert client.get_agent("crawler").name == "crawler"
        assert client.list_sessions().sessions == [session]
        assert client.close_session(session.id).status == "closed"
        client.delete_agent("crawler")


def test_the_client_is_the_published_one() -> None:
    """The client under test comes from its own distribution, not from this repository."""
    assert memtrace.__file__ is not None
    assert "site-packages" in memtrace.__file__
