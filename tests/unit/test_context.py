from datetime import timedelta

import msgspec
import pytest
from builders import EVENTS, IMPORTANCES, START, memory
from hypothesis import example, given
from hypothesis import strategies as st

from memtrace_core.context import build_context
from memtrace_core.model import MEMORY_TYPES

SESSION = "sess_abc123"
SAMPLE_TIME = START.replace(month=2, day=7, hour=20)

SAMPLE = """\
## Session Context (sess_abc123)

### Recent Actions (2)
- [2026-02-07T20:15:00Z] page_crawled: Crawled https://example.com — found 3 product pages
- [2026-02-07T20:14:30Z] api_call: Called the summarizer

### Decisions Made (1)
- [2026-02-07T20:14:00Z] decision: Skip pagination — only 2 pages deep (reasoning: not worth it)"""

LINE_BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]

hostile = st.lists(
    st.sampled_from(
        [*LINE_BREAKS, "## Forged", "### Errors (9)", "- [2026-02-07T20:15:00Z] x: y", "(", " ", "word"]
    )
    | st.text(max_size=8),
    min_size=1,
    max_size=8,
).map("".join)


@st.composite
def sessions_memories(draw):
    """Draw memories of a session, each at a time of its own, newest first."""
    drawn = draw(
        st.lists(
            st.tuples(
                hostile,
                st.sampled_from(MEMORY_TYPES),
                st.sampled_from(EVENTS),
                st.sampled_from(IMPORTANCES),
                st.none() | hostile,
            ),
            max_size=12,
        )
    )
    return [
        memory(
            START - timedelta(seconds=number),
            salt=number,
            content=content or "x",
            memory_type=memory_type,
            event_type=event_type,
            importance=importance,
            metadata=None if reasoning is None else {"reasoning": reasoning},
        )
        for number, (content, memory_type, event_type, importance, reasoning) in enumerate(drawn)
    ]


budgets = st.integers(32, 400)


def rank(one):
    """Return how much a memory deserves its place."""
    return one.importance, one.time


def left_out_line(count):
    """Return the last line of a text that is not whole."""
    return f"({count} {'memory' if count == 1 else 'memories'} left out)"


def length_of(chosen, total):
    """Return how long a text with only these of so many memories is."""
    return len(build_context("s1", chosen).context) + len("\n\n" + left_out_line(total - len(chosen)))


def chosen_of(memories, context):
    """Return the memories that a text has in it; their times tell them apart."""
    return [one for one in memories if f"- [{one.time:%Y-%m-%dT%H:%M:%SZ}] {one.event_type}: " in context.context]


def test_a_context_is_written_exactly_as_the_api_shows():
    """The sample of the API's documentation, character by character."""
    memories = [
        memory(
            SAMPLE_TIME + timedelta(minutes=15),
            event_type="page_crawled",
            content="Crawled https://example.com — found 3 product pages",
        ),
        memory(
            SAMPLE_TIME + timedelta(minutes=14, seconds=30), event_type="api_call", content="Called the summarizer"
        ),
        memory(
            SAMPLE_TIME + timedelta(minutes=14),
            memory_type="decision",
            event_type="decision",
            content="Skip pagination — only 2 pages deep",
            metadata={"reasoning": "not worth it"},
        ),
    ]
    built = build_context(SESSION, memories)
    assert built.context == SAMPLE
    assert (built.session_id, built.memory_count) == (SESSION, 3)


def test_the_sections_stand_in_their_order():
    """Actions, decisions, entities, notes, errors: in this order, whatever order the memories have."""
    memories = [
        memory(event_type="error", content="e"),
        memory(memory_type="session", content="s"),
        memory(memory_type="entity", content="n"),
        memory(memory_type="decision", content="d"),
        memory(memory_type="episodic", content="a"),
    ]
    headings = [line for line in build_context("s1", memories).context.splitlines() if line.startswith("### ")]
    assert headings == [
        "### Recent Actions (1)",
        "### Decisions Made (1)",
        "### Entities (1)",
        "### Session Notes (1)",
        "### Errors (1)",
    ]


@pytest.mark.parametrize("memory_type", MEMORY_TYPES)
def test_an_error_is_listed_with_the_errors_and_nowhere_else(memory_type):
    """Whatever its memory type, an error belongs to the section of errors."""
    text = build_context("s1", [memory(memory_type=memory_type, event_type="error", content="boom")]).context
    assert text == "## Session Context (s1)\n\n### Errors (1)\n- [2026-01-01T00:00:00Z] error: boom"


def test_a_session_without_memories_is_a_heading():
    """No memories, no sections."""
    built = build_context("s1", [], 32)
    assert (built.context, built.memory_count) == ("## Session Context (s1)", 0)


def test_a_section_keeps_the_order_of_the_memories():
    """Within a section the memories stand as they were given."""
    for order in ([1, 2, 3], [3, 2, 1]):
        memories = [memory(START + timedelta(seconds=n), content=f"m{n}") for n in order]
        text = build_context("s1", memories).context
        assert [line[-2:] for line in text.splitlines() if line.startswith("- ")] == [f"m{n}" for n in order]


