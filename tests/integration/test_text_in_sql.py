"""Any text comes through SQL as itself: in DuckDB, where it is written out, and in SQLite, where it is bound."""

from datetime import timedelta

import apsw
import duckdb
import msgspec
import pytest
from builders import ORG, OTHER_ORG, START, TRICKY, memory
from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace_arc.sql import EVERYTHING, Dialect, text_value
from memtrace_arc.wire import Row, encode_batch
from memtrace_core.query import AgentCountQuery, MemoryQuery, Position
from memtrace_core.timewindow import to_us
from memtrace_sqlite import rows

EXAMPLES = (
    "'; DROP TABLE memories; --",
    "' OR '1'='1",
    "\\",
    "\\' OR 1=1 -- \\",
    '"',
    "''",
    "-- /* ' */",
    "$$ $1 ?1 :name %s {0} __STR_0__",
    "\x00",
    "a\x00' OR 1=1 --",
    "\u202e\u2066 right to left \u200f\ufeff",
    "e\u0301 \u1e9e \u0130 \u03a3\u03c2 \U0001f642 \U0010ffff \ufffd",
    "\r\n\t\x1f\x7f\x85\u2028",
    "%_*[a-z]",
)
# All of Unicode but lone surrogates, which no encoding holds: they are refused long before.
texts = (
    st.sampled_from(EXAMPLES)
    | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
    | st.text(TRICKY, min_size=1, max_size=12)
    | st.tuples(st.sampled_from(EXAMPLES), st.sampled_from(EXAMPLES)).map("".join)
)
for_any_text = settings(max_examples=10)

FILTERS = {
    "agent_ids": lambda text: {"agent_ids": (text,)},
    "several agent_ids": lambda text: {"agent_ids": ("nobody", text)},
    "session_ids": lambda text: {"session_ids": (text,)},
    "memory_types": lambda text: {"memory_types": (text,)},
    "event_types": lambda text: {"event_types": (text,)},
    "tags": lambda text: {"tags": (text,)},
    "content_contains": lambda text: {"content_contains": text},
    "memory_id": lambda text: {"memory_id": text},
    "dedup_key": lambda text: {"dedup_key": text},
    "after": lambda text: {"after": Position(START, text)},
    "after, ascending": lambda text: {"after": Position(START, text), "order": "asc"},
}
NUMBERS = {"order", "offset", "limit", "min_importance", "max_importance", "since", "until", "horizon"}


class InDuckDB:
    """The rows of Arc's wire in a table of DuckDB, and what `memtrace_arc` asks it."""

    def __init__(self):
        # Starting one takes longer than all that is asked of it.
        self.connection = duckdb.connect(config={"threads": 1})

    def keep(self, memories):
        """Store memories, in a table of their own."""
        columns = msgspec.msgpack.decode(encode_batch("memories", memories))["columns"]
        kinds = {"time": "BIGINT", "importance": "DOUBLE"}
        selected = ", ".join(f"unnest(?::{kinds.get(name, 'VARCHAR')}[]) AS {name}" for name in columns)
        self.connection.execute(
            "CREATE OR REPLACE TABLE memories AS "
            f"SELECT * REPLACE (make_timestamptz(time) AS time) FROM (SELECT {selected})",
            list(columns.values()),
        )

    def find(self, query):
        """Return what a query finds."""
        found = self.connection.execute(Dialect("memories").page(query, EVERYTHING)).fetchall()
        return [msgspec.convert(row, Row).memory(query.org_id) for row in found]

    def count(self, query):
        """Return how many memories an agent has."""
        return sum(row[1] for row in self.connection.execute(Dialect("memories").count(query)).fetchall())

    def close(self):
        """Forget everything."""
        self.connection.close()


class InSQLite:
    """The rows of SQLite's adapter in a table, and what it asks of it."""

    def __init__(self):
        self.connection = rows.prepare(apsw.Connection(":memory:"))

    def keep(self, memories):
        """Store memories, in a table of their own."""
        self.connection.execute("DROP TABLE IF EXISTS memories")
        self.connection.execute(f"CREATE TABLE memories (org_id, {rows.COLUMNS})")
        for one in memories:
            encoded = msgspec.json.encode(one.metadata).decode() if one.metadata else None
            values = (
                to_us(one.time), one.memory_id, one.agent_id, one.session_id, one.memory_type, one.event_type,
                one.content, encoded, ",".join(one.tags) or None, one.dedup_key, one.importance, one.parent_id,
            )  # fmt: skip
            self.connection.execute(f"INSERT INTO memories VALUES (?, {rows.PLACES})", (one.org_id, *values))

    def find(self, query):
        """Return what a query finds."""
        where, values = rows.conditions(query)
        found = self.connection.execute(
            f"SELECT {rows.COLUMNS} FROM memories WHERE org_id = ?{where}{rows.ordering(query)}",
            (query.org_id, *values),
        )
        return [rows.memory_of(query.org_id, row) for row in found]

    def count(self, query):
        """Return how many memories an agent has."""
        return rows.counts_of(self.connection, "memories", "org_id = ?", (query.org_id,), query).total

    def close(self):
        """Forget everything."""
        self.connection.close()


