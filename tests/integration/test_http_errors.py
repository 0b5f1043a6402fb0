import logging
import re

import pytest
from integration.asgi import ORG, with_client
from litestar.exceptions import HTTPException

from memtrace_core import errors
from memtrace_core.memories import NewMemory

SECRET = "mtk_secret-in-a-message"
MEMORY = {"agent_id": "ada", "content": "hello"}

# Each error of the core as it may be raised; status, code and what else the answer must hold.
ERRORS = {
    "InvalidInput": (errors.InvalidInput("limit must be from 1 to 1,000"), 400, "invalid_input"),
    "Unauthenticated": (errors.Unauthenticated("invalid API key", code="invalid_api_key"), 401, "invalid_api_key"),
    "Forbidden": (errors.Forbidden("this API key lacks the read permission"), 403, "forbidden"),
    "NotFound": (errors.NotFound("memory not found", code="memory_not_found"), 404, "memory_not_found"),
    "Conflict": (errors.Conflict("an agent named 'x' exists already", hint="use another"), 409, "conflict"),
    "DuplicateMemory": (errors.DuplicateMemory("mem_1"), 409, "duplicate_memory"),
    "Unavailable": (errors.Unavailable("not now"), 503, "unavailable"),
    "NoArcInstance": (errors.NoArcInstance(ORG), 503, "no_arc_instance"),
    "ArcUnreachable": (errors.ArcUnreachable("no answer"), 503, "arc_unreachable"),
    "ArcFailed": (errors.ArcFailed("it failed"), 503, "arc_unreachable"),
    "TooManyRequests": (errors.TooManyRequests("too often", 7), 429, "rate_limited"),
    "JournalFull": (errors.JournalFull("the journal is full"), 503, "journal_full"),
    "OrgClosing": (errors.OrgClosing("being deleted"), 503, "org_closing"),
    "StorageUnavailable": (errors.StorageUnavailable("memtrace.db is locked"), 503, "storage_unavailable"),
    "ArcTimeout": (errors.ArcTimeout("no answer in time"), 504, "arc_timeout"),
    "ArcRejected": (errors.ArcRejected(SECRET), 500, "internal"),
    "ErasureRefused": (errors.ErasureRefused(SECRET), 500, "internal"),
    "VaultError": (errors.VaultError(SECRET), 500, "internal"),
    "WrongMasterKey": (errors.WrongMasterKey(SECRET), 500, "internal"),
    "SealBroken": (errors.SealBroken(SECRET), 500, "internal"),
    "MemtraceError": (errors.MemtraceError(SECRET), 500, "internal"),
    "a defect": (RuntimeError(SECRET), 500, "internal"),
    "a defect of the framework": (HTTPException(SECRET, status_code=500), 500, "internal"),
    "a defect in a value": (KeyError(SECRET), 500, "internal"),
}
RETRY_AFTER = {
    "Unavailable": "5",
    "ArcUnreachable": "5",
    "ArcFailed": "5",
    "TooManyRequests": "7",
    "JournalFull": "5",
    "OrgClosing": "30",
    "StorageUnavailable": "5",
}


def answer_to(error):
    """Return the answer to a request in whose service an error is raised."""

    @with_client()
    async def answer(client):
        async def failing(query):
            raise error

        client.services.memories.find = failing
        return await client.get("/api/v1/memories", headers={"x-request-id": "req-1"})

    return answer


def test_every_error_of_the_core_is_in_these_tests():
    """An error class that is added must be given a status here."""
    known = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, Exception)}
    assert known <= set(ERRORS)


