"""After a day on which all kinds of things go wrong, no secret is anywhere but where it was given."""

from __future__ import annotations

import base64
import os
import re
from contextlib import ExitStack
from pathlib import Path

import pytest
from arc_double import ArcDouble
from e2e.bad_day import AT_ONCE, Day, live
from e2e.hostile_arc import Elsewhere, Gossip, listening, redirecting
from e2e.marks import in_output, new_master_key
from e2e.processes import ARC_KEY, Deployment, eventually
from e2e.secret_hunt import found, master_key_forms

REDIRECTIONS = (301, 302, 307, 308)
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes through /proc")


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """Return the day, when it is over."""
    folder = tmp_path_factory.mktemp("day") / "deployment"
    folder.mkdir()
    day = Day(folder)
    key = day.arc_key("good")
    with ArcDouble(max_buffer_age_ms=0, tokens={key: "read write"}) as arc, listening(Gossip) as gossip:
        live(day, arc.url, key, gossip.url)
    return day


def test_the_hunt_finds_a_secret_in_every_form() -> None:
    """Planted plainly, quoted, in hex or anywhere in base64, a secret is found; elsewhere it is not."""
    key = new_master_key()
    hunted = {"it": master_key_forms(key)}
    raw = base64.b64decode(key)
    for secret in (key.encode(), raw):
        for before in range(5):
            text = os.urandom(before) + secret + os.urandom(7)
            for planted in (text, base64.b64encode(text), base64.urlsafe_b64encode(text), text.hex().encode()):
                assert found(hunted, {"there": b"\n" + planted, "here": b"nothing"}) == ["it in there"]


@pytest.mark.parametrize("secret", [ARC_KEY, ArcDouble.read_token, ArcDouble.write_token, "the master key"])
def test_every_test_notices_a_marked_secret(deployment: Deployment, secret: str) -> None:
    """The secrets of all tests bear marks, and one that lies in a file is found as text, as bytes and in base64."""
    kind = "an Arc key" if secret != "the master key" else secret
    text = deployment.master_key if secret == "the master key" else secret
    ways = [text.encode(), base64.b64encode(b"\0" + text.encode()), text.encode().hex().encode()]
    if secret == "the master key":
        ways.append(base64.b64decode(text))
    deployment.org()
    deployment.look_at_files()
    assert deployment.leaks == set()
    for way in ways:
        (deployment.data / "other.db").write_bytes(b"SQLite" + way + b"\0")
        deployment.look_at_files()
        assert deployment.leaks == {f"{kind} in data/other.db"}
        deployment.leaks.clear()
        assert in_output(("org", "list"), b"", way) == {f"{kind} on the standard error of org list"}
        (deployment.data / "other.db").unlink()


def test_an_api_key_is_shown_by_the_commands_that_are_there_for_it_alone() -> None:
    """`key create` and the like may print one on standard output; nothing else may, and they not elsewhere."""
    key = b"mtk_" + b"x" * 43
    for may in (("key", "create"), ("key", "rotate", "key_1"), ("serve",), ("serve", "--dev")):
        assert in_output(may, key, b"") == set()
        assert len(in_output(may, b"", key)) == 1
    for may_not in (("key", "list"), ("org", "create"), ("doctor",), ("journal", "export"), ()):
        assert len(in_output(may_not, key, b"")) == 1


def test_the_day_was_as_bad_as_it_should_be(day: Day) -> None:
    """Everything that was to happen did, so that the other tests say something."""
    seen = b"\n".join(day.places.values()).decode(errors="replace")
    for sign in ("Traceback", "arc refuses the API key", "not with Authorization: ", "invalid API key", "400 Bad"):
        assert sign in seen, sign
    names = {re.sub(r" \(\d+\)$", "", name) for name in day.places}
    for file in (
        "memtrace.db",
        "memtrace.db-wal",
        "memtrace.db-shm",
        "journal.db",
        "journal.db-wal",
        "journal.db-shm",
    ):
        assert f"data/{file}" in names
    for name in ("server.stderr", "server.stdout", "backup.tar", "doctor --json", "the answer to GET /health"):
        assert name in names
    assert len(day.secrets) > 10


def test_no_secret_is_anywhere(day: Day) -> None:
    """Not in an answer, an output, a log, a database file, a backup or a process list, in any form."""
    hunted = {name: ways for name, ways in day.secrets.items() if name != "the Arc key of gossip"}
    assert found(hunted, day.places) == []


def test_an_arc_key_that_an_arc_repeats_is_not_repeated(day: Day) -> None:
    """An Arc that says in an error with which key it was asked brings the key into no log and onto no disk."""
    name = "the Arc key of gossip"
    assert found({name: day.secrets[name]}, day.places) == []


def test_a_redirecting_arc_sends_no_key_to_another_host(deployment: Deployment) -> None:
    """Reads, writes and checks that are redirected end there: the other host never hears of them."""
    with ExitStack() as stack:
        elsewhere = stack.enter_context(listening(Elsewhere))
        arcs = [stack.enter_context(listening(redirecting(elsewhere, status))) for status in REDIRECTIONS]
        tenants = [deployment.tenant(bound=False) for _ in arcs]
        for arc, tenant in zip(arcs, tenants, strict=True):
            deployment.done(
                "org",
                "add-arc",
                tenant.org_id,
                "--url",
                arc.url,
                "--database",
                "d",
                "--api-key",
                "-",
                stdin=ARC_KEY,
            )
        server = stack.enter_context(deployment.serve(variables=AT_ONCE))
        for arc, tenant in zip(arcs, tenants, strict=True):
            with server.client(tenant) as api:
                assert api.post("/api/v1/memories", json={"agent_id": "ada", "content": "x"}).status_code == 201
                assert api.get("/api/v1/memories").status_code == 503
                assert api.get("/health").json()["arc"][tenant.org_id] is False
            asked = arc.requests
            eventually(lambda asked=asked: any("write" in path for path, _ in asked), what="a delivery was tried")
            assert deployment.here("org", "check-arc", tenant.org_id).returncode == 1
            assert any("query" in path for path, _ in asked)
            assert all(ARC_KEY in headers for path, headers in asked if "/api/" in path)
            assert not any("come=back" in headers for _, headers in asked), "cookies are not kept"
        assert deployment.here("doctor").returncode == 1
        assert elsewhere.requests == []
