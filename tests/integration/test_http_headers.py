"""What every answer says to browsers and caches: keep nothing, guess nothing, and no other site may look."""

import pytest
from integration.asgi import with_client

from memtrace_core.limits import FairUse
from memtrace_core.model import Permission
from memtrace_http.requests import MAX_BODY_BYTES

MEMORY = {"agent_id": "ada", "content": "hello"}
MEMORIES = "/api/v1/memories"
# What a browser says for a page of another site, before it asks and when it does.
FOREIGN = {
    "origin": "https://elsewhere.example",
    "access-control-request-method": "POST",
    "access-control-request-headers": "x-api-key, content-type",
}
ANSWERS = {
    "a good answer": ("GET", MEMORIES, None, 200),
    "a stored memory": ("POST", MEMORIES, MEMORY, 201),
    "bad input": ("POST", MEMORIES, b"{", 400),
    "an unknown path": ("GET", "/nowhere", None, 404),
    "an unknown memory": ("GET", f"{MEMORIES}/mem_x", None, 404),
    "a method that is not there": ("PATCH", MEMORIES, None, 405),
    "a body that is too large": ("POST", MEMORIES, b" " * (MAX_BODY_BYTES + 1), 413),
    "health": ("GET", "/health", None, 200),
    "a browser that asks whether it may": ("OPTIONS", MEMORIES, None, 204),
    "a browser that asks about nothing": ("OPTIONS", "/nowhere", None, 404),
}


def assert_closed(answer, caches="no-store"):
    """Expect of an answer that nobody keeps it, takes it for something else, or reads it from another site."""
    assert answer.headers["cache-control"] == caches
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_is_closed_to_caches_and_other_sites(name):
    """Good answers and refusals alike carry the headers, and none lets a page of another site in."""
    method, target, body, status = ANSWERS[name]

    @with_client()
    async def answer(client):
        return await client.request(method, target, body, headers=FOREIGN)

    assert answer.status == status
    assert_closed(answer)


def test_the_document_may_be_kept_but_is_asked_for_again():
    """It holds nothing of a tenant; other sites may not read it either."""

    @with_client()
    async def answer(client):
        return await client.get("/schema/openapi.json", headers=FOREIGN)

    assert answer.status == 200
    assert_closed(answer, caches="no-cache")


def test_refusals_at_the_door_are_closed_too():
    """So are those of a key that is missing, wrong or lacks a permission."""

    @with_client()
    async def answers(client):
        reader = await client.key_of(Permission.READ)
        given = (None, "mtk_wrong", reader)
        return [await client.post(MEMORIES, MEMORY, headers=FOREIGN, key=key) for key in given]

    assert [answer.status for answer in answers] == [401, 401, 403]
    for answer in answers:
        assert_closed(answer)


def test_too_many_requests_are_closed_too():
    """So is the refusal of a key that asks too often."""

    @with_client(fair_use=FairUse(requests_per_second=0.001, burst=1))
    async def answers(client):
        return [await client.get(MEMORIES, headers=FOREIGN) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 429]
    for answer in answers:
        assert_closed(answer)


@pytest.mark.parametrize(("arc", "status"), [(True, 500), (False, 503)])
def test_failures_of_the_server_are_closed_too(arc, status):
    """So are the answers to a defect and to what cannot be served at the moment."""

    @with_client(arc=arc)
    async def answer(client):
        async def failing(query):
            raise RuntimeError("a defect")

        if arc:
            client.services.memories.find = failing
        return await client.get(MEMORIES, headers=FOREIGN)

    assert answer.status == status
    assert_closed(answer)
