"""The master key is changed as the runbook in docs/security.md says, without downtime."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from arc_double import ArcDouble
from e2e.marks import new_master_key
from e2e.processes import Deployment, Server, Tenant, eventually
from e2e.sealed_rows import CHECK, bound_instance, key_id, put_sealed, sealed_keys, sealed_with
from e2e.test_organizations import assert_one_line_error

HASTY = {"MEMTRACE_ARC_WRITE_FLUSH_INTERVAL_MS": "0"}


@pytest.fixture
def arc() -> Iterator[ArcDouble]:
    """Return an Arc that shows what it was sent at once."""
    with ArcDouble(max_buffer_age_ms=0) as running:
        yield running


def bind(deployment: Deployment, arc: ArcDouble, database: str, url: str = "") -> Tenant:
    """Return a fresh organization with a database of its own in an Arc."""
    tenant = deployment.tenant(database, bound=False)
    deployment.done(
        "org", "add-arc", tenant.org_id, "--url", url or arc.url, "--api-key", "-", "--database", database,
        stdin=arc.write_token,
    )  # fmt: skip
    return tenant


def remember(server: Server, tenant: Tenant, content: str) -> int:
    """Store a memory, and return the status."""
    with server.client(tenant) as api:
        return api.post("/api/v1/memories", json={"agent_id": "ada", "content": content}).status_code


def contents(server: Server, tenant: Tenant) -> list[str]:
    """Return the contents of an organization's memories, oldest first."""
    with server.client(tenant) as api:
        page = api.get("/api/v1/memories", params={"order": "asc", "limit": "1000"})
        assert page.status_code == 200, page.text
        return [memory["content"] for memory in page.json()["memories"]]


def stored(arc: ArcDouble, database: str) -> list[str]:
    """Return what an Arc holds in a database."""
    return sorted(row["content"] for row in arc.rows(database, "events"))


@contextmanager
def load(server: Server, tenant: Tenant) -> Iterator[Callable[[], Counter[tuple[str, int]]]]:
    """Write, read and ask for readiness all the time; give a way to see how many requests ended how."""
    seen: Counter[tuple[str, int]] = Counter()
    over = threading.Event()

    def keep_asking() -> None:
        with server.client(tenant) as api:
            for number in itertools.count():
                if over.is_set():
                    return
                body = {"agent_id": "ada", "content": f"under load {number}"}
                seen["write", api.post("/api/v1/memories", json=body).status_code] += 1
                seen["read", api.get("/api/v1/memories", params={"limit": "1"}).status_code] += 1
                seen["ready", api.get("/ready").status_code] += 1

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        yield lambda: Counter(seen)
    finally:
        over.set()
        asking.join()


