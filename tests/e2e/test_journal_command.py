"""`memtrace journal` away from a server: what it shows, what it refuses, and what it leaves alone."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import pairwise

import pytest
from builders import draft
from e2e.journals import ANSWER, as_exported, assert_one_line, counted, exported, fill, lines_of
from e2e.processes import COMMAND, Deployment
from e2e.test_terminal import on_terminal

from memtrace_core.entries import Draft

pytestmark = pytest.mark.slow

MANY = 2_500


def some(count: int) -> list[Draft]:
    """Return drafts that differ."""
    return [draft(f"m{number}") for number in range(count)]


def test_the_status_of_an_empty_installation(deployment: Deployment) -> None:
    """Without orgs the JSON is `[]` and the table has its header only."""
    assert deployment.done("journal", "status", "--json") == "[]\n"
    header = "ID  NAME  PENDING  DELIVERED  SET ASIDE  OLDEST  BYTES\n"
    assert deployment.done("journal", "status") == header


def test_the_status_counts_org_by_org(deployment: Deployment) -> None:
    """The table has the orgs where something waits, the JSON all of them, the oldest org first."""
    acme, idle, other = (deployment.org(name) for name in ("acme", "idle", "other"))
    _, _, oldest, *_ = fill(deployment, acme, some(7), aside=2, delivered=3)
    fill(deployment, other, some(1))
    told = deployment.told("journal", "status")
    assert [one["org_id"] for one in told] == [acme, idle, other]
    assert {name: told[0][name] for name in ("name", "pending", "delivered", "set_aside")} == {
        "name": "acme",
        "pending": 2,
        "delivered": 3,
        "set_aside": 2,
    }
    assert told[0]["oldest"] == as_exported(oldest)["time"]
    assert told[0]["pending_bytes"] > 0
    assert told[1] == {
        "org_id": idle, "name": "idle", "pending": 0, "delivered": 0, "set_aside": 0, "oldest": None,
        "pending_bytes": 0,
    }  # fmt: skip
    ended = deployment.here("journal", "status")
    _, *rows = lines_of(ended.stdout)
    assert [row.split()[:5] for row in rows] == [[acme, "acme", "2", "3", "2"], [other, "other", "1", "0", "0"]]
    assert re.search(r" 3h +\d+ B$", rows[0])
    assert "--state set-aside" in ended.stderr


def test_what_is_only_set_aside_has_no_oldest(deployment: Deployment) -> None:
    """The age is that of what is on its way; refused memories wait for the operator and do not count."""
    org_id = deployment.org()
    fill(deployment, org_id, some(2), aside=2)
    assert re.search(r"acme +0 +0 +2 +- +0 B\n$", deployment.done("journal", "status"))


def test_a_list_has_one_line_for_each_memory_whatever_is_in_it(deployment: Deployment) -> None:
    """Line breaks and control characters become blanks, long contents and answers are cut, the id never is."""
    org_id = deployment.org()
    (memory,) = fill(deployment, org_id, [draft("one\ntwo\r\x1b[2J\x85\u2028three " + "x" * 1_000_000)], aside=1)
    header, row = lines_of(deployment.done("journal", "list", org_id))
    assert re.match(r"ID +TIME +STATE +AGENT +CONTENT +ANSWER$", header)
    assert row.startswith(memory.memory_id)
    assert re.search(r"set-aside +ada +one two +\[2J  three x+… +arc rejected it:  \[31mbad column", row)
    assert row.isprintable()
    assert len(row) < 250


def test_a_list_can_be_of_some_states(deployment: Deployment) -> None:
    """`--state` chooses one or several, the order stays that of time, and Arc's answer stands with its memory."""
    org_id = deployment.org()
    fill(deployment, org_id, some(6), aside=2, delivered=2)

    def listed(*states: str) -> list[tuple[str, str]]:
        flags = [word for state in states for word in ("--state", state)]
        return [(one["content"], one["state"]) for one in deployment.told("journal", "list", org_id, *flags)]

    aside = [("m0", "set_aside"), ("m1", "set_aside")]
    delivered = [("m2", "delivered"), ("m3", "delivered")]
    pending = [("m4", "pending"), ("m5", "pending")]
    assert listed() == aside + delivered + pending
    assert listed("set-aside") == aside
    assert listed("delivered") == delivered
    assert listed("pending") == pending
    assert listed("pending", "set-aside") == listed("set-aside", "pending", "set-aside") == aside + pending
    assert {one["answer"] for one in deployment.told("journal", "list", org_id)} == {ANSWER, None}


