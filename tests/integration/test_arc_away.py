"""Reads while Arc is away, slow, or not Arc at all; and queries that it could not take."""

import asyncio
import re
from contextlib import asynccontextmanager
from datetime import timedelta

import msgspec
import pytest
from aiohttp import web
from arc_double import ArcDouble
from builders import ORG, START, instance, memory, run
from contracts.implementations import KnownKeyVault
from integration.arc_versions import EVERY_VERSION

from memtrace_arc import ArcGateway
from memtrace_core.errors import ArcRejected, ArcTimeout, ArcUnreachable, InvalidInput
from memtrace_core.query import AgentCountQuery, MemoryQuery, OwnSpan
from memtrace_core.testing import ManualClock

EVERYTHING = MemoryQuery(org_id=ORG, limit=1000)
COUNT = AgentCountQuery(org_id=ORG, agent_id="ada", recent_since=START)
SPAN = OwnSpan(ORG, "fedcba", START, START + timedelta(hours=1))
KEPT = memory(START)


@asynccontextmanager
async def reaching(url, key="a key", **timeouts):
    """Open a gateway, and an instance at some URL."""
    gateway = ArcGateway(KnownKeyVault(key), ManualClock(START + timedelta(minutes=5)), **timeouts)
    try:
        yield gateway, instance(url=url)
    finally:
        await gateway.close()


def reads(gateway, one):
    """Give each kind of question, one at a time."""
    yield gateway.query(one, EVERYTHING)
    yield gateway.count(one, COUNT)
    yield gateway.own_count(one, SPAN)
    yield gateway.own_ids(one, SPAN)


def requests(gateway, one):
    """Give everything that sends a request, one at a time."""
    yield from reads(gateway, one)
    yield gateway.ping(one)
    yield gateway.write(one, [KEPT])


@pytest.fixture(params=EVERY_VERSION)
def arc(request):
    """An Arc of each version that holds one memory."""
    with ArcDouble(version=request.param, max_buffer_age_ms=0) as double:

        async def fill():
            async with reaching(double.url, double.write_token) as (gateway, one):
                await gateway.write(one, [KEPT])

        run(fill())
        double.clear_records()
        yield double


def test_an_arc_that_is_down_is_unreachable(arc):
    """Refused connections are told as such, and end with the outage."""

    async def body():
        async with reaching(arc.url, arc.write_token) as (gateway, one):
            arc.faults.down = True
            for question in requests(gateway, one):
                with pytest.raises(ArcUnreachable):
                    await question
            arc.faults.down = False
            assert await gateway.query(one, EVERYTHING) == [KEPT]

    run(body())


def test_an_arc_that_fails_every_query_is_not_empty(arc):
    """A 500 for all that is asked means "no answer": an empty list would say that there are no memories."""

    async def body():
        async with reaching(arc.url, arc.write_token) as (gateway, one):
            arc.faults.query_error_share = 1.0
            for question in reads(gateway, one):
                with pytest.raises(ArcUnreachable):
                    await question
            with pytest.raises(ArcUnreachable):
                await gateway.ping(one)

    run(body())


def test_an_arc_that_gives_up_is_a_timeout():
    """Arc's own 504 is told apart from an Arc that is away."""

    async def body():
        async def slow(request):
            error = {"success": False, "columns": None, "data": None, "row_count": 0, "error": "Query timed out"}
            return web.json_response(error, status=504)

        async with serving(slow) as url, reaching(url) as (gateway, one):
            for question in reads(gateway, one):
                with pytest.raises(ArcTimeout, match="timed out"):
                    await question

    run(body())


def test_an_arc_that_says_nothing_is_a_timeout(arc):
    """A read without an answer in time is ArcTimeout, a write is one more thing to repeat."""

    async def body():
        async with reaching(arc.url, arc.write_token, query_timeout=0.3) as (gateway, one):
            arc.faults.hang = True
            for question in reads(gateway, one):
                with pytest.raises(ArcTimeout):
                    await question
            with pytest.raises(ArcUnreachable):
                await gateway.write(one, [KEPT])
            with pytest.raises(ArcUnreachable):
                await gateway.ping(one)

    run(body())


def test_a_file_that_compaction_took_away_is_asked_for_once_more(arc):
    """One such failure is not felt; it is repeated once and no more."""

    async def body():
        async with reaching(arc.url, arc.write_token) as (gateway, one):
            arc.faults.io_errors = 1
            assert await gateway.query(one, EVERYTHING) == [KEPT]
            arc.faults.io_errors = 1
            assert (await gateway.count(one, COUNT)).total == 1

    run(body())


