"""Storing memories over HTTP, and seeing them at once."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import aiohttp
import httpx
import pytest
from e2e.processes import Server, Tenant

MIB = 1 << 20
HOSTILE = [
    "'; DROP TABLE memories; --",
    'a "quoted" `thing` $1 ?1 :name @x {0} %s',
    "100% of foo_bar, 50%_off",
    r"back\slash \' \" \\ \n \u0000",
    "🙂 👩‍👩‍👧 ñ é e\u0301 ẞ ﬀ \u202eright to left\u202c \ufeff \ufffd",
    "line\nbreak\r\ntab\ttab \x01\x1b[31m\x7f\x85\u2028\u2029",
    "<script>alert(1)</script>{{7*7}}",
    " leading and trailing ",
]


def post(api: httpx.Client, content: str = "something happened", status: int = 201, **fields: object) -> dict:
    """Store one memory, and return the answer."""
    response = api.post("/api/v1/memories", json={"agent_id": "ada", "content": content, **fields})
    assert response.status_code == status, response.text
    return response.json()


def memories(response: httpx.Response) -> list[dict]:
    """Return the memories of a listing or a search."""
    assert response.status_code == 200, response.text
    answer = response.json()
    found = answer["memories"] if "memories" in answer else answer["results"]
    assert answer["count"] == len(found)
    return found


def test_a_memory_is_answered_as_it_was_stored(api: httpx.Client, tenant: Tenant) -> None:
    """The 201 carries every field as given, the time in UTC with microseconds, and an id that holds that time."""
    given = {
        "agent_id": "ada",
        "content": "Crawled",
        "memory_type": "decision",
        "event_type": "page_crawled",
        "session_id": "s1",
        "metadata": {"reasoning": "why not", "n": 1, "deep": [{"x": None}]},
        "tags": ["b", "a.b"],
        "importance": 0.25,
        "dedup_key": "key one",
        "parent_id": "mem_before",
    }
    before = datetime.now(UTC) - timedelta(minutes=1)
    response = api.post("/api/v1/memories", json=given)
    assert response.status_code == 201
    stored = response.json()
    own = {name: stored.pop(name) for name in ("time", "org_id", "memory_id")}
    assert stored == given
    assert own["org_id"] == tenant.org_id
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", own["time"])
    assert re.fullmatch(r"mem_[0-9a-f]{24}", own["memory_id"])
    time = datetime.fromisoformat(own["time"])
    assert time > before
    assert int(own["memory_id"][4:18], 16) == (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def test_what_is_absent_is_left_out_of_the_answer(api: httpx.Client) -> None:
    """A minimal memory gets its defaults and a generated dedup key; its empty members are not in the answer."""
    stored = post(api)
    assert stored.keys() == {
        "time", "org_id", "memory_id", "agent_id", "memory_type", "event_type", "content", "dedup_key"
    }  # fmt: skip
    assert (stored["memory_type"], stored["event_type"]) == ("episodic", "general")
    assert re.fullmatch(r"[0-9a-f]{32}", stored["dedup_key"])


def test_null_means_absent(api: httpx.Client) -> None:
    """A JSON null for an optional field is as if the field was not there."""
    optional = (
        "memory_type",
        "event_type",
        "session_id",
        "metadata",
        "tags",
        "importance",
        "dedup_key",
        "parent_id",
    )
    assert post(api, "nulls", **dict.fromkeys(optional)).keys() == post(api, "no nulls").keys()


def test_a_write_is_seen_by_every_read_that_follows(api: httpx.Client) -> None:
    """Listing, search, both gets, the agent's and the session's memories, counts and context show it at once."""
    session = api.post("/api/v1/sessions", json={"agent_id": "ada"}).json()["id"]
    agent = api.post("/api/v1/agents", json={"name": "ada"}).json()["id"]
    for number in range(1, 16):
        event = "error" if number % 5 == 0 else "general"
        stored = post(
            api, f"step {number}", session_id=session, event_type=event, tags=["t"], dedup_key=f"k/{number}"
        )
        window = {"agent_id": "ada", "session_id": session, "event_type": event, "tags": "t", "limit": "1"}
        assert memories(api.get("/api/v1/memories", params=window)) == [stored]
        assert memories(api.post("/api/v1/search", json={"content_contains": f"STEP {number}"}))[0] == stored
        assert api.get(f"/api/v1/memories/{stored['memory_id']}").json() == stored
        assert api.get(f"/api/v1/memories/k%2F{number}").json() == stored
        assert memories(api.get("/api/v1/agents/ada/memories", params={"limit": "1"})) == [stored]
        assert memories(api.get(f"/api/v1/sessions/{session}/memories", params={"limit": "1"})) == [stored]
        context = api.post(f"/api/v1/sessions/{session}/context", json={}).json()
        assert context["memory_count"] == number
        assert f": step {number}" in context["context"]
        stats = api.get("/api/v1/agents/ada/stats").json()
        assert (stats["memory_count"], stats["memories_24h"]) == (number, number)
        assert stats["errors_24h"] == number // 5
        assert stats["last_active_at"] == stored["time"]
        assert api.get(f"/api/v1/agents/{agent}").json()["last_active_at"] == stored["time"]


def test_times_and_ids_only_grow(api: httpx.Client) -> None:
    """Memories get strictly increasing times, and their ids sort alike, batches included."""
    stored = [post(api, f"single {number}") for number in range(5)]
    batch = {"memories": [{"agent_id": "ada", "content": f"batched {number}"} for number in range(20)]}
    stored += api.post("/api/v1/memories", json=batch).json()["memories"]
    times, ids = [one["time"] for one in stored], [one["memory_id"] for one in stored]
    assert sorted(set(times)) == times
    assert sorted(set(ids)) == ids
    assert [one["memory_id"] for one in memories(api.get("/api/v1/memories", params={"order": "asc"}))] == ids


def test_of_fifty_identical_posts_at_once_one_is_stored(server: Server, tenant: Tenant) -> None:
    """One of them gets a 201, the others a 409 that names the memory that is kept."""

    async def work() -> list[tuple[int, dict]]:
        async with aiohttp.ClientSession(server.url, headers={"x-api-key": tenant.key}) as session:

            async def once() -> tuple[int, dict]:
                body = {"agent_id": "ada", "content": "the same"}
                async with session.post("/api/v1/memories", json=body) as response:
                    return response.status, await response.json()

            return await asyncio.gather(*(once() for _ in range(50)))

    answers = asyncio.run(work())
    assert Counter(status for status, _ in answers) == {201: 1, 409: 49}
    (kept,) = [answer["memory_id"] for status, answer in answers if status == 201]
    for status, answer in answers:
        if status == 409:
            assert (answer["error"], answer["code"]) == ("duplicate memory", "duplicate_memory")
            assert answer["memory_id"] == kept
    with server.client(tenant) as api:
        assert [one["memory_id"] for one in memories(api.get("/api/v1/memories"))] == [kept]


def test_a_dedup_key_of_the_callers_own_decides_alone(api: httpx.Client) -> None:
    """Equal keys are duplicates whatever else differs, and different keys make equal memories two."""
    kept = post(api, "first", dedup_key="k")
    assert post(api, "second", agent_id="bob", dedup_key="k", status=409)["memory_id"] == kept["memory_id"]
    post(api, "first", dedup_key="another")


def test_a_batch_lists_its_duplicates(api: httpx.Client) -> None:
    """Members that exist, or repeat an earlier member, are listed by index and left out of `memories`."""
    kept = post(api, "old")
    contents = ["old", "new", "newer", "new", "old"]
    response = api.post(
        "/api/v1/memories", json={"memories": [{"agent_id": "ada", "content": content} for content in contents]}
    )
    assert response.status_code == 201
    answer = response.json()
    assert [one["content"] for one in answer["memories"]] == ["new", "newer"]
    assert answer["count"] == 2
    new = answer["memories"][0]["memory_id"]
    assert answer["duplicates"] == [
        {"index": 0, "memory_id": kept["memory_id"]},
        {"index": 3, "memory_id": new},
        {"index": 4, "memory_id": kept["memory_id"]},
    ]
    assert len(memories(api.get("/api/v1/memories"))) == 3


def test_a_batch_of_duplicates_only_is_still_a_201(api: httpx.Client) -> None:
    """A batch that stores nothing new says so, and is not an error."""
    kept = post(api, "old")
    answer = api.post("/api/v1/memories", json={"memories": [{"agent_id": "ada", "content": "old"}]})
    assert answer.status_code == 201
    assert answer.json() == {
        "memories": [],
        "count": 0,
        "duplicates": [{"index": 0, "memory_id": kept["memory_id"]}],
    }


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"agent_id": "ada"}, "content"),
        ({"agent_id": "1ada", "content": "x"}, "agent_id"),
        ({"agent_id": "ada", "content": "x", "tags": ["fine", "not fine"]}, "tags"),
        ({"agent_id": "ada", "content": "x", "importance": 2}, "importance"),
        ({"agent_id": "ada", "content": "x", "importance": "high"}, "importance"),
        ({"agent_id": "ada", "content": "x", "colour": "red"}, "colour"),
        ({"agent_id": "ada", "content": 5}, "content"),
        ("not an object", ""),
    ],
)
def test_one_bad_member_fails_the_whole_batch(api: httpx.Client, bad: object, named: str) -> None:
    """The 400 names the member's index and its field, and no other member is stored."""
    good = [{"agent_id": "ada", "content": f"good {number}"} for number in range(3)]
    response = api.post("/api/v1/memories", json={"memories": [*good[:2], bad, good[2]]})
    assert response.status_code == 400
    assert "memories[2]" in response.json()["error"]
    assert named in response.json()["error"]
    assert memories(api.get("/api/v1/memories")) == []
    assert api.get("/api/v1/agents/ada/stats").json()["memory_count"] == 0
    assert api.post("/api/v1/memories", json={"memories": good}).json()["count"] == 3