def test_a_list_has_a_limit_and_says_when_there_is_more(deployment: Deployment) -> None:
    """Fifty are shown unless `--limit` says otherwise; the note about more is on stderr."""
    org_id = deployment.org()
    fill(deployment, org_id, some(51))
    for arguments, shown, more in (((), 50, True), (("--limit", "51"), 51, False), (("--limit=2",), 2, True)):
        ended = deployment.here("journal", "list", org_id, *arguments)
        assert len(lines_of(ended.stdout)) == shown + 1
        assert ("there are more than" in ended.stderr) is more
        assert len(deployment.told("journal", "list", org_id, *arguments)) == shown


def test_a_list_of_nothing_is_empty(deployment: Deployment) -> None:
    """An org whose journal is empty has the JSON `[]`, a table without rows and an export without lines."""
    org_id = deployment.org()
    assert deployment.done("journal", "list", org_id, "--json") == "[]\n"
    assert len(lines_of(deployment.done("journal", "list", org_id))) == 1
    assert deployment.done("journal", "export", org_id) == ""


def test_an_export_gives_back_every_field(deployment: Deployment) -> None:
    """Each line is one memory, whole: unicode, control characters, nested metadata, absent fields, a mebibyte."""
    org_id, other = deployment.org(), deployment.org("other")
    drafts = [
        draft(
            "line\nbreak \u2028 ' \" \\ 日本語 🙂 \x00\x1f\x7f",
            agent_id="bob",
            session_id="s1",
            memory_type="decision",
            event_type="error",
            metadata={"": None, "n": 2**53, "deep": {"list": [1, 0.5, [], {}], "ü": "\n"}},
            tags=("b", "a.b"),
            dedup_key="k/1",
            importance=0.1,
            parent_id="mem_x",
        ),
        draft("é" * (1 << 19)),
        draft("plain"),
    ]
    kept = fill(deployment, org_id, drafts, aside=1)
    fill(deployment, other, some(1))
    found = exported(deployment, org_id)
    assert [{name: one[name] for name in as_exported(kept[0])} for one in found] == [
        as_exported(one) for one in kept
    ]
    assert [one["state"] for one in found] == ["set_aside", "pending", "pending"]
    assert [one["answer"] for one in found] == [ANSWER, None, None]
    assert {one["instance_id"] for one in found} == {f"arc_of_{org_id}"}
    assert all(one["bytes"] >= len(one["content"].encode()) for one in found)
    assert len(set(map(frozenset, found))) == 1, "every line has the same fields"
    assert [one["content"] for one in exported(deployment, org_id, "--state", "pending")][1:] == ["plain"]


def test_a_long_export_is_complete_and_in_order(deployment: Deployment) -> None:
    """Thousands of memories come out once each, the oldest first."""
    org_id = deployment.org()
    kept = fill(deployment, org_id, some(MANY), aside=700, delivered=900)
    found = exported(deployment, org_id)
    assert [one["memory_id"] for one in found] == [memory.memory_id for memory in kept]
    assert all(one["time"] < other["time"] for one, other in pairwise(found))


def test_an_export_may_be_read_in_part(deployment: Deployment) -> None:
    """A reader that has enough ends the command without a complaint."""
    org_id = deployment.org()
    fill(deployment, org_id, [draft(f"{number} " + "x" * 2_000) for number in range(500)])
    with subprocess.Popen(
        [*COMMAND, "journal", "export", org_id],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=deployment.folder,
        env=deployment.environment,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline())["content"].startswith("0 ")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 1


@pytest.mark.parametrize("stdin", ["", "y\n"])
def test_a_drop_without_a_terminal_needs_yes(deployment: Deployment, stdin: str) -> None:
    """Where nobody can be asked it wants `--yes`, whatever stands on standard input, and drops nothing."""
    org_id = deployment.org()
    first, _ = fill(deployment, org_id, some(2), aside=1)
    for what in (first.memory_id,), ("--state", "set-aside"):
        ended = deployment.memtrace("journal", "drop", org_id, *what, stdin=stdin)
        assert_one_line(ended, 2, "--yes")
    assert counted(deployment, org_id) == (1, 0, 1)


def test_a_drop_on_a_terminal_asks_and_says_what_goes(deployment: Deployment) -> None:
    """The question names the org and what is meant; only a yes drops."""
    org_id = deployment.org()
    memories = fill(deployment, org_id, some(4), aside=2)
    command = ("journal", "drop", org_id, memories[3].memory_id, "--state", "set-aside")
    for answer in ("n", "", "yellow"):
        code, shown = on_terminal(deployment, *command, answers=(("[y/N]", answer),))
        assert code == 1
        assert "nothing was dropped" in shown
        assert re.search(r"1 memor\w+ and all set-aside memories of 'acme'", " ".join(shown.split()))
    assert counted(deployment, org_id) == (2, 0, 2)
    code, shown = on_terminal(deployment, *command, answers=(("[y/N]", "yes"),))
    assert (code, "3 memories dropped" in shown) == (0, True), shown
    assert [one["content"] for one in exported(deployment, org_id)] == ["m2"]


