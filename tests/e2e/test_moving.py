"""`memtrace org export` and `import`: out of one store and into another, interrupted and beside a server."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from arc_double import ArcDouble
from builders import START, memory
from e2e.journals import assert_one_line, lines_of
from e2e.processes import COMMAND, Deployment, eventually
from e2e.test_arc import bound_to
from e2e.test_terminal import on_terminal

from memtrace_core.model import Memory
from memtrace_core.timewindow import from_us, to_us


def file_of(memories: Sequence[Memory], org_id: str = "org_elsewhere") -> str:
    """Return an export with memories of long ago."""
    lines = [msgspec.json.encode(msgspec.structs.replace(one, org_id=org_id)).decode() for one in memories]
    head = {"memtrace_export": 1, "org_id": org_id, "org_name": "elsewhere", "began_at": "2026-01-02T00:00:00Z"}
    end = {"memories": len(lines), "agents": 0, "sessions": 0, "until": "2026-01-02T00:00:00Z"}
    return "\n".join([json.dumps(head), *lines, json.dumps({"end": end}), ""])


def old(count: int) -> list[Memory]:
    """Return memories of long ago, a minute apart."""
    return [memory(from_us(to_us(START) + number * 60_000_000), content=f"m{number}") for number in range(count)]


def memories_of(deployment: Deployment, org_id: str) -> list[dict[str, Any]]:
    """Return the memories that an org exports, the org's id apart."""
    lines = [json.loads(line) for line in lines_of(deployment.done("org", "export", org_id))]
    return [{**line, "org_id": ""} for line in lines if "memory_id" in line]


def test_an_org_goes_into_arc_and_back(deployment: Deployment) -> None:
    """From the embedded store into an Arc, and from there into the embedded store again: the same memories."""
    source = deployment.org("source")
    file = deployment.folder / "source.jsonl"
    file.write_text(file_of(old(300)), encoding="utf-8")
    assert "300 memories imported, 0 there already" in deployment.done("org", "import", source, str(file))
    before = memories_of(deployment, source)
    assert len(before) == 300
    file.write_text(deployment.done("org", "export", source), encoding="utf-8")
    with ArcDouble(max_buffer_age_ms=0) as arc:
        middle = bound_to(arc, deployment).org_id
        assert "300 memories imported" in deployment.done("org", "import", middle, str(file))
        assert deployment.told("org", "import", middle, str(file))["present"] == 300
        assert memories_of(deployment, middle) == before
        file.write_text(deployment.done("org", "export", middle), encoding="utf-8")
    target = deployment.org("target")
    deployment.done("org", "import", target, str(file))
    assert memories_of(deployment, target) == before


@pytest.mark.slow
def test_an_org_changes_its_store_without_losing_a_write(deployment: Deployment) -> None:
    """What was stored between the export and the new binding is taken out of the former instance."""
    tenant = deployment.tenant()
    file = deployment.folder / "a.jsonl"
    file.write_text(file_of(old(5)), encoding="utf-8")
    deployment.done("org", "import", tenant.org_id, str(file))
    former = deployment.told("org", "show-arc", tenant.org_id)["id"]
    file.write_text(deployment.done("org", "export", tenant.org_id), encoding="utf-8")
    with ArcDouble(max_buffer_age_ms=0) as arc, deployment.serve() as server, server.client(tenant) as api:

        def store(content: str) -> None:
            assert api.post("/api/v1/memories", json={"agent_id": "ada", "content": content}).status_code == 201

        store("between")
        deployment.done(
            "org", "set-arc", tenant.org_id, "--url", arc.url, "--api-key", "-", "--database", "moved",
            stdin=arc.write_token + "\n",
        )  # fmt: skip
        store("after")
        deployment.done("org", "export", tenant.org_id, "--instance", former, "--append", str(file))
        deployment.done("org", "import", tenant.org_id, str(file))
        listed = api.get("/api/v1/memories", params={"order": "asc"}).json()["memories"]
        assert [one["content"] for one in listed] == [*(f"m{number}" for number in range(5)), "between", "after"]
        assert api.get("/api/v1/agents/ada/stats").json()["memory_count"] == 7