@pytest.mark.parametrize("reasoning", ["", None, 5, ["x"], {"a": "b"}])
def test_only_a_text_is_given_as_reasoning(reasoning):
    """A reasoning that is empty or no text is not written."""
    text = build_context("s1", [memory(memory_type="decision", metadata={"reasoning": reasoning})]).context
    assert "reasoning" not in text


def test_only_a_decision_has_its_reasoning_written():
    """The metadata of other memories stay out of the text."""
    assert "why" not in build_context("s1", [memory(metadata={"reasoning": "why"})]).context


@pytest.mark.parametrize("line_break", LINE_BREAKS, ids=ascii)
def test_line_breaks_become_spaces(line_break):
    """A content and a reasoning of several lines are written as one."""
    written = memory(
        memory_type="decision", content=f"one{line_break}two", metadata={"reasoning": f"a{line_break}b"}
    )
    assert "general: one two (reasoning: a b)" in build_context("s1", [written]).context


@given(sessions_memories(), st.none() | budgets)
def test_no_content_can_forge_a_line(memories, max_tokens):
    """Every line is the heading, a section's heading, a memory, the remark at the end, or empty."""
    built = build_context("s1", memories, max_tokens)
    lines = built.context.splitlines()
    assert "\n".join(lines) == built.context
    assert all(line.startswith(("## ", "### ", "- [", "(")) or not line for line in lines)
    assert sum(line.startswith("## ") for line in lines) == 1
    assert sum(line.startswith("- [") for line in lines) == built.memory_count
    counted = [int(line.rsplit("(", 1)[1].rstrip(")")) for line in lines if line.startswith("### ")]
    assert sum(counted) == built.memory_count
    remarks = [line for line in lines if line.startswith("(")]
    assert remarks == (
        [left_out_line(len(memories) - built.memory_count)] if built.memory_count < len(memories) else []
    )
    assert not remarks or lines[-1] == remarks[0]


@given(sessions_memories(), budgets, st.integers(1, 128))
@example([memory(content="x" * 200)] * 1000, 32, 128)
@example([memory(content="x")] * 1000, 32, 128)
def test_a_text_never_exceeds_its_budget(memories, max_tokens, id_length):
    """However small the budget and long the session's id, the text has at most four characters a token."""
    memories = [msgspec.structs.replace(one, memory_id=str(n)) for n, one in enumerate(memories)]
    assert len(build_context("s" * id_length, memories, max_tokens).context) <= max_tokens * 4


@given(sessions_memories(), budgets)
def test_what_is_left_out_deserves_its_place_least(memories, max_tokens):
    """A memory that is left out could not fit even alone, or ranks below every one that is in the text."""
    built = build_context("s1", memories, max_tokens)
    chosen = chosen_of(memories, built)
    assert len(chosen) == built.memory_count
    for one in memories:
        if one not in chosen and length_of([one], len(memories)) <= max_tokens * 4:
            assert all(rank(one) < rank(other) for other in chosen)


@given(sessions_memories(), budgets)
def test_nothing_is_left_out_without_need(memories, max_tokens):
    """The best memory of those left out that could fit alone does not fit beside those in the text."""
    built = build_context("s1", memories, max_tokens)
    chosen = chosen_of(memories, built)
    possible = [one for one in memories if one not in chosen and length_of([one], len(memories)) <= max_tokens * 4]
    if possible:
        next_best = max(possible, key=rank)
        together = [one for one in memories if one in chosen or one == next_best]
        whole = len(build_context("s1", together).context)
        remark = 0 if len(together) == len(memories) else len("\n\n" + left_out_line(len(memories) - len(together)))
        assert whole + remark > max_tokens * 4


def test_a_budget_that_just_suffices_leaves_nothing_out():
    """A text of exactly the budget is whole; a token less, and something is missing."""
    memories = [memory(START + timedelta(seconds=n), salt=n, content="x" * 28) for n in range(8)]
    length = len(build_context("s1", memories).context)
    memories[0] = msgspec.structs.replace(memories[0], content="x" * (28 + -length % 4))
    whole = build_context("s1", memories)
    tokens = len(whole.context) // 4
    assert build_context("s1", memories, tokens) == whole
    assert build_context("s1", memories, tokens - 1).memory_count < 8


def test_the_least_important_goes_first_then_the_oldest():
    """With room for two of three the newest of the least important two is kept beside the important one."""
    old_but_important = memory(START, salt=1, content="a" * 20, importance=0.9)
    older = memory(START + timedelta(seconds=1), salt=2, content="b" * 20)
    newer = memory(START + timedelta(seconds=2), salt=3, content="c" * 20)
    memories = [newer, older, old_but_important]
    tokens = -(-length_of([newer, old_but_important], 3) // 4)
    text = build_context("s1", memories, tokens).context
    assert "aaa" in text
    assert "ccc" in text
    assert "bbb" not in text
    assert text.endswith("\n\n(1 memory left out)")


def test_one_memory_too_long_for_the_budget_does_not_keep_others_out():
    """The most important memory is passed over if it alone is too long."""
    memories = [memory(salt=1, content="x" * 1000, importance=1.0), memory(salt=2, content="short")]
    built = build_context("s1", memories, 40)
    assert built.memory_count == 1
    assert "short" in built.context
