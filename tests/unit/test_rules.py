import math
import re

import msgspec
import pytest
from builders import texts_around
from hypothesis import given
from hypothesis import strategies as st

from memtrace_core import rules
from memtrace_core.errors import InvalidInput
from memtrace_core.model import MEMORY_TYPES

NOT_PRINTABLE = ["\n", "\t", "\0", "\x7f", "\x1b", "\u2028", "\ud800", "\u200b"]


def refuses(rule, value, field="some_field"):
    """Assert that a rule refuses a value, and says for which field."""
    with pytest.raises(InvalidInput, match=re.escape(field)):
        rule(value, field)


@pytest.mark.parametrize("value", ["a", "Z", "a1", "a_b-c", "A" + "9" * 127])
def test_an_identifier_may_be_a_letter_and_127_more(value):
    """Letters, digits, `_` and `-` behind a letter, 128 in all, are an identifier."""
    assert rules.identifier(value, "agent_id") == value


@pytest.mark.parametrize(
    "value", ["", "1a", "_a", "-a", "a b", "a.b", "a\n", "é", "aé", "a٣", "a/b", "a\0", "A" + "9" * 128]
)
def test_another_identifier_is_refused(value):
    """Anything else is refused with the name of its field."""
    refuses(rules.identifier, value, "agent_id")


@pytest.mark.parametrize("value", MEMORY_TYPES)
def test_the_four_memory_types_are_taken(value):
    """`episodic`, `session`, `decision` and `entity` are memory types."""
    assert rules.memory_type(value, "memory_type") == value


@pytest.mark.parametrize("value", ["", "Episodic", "episodic ", "semantic"])
def test_another_memory_type_is_refused_with_the_four(value):
    """The refusal lists what is possible."""
    with pytest.raises(InvalidInput, match=r"memory_type.*episodic, session, decision, entity"):
        rules.memory_type(value, "memory_type")


@pytest.mark.parametrize("value", ["a", "Z9", "page_crawled", "e" * 64])
def test_an_event_type_may_be_a_letter_and_63_more(value):
    """Letters, digits and `_` behind a letter, 64 in all, are an event type."""
    assert rules.event_type(value, "event_type") == value


@pytest.mark.parametrize("value", ["", "1a", "_a", "a-b", "a b", "a\n", "é", "e" * 65])
def test_another_event_type_is_refused(value):
    """Anything else is refused with the name of its field."""
    refuses(rules.event_type, value, "event_type")


@pytest.mark.parametrize("value", ["a", "1", "-", ".", "_", "v1.2-rc_3", "t" * 64])
def test_a_tag_may_be_64_of_its_characters(value):
    """Letters, digits, `_`, `.` and `-`, 64 in all and in any place, are a tag."""
    assert rules.tags([value], "tags") == (value,)


@pytest.mark.parametrize("value", ["", "a b", "a,b", "é", "a\n", "a/b", "t" * 65])
def test_another_tag_is_refused_with_its_number(value):
    """The refusal says which of the tags it is."""
    refuses(lambda one, field: rules.tags(["good", one], field), value, "some_field[1]")


def test_64_tags_are_taken_and_65_are_not():
    """A memory has at most 64 tags."""
    many = [f"t{number}" for number in range(65)]
    assert rules.tags(many[:64], "tags") == tuple(many[:64])
    refuses(rules.tags, many, "tags")


def test_no_tags_are_fine():
    """An empty list of tags is none."""
    assert rules.tags([], "tags") == ()


@pytest.mark.parametrize(("rule", "most"), [(rules.reference, 256), (rules.name, 128)])
def test_a_printable_text_has_its_greatest_length(rule, most):
    """A reference has up to 256 characters, a name up to 128, not bytes; neither is empty."""
    longest, too_long = texts_around(most)
    assert rule(longest, "x") == longest
    assert rule("é" * most, "x") == "é" * most
    assert rule("a b/🙂", "x") == "a b/🙂"
    refuses(rule, too_long)
    refuses(rule, "")


@pytest.mark.parametrize("rule", [rules.reference, rules.name])
@pytest.mark.parametrize("character", NOT_PRINTABLE, ids=ascii)
def test_what_cannot_be_printed_is_no_reference_and_no_name(rule, character):
    """Control characters, line breaks and lone surrogates are refused."""
    refuses(rule, f"a{character}b")


def test_a_description_has_up_to_4096_characters_and_several_lines():
    """A description may be long and have line breaks."""
    longest, too_long = texts_around(4096)
    assert rules.description(longest, "description") == longest
    assert rules.description("two\nlines", "description") == "two\nlines"
    refuses(rules.description, too_long, "description")


@pytest.mark.parametrize("rule", [rules.description, rules.content, rules.search_text])
@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800", "a\udfff", "é\0"], ids=ascii)
def test_nul_and_lone_surrogates_are_no_text(rule, text):
    """NUL and what is not Unicode is refused wherever free text is taken."""
    refuses(rule, text)


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, 0.5, 5e-324])
def test_an_importance_is_from_0_to_1_and_becomes_a_float(value):
    """Both ends of the range are in it, and a whole number becomes a float."""
    kept = rules.importance(value, "importance")
    assert kept == value
    assert type(kept) is float


@pytest.mark.parametrize("value", [-5e-324, -1, 2, math.nextafter(1, 2), math.inf, -math.inf, math.nan], ids=str)
def test_another_importance_is_refused(value):
    """What lies outside, and what is not a number, is refused."""
    refuses(rules.importance, value, "importance")