@pytest.mark.slow
def test_what_is_on_its_way_to_the_former_arc_moves_along(deployment: Deployment) -> None:
    """The journal lets it go when it has seen it there. The import waits for that, and no reader misses it then."""
    with ArcDouble(max_buffer_age_ms=0) as arc:
        tenant = bound_to(arc, deployment)
        former = deployment.told("org", "show-arc", tenant.org_id)["id"]
        file = deployment.folder / "a.jsonl"
        with (
            deployment.serve(variables={"MEMTRACE_JOURNAL_SETTLE_SECONDS": "4"}) as server,
            server.client(tenant) as api,
        ):
            assert api.post("/api/v1/memories", json={"agent_id": "ada", "content": "fresh"}).status_code == 201
            deployment.done("org", "set-arc", tenant.org_id, "--url", "embedded:")
            file.write_text(deployment.done("org", "export", tenant.org_id, "--instance", former), encoding="utf-8")
            moved = deployment.memtrace("org", "import", tenant.org_id, str(file))
            assert moved.returncode == 0, moved.stderr
            assert "1 memory" in moved.stdout
            eventually(
                lambda: all(not one["delivered"] for one in deployment.told("journal", "status")),
                what="the journal has let it go",
            )
            listed = api.get("/api/v1/memories").json()["memories"]
            assert [one["content"] for one in listed] == ["fresh"]


def test_what_arc_refuses_is_named_by_its_line(deployment: Deployment) -> None:
    """The command ends with 1, tells the line and Arc's answer, and has imported all the others."""
    file = deployment.folder / "some.jsonl"
    file.write_text(file_of(old(10)), encoding="utf-8")
    with ArcDouble(max_buffer_age_ms=0) as arc:
        arc.faults.reject = {"m7": 400}
        org_id = bound_to(arc, deployment).org_id
        ended = deployment.here("org", "import", org_id, str(file))
        assert (ended.returncode, "line 9: arc answered 400" in ended.stderr) == (1, True)
        assert "9 memories imported" in ended.stdout


def test_rows_of_another_program_are_imported_with_the_ids_that_readers_saw(deployment: Deployment) -> None:
    """Out of an Arc in which the Go service wrote, into our own store, and into that Arc again without a double."""
    with ArcDouble(max_buffer_age_ms=0) as arc:
        tenant = bound_to(arc, deployment)
        database = deployment.told("org", "show-arc", tenant.org_id)["database"]
        arc.fill(database, "events", hours=3, rows_per_hour=4, go_style=True, org_id=tenant.org_id)
        found = memories_of(deployment, tenant.org_id)
        assert len(found) == 12
        file = deployment.folder / "go.jsonl"
        file.write_text(deployment.done("org", "export", tenant.org_id), encoding="utf-8")
        assert deployment.told("org", "import", tenant.org_id, str(file))["present"] == 12
        assert memories_of(deployment, tenant.org_id) == found
        org_id = deployment.org()
        deployment.done("org", "import", org_id, str(file))
        assert memories_of(deployment, org_id) == found


def test_an_export_that_was_cut_off_is_finished(deployment: Deployment) -> None:
    """Wherever a file ends, `--append` makes of it what a whole export would be."""
    org_id = deployment.org()
    file, whole = deployment.folder / "a.jsonl", file_of(old(300), org_id)
    file.write_text(whole, encoding="utf-8")
    deployment.done("org", "import", org_id, str(file))
    for length in (0, 20, 200, 5_000, len(whole) - 30, len(whole)):
        file.write_text(whole[:length], encoding="utf-8")
        assert deployment.done("org", "export", org_id, "--append", str(file)) == ""
        *_, end = lines = [json.loads(line) for line in lines_of(file.read_text(encoding="utf-8"))]
        assert [line["content"] for line in lines if "content" in line] == [f"m{number}" for number in range(300)]
        assert end["end"]["memories"] == 300
        assert deployment.told("org", "import", org_id, str(file))["complete"]