@pytest.fixture(scope="module", params=[InDuckDB, InSQLite])
def store(request):
    """One of the two."""
    opened = request.param()
    yield opened
    opened.close()


def spelled(text, number, **changes):
    """Return a memory that has a text wherever there is text."""
    made = {"agent_id": text, "session_id": text, "memory_type": text, "event_type": text, "content": text}
    made |= {"tags": (text.replace(",", "") or "none",), "dedup_key": text, "parent_id": text, "memory_id": text}
    return memory(START + timedelta(seconds=number), salt=number, **made | {"metadata": {text: text}} | changes)


def kept_beside(text):
    """Return a memory that has a text everywhere, and others that nearly have it."""
    near = [
        text + "x",
        "x" + text,
        text + text,
        text[:-1] or "y",
        text.swapcase(),
        text + "'",
        text + "\\",
        "harmless",
    ]
    others = [one for one in dict.fromkeys(near) if one != text]
    return [
        spelled(text, 0),
        *(spelled(one, number) for number, one in enumerate(others, 1)),
        spelled("another's", 20, org_id=OTHER_ORG),
    ]


def test_every_filter_of_texts_is_among_these_tests():
    """A filter that is added to queries must be tried here."""
    tried = {name for build in FILTERS.values() for name in build("x")}
    assert tried | NUMBERS | {"org_id"} == set(MemoryQuery.__struct_fields__)


@given(texts)
def test_an_expression_of_a_text_is_the_text(text):
    """What DuckDB makes of the expression is the text, and the expression is of hex digits alone."""
    assert duckdb.execute(f"SELECT {text_value(text)}").fetchone() == (text,)
    assert set(text_value(text)) <= set("decode(unhex('0123456789ABCDEF'))")


@pytest.mark.parametrize("name", FILTERS)
@for_any_text
@given(text=texts)
def test_a_filter_finds_what_has_its_text_and_nothing_else(store, name, text):
    """For any text the answer is that of the reference, and all texts come back as they were."""
    if name == "tags":  # a comma stands between tags, and a NUL is in none
        text = text.replace(",", "").replace("\0", "") or "tag"
    kept = kept_beside(text)
    store.keep(kept)
    query = MemoryQuery(org_id=ORG, **FILTERS[name](text))
    expected, found = query.page(kept), store.find(query)
    if name == "content_contains":  # which letters are the same in lower case is tested elsewhere
        expected, found = ([one for one in some if text in one.content] for some in (expected, found))
        assert len(found) >= 1
    assert found == expected


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_by_a_text_that_is_nowhere_finds_nothing(store, name):
    """What would open every row, were it read as SQL, opens none."""
    store.keep([spelled("harmless", 0), spelled("another's", 1, org_id=OTHER_ORG)])
    for text in EXAMPLES[:4]:
        query = MemoryQuery(org_id=ORG, **FILTERS[name](text))
        assert store.find(query) == query.page([spelled("harmless", 0)])


@for_any_text
@given(text=texts)
def test_an_agents_count_and_an_org_are_texts_as_well(store, text):
    """The count of any agent is its own, and an org of any name has none of another's memories."""
    store.keep(kept_beside(text))
    asked = AgentCountQuery(org_id=ORG, agent_id=text, recent_since=START)
    assert store.count(asked) == 1
    assert store.count(msgspec.structs.replace(asked, org_id=text)) == 0
    assert store.find(MemoryQuery(org_id=text)) == []


@pytest.mark.parametrize("text", ["\ud800", "a\udfff'"])
def test_a_lone_surrogate_is_no_text_for_either(store, text):
    """What should never get so far stops before a statement is made of it."""
    store.keep([memory()])
    with pytest.raises(UnicodeEncodeError):
        store.find(MemoryQuery(org_id=ORG, agent_ids=(text,)))