@pytest.mark.slow
def test_the_runbook_changes_the_master_key_without_downtime(deployment: Deployment, arc: ArcDouble) -> None:
    """As documented, step by step: no request fails, every memory arrives, and the old key opens nothing."""
    old, file = deployment.master_key, deployment.data / "memtrace.db"
    deployment.environment |= HASTY
    plain, moved, left = (bind(deployment, arc, name) for name in ("plain", "moved", "left"))
    with deployment.serve() as server:
        # This one waits for a database that its organization will have left, so the retired key is still needed.
        arc.faults.hang_database, arc.faults.hang_writes = "moved", True
        assert remember(server, moved, "for the former Arc") == 201
        assert [remember(server, one, "before") for one in (plain, left)] == [201, 201]
        eventually(lambda: stored(arc, "plain") and stored(arc, "left"), what="Arc has what was written before")
    deployment.done("org", "set-arc", moved.org_id, "--database", "elsewhere")
    deployment.done("org", "remove-arc", left.org_id)
    before = sealed_keys(file)
    assert len(before) == 5

    new = deployment.done("keygen", "master").strip()
    deployment.environment |= {"MEMTRACE_MASTER_KEY": new, "MEMTRACE_MASTER_KEY_PREVIOUS": old}
    with deployment.serve() as server:
        assert sealed_with(file) == {key_id(old)}, "a restart alone seals nothing anew"
        status = deployment.here("vault", "status")
        assert status.stdout.splitlines()[1:] == [
            f"{key_id(new)}  current     0", f"{key_id(old)}  previous    5",
        ]  # fmt: skip
        assert status.stderr == "next: memtrace vault rewrap\n"
        assert remember(server, moved, "between") == 201
        with load(server, plain) as seen:
            eventually(lambda: seen()["ready", 200] > 2, what="the load is on")
            ended = deployment.memtrace("vault", "rewrap")
            assert (ended.returncode, ended.stdout, ended.stderr) == (
                0, "5 secrets sealed anew under the current master key\n", "next: memtrace vault status\n",
            )  # fmt: skip
            at_the_end = seen()["ready", 200]
            eventually(lambda: seen()["ready", 200] > at_the_end + 5, what="the server has noticed")
        assert {status for _, status in seen()} == {200, 201}, seen()
        after = sealed_keys(file)
        assert after.keys() == before.keys()
        assert not set(after.values()) & set(before.values())
        assert sealed_with(file) == {key_id(new)}
        assert deployment.told("vault", "rewrap") == {"rewrapped": 0}
        assert sealed_keys(file) == after
        assert deployment.told("vault", "status") == [
            {"key_id": key_id(new), "standing": "current", "secrets": 5},
            {"key_id": key_id(old), "standing": "previous", "secrets": 0},
        ]
        assert stored(arc, "moved") == []
        arc.faults.hang_writes = False
        eventually(lambda: stored(arc, "moved") == ["for the former Arc"], what="the former Arc gets its memory")
        assert server.stop() == 0

    del deployment.environment["MEMTRACE_MASTER_KEY_PREVIOUS"]
    deployment.done(
        "org", "add-arc", left.org_id, "--url", arc.url, "--api-key", arc.read_token, "--database", "left"
    )
    with deployment.serve() as server:
        assert contents(server, plain) == ["before", *(f"under load {n}" for n in range(seen()["write", 201]))]
        assert "between" in contents(server, moved)
        assert contents(server, left) == ["before"]
        assert remember(server, plain, "after") == 201
        assert server.stop() == 0

    deployment.environment["MEMTRACE_MASTER_KEY"] = old
    said = "memtrace.db was sealed with another master key than the one given"
    assert_one_line_error(deployment.here("org", "list"), 1, said)
    assert_one_line_error(deployment.here("vault", "rewrap"), 1, said)
    assert_one_line_error(deployment.memtrace("serve", variables={"MEMTRACE_SERVER_PORT": "0"}), 1, said)


@pytest.fixture
def half_rotated(deployment: Deployment) -> Deployment:
    """Return a deployment with three bound organizations and both keys at hand, before the rewrap."""
    for name in ("a", "b", "c"):
        org_id = deployment.org(name, bound=False)
        deployment.done(
            "org", "add-arc", org_id, "--url", "http://127.0.0.1:9", "--database", name, "--api-key", name
        )
    new = deployment.done("keygen", "master").strip()
    deployment.environment |= {
        "MEMTRACE_MASTER_KEY": new,
        "MEMTRACE_MASTER_KEY_PREVIOUS": deployment.master_key,
    }
    return deployment


def damage_one(deployment: Deployment) -> str:
    """Flip a bit in the middle of one organization's sealed key; return the organization."""
    org_id: str = deployment.told("org", "list")[1]["id"]
    file = deployment.data / "memtrace.db"
    instance_id = bound_instance(file, org_id)
    sealed = bytearray(sealed_keys(file)[instance_id])
    sealed[40] ^= 1
    put_sealed(file, instance_id, bytes(sealed))
    return org_id


def test_one_damaged_secret_stops_the_rewrap_of_all(half_rotated: Deployment) -> None:
    """The rewrap says in one line what is wrong, and every secret is byte for byte what it was."""
    damage_one(half_rotated)
    before = sealed_keys(half_rotated.data / "memtrace.db")
    for _ in range(2):
        assert_one_line_error(half_rotated.here("vault", "rewrap"), 1, "the sealed value was altered")
        assert sealed_keys(half_rotated.data / "memtrace.db") == before
    counted = {one["standing"]: one["secrets"] for one in half_rotated.told("vault", "status")}
    assert counted == {"current": 0, "previous": 4}


