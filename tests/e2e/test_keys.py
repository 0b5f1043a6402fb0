"""`memtrace key`: keys that expire, and keys that take over from others, beside a running server."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from damage import execute
from e2e.processes import Deployment, Server, Tenant
from e2e.test_organizations import assert_one_line_error

BAD_LENGTHS = ["0d", "-1d", "90", "d", "90days", "1.5h", "90 d", "٩d", "11y", "3654d", "999999999w", "1s", ""]


def create(deployment: Deployment, org_id: str, *more: str, name: str = "prod") -> dict[str, Any]:
    """Create a key, and return what is told of it."""
    made: dict[str, Any] = deployment.told("key", "create", "--org", org_id, "--name", name, *more)
    return made


def listed(deployment: Deployment, org_id: str) -> dict[str, dict[str, Any]]:
    """Return an organization's keys by their ids."""
    return {key["id"]: key for key in deployment.told("key", "list", "--org", org_id)}


def at(text: str) -> datetime:
    """Return a time that was printed."""
    return datetime.fromisoformat(text)


def status(server: Server, key: str) -> int:
    """Return how a read with a key ends."""
    with server.client(Tenant("", key, "")) as api:
        return api.get("/api/v1/memories").status_code


def make_expire(deployment: Deployment, key_id: str) -> None:
    """Let a key's end be past, as time would."""
    execute(deployment.data / "memtrace.db", f"UPDATE api_keys SET expires_at = 1 WHERE key_id = '{key_id}'")


def test_a_key_lasts_as_long_as_was_said(shared: Deployment, server: Server, tenant: Tenant) -> None:
    """`--expires` sets the end, the default is none, and a key that has ended is refused at the next request."""
    made = create(shared, tenant.org_id, "--expires", "90d")
    assert at(made["expires_at"]) - at(made["created_at"]) == timedelta(days=90)
    assert create(shared, tenant.org_id, name="lasting")["expires_at"] is None
    assert status(server, made["key"]) == 200
    make_expire(shared, made["id"])
    assert status(server, made["key"]) == 401


@pytest.mark.parametrize("length", BAD_LENGTHS)
def test_a_bad_length_of_time_makes_no_key(shared: Deployment, tenant: Tenant, length: str) -> None:
    """What is no length of time is refused in one line that names the option, and nothing has changed."""
    before = listed(shared, tenant.org_id)
    for command, option in (
        (("key", "create", "--org", tenant.org_id, "--name", "new"), "--expires"),
        (("key", "rotate", tenant.key_id), "--expires"),
        (("key", "rotate", tenant.key_id), "--overlap"),
    ):
        assert_one_line_error(shared.here(*command, f"{option}={length}"), 2, f"{option} must be")
    assert listed(shared, tenant.org_id) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "--name", "new", "--expires", "90d"),
        ("create", "--org", "org_x", "--expires", "90d"),
        ("create", "--org", "org_x", "--name", "new", "--expires"),
        ("create", "--org", "org_x", "--name", "new", "--expire", "90d"),
        ("rotate",),
        ("rotate", "key_x", "--overlap"),
        ("rotate", "key_x", "key_y"),
        ("rotate", "key_x", "--permissions", "admin"),
    ],
    ids=" ".join,
)
def test_a_command_that_is_not_complete_is_a_misuse(shared: Deployment, arguments: tuple[str, ...]) -> None:
    """A missing organization, name, key or value, and an unknown option, end with 2 and one line."""
    assert_one_line_error(shared.here("key", *arguments), 2)


def test_a_rotated_key_and_its_successor_both_work_at_once(
    shared: Deployment, server: Server, tenant: Tenant
) -> None:
    """The running server takes both from the next request on; the successor is of the same name and permissions."""
    old = create(shared, tenant.org_id, "--permissions", "read", "--expires", "90d")
    assert status(server, old["key"]) == 200
    new = shared.told("key", "rotate", old["id"], "--overlap", "24h")
    assert (status(server, old["key"]), status(server, new["key"])) == (200, 200)
    assert new["key"] != old["key"]
    for field in ("org_id", "name", "permissions"):
        assert new[field] == old[field]
    assert at(new["expires_at"]) - at(new["created_at"]) == timedelta(days=90)
    keys = listed(shared, tenant.org_id)
    assert (keys[old["id"]]["state"], keys[new["id"]]["state"]) == ("superseded", "active")
    assert at(keys[old["id"]]["expires_at"]) == at(new["created_at"]) + timedelta(hours=24)
    assert at(keys[old["id"]]["superseded_at"]) == at(new["created_at"])
    with server.client(Tenant(tenant.org_id, new["key"], new["id"])) as api:
        assert api.post("/api/v1/memories", json={"agent_id": "ada", "content": "x"}).status_code == 403
    make_expire(shared, old["id"])
    assert (status(server, old["key"]), status(server, new["key"])) == (401, 200)


def test_an_overlap_is_a_day_unless_said_otherwise(shared: Deployment, tenant: Tenant) -> None:
    """The default overlap is 24 hours, and does not outlast the former's own end."""
    lasting = create(shared, tenant.org_id, name="lasting")
    short = create(shared, tenant.org_id, "--expires", "2h", name="short")
    successors = {key["id"]: shared.told("key", "rotate", key["id"]) for key in (lasting, short)}
    keys = listed(shared, tenant.org_id)
    day = at(successors[lasting["id"]]["created_at"]) + timedelta(hours=24)
    assert at(keys[lasting["id"]]["expires_at"]) == day
    assert keys[short["id"]]["expires_at"] == short["expires_at"]


