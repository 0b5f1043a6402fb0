import base64
from datetime import timedelta

import msgspec
import pytest
from builders import MICROSECOND, ORG, OTHER_NODE, OTHER_ORG, START, Aim, aims, drafts, memory, queries, walk
from hypothesis import given
from hypothesis import strategies as st

from memtrace_core.errors import InvalidInput
from memtrace_core.identifiers import memory_id, new_agent_id, new_session_id
from memtrace_core.model import Memory
from memtrace_core.query import (
    Horizon,
    MemoryQuery,
    Position,
    decode_cursor,
    encode_cursor,
    fold,
    position_of,
)
from memtrace_core.timewindow import from_us, to_us

HOUR = timedelta(hours=1)
ANYTHING = MemoryQuery(org_id=ORG)


def matches(changes, **fields):
    """Tell whether a query with these values finds a memory with those."""
    return msgspec.structs.replace(ANYTHING, **changes).matches(memory(**fields))


@st.composite
def memories_of_two_nodes(draw):
    """Draw memories of two orgs and nodes, some at the same time, each with an id of its own."""
    drawn = draw(st.lists(st.tuples(drafts(), st.integers(0, 8), st.sampled_from([ORG, OTHER_ORG]))))
    return [
        one.stamped(
            org_id, memory_id(to_us(START) + us, draw(st.sampled_from([OTHER_NODE, "ffffff"])), f"{n:04x}"), at
        )
        for n, (one, us, org_id) in enumerate(drawn)
        for at in [START + us * MICROSECOND]
    ]


def test_a_query_without_filters_finds_every_memory_of_its_org():
    """Without a filter any memory of the org matches."""
    assert matches({})


def test_a_query_never_finds_a_memory_of_another_org():
    """The org always counts."""
    assert not matches({}, org_id=OTHER_ORG)


@pytest.mark.parametrize(
    ("changes", "hit", "miss"),
    [
        ({"agent_ids": ("ada", "bob")}, {"agent_id": "bob"}, {"agent_id": "eve"}),
        ({"session_ids": ("s1", "s2")}, {"session_id": "s2"}, {"session_id": "s3"}),
        ({"session_ids": ("s1",)}, {"session_id": "s1"}, {"session_id": None}),
        ({"memory_types": ("entity", "decision")}, {"memory_type": "decision"}, {"memory_type": "session"}),
        ({"event_types": ("error", "e2")}, {"event_type": "e2"}, {"event_type": "Error"}),
        ({"tags": ("auth",)}, {"tags": ("x", "auth")}, {"tags": ("oauth",)}),
        ({"tags": ("a", "b")}, {"tags": ("b", "c", "a")}, {"tags": ("a",)}),
        ({"content_contains": "50%"}, {"content": "at 50% now"}, {"content": "at 500 now"}),
        ({"content_contains": "a_b"}, {"content": "xa_bx"}, {"content": "xaxbx"}),
        ({"content_contains": "É"}, {"content": "café"}, {"content": "cafe"}),
        ({"content_contains": "\\'\""}, {"content": "-\\'\"-"}, {"content": "\\ ' \""}),
        ({"min_importance": 0.5}, {"importance": 0.5}, {"importance": 0.4999}),
        ({"max_importance": 0.5}, {"importance": 0.5}, {"importance": 0.5001}),
        ({"max_importance": 0.0}, {"importance": 0.0}, {"importance": 0.1}),
        ({"since": START}, {"time": START}, {"time": START - MICROSECOND}),
        ({"until": START}, {"time": START - MICROSECOND}, {"time": START}),
        ({"memory_id": "mem_1"}, {"memory_id": "mem_1"}, {"memory_id": "mem_2"}),
        ({"dedup_key": "k"}, {"dedup_key": "k"}, {"dedup_key": "K"}),
        ({"dedup_key": "k"}, {"dedup_key": "k"}, {"dedup_key": None}),
    ],
)
def test_a_filter_takes_what_it_names_and_nothing_else(changes, hit, miss):
    """Each filter lets a fitting memory through and holds another back."""
    assert matches(changes, **hit)
    assert not matches(changes, **miss)


def test_all_filters_must_match():
    """Two filters together take only what both take."""
    both = {"agent_ids": ("ada",), "event_types": ("error",)}
    assert matches(both, agent_id="ada", event_type="error")
    assert not matches(both, agent_id="ada", event_type="general")
    assert not matches(both, agent_id="bob", event_type="error")


@pytest.mark.parametrize(("order", "earlier", "later"), [("desc", True, False), ("asc", False, True)])
def test_a_position_lets_only_what_follows_it_through(order, earlier, later):
    """After a position come the earlier memories in descending order, the later ones in ascending order."""
    here = memory(salt=5)
    query = msgspec.structs.replace(ANYTHING, order=order, after=position_of(here))
    assert not query.matches(here)
    assert query.matches(memory(START - MICROSECOND, salt=9)) is earlier
    assert query.matches(memory(START + MICROSECOND, salt=1)) is later
    assert query.matches(memory(salt=4)) is earlier
    assert query.matches(memory(salt=6)) is later


