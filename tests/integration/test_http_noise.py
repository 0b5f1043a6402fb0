"""Any bytes in bodies, headers, queries and cursors: a 2xx, or a 4xx in the agreed form with nothing half done."""

import asyncio
import gc
import json

import pytest
from builders import OTHER_ORG, bound, embedded_instance
from hypothesis import assume, example, given
from hypothesis import strategies as st
from integration.asgi import served

from memtrace_core.model import Permission

API = "/api/v1"
BODIES = [
    ("POST", f"{API}/memories"),
    ("POST", f"{API}/search"),
    ("POST", f"{API}/agents"),
    ("POST", f"{API}/sessions"),
    ("PUT", f"{API}/sessions/s1"),
    ("POST", f"{API}/sessions/s1/context"),
]
READS = [
    f"{API}/{path}" for path in ("memories", "agents", "sessions", "agents/ada/memories", "sessions/s1/memories")
]
FIELDS = [
    *["agent_id", "content", "memory_type", "event_type", "session_id", "metadata", "tags", "importance"],
    *["dedup_key", "parent_id", "memories", "name", "description", "config", "status", "since", "until", "limit"],
    *["offset", "order", "cursor", "max_tokens", "include_types", "memory_types", "content_contains"],
]
# Texts that JSON can write and Unicode cannot, that end strings elsewhere, that turn text around.
ODD_TEXTS = st.sampled_from(
    ["", "ada", "\0", "\ud800", "\udfff\ud83d", "\u202e", "\ufeff", "x" * 5000, "1h", "asc"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**63, 2**64, 1e308, 5e-324, -0.0])
    | st.floats(allow_nan=True)
    | st.text(max_size=20)
    | ODD_TEXTS
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner)
)
OBJECTS = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), VALUES, max_size=6)


class Asked:
    """An app with two orgs, kept in a loop of its own for all examples of a test."""

    def __init__(self):
        self.runner = asyncio.Runner()
        self._served = served()
        self.client = self.runner.run(self._served.__aenter__())
        self.runner.run(bound(self.client.services, embedded_instance(OTHER_ORG)))
        self.other_key = self.runner.run(self.client.key_of(Permission.ADMIN, OTHER_ORG))

    def request(self, method, target, body=None, **others):
        """Send a request, and check the form of the answer: the status and, of an error, the body."""
        answer = self.runner.run(self.client.request(method, target, body, **others))
        assert 200 <= answer.status < 500, answer
        assert answer.headers["x-request-id"]
        if answer.status >= 400:
            problem = answer.json
            assert problem.keys() <= {"error", "code", "hint", "request_id", "memory_id"}
            assert problem["error"]
            assert problem["code"]
            assert problem["request_id"] == answer.headers["x-request-id"]
            assert len(answer.body) < 100_000
        return answer

    def everything(self):
        """Return all that the org holds."""
        return [
            self.request("GET", f"{API}/{path}?limit=1000").json[path]
            for path in ("memories", "agents", "sessions")
        ]

    def close(self):
        """Stop the app."""
        self.runner.run(self._served.__aexit__(None, None, None))
        self.runner.close()


@pytest.fixture(scope="module")
def asked():
    """The app that all tests of this module ask."""
    made = Asked()
    yield made
    made.close()


def changes_only_if_told(asked, method, path, body):
    """Send a body, and check that the org holds more only after a 2xx."""
    before = asked.everything()
    answer = asked.request(method, path, body)
    if answer.status >= 400:
        assert asked.everything() == before
    return answer


def written(value):
    """Write JSON as its most liberal writers do: NaN, huge numbers, and lone surrogates as escapes."""
    return json.dumps(value).encode()


@pytest.mark.parametrize(("method", "path"), BODIES)
@given(body=st.binary(max_size=200) | VALUES.map(written) | OBJECTS.map(written))
@example(body=b"\xef\xbb\xbf{}")
@example(body=b'{"agent_id":"ada","content":"x","metadata":' + b'{"a":' * 200_000)
@example(body=b"[" * 200_000 + b"]" * 200_000)
@example(body=b'{"limit":' + b"9" * 100_000 + b"}")
@example(body=b'{"agent_id":"ada","content":"x","importance":1e' + b"9" * 1000 + b"}")
def test_any_body_is_taken_whole_or_refused_whole(asked, method, path, body):
    """Whatever a body holds, the answer is in the agreed form, and a refused request leaves no trace."""
    changes_only_if_told(asked, method, path, body)


GOOD = {
    "agent_id": "ada",
    "content": "x",
    "session_id": "s1",
    "metadata": {"k": 1},
    "tags": ["t"],
    "importance": 0.5,
}


@given(
    memories=st.lists(st.just(GOOD), max_size=3),
    bad=st.tuples(st.sampled_from(sorted(GOOD)), VALUES),
    place=st.integers(0, 3),
)
def test_a_batch_with_a_bad_member_stores_none_of_it(asked, memories, bad, place):
    """One member with any odd value fails the batch, or is a memory like the others."""
    members = [{**one, "content": f"{number} {bad!r}"} for number, one in enumerate(memories)]
    members.insert(place, {**GOOD, bad[0]: bad[1]})
    answer = changes_only_if_told(asked, "POST", f"{API}/memories", written({"memories": members}))
    if answer.status == 201:
        assert answer.json["count"] + len(answer.json["duplicates"]) == len(members)