def test_rotating_for_people_prints_the_key_on_stdout_and_the_rest_on_stderr(
    shared: Deployment, server: Server, tenant: Tenant
) -> None:
    """The secret is on stdout; what becomes of the old key, and how to end it now, is on stderr."""
    ended = shared.here("key", "rotate", tenant.key_id, "--overlap", "30m")
    heading, secret = ended.stdout.splitlines()
    assert heading == "API key created (shown only once — save it now):"
    assert status(server, secret) == 200
    assert ended.stderr == (
        f"the old key works for another 30m; `memtrace key revoke {tenant.key_id}` ends it now\n"
    )


def test_a_key_that_is_not_active_is_not_rotated(shared: Deployment, server: Server, tenant: Tenant) -> None:
    """A revoked, an expired, a superseded and an unknown key: one line that says why, and nothing changes."""
    revoked, expired, superseded = (create(shared, tenant.org_id, name=name) for name in ("a", "b", "c"))
    shared.done("key", "revoke", revoked["id"])
    make_expire(shared, expired["id"])
    shared.done("key", "rotate", superseded["id"])
    before = listed(shared, tenant.org_id)
    for key, state in ((revoked, "revoked"), (expired, "expired"), (superseded, "superseded")):
        assert_one_line_error(shared.here("key", "rotate", key["id"]), 1, f"{key['id']} is {state}")
    assert_one_line_error(shared.here("key", "rotate", "key_x"), 1, "no API key 'key_x'", "memtrace key list")
    assert listed(shared, tenant.org_id) == before
    assert [status(server, key["key"]) for key in (revoked, expired, superseded)] == [401, 401, 200]


def test_the_name_of_an_expired_key_can_be_used_again(shared: Deployment, server: Server, tenant: Tenant) -> None:
    """A name is taken as long as its key counts, and free when it has expired; the old key stays refused."""
    former = create(shared, tenant.org_id)
    again = ("key", "create", "--org", tenant.org_id, "--name", "prod")
    assert_one_line_error(shared.here(*again), 1, "has a live key named 'prod'")
    make_expire(shared, former["id"])
    fresh = create(shared, tenant.org_id)
    assert (status(server, former["key"]), status(server, fresh["key"])) == (401, 200)
    assert listed(shared, tenant.org_id)[former["id"]]["state"] == "expired"


def test_of_two_rotations_at_once_one_wins(shared: Deployment, server: Server, tenant: Tenant) -> None:
    """Two operators rotate one key at the same time: one gets a key, the other one line, and there are two keys."""

    def rotate(_: int) -> Any:
        return shared.memtrace("key", "rotate", tenant.key_id)

    with ThreadPoolExecutor(2) as pool:
        ended = sorted(pool.map(rotate, range(2)), key=lambda one: one.returncode)
    assert [one.returncode for one in ended] == [0, 1]
    assert_one_line_error(ended[1], 1, "only an active one can be rotated")
    assert status(server, ended[0].stdout.splitlines()[1]) == 200
    assert sorted(key["state"] for key in listed(shared, tenant.org_id).values()) == ["active", "superseded"]


def test_the_list_tells_how_each_key_stands(shared: Deployment, tenant: Tenant) -> None:
    """The table and the JSON tell name, permissions, times and state of every key, and never a key itself."""
    secrets = [tenant.key]
    superseded = create(shared, tenant.org_id, "--permissions", "read", "--expires", "90d")
    active = shared.told("key", "rotate", superseded["id"], "--overlap", "1h")
    revoked = create(shared, tenant.org_id, name="old")
    shared.done("key", "revoke", revoked["id"])
    secrets += [superseded["key"], active["key"], revoked["key"]]
    told = shared.done("key", "list", "--org", tenant.org_id, "--json")
    table = shared.done("key", "list", "--org", tenant.org_id)
    assert not any(secret in told + table for secret in secrets)

    heading, *rows = (re.split(r" {2,}", line) for line in table.splitlines())
    assert heading == ["ID", "NAME", "PERMISSIONS", "CREATED", "LAST USED", "EXPIRES", "STATE"]
    keys = listed(shared, tenant.org_id)
    assert [row[0] for row in rows] == list(keys)
    for key_id, name, permissions, created, _, expires, state in rows:
        key = keys[key_id]
        assert set(key) == {
            "id", "org_id", "name", "permissions", "created_at", "last_used_at", "expires_at", "revoked_at",
            "superseded_at", "state",
        }  # fmt: skip
        assert (name, permissions, state) == (key["name"], ",".join(key["permissions"]), key["state"])
        assert created == f"{at(key['created_at']):%Y-%m-%dT%H:%M:%SZ}"
        assert expires == (f"{at(key['expires_at']):%Y-%m-%dT%H:%M:%SZ}" if key["expires_at"] else "never")
    states = {key_id: key["state"] for key_id, key in keys.items()}
    assert states == {
        tenant.key_id: "active", superseded["id"]: "superseded", active["id"]: "active", revoked["id"]: "revoked",
    }  # fmt: skip


def test_a_key_is_shown_whatever_the_terminal_can_show(deployment: Deployment) -> None:
    """The words around it hold what the output's encoding lacks. It is shown all the same, for there is no copy."""
    arguments = ("key", "create", "--org", deployment.org(), "--name", "prod")
    made = deployment.memtrace(*arguments, variables={"PYTHONIOENCODING": "ascii"})
    assert made.returncode == 0, made.stderr
    assert re.search(r"\nmtk_[\w-]{20,}\n", made.stdout)