def test_a_horizon_holds_back_this_nodes_memories_from_its_time_on():
    """Of the horizon's node only what is older counts; the time itself is the journal's."""
    query = msgspec.structs.replace(ANYTHING, horizon=Horizon("aaaaaa", START))
    assert query.matches(memory(START - MICROSECOND, node="aaaaaa"))
    assert not query.matches(memory(START, node="aaaaaa"))
    assert not query.matches(memory(START + HOUR, node="aaaaaa"))


def test_a_horizon_holds_back_what_its_node_has_set_aside():
    """A memory that a gateway refused is the journal's to show, however old; another node's of that id is not."""
    aside = memory(START - HOUR, node="aaaaaa")
    horizon = Horizon("aaaaaa", START, frozenset({aside.memory_id, memory(node="bbbbbb").memory_id}))
    query = msgspec.structs.replace(ANYTHING, horizon=horizon)
    assert not query.matches(aside)
    assert query.matches(memory(START - HOUR, node="aaaaaa", salt=1))
    assert query.matches(memory(node="bbbbbb"))


def test_a_horizon_lets_other_writers_through_at_any_time():
    """Rows of another node, and rows without an id of ours, count whatever their time."""
    query = msgspec.structs.replace(ANYTHING, horizon=Horizon("aaaaaa", START))
    assert query.matches(memory(START + HOUR, node="bbbbbb"))
    assert query.matches(memory(START + HOUR, memory_id="go_1"))


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("ABC", "abc"),
        ("ÉẞЖ", "éßж"),
        ("ΟΔΟΣ", "οδοσ"),
        ("ς", "ς"),
        ("İI", "ii"),
        ("ß", "ß"),
        ("ﬁ", "ﬁ"),
        ("🙂", "🙂"),
    ],
)
def test_folding_lower_cases_letter_by_letter(text, folded):
    """A letter becomes its own lower case wherever in a word it stands."""
    assert fold(text) == folded


@given(st.text())
def test_folding_keeps_every_character_in_its_place(text):
    """Folding changes no text's length, and a piece folds as it does within the whole."""
    assert fold(text) == "".join(map(fold, text))
    assert len(fold(text)) == len(text)


@given(memories_of_two_nodes(), queries(), aims)
def test_a_page_is_the_matching_memories_in_order_cut_to_size(memories, query, aim):
    """A page has exactly what matches, by time and then id, from the offset on, up to the limit."""
    query = aim.at(query, memories)
    page = query.page(memories)
    ordered = sorted((one for one in memories if query.matches(one)), key=lambda one: (one.time, one.memory_id))
    if query.order == "desc":
        ordered.reverse()
    assert page == ordered[query.offset : query.offset + query.limit]


@given(memories_of_two_nodes(), queries())
def test_pages_after_each_other_are_the_whole(memories, query):
    """Following positions from page to page shows every match once, whatever the limit."""
    query = msgspec.structs.replace(query, offset=0)
    seen: list[Memory] = []
    while page := query.page(memories):
        seen += page
        cursor = encode_cursor(position_of(page[-1]), query.order)
        query = query.following(decode_cursor(cursor, query.order))
    assert seen == walk(msgspec.structs.replace(query, after=None), memories)


@given(st.integers(-(10**16), 10**17), st.sampled_from(["desc", "asc"]))
def test_a_cursor_survives_the_way_to_the_caller_and_back(us, order):
    """A position becomes a cursor and the same position again, for every kind of id that is paged."""
    for one in (memory_id(abs(us) % 2**56, OTHER_NODE, "beef"), new_agent_id(), new_session_id()):
        position = Position(from_us(us), one)
        assert decode_cursor(encode_cursor(position, order), order) == position


def test_a_cursor_is_safe_in_a_url():
    """A cursor has nothing that a query string would have to escape."""
    assert encode_cursor(position_of(memory()), "desc").replace("-", "").replace("_", "").isalnum()


def test_a_cursor_of_the_other_order_is_refused():
    """A cursor of a descending page does not continue an ascending one, nor the reverse."""
    position = position_of(memory())
    for order, other in (("asc", "desc"), ("desc", "asc")):
        with pytest.raises(InvalidInput, match="other order"):
            decode_cursor(encode_cursor(position, order), other)


def forged(plain):
    """Write a cursor by hand."""
    return base64.urlsafe_b64encode(plain).decode().rstrip("=")


