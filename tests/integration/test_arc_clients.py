"""Connections to Arc: each org has its own, as many as it may have and no more, as long as they are wanted."""

import asyncio
import time

import msgspec
import pytest
from arc_double import ArcDouble
from builders import instance, run
from contracts.implementations import KnownKeyVault

from memtrace_arc import ArcGateway
from memtrace_arc.client import MOST_CONNECTIONS, ArcClient, Endpoint
from memtrace_arc.clients import Clients
from memtrace_core.errors import ArcUnreachable
from memtrace_core.query import MemoryQuery
from memtrace_core.testing import ManualClock

JSON = msgspec.json.Decoder(dict)
PATIENCE = 20.0


@pytest.fixture
def arc():
    """An Arc that flushes at once."""
    with ArcDouble(max_buffer_age_ms=0) as double:
        yield double


def at(arc, org_id, **changes):
    """Return an instance with a database of its own in an Arc."""
    return instance(org_id, url=arc.url, database=org_id, **changes)


class Closing(ArcClient):
    """A client that tells whether it is closed."""

    closed = False

    async def close(self):
        """Close, and say so."""
        self.closed = True
        await super().close()


def closing_clients(**options):
    """Return clients that tell."""
    return Clients(lambda: Closing(1, 1), **options)


async def until(condition):
    """Wait for something that happens in the double's thread."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        await asyncio.sleep(0.002)


def test_an_org_that_hangs_leaves_another_on_the_same_host_alone(arc):
    """Whatever one org has waiting for an answer, another one's requests to the same Arc go through at once."""

    async def body():
        gateway = ArcGateway(KnownKeyVault(arc.write_token), ManualClock())
        try:
            arc.faults.hang_database = "slow"
            arc.faults.hang = True
            waiting = [
                asyncio.create_task(gateway.query(at(arc, "slow"), MemoryQuery(org_id="slow", limit=1)))
                for _ in range(3 * MOST_CONNECTIONS)
            ]
            await until(lambda: arc.concurrent == MOST_CONNECTIONS)
            async with asyncio.timeout(PATIENCE):
                for _ in range(10):
                    assert await gateway.query(at(arc, "quick"), MemoryQuery(org_id="quick", limit=1)) == []
            assert not any(task.done() for task in waiting)
            assert arc.max_concurrent == MOST_CONNECTIONS + 1
            arc.faults.clear()
            # The double has closed the connections of those that it let hang; they are asked once more.
            assert await asyncio.gather(*waiting) == [[]] * len(waiting)
        finally:
            await gateway.close()

    run(body())


def test_a_question_is_asked_once_more_when_its_connection_was_closed(arc):
    """A restarted Arc has closed those that were kept open, and nobody has noticed yet."""

    async def body():
        gateway = ArcGateway(KnownKeyVault(arc.write_token), ManualClock())
        try:
            for _ in range(3):
                assert await gateway.query(at(arc, "events"), MemoryQuery(org_id="org", limit=1)) == []
                arc.kill()
                arc.start()
        finally:
            await gateway.close()

    run(body())


@pytest.mark.parametrize(("ask", "asked"), [("query", 2), ("write", 1)])
def test_what_a_server_never_answers_is_not_asked_for_ever(ask, asked):
    """A question twice; a batch once, as its sender counts and spaces the attempts."""
    connections = []

    async def hang_up(reader, writer):
        connections.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async def body():
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = ArcClient(PATIENCE, PATIENCE)
        place = Endpoint(url=f"http://127.0.0.1:{port}", database="events", api_key="key")
        try:
            with pytest.raises(ArcUnreachable):
                await (client.query(place, "SELECT 1", JSON) if ask == "query" else client.write(place, b"batch"))
        finally:
            await client.close()
            server.close()

    run(body())
    assert len(connections) == asked


def test_requests_of_an_org_share_its_connections(arc):
    """One after the other they need only one."""

    async def body():
        clients = Clients(lambda: ArcClient(1, 1))
        try:
            async with clients.of(at(arc, "one")) as first, clients.of(at(arc, "one")) as second:
                assert first is second
            async with clients.of(at(arc, "other")) as other:
                assert other is not first
        finally:
            await clients.close()

    run(body())


@pytest.mark.parametrize(
    "changes",
    [{"sealed_api_key": b"another"}, {"id": "arc_new", "url": "http://elsewhere.invalid"}],
    ids=["key", "place"],
)
def test_the_client_of_a_former_binding_is_closed_when_its_last_request_is_done(arc, changes):
    """Not while one is under way; and the new binding does not wait for that."""

    async def body():
        clients = closing_clients()
        former = at(arc, "one")
        async with clients.of(former) as old:
            async with clients.of(former):
                async with clients.of(msgspec.structs.replace(former, **changes)) as new:
                    assert new is not old
                assert not old.closed
            assert not old.closed
        assert old.closed
        assert not new.closed
        async with clients.of(msgspec.structs.replace(former, **changes)) as again:
            assert again is new
        await clients.close()
        assert new.closed

    run(body())


def test_a_former_binding_that_nobody_uses_is_closed_at_the_next_request(arc):
    """Before it, so nothing of the former is open when the new one is used."""

    async def body():
        clients = closing_clients()
        former = at(arc, "one")
        async with clients.of(former) as old:
            assert not old.closed
        assert not old.closed
        async with clients.of(msgspec.structs.replace(former, sealed_api_key=b"another")):
            assert old.closed
        await clients.close()

    run(body())


def test_the_least_recently_used_client_makes_room(arc):
    """The number of clients is bounded; one in use is closed only when it is not any more."""

    async def body():
        clients = closing_clients(most=2)
        async with clients.of(at(arc, "a")) as a, clients.of(at(arc, "b")) as b:
            pass
        async with clients.of(at(arc, "a")), clients.of(at(arc, "c")) as c:
            assert (a.closed, b.closed, c.closed) == (False, True, False)
            async with clients.of(at(arc, "d")) as d:
                assert not a.closed
        assert (a.closed, c.closed, d.closed) == (True, False, False)
        async with clients.of(at(arc, "b")) as again:
            assert again is not b
            assert not again.closed
        await clients.close()

    run(body())


def test_nothing_is_sent_after_the_end(arc):
    """Closed clients refuse, those too that somebody still holds, and a request under way ends."""

    async def body():
        gateway = ArcGateway(KnownKeyVault(arc.write_token), ManualClock())
        arc.faults.hang = True
        waiting = asyncio.create_task(gateway.ping(at(arc, "one")))
        await until(lambda: arc.concurrent == 1)
        await gateway.close()
        with pytest.raises(ArcUnreachable):
            await waiting
        with pytest.raises(ArcUnreachable):
            await gateway.ping(at(arc, "one"))
        assert arc.requests == 1

    run(body())