def test_a_failure_that_stays_is_repeated_once():
    """A second IO error in a row is the caller's to know, after two requests in all."""

    async def body():
        asked = []

        async def failing(request):
            asked.append(await request.json())
            return web.json_response({"success": False, "error": 'IO Error: Cannot open file "x"'}, status=500)

        async with serving(failing) as url, reaching(url) as (gateway, one):
            with pytest.raises(ArcUnreachable, match="IO Error"):
                await gateway.query(one, EVERYTHING)
            assert len(asked) == 2
            assert asked[0] == asked[1]

    run(body())


@pytest.mark.parametrize(
    "changes",
    [
        {"content_contains": "é" * 1000 + "x" * 3000},
        {"agent_ids": tuple(f"{number:0>128}" for number in range(40))},
        {"tags": tuple(f"{number:0>64}" for number in range(64))},
    ],
    ids=["content", "agents", "tags"],
)
def test_a_query_that_does_not_fit_is_the_callers_mistake(arc, changes):
    """Filters beyond Arc's 10,000 bytes of SQL are told with that number, and nothing is sent."""

    async def body():
        async with reaching(arc.url, arc.write_token) as (gateway, one):
            with pytest.raises(InvalidInput, match=r"10,000 bytes"):
                await gateway.query(one, msgspec.structs.replace(EVERYTHING, **changes))
            assert list(arc.queries) == []

    run(body())


def test_the_longest_query_that_fits_is_answered(arc):
    """Of ever longer texts all are answered up to one, and all beyond are refused: none by Arc itself."""

    async def body():
        async with reaching(arc.url, arc.write_token) as (gateway, one):
            refused = []
            for length in range(3000, 5000, 50):
                asked = msgspec.structs.replace(EVERYTHING, content_contains="z" * length)
                try:
                    assert await gateway.query(one, asked) == []
                except InvalidInput:
                    refused.append(length)
            assert refused == list(range(refused[0], 5000, 50))
            assert {each.status for each in arc.queries} == {200}
            assert max(len(each.sql.encode()) for each in arc.queries) > 9800

    run(body())


@asynccontextmanager
async def serving(handler):
    """Serve every path with one handler, and give the URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status):
    """The API key and the memories go to the instance's own URL, wherever it points."""

    async def body():
        visits = []

        async def target(request):
            visits.append(dict(request.headers))
            return web.json_response({"success": True, "columns": [], "data": []})

        async with serving(target) as elsewhere:

            async def redirecting(request):
                return web.Response(status=status, headers={"Location": elsewhere + request.path})

            async with serving(redirecting) as url, reaching(url, "the secret key") as (gateway, one):
                for question in requests(gateway, one):
                    with pytest.raises(ArcUnreachable) as told:
                        await question
                    assert "the secret key" not in str(told.value)
                assert await gateway.server_version(one) is None
            assert visits == []

    run(body())


@pytest.mark.parametrize(
    "answer", [b"", b"<html>proxy</html>", b"[]", b'{"data":[["x"]]}', b'{"data":7}', b"\xff\xfe"]
)
@pytest.mark.parametrize("status", [200, 404, 418, 502])
def test_what_is_not_arc_is_unreachable(status, answer):
    """An answer that makes no sense is no answer, whatever its status."""

    async def body():
        async def other(request):
            return web.Response(status=status, body=answer)

        async with serving(other) as url, reaching(url) as (gateway, one):
            with pytest.raises(ArcUnreachable):
                await gateway.query(one, EVERYTHING)
            with pytest.raises(ArcUnreachable):
                await gateway.write(one, [KEPT])

    run(body())


@pytest.mark.parametrize("status", [400, 413])
def test_a_refused_batch_is_told_with_arcs_answer(arc, status):
    """The error of a bad memory carries what Arc said, and never the key."""

    async def body():
        async with reaching(arc.url, arc.write_token) as (gateway, one):
            arc.faults.reject = {"something happened": status}
            with pytest.raises(ArcRejected, match=re.escape(str(status))) as told:
                await gateway.write(one, [KEPT])
            assert arc.write_token not in str(told.value)

    run(body())


def test_a_question_that_is_cancelled_leaves_the_gateway_in_order(arc):
    """A caller who gives up holds no connection: the next questions are answered."""

    async def body():
        async with reaching(arc.url, arc.write_token) as (gateway, one):
            arc.faults.hang_queries = True
            asked = [asyncio.create_task(gateway.query(one, EVERYTHING)) for _ in range(40)]
            while arc.concurrent < 10:  # noqa: ASYNC110 - the double, in its thread, rings no bell
                await asyncio.sleep(0.005)
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            arc.faults.clear()
            assert await gateway.query(one, EVERYTHING) == [KEPT]

    run(body())