@given(
    body=st.dictionaries(st.sampled_from(["agent_id", "content", "dedup_key"]), st.just("Twice"), min_size=3),
    data=st.data(),
)
def test_a_field_that_is_given_twice_counts_once(asked, body, data):
    """Of two members of a name the last one counts, for checks and for what is stored alike."""
    name = data.draw(st.sampled_from(sorted(body)))
    first = data.draw(st.sampled_from(["First", "", "\0", 5, None]))
    doubled = json.dumps({name: first})[:-1].encode() + b"," + written(body)[1:]
    answer = asked.request("POST", f"{API}/memories", doubled)
    assert answer.status in (201, 400, 409)
    if answer.status == 201:
        assert answer.json[name] == "Twice"


QUERY_BYTES = st.text(
    st.sampled_from("abglimtofse=&;%+#01fF\u00ff") | st.characters(max_codepoint=126, min_codepoint=33)
)
PIECES = st.sampled_from(
    ["limit=", "&", "=", "cursor=", "tags=", "%00", "%ff", "%", "%zz", "%ed%a0%80", "since=", "1h", "+"]
)


@pytest.mark.parametrize("path", READS)
@given(query=st.lists(PIECES | QUERY_BYTES, max_size=6).map("".join))
@example(query="&" * 10_000)
@example(query="limit=1" + "&limit=1" * 10_000)
@example(query="tags=" + "a," * 10_000)
def test_any_query_string_is_taken_or_refused(asked, path, query):
    """Garbage, broken escapes, repetitions: a page or a 400."""
    assume(query.isascii())
    assert asked.request("GET", f"{path}?{query}").status in (200, 400)


@given(
    path=st.lists(
        st.sampled_from([*READS, "/", "%2f", "%00", "%ff", "..", "%2e%2e", "%", "\u00e9", "//", ";"]), max_size=6
    )
)
def test_any_path_is_found_or_not(asked, path):
    """Broken escapes, dots and slashes in a path lead to a route or to a 4xx."""
    asked.request("GET", "/" + "".join(path).lstrip("/").replace("?", ""))


NAMES = st.sampled_from(
    [
        *["x-api-key", "authorization", "content-type", "content-length", "content-encoding", "x-request-id"],
        *["host", "accept", "cookie", "origin", "expect", "x"],
    ]
)
HEADER_TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30)


@given(headers=st.lists(st.tuples(NAMES | HEADER_TEXTS.map(str.lower), HEADER_TEXTS), max_size=8))
@example(headers=[("x-api-key", "mtk_" + "x" * 60_000)])
@example(headers=[(f"x{number}", "y") for number in range(10_000)])
@example(headers=[("authorization", "Bearer")] * 100)
def test_any_headers_are_no_way_in(asked, headers):
    """Without the key no combination of headers opens a route, and the answer is in the agreed form."""
    assert asked.request("GET", f"{API}/memories", headers=headers, key=None).status in (400, 401)


@pytest.mark.parametrize("name", ["x-api-key", "authorization"])
def test_of_two_keys_the_first_counts(asked, name):
    """A key given twice, as on the way through a careless proxy, is one key: nobody adds a better one behind."""
    keys = [asked.client.key, asked.other_key]
    prefix = "Bearer " if name == "authorization" else ""
    for order in (keys, keys[::-1]):
        headers = [(name, prefix + key) for key in order]
        told = asked.request("POST", f"{API}/sessions", {"agent_id": "ada"}, headers=headers, key=None)
        alone = asked.request("POST", f"{API}/sessions", {"agent_id": "ada"}, headers=headers[:1], key=None)
        assert told.json["org_id"] == alone.json["org_id"]


@pytest.fixture(scope="module")
def cursors(asked):
    """Return a cursor of each of two orgs, who each hold some memories."""
    found = []
    for key in (asked.client.key, asked.other_key):
        batch = [{"agent_id": "paged", "content": f"page {number}"} for number in range(5)]
        asked.request("POST", f"{API}/memories", {"memories": batch}, key=key)
        page = asked.request("GET", f"{API}/memories?agent_id=paged&limit=2", key=key).json
        found.append((key, page["next_cursor"], {one["memory_id"] for one in page["memories"]}))
    return found


@given(
    flips=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 7)), min_size=1, max_size=3),
    cut=st.integers(0, 60),
)
def test_a_cursor_with_flipped_bits_shows_nothing_foreign(asked, cursors, flips, cut):
    """A cursor that was changed is a 400, or leads to another place among the same org's memories."""
    key, cursor, _ = cursors[0]
    raw = bytearray(cursor[: len(cursor) - cut % len(cursor)].encode())
    for place, bit in flips:
        raw[place % len(raw)] ^= 1 << bit
    body = written({"agent_id": "paged", "cursor": raw.decode("latin-1")})
    answer = asked.request("POST", f"{API}/search", body, key=key)
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert {one["org_id"] for one in answer.json["results"]} <= {"org_a"}


def test_the_cursor_of_another_org_is_a_place_and_no_key(asked, cursors):
    """With another org's cursor a key still sees its own memories alone."""
    (key, _, _), (_, foreign, _) = cursors
    answer = asked.request("GET", f"{API}/memories?agent_id=paged&cursor={foreign}", key=key)
    assert answer.status == 200
    assert {one["org_id"] for one in answer.json["memories"]} <= {"org_a"}


def test_what_is_refused_is_not_kept(asked):
    """A thousand refused bodies of all kinds leave the app as it was: no memory, agent, session, and no growth."""
    before = asked.everything()
    gc.collect()
    objects = len(gc.get_objects())
    bodies = [b"{", b"[" * 10_000, b'{"nope":1}', written({**GOOD, "content": "\0" * 1000})]
    for number in range(1000):
        method, path = BODIES[number % 5]
        body = bodies[number % len(bodies)]
        assert asked.request(method, path, body).status in (400, 404)
    gc.collect()
    assert len(gc.get_objects()) - objects < 500
    assert asked.everything() == before