@pytest.mark.parametrize("name", ERRORS)
def test_each_error_has_its_status_code_and_body(name):
    """Status, code, sentence, hint, request id and Retry-After of every error are as published."""
    error, status, code = ERRORS[name]
    answer = answer_to(error)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "req-1"
    body = answer.json
    assert body.pop("code") == code
    assert body.pop("request_id") == "req-1"
    # What an Arc says may hold SQL, and what a file is called is the operator's: callers get a sentence of ours.
    fixed = {"storage_unavailable": "the server cannot use its own storage at the moment",
             "arc_unreachable": "the organization's Arc cannot be used at the moment",
             "arc_timeout": "the organization's Arc did not answer in time"}  # fmt: skip
    expected = "internal error" if status == 500 else fixed.get(code, str(error))
    assert body.pop("error") == expected
    if name == "StorageUnavailable":
        assert body.pop("hint") == "the operator finds the reason in the server's log"
    if getattr(error, "hint", None):
        assert body.pop("hint") == error.hint
    if name == "DuplicateMemory":
        assert body.pop("memory_id") == "mem_1"
    assert body == {}
    assert answer.headers.get("retry-after") == RETRY_AFTER.get(name)
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


@pytest.mark.parametrize("name", [name for name, (_, status, _) in ERRORS.items() if status == 500])
def test_a_defect_tells_the_caller_nothing_and_the_log_everything(name, caplog):
    """A 500 holds no message, traceback, path or secret; the log has the reason and the request's id."""
    with caplog.at_level(logging.ERROR, "memtrace.http"):
        answer = answer_to(ERRORS[name][0])
    text = answer.body.decode()
    assert SECRET not in text
    assert not re.search(r"Traceback|\.py|line \d|Error", text)
    (record,) = caplog.records
    assert record.request_id == "req-1"
    assert SECRET in record.getMessage() or SECRET in str(record.exc_info[1])


def test_the_missing_arc_instance_is_said_as_the_client_expects():
    """Sentence and hint are exact: the published client recognises them."""
    assert answer_to(errors.NoArcInstance(ORG)).json == {
        "error": "no arc instance configured for this org",
        "code": "no_arc_instance",
        "hint": f"ask an admin to run `memtrace org add-arc {ORG}`",
        "request_id": "req-1",
    }


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/nowhere", 404, "no_such_endpoint"),
        ("GET", "/api/v1/nowhere", 404, "no_such_endpoint"),
        ("GET", "/", 404, "no_such_endpoint"),
        ("PATCH", "/api/v1/memories", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
        ("PUT", "/api/v1/agents", 405, "method_not_allowed"),
    ],
)
def test_what_is_no_endpoint_is_an_error_of_the_same_form(method, target, status, code):
    """Unknown paths and methods answer in the form of all errors, with a request id."""

    @with_client()
    async def answer(client):
        return await client.request(method, target)

    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.json["request_id"] == answer.headers["x-request-id"]
    assert status != 405 or "allow" in answer.headers


