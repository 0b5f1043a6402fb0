"""The lines of an export, written and read back."""

import json
from datetime import timedelta

import msgspec
import pytest
from builders import START, agent, drafts, memory, session
from hypothesis import given

from memtrace_core.errors import InvalidInput
from memtrace_core.export_lines import MOST_LINE_BYTES, End, Head, encode_line, read_head, read_line
from memtrace_core.identifiers import memory_id
from memtrace_core.timewindow import to_us

HEAD = Head(memtrace_export=1, org_id="org_a", org_name="acme", began_at=START)


def changed(**fields):
    """Return the line of a memory with fields changed, or left out where they are None."""
    line = json.loads(encode_line(memory())) | fields
    return json.dumps({name: value for name, value in line.items() if value is not None}).encode()


@given(drafts())
def test_a_memory_comes_back_as_it_was(one):
    """Whatever may be stored is one line, in the form of the HTTP API, and is read back equal."""
    kept = one.stamped("org_a", memory_id(to_us(START), "0a0b0c", "1234"), START)
    line = encode_line(kept)
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert json.loads(line) == json.loads(msgspec.json.encode(kept))
    assert read_line(line.encode()) == kept


@pytest.mark.parametrize(
    "line",
    [
        agent(description="a\nb", config={"n": 1}, last_active_at=START),
        agent(),
        session(status="closed", closed_at=START + timedelta(days=1), metadata={"é": [None]}),
        End(memories=3, agents=2, sessions=1, until=START),
    ],
    ids=["agent with all", "agent", "session", "end"],
)
def test_every_other_line_comes_back_as_it_was(line):
    """Agents, sessions and the end are told from memories, and read back equal."""
    assert read_line(encode_line(line).encode()) == line


def test_the_head_comes_back_as_it_was():
    """The first line says what the file is."""
    assert read_head(encode_line(HEAD).encode()) == HEAD


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (b"", "not an export"),
        (b"\x80\n", "not an export"),
        (b'{"memory_id":"mem_1"}\n', "not an export"),
        (b"[1]\n", "not an export"),
        (b'{"memtrace_export":2,"org_id":"o","org_name":"n","began_at":"2026-01-01T00:00:00Z"}', "format 2"),
    ],
)
def test_a_file_of_another_kind_is_named_as_such(first, words):
    """Its first line says what it is, or the file is refused."""
    with pytest.raises(InvalidInput, match=words):
        read_head(first)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"memory_id":', "truncated"),
        (b"{}", "neither a memory"),
        (b'{"x":1}', "unknown field `x`"),
        (b'"text"', "Expected `object`"),
        (b"\xff", "malformed|invalid"),
        (b" " * MOST_LINE_BYTES + b"{}", "longer than 16 MiB"),
        (changed(surprise=1), "unknown field `surprise`"),
        (changed(content=7), "content"),
        (changed(content=None), "content"),
        (changed(content=""), "content must be"),
        (changed(content="x" * (1 << 20) + "y"), "content must be"),
        (changed(content="a\0b"), "content must be"),
        (changed(memory_id="mem_1"), "memory_id must be"),
        (changed(time="2026-01-01T00:00:00.000001Z"), "memory_id must be"),
        (changed(time="2026-01-01T00:00:00"), "time must have an offset"),
        (changed(agent_id="a" * 257), "agent_id must be"),
        (changed(session_id="a\nb"), "session_id must be"),
        (changed(tags=["a,b"]), "tags must not"),
        (changed(metadata={"a": "x" * (256 << 10)}), "metadata must be"),
        (changed(importance="high"), "importance"),
        (encode_line(agent(name="")).encode(), "name must be"),
        (encode_line(agent(id="")).encode(), "id must not be empty"),
        (encode_line(session(id="")).encode(), "id must not be empty"),
    ],
)
def test_a_line_that_cannot_be_kept_is_refused_with_the_reason(line, words):
    """What is wrong is named, and nothing is guessed."""
    with pytest.raises(InvalidInput, match=words):
        read_line(line)


def test_what_another_program_gave_a_memory_is_taken_as_readers_are_shown_it():
    """Types, events and agents that the HTTP API would refuse may come out of an Arc, and go into one again."""
    line = changed(memory_type="note", event_type="page crawled", agent_id="web.crawler 1", importance=3)
    found = read_line(line)
    assert (found.memory_type, found.event_type, found.agent_id, found.importance) == (
        "note", "page crawled", "web.crawler 1", 3,
    )  # fmt: skip
