import io
import json
import re
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace_cli import output
from memtrace_core.errors import NotFound


class Terminal(io.StringIO):
    """A terminal that takes colour."""

    def isatty(self):
        return True


def terminal(monkeypatch):
    """Let output go to a terminal of 40 columns that takes colour."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", Terminal())


def table_on_a_terminal(monkeypatch):
    """Print the table on a terminal, and return what was written."""
    terminal(monkeypatch)
    output.say_table(COLUMNS, ROWS)
    return sys.stdout.getvalue()


def without_colour(text):
    """Return text without escape sequences."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


COLUMNS = ("ID", "NAME", "CREATED")
ROWS = [("org_1", "Acme", "2026"), ("org_22", "x" * 200, "2027"), ("org_3", "[red]ünï 🙂[/red]", "-")]


def test_away_from_a_terminal_a_table_is_plain(capsys):
    """No rules, no colour, nothing cut or folded: one row a line, the columns aligned, no blanks at the end."""
    output.say_table(COLUMNS, ROWS)
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0] == "ID      NAME" + " " * 198 + "CREATED"
    assert lines[1] == "org_1   Acme" + " " * 198 + "2026"
    assert lines[2] == "org_22  " + "x" * 200 + "  2027"
    assert lines[3].startswith("org_3   [red]ünï 🙂[/red] ")
    assert len(lines) == 4
    assert "\x1b" not in text


def test_a_table_without_rows_is_its_header(capsys):
    """An empty list still says what its columns are."""
    output.say_table(COLUMNS, [])
    assert capsys.readouterr().out == "ID  NAME  CREATED\n"


@given(st.lists(st.tuples(*[st.text(st.characters(categories=["L", "N"]), min_size=1)] * 2), max_size=5))
def test_the_columns_of_a_plain_table_can_be_split_again(rows):
    """The first field of each line is the first cell, as scripts with `awk` expect."""
    former, sys.stdout = sys.stdout, io.StringIO()
    try:
        output.say_table(("ID", "NAME"), rows)
        lines = sys.stdout.getvalue().split("\n")
    finally:
        sys.stdout = former
    assert [tuple(line.split()) for line in lines[1:-1]] == rows


def test_on_a_terminal_a_table_fits_and_keeps_its_ids(monkeypatch):
    """Every line fits the terminal; what is cut is never the id, and markup in a cell is text."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = table_on_a_terminal(monkeypatch)
    plain = without_colour(text)
    assert all(len(line) <= 40 for line in plain.splitlines())
    assert [line.split()[0] for line in plain.splitlines()] == ["ID", "org_1", "org_22", "org_3"]
    assert "[red]" in plain
    assert text != plain


def test_on_a_narrow_terminal_a_verdict_stands_beside_a_long_sentence(monkeypatch):
    """Short columns stay whole, the widest give way, and a sentence goes on in the next line."""
    terminal(monkeypatch)
    sentence = "an Arc refuses memories for good, and says why in more words than a line has"
    output.say_table(("VERDICT", "CHECK", "DETAIL"), [("fault", "arc of org_1", sentence), ("ok", "disk", "fine")])
    lines = without_colour(sys.stdout.getvalue()).splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[1].startswith("fault    arc of org_1  an Arc")
    assert lines[-1].split() == ["ok", "disk", "fine"]
    assert " ".join(line[23:].strip() for line in lines[1:-1]) == sentence


def test_on_a_terminal_the_widest_columns_give_way(monkeypatch):
    """A state that stands behind long times is not cut while these can be."""
    terminal(monkeypatch)
    output.say_table(("ID", "USED", "STATE"), [("key_1", "2026-11-23T12:21:11Z+00:00", "superseded")])
    assert without_colour(sys.stdout.getvalue()).splitlines()[1].split() == [
        "key_1",
        "2026-11-23T12:21:11Z…",
        "superseded",
    ]


def test_no_color_is_respected(monkeypatch):
    """With NO_COLOR set, no colour is written, on a terminal either."""
    monkeypatch.setenv("NO_COLOR", "1")
    text = table_on_a_terminal(monkeypatch)
    assert "org_22" in text
    assert not re.search(r"\x1b\[[0-9;]*(3[0-9]|4[0-9]|9[0-7])[0-9;]*m", text)


def test_on_a_terminal_a_state_has_its_colour(monkeypatch):
    """How things stand is coloured in the columns that say so; the same word elsewhere is not."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal(monkeypatch)
    output.say_table(("ID", "NAME", "STATE"), [("a", "fault", "active"), ("b", "active", "fault")])
    first, second = sys.stdout.getvalue().splitlines()[1:]
    green, red = "\x1b[32m", "\x1b[31m"
    assert f"{green}active" in first
    assert f"{red}fault" in second
    assert red not in first
    assert green not in second


