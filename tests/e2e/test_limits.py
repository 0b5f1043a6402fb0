"""The rules of every value a caller may send: what is within is taken, what is outside is a 400 that names it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

KIB, MIB = 1 << 10, 1 << 20


def stored(api: httpx.Client, **fields: Any) -> httpx.Response:
    """Try to store a memory that is good but for the given fields."""
    return api.post("/api/v1/memories", json={"agent_id": "ada", "content": "x", **fields})


def assert_refused(response: httpx.Response, *words: str) -> None:
    """Expect a 400 whose sentence holds these words."""
    assert response.status_code == 400, response.text
    answer = response.json()
    assert answer["code"]
    assert answer["request_id"] == response.headers["x-request-id"]
    for word in words:
        assert word in answer["error"]


def object_of(size: int) -> dict[str, str]:
    """Return an object of exactly so many bytes of compact JSON."""
    return {"k": "x" * (size - len('{"k":""}'))}


GOOD_FIELDS = [
    ("agent_id", "a"),
    ("agent_id", "Z" + "a-_9" * 31 + "abc"),
    ("session_id", "a" * 128),
    ("memory_type", "episodic"),
    ("memory_type", "session"),
    ("memory_type", "decision"),
    ("memory_type", "entity"),
    ("event_type", "A" + "_9" * 31 + "z"),
    ("tags", []),
    ("tags", ["a" * 64]),
    ("tags", ["-._9"]),
    ("tags", [f"t{number}" for number in range(64)]),
    ("dedup_key", "k" * 256),
    ("dedup_key", "é 🙂/\\'"),
    ("parent_id", "p"),
    ("parent_id", "p" * 256),
    ("importance", 0),
    ("importance", 1),
    ("importance", 0.5),
    ("content", "x"),
    ("content", " "),
    ("content", "a" * MIB),
    ("content", "é" * (MIB // 2)),
    ("metadata", {}),
    ("metadata", object_of(256 * KIB)),
]

BAD_FIELDS = [
    *[
        (name, value)
        for name in ("agent_id", "session_id")
        for value in ("", "1a", "_a", "-a", "a b", "a.b", "a/b", "é", "aé", "a\n", "a" * 129, 5, ["a"], True)
    ],
    *[("memory_type", value) for value in ("", "Episodic", "procedural", 1)],
    *[("event_type", value) for value in ("", "1a", "a-b", "a b", "é", "a" * 65, "a\n", 1)],
    *[
        ("tags", value)
        for value in ("a", [""], ["a b"], ["é"], ["a,b"], ["a" * 65], ["a"] * 65, ["a\n"], [1], {"a": 1})
    ],
    *[
        (name, value)
        for name in ("dedup_key", "parent_id")
        for value in ("", "k" * 257, "a\nb", "a\x00", "\u202e", "\ud800", 7)
    ],
    *[("importance", value) for value in (-0.01, 1.01, "0.5", True, 1e400, [1])],
    *[
        ("content", value)
        for value in ("", "a\x00b", "\ud800", "a" * (MIB + 1), "é" * (MIB // 2) + "x", 5, True, ["x"])
    ],
    *[("metadata", value) for value in ("{}", [], [1], 5, object_of(256 * KIB + 1))],
]


def shown(value: object) -> str:
    """Return a short name for a value."""
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:12]}…{len(text)}"


@pytest.mark.parametrize(("name", "value"), GOOD_FIELDS, ids=shown)
def test_a_value_within_its_rule_is_stored(api: httpx.Client, name: str, value: Any) -> None:
    """A field at the edge of its rule is taken, and comes back as it was."""
    response = stored(api, **{name: value})
    assert response.status_code == 201, response.text[:300]
    assert response.json().get(name, type(value)()) == value


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS, ids=shown)
def test_a_value_outside_its_rule_is_refused(lasting_api: httpx.Client, name: str, value: Any) -> None:
    """A field just outside its rule, or of another type, is a 400 that names the field."""
    body = json.dumps({"agent_id": "ada", "content": "x", name: value}).replace("Infinity", "1e400")
    # A lone surrogate can be written as an escape only, which is what json.dumps does.
    response = lasting_api.post("/api/v1/memories", content=body)
    if value == "\ud800":
        # No JSON text that can be decoded: the body is to blame as a whole.
        assert_refused(response)
    else:
        assert_refused(response, name)


@pytest.mark.parametrize("name", ["agent_id", "content"])
def test_required_fields_must_be_there(lasting_api: httpx.Client, name: str) -> None:
    """A memory without agent or content is refused, whether the field is absent or null."""
    body = {"agent_id": "ada", "content": "x"}
    assert_refused(lasting_api.post("/api/v1/memories", json={**body, name: None}), name)
    del body[name]
    assert_refused(lasting_api.post("/api/v1/memories", json=body), name)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b"[]", b'"text"', b"5", b"null", b"\xff\xfe", b'{"agent_id":"ada","content":"\xff"}',
     b'{"agent_id":"ada","content":"x"} trailing', b"[" * 100_000, b'{"a":' * 100_000,
     b'{"agent_id":"ada","content":"x","metadata":' + b'{"a":' * 5000 + b"1" + b"}" * 5001],
)  # fmt: skip
@pytest.mark.parametrize("path", ["memories", "search", "agents", "sessions", "sessions/s1/context"])
def test_a_body_that_is_not_a_json_object_is_refused(lasting_api: httpx.Client, path: str, body: bytes) -> None:
    """Broken JSON, broken UTF-8, other kinds of value and bottomless nesting are a 400."""
    if path.endswith("context") and body == b"":
        assert lasting_api.post(f"/api/v1/{path}", content=body).status_code == 200
    else:
        assert_refused(lasting_api.post(f"/api/v1/{path}", content=body))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "memories", {"agent_id": "ada", "content": "x"}),
        ("POST", "search", {}),
        ("POST", "agents", {"name": "unknown fields"}),
        ("POST", "sessions", {"agent_id": "ada"}),
        ("POST", "sessions/s1/context", {}),
        ("PUT", "sessions/s1", {"status": "closed"}),
    ],
)
def test_an_unknown_field_is_refused_by_name(
    lasting_api: httpx.Client, method: str, path: str, body: dict[str, Any]
) -> None:
    """Nothing that a caller sends is dropped silently: an unknown field is named."""
    response = lasting_api.request(method, f"/api/v1/{path}", json={**body, "org_id": "org_default"})
    assert_refused(response, "org_id")


READS = ["memories", "agents", "sessions", "agents/ada/memories", "sessions/s1/memories", "agents/ada/stats"]


@pytest.mark.parametrize("path", [*READS, "memories/mem_a", "agents/ada", "sessions/s1"])
@pytest.mark.parametrize("name", ["org_id", "Limit", "colour", "limit[]"])
def test_an_unknown_query_parameter_is_refused_by_name(lasting_api: httpx.Client, path: str, name: str) -> None:
    """An unknown query parameter is a 400 that names it, on routes that take none as well."""
    assert_refused(lasting_api.get(f"/api/v1/{path}", params={name: "1"}), name)


@pytest.mark.parametrize("path", ["health", "ready"])
def test_service_routes_take_no_parameters_either(lasting_api: httpx.Client, path: str) -> None:
    """The routes without a key refuse unknown parameters too."""
    assert_refused(lasting_api.get(f"/{path}?colour=red"), "colour")


@pytest.mark.parametrize("path", ["memories", "search", "agents", "sessions", "sessions/s1/context"])
def test_an_unknown_query_parameter_on_a_write_is_refused(lasting_api: httpx.Client, path: str) -> None:
    """Routes with a body refuse query parameters as well, and store nothing."""
    assert_refused(lasting_api.post(f"/api/v1/{path}?agent_id=ada", json={}), "agent_id")


@pytest.mark.parametrize("name", ["limit", "cursor", "agent_id", "since", "tags", "order", "offset", "memory_type"])
def test_an_empty_or_repeated_query_parameter_is_refused(lasting_api: httpx.Client, name: str) -> None:
    """A query parameter without a value, or given twice, is a 400 that names it."""
    assert_refused(lasting_api.get(f"/api/v1/memories?{name}="), name)
    assert_refused(lasting_api.get(f"/api/v1/memories?{name}"), name)
    assert_refused(lasting_api.get(f"/api/v1/memories?{name}=1&{name}=1"), name)


QUERY_VALUES = [
    ("limit", "1", "1000", ["0", "1001", "-1", "1.5", "1e2", " 1", "+1", "0x10", "ten", "٣", "9" * 20]),
    ("offset", "0", "10000", ["-1", "10001", "1.0", "x", "99999999999999999999"]),
    ("since", "1m", "520w", ["0m", "-1h", "1", "1y", "1s", "01h", "1.5h", "521w5d", "600w", "3654d", "now",
                             "yesterday", "2026-13-01T00:00:00Z", "2026-02-30", "10:00", "19999999", "1h ", "٣h"]),
    ("until", "now", "2020-01-01T00:00:00+02:00", ["0m", "NOW", "later", "2026-01-01T25:00:00Z", "9999h99"]),
    ("order", "asc", "desc", ["ASC", "up", "random"]),
    ("agent_id", "a", "a" * 128, ["1a", "a b", "a" * 129, "a%00", "é"]),
    ("session_id", "a", "a" * 128, ["1a", "a/b", "a" * 129]),
    ("memory_type", "entity", "decision", ["Entity", "other", "episodic,entity"]),
    ("event_type", "a", "a" * 64, ["1a", "a-b", "a" * 65]),
    ("tags", "a", ",".join(["a" * 64] * 63), ["a,", ",a", "a b", "é", "a" * 65, ",".join(["a"] * 65)]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [(name, one) for name, low, high, _ in QUERY_VALUES for one in (low, high)]
)
def test_a_query_parameter_within_its_rule_is_taken(lasting_api: httpx.Client, name: str, value: str) -> None:
    """A query parameter at either edge of its rule is taken."""
    response = lasting_api.get("/api/v1/memories", params={name: value})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(("name", "value"), [(name, one) for name, _, _, bad in QUERY_VALUES for one in bad])
def test_a_query_parameter_outside_its_rule_is_refused(lasting_api: httpx.Client, name: str, value: str) -> None:
    """A query parameter outside its rule is a 400 that names it, on every list that has it."""
    assert_refused(lasting_api.get("/api/v1/memories", params={name: value}), name)
    if name not in ("agent_id", "session_id"):
        assert_refused(lasting_api.get("/api/v1/agents/ada/memories", params={name: value}), name)
        assert_refused(lasting_api.get("/api/v1/sessions/s1/memories", params={name: value}), name)
    if name == "limit":
        assert_refused(lasting_api.get("/api/v1/agents", params={name: value}), name)
        assert_refused(lasting_api.get("/api/v1/sessions", params={name: value}), name)


@pytest.mark.parametrize("name", ["limit", "offset"])
def test_a_range_is_stated_when_it_is_missed(lasting_api: httpx.Client, name: str) -> None:
    """A limit out of range is told its range."""
    low, high = ("1", "1,000") if name == "limit" else ("0", "10,000")
    for value in (100_000, 10_001):
        assert_refused(lasting_api.post("/api/v1/search", json={name: value}), name, low, high)
        assert_refused(lasting_api.get("/api/v1/memories", params={name: str(value)}), name, low, high)


BAD_SEARCHES = [
    ("agent_id", "1a"),
    ("agent_id", ""),
    ("agent_id", ["ada"]),
    ("session_id", "a b"),
    ("memory_types", ["other"]),
    ("memory_types", "episodic"),
    ("event_types", ["a-b"]),
    ("tags", ["a b"]),
    ("tags", "a"),
    ("content_contains", ""),
    ("content_contains", "a\x00"),
    ("content_contains", "x" * 1001),
    ("content_contains", 5),
    ("min_importance", -0.1),
    ("min_importance", 1.1),
    ("min_importance", "0"),
    ("max_importance", 2),
    ("max_importance", True),
    ("since", "0h"),
    ("since", ""),
    ("since", 5),
    ("until", "soon"),
    ("limit", 0),
    ("limit", 1001),
    ("limit", "10"),
    ("limit", 1.5),
    ("limit", True),
    ("limit", 10**30),
    ("offset", -1),
    ("offset", 10_001),
    ("order", "up"),
    ("cursor", ""),
    ("cursor", 5),
]


@pytest.mark.parametrize(("name", "value"), BAD_SEARCHES, ids=shown)
def test_a_search_filter_outside_its_rule_is_refused(lasting_api: httpx.Client, name: str, value: Any) -> None:
    """A search filter outside its rule is a 400 that names the field."""
    assert_refused(lasting_api.post("/api/v1/search", json={name: value}), name)


def test_search_filters_within_their_rules_are_taken(lasting_api: httpx.Client) -> None:
    """Filters at the edges of their rules, and nulls, are taken."""
    for body in (
        {"content_contains": "x" * 1000},
        {"min_importance": 0, "max_importance": 1, "limit": 1000, "offset": 10_000},
        {"event_types": [f"e{number}" for number in range(64)]},
        dict.fromkeys(("agent_id", "tags", "since", "limit", "offset", "order", "cursor", "min_importance")),
    ):
        assert lasting_api.post("/api/v1/search", json=body).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"event_types": ["a"] * 65},
        {"event_types": [f"e{number}" for number in range(64)], "agent_id": "ada"},
        {"tags": ["a"] * 32, "event_types": ["a"] * 32, "content_contains": "x"},
    ],
)
def test_a_query_has_at_most_sixty_four_filter_values(lasting_api: httpx.Client, body: dict[str, Any]) -> None:
    """More than 64 filter values in all are refused, saying how many there may be."""
    assert_refused(lasting_api.post("/api/v1/search", json=body), "64")


BAD_AGENTS = [
    ("name", ""),
    ("name", "x" * 129),
    ("name", "a\nb"),
    ("name", 5),
    ("name", None),
    ("description", "x" * 4097),
    ("description", "a\x00b"),
    ("description", 5),
    ("config", []),
    ("config", "x"),
    ("config", object_of(256 * KIB + 1)),
]


@pytest.mark.parametrize(("name", "value"), BAD_AGENTS, ids=shown)
def test_an_agent_outside_the_rules_is_refused(lasting_api: httpx.Client, name: str, value: Any) -> None:
    """A bad name, description or config is a 400 that names the field, and no agent is registered."""
    assert_refused(lasting_api.post("/api/v1/agents", json={"name": "ada", name: value}), name)
    assert lasting_api.get("/api/v1/agents").json()["count"] == 0


def test_an_agent_at_the_edge_of_the_rules_is_registered(api: httpx.Client) -> None:
    """The longest name, description and config are taken and come back as they were."""
    given = {"name": "🙂" * 128, "description": "two\nlines " + "x" * 4086, "config": object_of(256 * KIB)}
    response = api.post("/api/v1/agents", json=given)
    assert response.status_code == 201
    assert given.items() <= response.json().items()
    assert given.items() <= api.get(f"/api/v1/agents/{response.json()['id']}").json().items()


@pytest.mark.parametrize(
    ("name", "value"),
    [("agent_id", "1a"), ("agent_id", None), ("metadata", []), ("metadata", object_of(300 * KIB))],
    ids=shown,
)
def test_a_session_outside_the_rules_is_refused(lasting_api: httpx.Client, name: str, value: Any) -> None:
    """A bad agent id or metadata is a 400 that names the field, and no session is started."""
    assert_refused(lasting_api.post("/api/v1/sessions", json={"agent_id": "ada", name: value}), name)
    assert lasting_api.get("/api/v1/sessions").json()["count"] == 0


@pytest.mark.parametrize(("name", "value"), [("status", "open"), ("status", ""), ("status", 1), ("metadata", "x")])
def test_a_bad_change_of_a_session_changes_nothing(api: httpx.Client, name: str, value: Any) -> None:
    """A bad status or metadata is a 400 that names the field; the good part of the change is not made either."""
    session = api.post("/api/v1/sessions", json={"agent_id": "ada", "metadata": {"a": 1}}).json()
    change = {"status": "closed", "metadata": {"b": 2}, name: value}
    assert_refused(api.put(f"/api/v1/sessions/{session['id']}", json=change), name)
    assert api.get(f"/api/v1/sessions/{session['id']}").json() == session


def test_merged_metadata_keeps_its_limit(api: httpx.Client) -> None:
    """Metadata that only the merge makes too large is refused, and what was there stays."""
    first = {"a": "x" * 200 * KIB}
    session = api.post("/api/v1/sessions", json={"agent_id": "ada", "metadata": first}).json()
    response = api.put(f"/api/v1/sessions/{session['id']}", json={"metadata": {"b": "x" * 200 * KIB}})
    assert_refused(response, "metadata")
    assert api.get(f"/api/v1/sessions/{session['id']}").json()["metadata"] == first


@pytest.mark.parametrize("identifier", ["1a", "a%20b", "a" * 129, "%C3%A9", "a.b", "a%2Fb"])
def test_the_ids_in_paths_have_their_rule_too(lasting_api: httpx.Client, identifier: str) -> None:
    """Lists of an agent's or a session's memories, its counts and its context refuse an impossible id by name."""
    for path in (f"agents/{identifier}/memories", f"agents/{identifier}/stats"):
        assert_refused(lasting_api.get(f"/api/v1/{path}"), "agent_id")
    assert_refused(lasting_api.get(f"/api/v1/sessions/{identifier}/memories"), "session_id")
    assert_refused(lasting_api.post(f"/api/v1/sessions/{identifier}/context"), "session_id")


def test_any_valid_id_has_an_empty_list(lasting_api: httpx.Client) -> None:
    """Lists, counts and context of an id that nobody used are empty, not unknown."""
    assert lasting_api.get("/api/v1/agents/nobody/memories").json() == {
        "memories": [],
        "count": 0,
        "has_more": False,
    }
    assert lasting_api.get("/api/v1/sessions/none/memories").json() == {
        "memories": [],
        "count": 0,
        "has_more": False,
    }
    stats = lasting_api.get("/api/v1/agents/nobody/stats").json()
    assert stats == {
        "agent_id": "nobody", "memory_count": 0, "memories_24h": 0, "errors_24h": 0, "session_count": 0,
        "active_sessions": 0, "memory_types": {},
    }  # fmt: skip
    context = lasting_api.post("/api/v1/sessions/none/context").json()
    assert context == {"session_id": "none", "context": "## Session Context (none)", "memory_count": 0}