def test_a_file_that_is_no_unfinished_export_of_the_org_is_left_untouched(deployment: Deployment) -> None:
    """Another kind of file, one of another org, one that is damaged, and one that is just being written."""
    org_id = deployment.org()
    file = deployment.folder / "a.jsonl"
    damaged = file_of(old(3), org_id).replace("m1", "m1\0")
    for text, code, words in (
        ("important notes", 1, "not an export"),
        (file_of(old(1)), 2, "an export of org_elsewhere"),
        (damaged, 1, "line 3"),
    ):
        file.write_text(text, encoding="utf-8")
        assert_one_line(deployment.here("org", "export", org_id, "--append", str(file)), code, words, "untouched")
        assert file.read_text(encoding="utf-8") == text
    file.write_text(file_of(old(1), org_id), encoding="utf-8")
    with file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ended = deployment.here("org", "export", org_id, "--append", str(file))
    assert_one_line(ended, 1, "being written by another export")
    assert_one_line(
        deployment.here("org", "export", org_id, "--append", str(file), "--since", "1d"), 2, "--since does not go"
    )


def test_what_cannot_be_done_is_told_in_one_line(deployment: Deployment) -> None:
    """Unknown orgs, orgs without a store, files that are not there or no exports, bounds that make no sense."""
    org_id, unbound = deployment.org(), deployment.org("unbound", bound=False)
    file = deployment.folder / "a.jsonl"
    file.write_text("{}\n")
    for arguments, code, words in (
        (("export", "org_unknown"), 1, "no organization"),
        (("import", "org_unknown", str(file)), 1, "no organization"),
        (("import", unbound, str(file)), 1, "no Arc instance"),
        (("import", org_id, str(file)), 1, "not an export"),
        (("import", org_id, str(deployment.folder / "gone")), 1, "No such file"),
        (("import", org_id, str(deployment.folder)), 1, "directory"),
        (("export", org_id, "--since", "yesterday"), 2, "--since must be"),
        (("export", org_id, "--append", str(deployment.folder / "no" / "file")), 1, "No such file"),
        (("export", org_id, "--append", str(file), "--instance", "arc_unknown"), 1, "not an export"),
    ):
        assert_one_line(deployment.here("org", *arguments), code, words)


def test_a_file_that_is_not_complete_is_imported_as_far_as_it_goes(deployment: Deployment) -> None:
    """Half a line at the end is named, what stands before it is imported, and the command ends with 1."""
    org_id = deployment.org()
    file = deployment.folder / "a.jsonl"
    file.write_text(file_of(old(5))[:-150], encoding="utf-8")
    ended = deployment.here("org", "import", org_id, str(file))
    assert ended.returncode == 1
    assert "not a complete export" in ended.stderr
    assert len(memories_of(deployment, org_id)) == int(ended.stdout.split()[0]) > 2


def test_only_the_first_bad_lines_are_told_one_by_one(deployment: Deployment) -> None:
    """A file full of rubbish does not fill the terminal; the others are counted."""
    org_id = deployment.org()
    file = deployment.folder / "a.jsonl"
    head, *_ = file_of([]).splitlines()
    file.write_text("\n".join([head, *["rubbish"] * 50, ""]))
    ended = deployment.here("org", "import", org_id, str(file))
    assert ended.stderr.count("memtrace: line ") == 20
    assert "30 more lines were not taken" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "arc"])