@pytest.mark.parametrize("size", [0, 1001])
def test_a_batch_has_one_to_a_thousand_members(api: httpx.Client, size: int) -> None:
    """An empty batch and one of 1,001 are refused, saying how many there may be."""
    batch = [{"agent_id": "ada", "content": str(number)} for number in range(size)]
    response = api.post("/api/v1/memories", json={"memories": batch})
    assert response.status_code == 400
    assert "memories" in response.json()["error"]
    assert "1,000" in response.json()["error"]
    assert memories(api.get("/api/v1/memories")) == []


def test_a_batch_of_a_thousand_is_stored(api: httpx.Client) -> None:
    """A thousand members go in at once and come back in one page, in their order."""
    batch = [{"agent_id": "ada", "content": str(number)} for number in range(1000)]
    assert api.post("/api/v1/memories", json={"memories": batch}).json()["count"] == 1000
    page = api.get("/api/v1/memories", params={"limit": "1000", "order": "asc"})
    assert [one["content"] for one in memories(page)] == [one["content"] for one in batch]
    assert page.json()["has_more"] is False
    assert "next_cursor" not in page.json()


def test_a_batch_takes_no_field_beside_its_members(api: httpx.Client) -> None:
    """Unknown fields beside `memories` are refused by name."""
    body = {"memories": [{"agent_id": "ada", "content": "x"}], "agent_id": "ada"}
    response = api.post("/api/v1/memories", json=body)
    assert response.status_code == 400
    assert "agent_id" in response.json()["error"]
    assert memories(api.get("/api/v1/memories")) == []