BODIES = {
    "no JSON": (b"{", "the body is not valid JSON"),
    "nothing": (b"", "the body is not valid JSON"),
    "bytes that are no UTF-8": (b'{"agent_id":"ada","content":"\xff"}', "the body is not valid JSON"),
    "a lone surrogate": (b'{"agent_id":"ada","content":"\\ud800"}', ""),
    "deep nesting": (b'{"agent_id":"ada","content":"x","metadata":' + b'{"a":' * 5000 + b"1" + b"}" * 5001, ""),
    "a list": ([1], "the body: expected object, got array"),
    "a number for text": ({**MEMORY, "content": 1}, "content: expected string, got whole number"),
    "text for a number": ({**MEMORY, "importance": "1"}, "importance: expected number, got string"),
    "true for a number": ({**MEMORY, "importance": True}, "importance"),
    "an unknown field": ({**MEMORY, "colour": "red"}, "unknown field 'colour'"),
    "a missing field": ({"agent_id": "ada"}, "content is required"),
    "another org": ({**MEMORY, "org_id": "org_b"}, "unknown field 'org_id'"),
    "a rule broken": ({**MEMORY, "agent_id": "1"}, "agent_id must be a letter"),
    "a bad member of a batch": ({"memories": [MEMORY, {**MEMORY, "tags": ["a b"]}]}, "memories[1].tags[0] must be"),
    "an unknown field in a batch": ({"memories": [MEMORY, {**MEMORY, "x": 1}]}, "memories[1].x"),
    "an empty batch": ({"memories": []}, "memories must be 1 to 1,000 memories"),
    "a batch that is none": ({"memories": {}}, "memories: expected array, got object"),
    "an importance out of range": ({**MEMORY, "importance": 2}, "importance must be a number from 0 to 1"),
    "an unheard-of number": (b'{"agent_id":"ada","content":"x","importance":1e999}', ""),
    "a NUL": ({**MEMORY, "content": "a\x00b"}, "content must be"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_is_a_400_that_names_the_field_and_stores_nothing(name):
    """Bad input never is a 500 and never has a partial effect."""
    body, words = BODIES[name]

    @with_client()
    async def answers(client):
        return await client.post("/api/v1/memories", body), await client.get("/api/v1/memories")

    refused, listed = answers
    assert refused.status == 400, refused.body
    assert words in refused.json["error"]
    assert "\n" not in refused.json["error"]
    assert "`" not in refused.json["error"]
    assert listed.json["count"] == 0


QUERIES = {
    "limit=0": "limit must be from 1 to 1,000",
    "limit=1001": "limit must be from 1 to 1,000",
    "limit=-1": "limit must be from 1 to 1,000",
    "offset=-1": "offset must be from 0 to 10,000",
    "limit=1.0": "limit must be a whole number",
    "limit=%D9%A1": "limit must be a whole number",
    "limit=9999999999999999999999": "limit must be from 1 to 1,000",
    f"limit={'9' * 5000}": "limit must be a whole number",
    "limit=": "query parameter limit is empty",
    "limit=1&limit=1": "query parameter limit is given twice",
    "offset=10001": "offset must be from 0 to 10,000",
    "offset": "query parameter offset is empty",
    "org_id=org_b": "unknown query parameter 'org_id'",
    "Limit=1": "unknown query parameter 'Limit'",
    "order=up": "order must be desc or asc",
    "since=yesterday": "since must be",
    "since=now": "since must be",
    "until=2026-13-01": "until must be",
    "cursor=x": "cursor is not one that this server gave out",
    "tags=a,,b": "tags",
    "tags=,": "tags",
    "agent_id=a%20b": "agent_id must be",
    "agent_id=%FF": "the query string is not valid UTF-8",
    "agent_id=%00": "agent_id must be",
    "memory_type=thought": "memory_type must be one of",
    "event_type=a%20b": "event_type must",
    "&".join(f"x{number}=1" for number in range(200)): "too many parameters",
}


@pytest.mark.parametrize("query", QUERIES)
def test_a_bad_query_parameter_is_a_400_that_names_it(query):
    """Every query parameter that breaks a rule is named, none is silently dropped."""

    @with_client()
    async def answer(client):
        return await client.get(f"/api/v1/memories?{query}")

    assert answer.status == 400
    assert QUERIES[query] in answer.json["error"]


def test_a_duplicate_names_the_memory_that_is_kept():
    """The second of two equal memories is a 409 with the id of the first."""

    @with_client()
    async def answers(client):
        return [await client.post("/api/v1/memories", MEMORY) for _ in range(2)]

    first, second = answers
    assert (first.status, second.status) == (201, 409)
    body = second.json
    assert (body["error"], body["code"]) == ("duplicate memory", "duplicate_memory")
    assert body["memory_id"] == first.json["memory_id"]


def test_new_memory_has_the_fields_of_the_contract():
    """The fields that a caller may send are the published ones."""
    assert set(NewMemory.__struct_fields__) == {
        "agent_id",
        "content",
        "memory_type",
        "event_type",
        "session_id",
        "metadata",
        "tags",
        "importance",
        "dedup_key",
        "parent_id",
    }