@given(st.text(st.characters(exclude_categories=[])))
def test_one_line_is_one_line(text):
    """Whatever an error's text holds, what is printed of it has no line break and no control character."""
    line = output.one_line(text)
    assert len(line) == len(text)
    assert line.isprintable()
    line.encode()


def test_one_line_leaves_ordinary_text_alone():
    """Printable text of any script is not touched."""
    text = "“Ünï” — 日本語 🙂 '\"\\"
    assert output.one_line(text) == text


def test_an_error_is_one_line_and_a_hint_on_stderr(capsys):
    """Errors go to stderr: what is wrong, then how to mend it; exit code 1."""
    code = output.fail(NotFound("no organization 'a\nb'", hint="see\n`memtrace org list`"))
    captured = capsys.readouterr()
    assert code == output.FAILED == 1
    assert captured.err == "memtrace: no organization 'a b'\n  hint: see `memtrace org list`\n"
    assert captured.out == ""


def test_misuse_has_an_exit_code_of_its_own(capsys):
    """What was typed wrongly exits with 2, and without a hint there is one line."""
    assert output.fail(output.Misused("--port goes with --dev")) == output.MISUSED == 2
    assert capsys.readouterr().err == "memtrace: --port goes with --dev\n"


def test_json_is_indented_and_an_empty_list_is_a_list(capsys):
    """JSON on stdout parses, and no rows are `[]`."""
    output.say_json([])
    assert capsys.readouterr().out == "[]\n"
    output.say_json({"name": "ü\n", "at": None})
    assert json.loads(capsys.readouterr().out) == {"name": "ü\n", "at": None}


def test_fields_are_aligned_as_published(capsys):
    """`id:` and `name:` stand as in the published transcript."""
    output.say_fields([("id", "org_1"), ("name", "acme")])
    assert capsys.readouterr().out == "  id:   org_1\n  name: acme\n"


def test_messages_do_not_mix_with_data(capsys):
    """Suggestions and notes go to stderr."""
    output.say("data")
    output.note("message")
    output.suggest("memtrace org list")
    captured = capsys.readouterr()
    assert captured.out == "data\n"
    assert captured.err == "message\nnext: memtrace org list\n"


@pytest.mark.parametrize(
    ("answer", "agreed"),
    [
        ("y\n", True),
        ("YES\n", True),
        (" yes \n", True),
        ("n\n", False),
        ("\n", False),
        ("", False),
        ("yess\n", False),
    ],
)
def test_only_yes_is_yes(monkeypatch, capsys, answer, agreed):
    """Anything but y or yes is no, the end of input included; the question goes to stderr."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    assert output.confirm("Delete?") is agreed
    assert capsys.readouterr() == ("", "Delete? [y/N] ")


def test_times_are_shown_to_the_second_in_utc():
    """A time is RFC 3339; what never happened is a dash."""
    assert output.shown_time(datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)) == "2026-02-03T04:05:06Z"
    assert output.shown_time(None) == "-"
    assert output.shown_time(None, "never") == "never"