def test_a_drop_takes_only_what_was_named(deployment: Deployment) -> None:
    """Single memories, a state, or both; the others, and other orgs', stay."""
    org_id, other = deployment.org(), deployment.org("other")
    memories = fill(deployment, org_id, some(6), aside=2, delivered=2)
    fill(deployment, other, some(2), aside=1)
    said = deployment.done("journal", "drop", org_id, memories[1].memory_id, memories[5].memory_id, "--yes")
    assert said == "2 memories dropped\n"
    assert [one["content"] for one in exported(deployment, org_id)] == ["m0", "m2", "m3", "m4"]
    assert deployment.done("journal", "drop", org_id, "--state=delivered", "-y") == "2 memories dropped\n"
    assert [one["content"] for one in exported(deployment, org_id)] == ["m0", "m4"]
    assert deployment.done("journal", "drop", org_id, "--state=delivered", "-y") == "0 memories dropped\n"
    assert counted(deployment, other) == (1, 0, 1)


@pytest.mark.parametrize("command", [("list",), ("export",), ("retry",), ("drop", "--state", "pending", "--yes")])
def test_an_unknown_org_is_named(deployment: Deployment, command: tuple[str, ...]) -> None:
    """Exit code 1, one line, and where to find the right id."""
    deployment.org()
    assert_one_line(
        deployment.here("journal", command[0], "org_nobody", *command[1:]), 1, "org_nobody", "memtrace org list"
    )


@pytest.mark.parametrize("command", [("retry",), ("drop", "--yes")])
@pytest.mark.parametrize("foreign", [True, False])
def test_an_unknown_memory_is_named_and_nothing_is_done(
    deployment: Deployment, command: tuple[str, ...], foreign: bool
) -> None:
    """An id that is not in this org's journal, though in another's, is exit code 1, and the others stay as well."""
    org_id, other = deployment.org(), deployment.org("other")
    (first,) = fill(deployment, org_id, some(1), aside=1)
    (theirs,) = fill(deployment, other, some(1), aside=1)
    unknown = theirs.memory_id if foreign else "mem_nowhere"
    ended = deployment.here("journal", command[0], org_id, first.memory_id, unknown, *command[1:])
    assert_one_line(ended, 1, unknown)
    assert first.memory_id not in ended.stderr
    assert counted(deployment, org_id) == counted(deployment, other) == (0, 0, 1)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("list", "ORG", "--state", "lost"), "lost"),
        (("list", "ORG", "--state", "set_asides"), "set_asides"),
        (("list", "ORG", "--limit", "0"), "--limit"),
        (("list", "ORG", "--limit", "many"), "many"),
        (("list",), "org"),
        (("export", "ORG", "--state"), "state"),
        (("export", "ORG", "more"), "more"),
        (("drop", "ORG", "--yes"), "--state"),
        (("drop", "ORG", "--state", "all", "--yes"), "all"),
        (("status", "ORG"), "org_"),
        (("fly",), "fly"),
    ],
)
def test_misuse_is_exit_code_two(deployment: Deployment, arguments: tuple[str, ...], word: str) -> None:
    """A wrong state or number, or too much or too little, is said in one line, and nothing is dropped."""
    org_id = deployment.org()
    fill(deployment, org_id, some(1))
    ended = deployment.here("journal", *(org_id if one == "ORG" else one for one in arguments))
    assert_one_line(ended, 2)
    assert word.lower() in ended.stderr.lower()
    assert counted(deployment, org_id) == (1, 0, 0)


EVERY_COMMAND = (
    ("status",),
    ("list", "ORG"),
    ("export", "ORG"),
    ("retry", "ORG"),
    ("drop", "ORG", "--state", "pending", "--yes"),
)


@pytest.mark.parametrize(
    "damage",
    [
        "garbage",
        "another database",
        "folder",
        "only a -wal",
        pytest.param("pages"),
    ],
)
def test_a_journal_that_cannot_be_used_is_explained(deployment: Deployment, damage: str) -> None:
    """Every command ends with exit code 1 and one line that names the file, without a traceback."""
    org_id = deployment.org()
    fill(deployment, org_id, some(50), aside=10)
    journal = deployment.data / "journal.db"
    content = journal.read_bytes()
    journal.unlink()
    if damage == "garbage":
        journal.write_bytes(b"no database\n" * 1_000)
    elif damage == "pages":
        journal.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))
    elif damage == "another database":
        journal.write_bytes((deployment.data / "memtrace.db").read_bytes())
    elif damage == "folder":
        journal.mkdir()
    else:
        journal.with_name("journal.db-wal").write_bytes(b"what nobody has yet")
    for command in EVERY_COMMAND:
        ended = deployment.here("journal", *(org_id if one == "ORG" else one for one in command))
        assert_one_line(ended, 1, "data/journal.db")