@pytest.mark.parametrize("content", HOSTILE)
def test_any_text_is_data(api: httpx.Client, content: str) -> None:
    """Text that means something to SQL, LIKE, shells or terminals is stored, found and returned byte for byte."""
    post(api, "another memory that must not be found: 100x of fooXbar 50xx", dedup_key="decoy")
    stored = post(api, content)
    assert stored["content"].encode() == content.encode()
    assert memories(api.post("/api/v1/search", json={"content_contains": content})) == [stored]
    assert memories(api.post("/api/v1/search", json={"content_contains": content[1:5]}))[0] == stored
    assert api.get(f"/api/v1/memories/{stored['memory_id']}").json() == stored


@pytest.mark.parametrize("needle", ["100%", "foo_bar", "%", "_", "50%_off", "0% OF F"])
def test_wildcards_are_ordinary_characters(api: httpx.Client, needle: str) -> None:
    """`%` and `_` in a search match only themselves."""
    post(api, "100x of fooxbar, 50xxoff")
    stored = post(api, "100% of foo_bar, 50%_off")
    assert memories(api.post("/api/v1/search", json={"content_contains": needle})) == [stored]


@pytest.mark.parametrize(("content", "needle"), [("ÉCOLE Straße", "école"), ("Привет Мир", "МИР"), ("ΑΒΓ", "αβγ")])
def test_case_does_not_matter_beyond_ascii(api: httpx.Client, content: str, needle: str) -> None:
    """A search ignores case by Unicode lower-casing."""
    stored = post(api, content)
    assert memories(api.post("/api/v1/search", json={"content_contains": needle})) == [stored]