def test_the_rewrap_goes_through_once_the_damaged_secret_is_replaced(half_rotated: Deployment) -> None:
    """The operator binds that organization with its key again, which is sealed with the new one, and repeats."""
    org_id = damage_one(half_rotated)
    half_rotated.done("org", "set-arc", org_id, "--api-key", "again")
    assert half_rotated.told("vault", "rewrap") == {"rewrapped": 3}
    assert len(sealed_with(half_rotated.data / "memtrace.db")) == 1
    assert half_rotated.told("org", "show-arc", org_id)["api_key"] == "*****"


def test_the_error_names_the_organization_whose_secret_is_damaged(half_rotated: Deployment) -> None:
    """Among thousands of organizations the operator must be told which one to bind again."""
    org_id = damage_one(half_rotated)
    assert org_id in half_rotated.here("vault", "rewrap").stderr


def test_the_wrong_previous_key_is_refused_before_anything_happens(half_rotated: Deployment) -> None:
    """With a previous key that is not the database's, nothing is sealed anew, and the reason is named."""
    before = sealed_keys(half_rotated.data / "memtrace.db")
    assert CHECK in before
    half_rotated.environment["MEMTRACE_MASTER_KEY_PREVIOUS"] = half_rotated.done("keygen", "master").strip()
    assert_one_line_error(half_rotated.here("vault", "rewrap"), 1, "sealed with another master key")
    assert sealed_keys(half_rotated.data / "memtrace.db") == before


def test_a_lost_master_key_loses_nothing_but_the_arc_keys(deployment: Deployment, arc: ArcDouble) -> None:
    """As the runbook says: with a new one all is there, but the Arc keys, which are given anew."""
    bound, embedded = bind(deployment, arc, "lost"), deployment.tenant("embedded")
    with deployment.serve(variables=HASTY) as server:
        for tenant in (bound, embedded):
            assert remember(server, tenant, "before") == 201
        eventually(lambda: stored(arc, "lost") == ["before"], what="the memory is in Arc")
        assert server.stop() == 0
    deployment.environment["MEMTRACE_MASTER_KEY"] = new_master_key()
    assert_one_line_error(deployment.memtrace("org", "list"), 1, "master key")

    refused = deployment.memtrace("vault", "reset")
    assert refused.returncode == 2
    assert "needs --yes" in refused.stderr
    assert deployment.memtrace("org", "list").returncode == 1
    assert deployment.done("vault", "reset", "--yes").startswith("2 secrets dropped")
    assert deployment.done("vault", "reset").startswith("0 secrets dropped")

    assert {one["id"] for one in deployment.told("org", "list")} == {bound.org_id, embedded.org_id}
    with deployment.serve(variables=HASTY) as server:
        assert contents(server, embedded) == ["before"]
        assert remember(server, bound, "without a key") == 201
        deployment.done("org", "set-arc", bound.org_id, "--api-key", "-", stdin=arc.write_token)
        assert contents(server, bound) == ["before", "without a key"]
        eventually(lambda: stored(arc, "lost") == ["before", "without a key"], what="delivery goes on")


def test_a_reset_keeps_what_the_keys_at_hand_open(deployment: Deployment, arc: ArcDouble) -> None:
    """A master key that is named as a previous one is not lost: its secrets are sealed anew."""
    tenant, former = bind(deployment, arc, "kept"), deployment.master_key
    deployment.environment |= {"MEMTRACE_MASTER_KEY": new_master_key(), "MEMTRACE_MASTER_KEY_PREVIOUS": former}
    assert deployment.done("vault", "reset").startswith("0 secrets dropped")
    del deployment.environment["MEMTRACE_MASTER_KEY_PREVIOUS"]
    with deployment.serve(variables=HASTY) as server:
        assert remember(server, tenant, "kept") == 201
        eventually(lambda: stored(arc, "kept") == ["kept"], what="the Arc key is there")