def test_an_import_that_was_killed_is_finished_by_another(deployment: Deployment, embedded: bool) -> None:
    """kill -9 in the middle: the second run adds what is missing, and nothing is there twice."""
    with ArcDouble(max_buffer_age_ms=0) as arc:
        org_id = deployment.org() if embedded else bound_to(arc, deployment).org_id
        whole = file_of(old(12_000))
        killed = subprocess.Popen(
            [*COMMAND, "org", "import", org_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=deployment.folder,
            env=deployment.variables(),
        )
        assert killed.stdin is not None
        killed.stdin.write(whole.encode()[: len(whole) * 2 // 3])
        killed.stdin.flush()
        eventually(lambda: memories_of(deployment, org_id), what="a part is imported")
        killed.kill()
        killed.wait()
        killed.stdin.close()
        before = len(memories_of(deployment, org_id))
        assert 0 < before < 12_000
        ended = deployment.memtrace("org", "import", org_id, stdin=whole)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.startswith(f"{12_000 - before} memories imported, {before} there already")
        assert [one["content"] for one in memories_of(deployment, org_id)] == [
            f"m{number}" for number in range(12_000)
        ]


@pytest.mark.slow
@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "arc"])
def test_a_server_goes_on_working_meanwhile(deployment: Deployment, embedded: bool) -> None:
    """Imported memories and every acknowledged write are there once, and an export beside them has a clean cut."""
    with ArcDouble(max_buffer_age_ms=0) as arc:
        tenant = deployment.tenant() if embedded else bound_to(arc, deployment)
        file = deployment.folder / "a.jsonl"
        file.write_text(file_of(old(6_000)), encoding="utf-8")
        settings = {"MEMTRACE_JOURNAL_SETTLE_SECONDS": "0", "MEMTRACE_ARC_WRITE_FLUSH_INTERVAL_MS": "10"}
        with deployment.serve(variables=settings) as server, server.client(tenant) as api:
            acknowledged: list[str] = []
            done = threading.Event()

            def write() -> None:
                while not done.is_set():
                    answer = api.post(
                        "/api/v1/memories", json={"agent_id": "ada", "content": f"w{len(acknowledged)}"}
                    )
                    assert answer.status_code == 201, answer.text
                    acknowledged.append(answer.json()["memory_id"])

            writer = threading.Thread(target=write)
            writer.start()
            try:
                ended = deployment.memtrace("org", "import", tenant.org_id, str(file))
                assert (ended.returncode, ended.stderr) == (0, "")
                seen = len(acknowledged)
                exported = deployment.memtrace("org", "export", tenant.org_id).stdout
            finally:
                done.set()
                writer.join()
            lines = [json.loads(line) for line in lines_of(exported)]
            ids = [line["memory_id"] for line in lines if "memory_id" in line]
            new = ids[6_000:]
            assert [line["content"] for line in lines[1:6_001]] == [f"m{number}" for number in range(6_000)]
            assert seen <= len(new) <= len(acknowledged)
            assert new == acknowledged[: len(new)]
            count = api.get("/api/v1/agents/ada/stats").json()["memory_count"]
            assert count == 6_000 + len(acknowledged)
            page = api.get("/api/v1/memories", params={"order": "asc", "limit": 3}).json()["memories"]
            assert [one["content"] for one in page] == ["m0", "m1", "m2"]


@pytest.mark.slow
def test_a_terminal_is_shown_how_far_it_is(deployment: Deployment) -> None:
    """There is a bar with the number of memories on a terminal, and nothing of it elsewhere."""
    org_id = deployment.org()
    file = deployment.folder / "a.jsonl"
    file.write_text(file_of(old(3_000)), encoding="utf-8")
    code, shown = on_terminal(deployment, "org", "import", org_id, str(file))
    assert code == 0
    assert "Importing" in shown
    assert "memories" in shown
    assert deployment.here("org", "import", org_id, str(file)).stderr == ""


def test_a_file_that_an_export_makes_is_for_its_owner_alone(deployment: Deployment) -> None:
    """All that an organization has is in it, whatever the umask says."""
    file = deployment.folder / "a.jsonl"
    before = os.umask(0)
    try:
        deployment.done("org", "export", deployment.org(), "--append", str(file))
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_export_is_utf_8_whatever_the_terminal_is(deployment: Deployment) -> None:
    """Its lines are JSON, and what they hold comes back as it was."""
    org_id, ascii_only = deployment.org(), {"PYTHONIOENCODING": "ascii"}
    file = deployment.folder / "a.jsonl"
    file.write_text(file_of([memory(START, content="café 😀 €")]), encoding="utf-8")
    deployment.done("org", "import", org_id, str(file))
    exported = deployment.memtrace("org", "export", org_id, variables=ascii_only)
    assert exported.returncode == 0
    file.write_text(exported.stdout, encoding="utf-8")
    other = deployment.org()
    deployment.done("org", "import", other, str(file))
    assert [one["content"] for one in memories_of(deployment, other)] == ["café 😀 €"]


def test_deleting_an_org_tells_what_stays_in_its_arc(deployment: Deployment) -> None:
    """What was forgotten and is not deleted there yet; with nothing of that kind there is no warning."""
    with ArcDouble(max_buffer_age_ms=0) as arc:
        tenants = [bound_to(arc, deployment) for _ in range(2)]
    deployment.done("org", "forget", tenants[0].org_id, "--agent", "ada", "--yes")
    told = [deployment.here("org", "delete", tenant.org_id, "--yes") for tenant in tenants]
    assert [one.returncode for one in told] == [0, 0]
    assert ["will stay there" in one.stderr for one in told] == [True, False]