def test_a_mebibyte_is_kept_byte_for_byte(api: httpx.Client) -> None:
    """Content of exactly 1 MiB of UTF-8 comes back as it was, and is found by its end."""
    content = "é%'\\" * (MIB // 5) + "z"
    assert len(content.encode()) == MIB
    stored = post(api, content)
    assert api.get(f"/api/v1/memories/{stored['memory_id']}").json()["content"] == content
    found = memories(api.post("/api/v1/search", json={"content_contains": "É%'\\É%'\\Z"}))
    assert [one["memory_id"] for one in found] == [stored["memory_id"]]


def test_metadata_survives_as_it_is(api: httpx.Client) -> None:
    """Nested metadata with quotes, emoji, big numbers, nulls and odd keys comes back equal."""
    metadata = {"": None, "'\"\\": [1, -2.5, True, {"🙂": "x"}], "n": 2**53, "a.b": {"$ne": 1}, "nul?": "\u0000"}
    stored = post(api, metadata=metadata)
    assert stored["metadata"] == metadata
    assert api.get(f"/api/v1/memories/{stored['memory_id']}").json()["metadata"] == metadata


@pytest.mark.parametrize(
    "key", ["a/b", "/", "//a//", "100%", "a b", "ключ?x=1#frag", "..", "a/../b", "%2F", "+", "k;v", "🙂", "stats"]
)
def test_a_memory_is_found_by_any_dedup_key(api: httpx.Client, key: str) -> None:
    """A dedup key in a path, percent-encoded, names its memory, slashes and dots included."""
    post(api, "decoy", dedup_key="decoy")
    stored = post(api, dedup_key=key)
    # As raw as it is written: httpx would clean up a path.
    encoded = quote(key, safe="").replace(".", "%2E")
    response = api.get(httpx.URL(api.base_url, raw_path=f"/api/v1/memories/{encoded}".encode()))
    assert response.status_code == 200, response.text
    assert response.json() == stored


def test_plain_slashes_in_a_dedup_key_work_too(api: httpx.Client) -> None:
    """A dedup key may stand in a path with its slashes as they are."""
    stored = post(api, dedup_key="https://example.com/a/b")
    assert api.get("/api/v1/memories/https://example.com/a/b").json() == stored


def test_a_dedup_key_that_looks_like_an_id_is_found(api: httpx.Client) -> None:
    """A memory whose dedup key has the form of a memory id is found by it, unless a memory has that id."""
    key = "mem_" + "0" * 24
    stored = post(api, dedup_key=key)
    assert api.get(f"/api/v1/memories/{key}").json() == stored
    other = post(api, "impostor", dedup_key=stored["memory_id"])
    assert api.get(f"/api/v1/memories/{stored['memory_id']}").json() == stored
    assert other["memory_id"] != stored["memory_id"]


def test_an_unknown_memory_is_a_404(api: httpx.Client) -> None:
    """Ids and keys that nobody stored are not found."""
    for reference in ("mem_" + "0" * 24, "nothing", "a%2Fb", "x" * 300):
        response = api.get(f"/api/v1/memories/{reference}")
        assert response.status_code == 404
        assert response.json()["error"] == "memory not found"


def test_tags_match_whole_and_all(api: httpx.Client) -> None:
    """A tag filter wants every tag, and `auth` does not match `oauth`."""
    oauth = post(api, "1", tags=["oauth", "x.y"])
    both = post(api, "2", tags=["auth", "x.y"])
    post(api, "3", tags=["auth-2", "au"])
    assert memories(api.get("/api/v1/memories", params={"tags": "auth"})) == [both]
    assert memories(api.get("/api/v1/memories", params={"tags": "x.y"})) == [both, oauth]
    assert memories(api.get("/api/v1/memories", params={"tags": "x.y,auth"})) == [both]
    assert memories(api.post("/api/v1/search", json={"tags": ["x.y", "oauth"]})) == [oauth]
    assert memories(api.get("/api/v1/memories", params={"tags": "xzy"})) == []


def test_search_filters_work_together(api: httpx.Client) -> None:
    """Types are alternatives, importance bounds are inclusive, and all filters must hold."""
    low = post(api, "low", memory_type="entity", event_type="seen", importance=0.2)
    middle = post(api, "middle", memory_type="session", event_type="note", importance=0.5)
    high = post(api, "high", agent_id="bob", event_type="seen", importance=1)

    def search(**body: object) -> list[dict]:
        return memories(api.post("/api/v1/search", json=body))

    assert search() == [high, middle, low]
    assert search(order="asc") == [low, middle, high]
    assert search(memory_types=["entity", "session"]) == [middle, low]
    assert search(event_types=["seen"]) == [high, low]
    assert search(min_importance=0.5) == [high, middle]
    assert search(max_importance=0.5) == [middle, low]
    assert search(min_importance=0.2, max_importance=0.2) == [low]
    assert search(agent_id="ada", event_types=["seen", "note"], memory_types=["entity"]) == [low]
    assert search(agent_id="ada", memory_types=["episodic"]) == []
    assert search(since=middle["time"]) == [high, middle]
    assert search(until=middle["time"]) == [low]
    assert search(limit=1, offset=1) == [middle]


def test_a_window_includes_its_beginning_and_not_its_end(api: httpx.Client) -> None:
    """`since` is inclusive, `until` exclusive, `now` allowed, and a time without offset is UTC."""
    first, second, third = (post(api, content) for content in "abc")
    at = second["time"]
    naive, offset = at.removesuffix("Z"), datetime.fromisoformat(at).astimezone().isoformat()

    def window(**parameters: str) -> list[dict]:
        return memories(api.get("/api/v1/memories", params=parameters))

    for since in (at, naive, offset):
        assert window(since=since) == [third, second]
        assert window(until=since) == [first]
    assert window(since=at, until=third["time"]) == [second]
    assert window(since="1w", until="now") == [third, second, first]
    assert window(since="30m") == window(since="2h") == window(since="7d") == [third, second, first]
    assert window(until="1m") == []