GOOD_ID = b"mem_000000000012340a0b0cbeef"


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "!!!!",
        "é",
        "\ud800",
        "ZA==ZA",
        forged(b""),
        forged(b"d"),
        forged(b"d1." + GOOD_ID)[:-4],
        forged(b"x1." + GOOD_ID),
        forged(b"d1" + GOOD_ID),
        forged(b"d." + GOOD_ID),
        forged(b"d1.5." + GOOD_ID),
        forged(b"d+1." + GOOD_ID),
        forged(b"d1_0." + GOOD_ID),
        forged("d١.".encode() + GOOD_ID),
        forged(b"d1." + GOOD_ID + b"\n"),
        forged(b"d1." + GOOD_ID + b"' OR 1=1 --"),
        forged(b"d1." + GOOD_ID.upper()),
        forged(b"d1.mem_' OR 1=1 --"),
        forged(b"d999999999999999999." + GOOD_ID),
        forged(b"d-999999999999999999." + GOOD_ID),
        forged(b"d9999999999999999999999." + GOOD_ID),
        forged(b"\xff\xfe"),
        forged(b"d1.\xff"),
    ],
    ids=ascii,
)
def test_a_forged_cursor_is_refused(cursor):
    """What this server did not give out is an error that says so."""
    with pytest.raises(InvalidInput, match="cursor is not one"):
        decode_cursor(cursor, "desc")


@given(st.text() | st.binary().map(forged))
def test_no_cursor_does_more_than_be_refused(text):
    """Whatever a caller sends as a cursor, it is a position or InvalidInput."""
    try:
        position = decode_cursor(text, "desc")
    except InvalidInput:
        return
    assert decode_cursor(encode_cursor(position, "desc"), "desc") == position


def test_a_query_within_the_rules_is_returned_as_it_is():
    """Checking gives back the query itself."""
    assert ANYTHING.check() is ANYTHING


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"agent_ids": ("good", "not good")}, "agent_id"),
        ({"session_ids": ("1",)}, "session_id"),
        ({"memory_types": ("semantic",)}, "memory_types"),
        ({"event_types": ("a-b",)}, "event_types"),
        ({"tags": ("a", "a b")}, r"tags\[1\]"),
        ({"content_contains": ""}, "content_contains"),
        ({"content_contains": "x" * 1001}, "content_contains"),
        ({"min_importance": -0.1}, "min_importance"),
        ({"max_importance": 1.1}, "max_importance"),
        ({"limit": 0}, "limit must be from 1 to 1,000"),
        ({"limit": 1001}, "limit must be from 1 to 1,000"),
        ({"offset": -1}, "offset must be from 0 to 10,000"),
        ({"offset": 10_001}, "offset must be from 0 to 10,000"),
        ({"offset": 1, "after": Position(START, "x")}, "cursor and offset"),
    ],
)
def test_a_value_outside_its_rule_is_refused_by_name(changes, field):
    """The refusal names the value."""
    with pytest.raises(InvalidInput, match=field):
        msgspec.structs.replace(ANYTHING, **changes).check()


@pytest.mark.parametrize(
    "changes", [{"limit": 1}, {"limit": 1000}, {"offset": 10_000}, {"content_contains": "x" * 1000}]
)
def test_the_ends_of_the_ranges_are_within(changes):
    """The greatest and the least values are taken."""
    msgspec.structs.replace(ANYTHING, **changes).check()


def test_a_position_may_come_with_an_offset_of_zero():
    """The default offset beside a cursor is no contradiction."""
    msgspec.structs.replace(ANYTHING, after=Position(START, "x"), offset=0).check()


FILTERS_OF_64 = [
    {"agent_ids": tuple(f"a{n}" for n in range(64))},
    {"session_ids": tuple(f"s{n}" for n in range(64))},
    {"event_types": tuple(f"e{n}" for n in range(64))},
    {"tags": tuple(f"t{n}" for n in range(64))},
    {
        "agent_ids": tuple(f"a{n}" for n in range(20)),
        "session_ids": tuple(f"s{n}" for n in range(20)),
        "memory_types": ("episodic", "entity"),
        "event_types": tuple(f"e{n}" for n in range(10)),
        "tags": tuple(f"t{n}" for n in range(7)),
        "content_contains": "x",
        "min_importance": 0.1,
        "max_importance": 0.9,
        "since": START,
        "until": START + HOUR,
    },
]


@pytest.mark.parametrize("filters", FILTERS_OF_64, ids=lambda filters: "+".join(filters))
def test_a_query_has_up_to_64_filter_values(filters):
    """64 values in all are taken, spread over the filters in any way; one more is refused."""
    full = msgspec.structs.replace(ANYTHING, **filters)
    assert full.check() is full
    more = {"agent_ids": (*full.agent_ids, "zoe")}
    with pytest.raises(InvalidInput, match="at most 64 filter values"):
        msgspec.structs.replace(full, **more).check()


def test_the_following_page_begins_after_a_position_and_has_no_offset():
    """An offset counts from the beginning only; filters, order and limit stay."""
    query = MemoryQuery(org_id=ORG, agent_ids=("ada",), order="asc", offset=7, limit=3)
    position = position_of(memory())
    assert query.following(position) == msgspec.structs.replace(query, after=position, offset=0)


def test_an_aim_bounds_a_query_by_memories():
    """The builder of these tests takes bounds from the memories it is given."""
    stored = [memory(salt=1), memory(START + HOUR, salt=2)]
    aimed = Aim(since=0, until=1, after=None, memory_id=2).at(ANYTHING, stored)
    assert (aimed.since, aimed.until, aimed.memory_id) == (START, START + HOUR, stored[0].memory_id)
