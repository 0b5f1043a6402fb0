import sys

import apsw
import pytest
from builders import TRICKY, draft, embedded_instance, instance, run
from hypothesis import given
from hypothesis import strategies as st

from memtrace_core.query import AgentCountQuery, MemoryQuery, Position, fold
from memtrace_core.testing import ManualClock
from memtrace_sqlite import SqliteEmbeddedGateway, SqliteJournal
from memtrace_sqlite.rows import conditions, prepare

ARC, EMBEDDED = instance(), embedded_instance()
HOSTILE = (
    "' OR '1'='1",
    "x' OR 1=1 --",
    "'; DROP TABLE journal; --",
    '" OR ""="',
    "%",
    "_",
    "*",
    "\\",
    "a\\' OR 1=1",
    ") UNION SELECT * FROM journal --",
    "?1",
    ":name",
    ",",
    "ada' --",
    "\x00' OR 1=1",
    "{}",
    "NULL",
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text(TRICKY, max_size=4)


@pytest.fixture(scope="module")
def connection():
    """A connection with our function."""
    made = prepare(apsw.Connection(":memory:"))
    yield made
    made.close()


def contains(connection, content, wanted):
    """Ask SQLite whether a content contains a text."""
    ((found,),) = connection.execute("SELECT folded_contains(?, ?)", (content, fold(wanted))).fetchall()
    return bool(found)


@given(texts, texts, texts)
def test_containing_means_the_same_in_sqlite_as_in_the_reference(connection, before, text, after):
    """For any Unicode `folded_contains` is `fold(wanted) in fold(content)`, and finds every part of a text."""
    content = before + text + after
    for wanted in (text, text.upper(), text.lower(), after, text + "x"):
        assert contains(connection, content, wanted) == (fold(wanted) in fold(content))
    assert contains(connection, content, text)


def test_every_letter_is_found_in_its_other_case(connection):
    """Each letter whose lower case is a single character of its own is found by the other case of it."""
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        if letter.isupper() and len(letter.lower()) == 1 and letter not in "İΣ":
            assert fold(letter) == letter.lower()
    for letter in "ÄÖÉЖΩĄẞ":
        assert contains(connection, f"x{letter}y", letter.lower())
        assert contains(connection, f"x{letter.lower()}y", letter)


@pytest.mark.parametrize(
    ("content", "wanted"), [("ΟΔΟΣ", "οδοσ"), ("ΟΔΟΣ ", "Σ "), ("İstanbul", "i"), ("xİ", "Xi")]
)
def test_letters_that_python_lowers_in_a_way_of_its_own_are_found(connection, content, wanted):
    """A sigma at a word's end and a dotted capital I are lowered letter by letter, as on every other store."""
    assert contains(connection, content, wanted)


@pytest.mark.parametrize("text", ["%", "_", "*", "?", "\\", "'", '"', "[a]"])
def test_no_character_is_a_pattern(connection, text):
    """What is a wildcard in LIKE or GLOB stands only for itself."""
    assert contains(connection, f"a{text}b", text)
    assert not contains(connection, "ab", text)


@pytest.mark.parametrize("values", [(None, "a"), (b"a", "a"), (1, "1"), ("a", None)])
def test_what_is_no_text_contains_nothing(connection, values):
    """A NULL, a number or bytes in place of a text never match, and never fail the query."""
    assert connection.execute("SELECT folded_contains(?, ?)", values).fetchall() == [(0,)]


FILTERS = {
    "agent_ids": lambda text: {"agent_ids": (text,)},
    "several agents": lambda text: {"agent_ids": (text, text + "x")},
    "session_ids": lambda text: {"session_ids": (text,)},
    "memory_types": lambda text: {"memory_types": (text,)},
    "event_types": lambda text: {"event_types": (text,)},
    "tags": lambda text: {"tags": (text,)},
    "content_contains": lambda text: {"content_contains": text},
    "memory_id": lambda text: {"memory_id": text},
    "dedup_key": lambda text: {"dedup_key": text},
    "after": lambda text: {"after": Position(ManualClock().now(), text)},
}


@pytest.mark.parametrize("build", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("text", HOSTILE)
def test_no_value_ever_stands_in_the_sql(build, text):
    """Whatever a filter's value is, the SQL text of a query is the same and the value is bound."""
    hostile, values = conditions(MemoryQuery(org_id="org_a", **build(text)))
    harmless, _ = conditions(MemoryQuery(org_id="org_a", **build("harmless")))
    assert hostile == harmless
    assert any(isinstance(value, str) and fold(text) in fold(value) for value in values)


def test_hostile_values_find_what_they_are_and_nothing_else(tmp_path):
    """Through journal and embedded store alike, values that look like SQL are values: they match themselves only,
    and every table is still there.
    """

    async def scenario():
        clock = ManualClock()
        journal = SqliteJournal(tmp_path / "journal.db", clock)
        gateway = SqliteEmbeddedGateway(journal)
        kept = [text for text in HOSTILE if "\x00" not in text]
        for target in (ARC, EMBEDDED):
            some = [
                draft(f"<{text}>", agent_id=text, session_id=text, dedup_key=text + target.url) for text in kept
            ]
            await journal.append(target, [*some, draft("harmless")])
        for text in HOSTILE:
            for name in (
                "agent_ids",
                "session_ids",
                "event_types",
                "memory_types",
                "content_contains",
                "memory_id",
            ):
                query = MemoryQuery(org_id=ARC.org_id, **FILTERS[name](text))
                expected = query.page([*(await everything(journal, gateway, ARC))])
                assert (await journal.view(query)).memories == expected
                expected = query.page([*(await everything(journal, gateway, EMBEDDED))])
                assert await gateway.query(EMBEDDED, query) == expected
                assert len(expected) < len(HOSTILE)
            counted = AgentCountQuery(org_id=ARC.org_id, agent_id=text, recent_since=clock.now())
            assert (await journal.count(counted))[1].total == (text in kept)
            assert (await gateway.count(EMBEDDED, counted)).total == (text in kept)
            for org_id in (text, "org_b"):
                query = MemoryQuery(org_id=org_id)
                assert (await journal.view(query)).memories == []
                assert await gateway.query(embedded_instance(org_id), query) == []
        assert (await journal.holdings(ARC.org_id)).pending == len(kept) + 1
        await journal.close()

    run(scenario())


async def everything(journal, gateway, target):
    """Return all that one store has."""
    query = MemoryQuery(org_id=target.org_id, limit=1000)
    return await gateway.query(target, query) if target.embedded else (await journal.view(query)).memories