@pytest.mark.parametrize("character", ["x", "é", "日", "🙂"])
def test_a_content_has_up_to_a_mebibyte_of_utf_8(character):
    """The limit of a content counts bytes: the last character that fits is taken, one more is not."""
    most = (1 << 20) // len(character.encode())
    assert len(rules.content(character * most, "content")) == most
    refuses(rules.content, character * (most + 1), "content")


def test_a_content_has_a_character():
    """An empty content is refused, a single space is not."""
    refuses(rules.content, "", "content")
    assert rules.content(" ", "content") == " "


def test_a_text_to_look_for_has_1_to_1000_characters():
    """The limit of a search text counts characters."""
    longest, too_long = texts_around(1000)
    assert rules.search_text(longest, "q") == longest
    assert rules.search_text("🙂" * 1000, "q") == "🙂" * 1000
    refuses(rules.search_text, too_long, "q")
    refuses(rules.search_text, "", "q")


def test_a_json_object_has_up_to_256_kib():
    """The limit of an object counts the bytes of its JSON."""
    room = (256 << 10) - len('{"k":""}')
    assert len(rules.json_object({"k": "x" * room}, "metadata")) == 256 << 10
    refuses(rules.json_object, {"k": "x" * (room + 1)}, "metadata")


def test_a_json_object_is_nested_up_to_64_levels():
    """An object of 64 levels is taken, one of 65 is not, of lists as well as of objects."""

    def nested(levels, wrap):
        value = {}
        for _ in range(levels - 1):
            value = wrap(value)
        return {"k": value}

    for wrap in (lambda inner: {"k": inner}, lambda inner: [inner]):
        rules.json_object(nested(63, wrap), "metadata")
        refuses(rules.json_object, nested(64, wrap), "metadata")


def test_a_wide_object_is_not_a_deep_one():
    """Many objects beside each other are no nesting."""
    rules.json_object({"k": [{} for _ in range(1000)]}, "metadata")


def test_an_object_that_is_far_too_deep_is_refused():
    """Nesting beyond what can be walked is an error like any other."""
    value = {}
    for _ in range(100_000):
        value = {"k": value}
    refuses(rules.json_object, value, "metadata")
    while value:  # taken apart by hand: it is too deep for that too
        value = value.pop("k")


@pytest.mark.parametrize(
    "value",
    [{"k": "\ud800"}, {"\ud800": 1}, {"k": object()}, {"k": 1 << 70_000}],
    ids=["surrogate", "surrogate key", "foreign object", "endless number"],
)
def test_what_json_cannot_say_is_no_object(value):
    """Lone surrogates and foreign objects are refused, never an error of another kind."""
    refuses(rules.json_object, value, "metadata")


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=("Cs",))),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**63)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=("Cs",))),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
            max_leaves=10,
        ),
    )
)
def test_an_accepted_object_is_written_as_the_json_of_itself(value):
    """The text that is kept reads back as the object that was given."""
    assert msgspec.json.decode(rules.json_object(value, "metadata")) == value


def test_a_whole_number_is_within_both_ends():
    """Both ends belong to a range, what lies beyond is refused with the range."""
    assert rules.within(1, 1, 1000, "limit") == 1
    assert rules.within(1000, 1, 1000, "limit") == 1000
    for value in (0, 1001):
        with pytest.raises(InvalidInput, match="limit must be from 1 to 1,000"):
            rules.within(value, 1, 1000, "limit")


def test_the_published_ranges_are_these():
    """The numbers of the API's table of limits."""
    assert (rules.MAX_LIMIT, rules.MAX_OFFSET, rules.MAX_FILTER_VALUES, rules.MAX_BATCH) == (1000, 10_000, 64, 1000)
    assert (rules.MIN_CONTEXT_TOKENS, rules.MAX_CONTEXT_TOKENS) == (32, 1_000_000)


@pytest.mark.parametrize("value", ["a", "acme-memory_1", "d" * 64])
def test_an_arc_database_may_have_this_name(value):
    """Letters, digits, `_` and `-` behind a letter, 64 in all, name a database."""
    assert rules.arc_database(value, "database") == value


@pytest.mark.parametrize("value", ["", "1a", "a.b", "a b", 'a"b', "a/b", "a\n", "d" * 65])
def test_another_arc_database_is_refused(value):
    """Anything else is refused."""
    refuses(rules.arc_database, value, "database")


@pytest.mark.parametrize("value", ["a", "events_1", "m" * 128, "pgx", "my_pg_x"])
def test_an_arc_measurement_may_have_this_name(value):
    """Letters, digits and `_` behind a letter, 128 in all, name a measurement."""
    assert rules.arc_measurement(value, "measurement") == value


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "1a",
            "a-b",
            "a.b",
            "a b",
            "a\n",
            "m" * 129,
            "pg_x",
            "duckdb_x",
            "information_schema",
            "read_parquet",
        ),
        *("PG_x", "DuckDB_x", "Information_Schema_x", "READ_PARQUET"),
    ],
)
def test_an_arc_measurement_that_cannot_be_queried_is_refused(value):
    """Names that Arc would store but could not read are refused, hyphens and reserved ones among them."""
    refuses(rules.arc_measurement, value, "measurement")


@given(st.text(max_size=130))
def test_the_published_patterns_say_what_the_rules_do(text):
    """The patterns that the API publishes accept exactly what the rules accept."""
    for pattern, rule in (
        (rules.IDENTIFIER_PATTERN, rules.identifier),
        (rules.EVENT_TYPE_PATTERN, rules.event_type),
        (rules.TAG_PATTERN, lambda value, field: rules.tags([value], field)),
    ):
        # JSON Schema's `$` is the end of the text, Python's also stands before a last line break.
        accepted = re.search(pattern.replace("$", r"\Z"), text) is not None
        if accepted:
            rule(text, "x")
        else:
            refuses(rule, text)
