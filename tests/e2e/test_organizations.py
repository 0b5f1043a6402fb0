"""`memtrace org` and `memtrace key`, as the transcript in the configuration's contract has them."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from itertools import pairwise

import pytest
from e2e.processes import ARC_KEY, Deployment

URL = "https://arc.acme.example.com"


def create(deployment: Deployment, name: str = "acme") -> str:
    """Create an organization as an operator does, and return its id."""
    found = re.search(r"org_[0-9a-f]{24}", deployment.done("org", "create", name))
    assert found
    return found[0]


def bind(deployment: Deployment, org_id: str, *more: str) -> str:
    """Bind an organization to an Arc over the network."""
    return deployment.done(
        "org", "add-arc", org_id, "--url", URL, "--api-key", ARC_KEY, "--database", "acme_memory", *more
    )


def assert_one_line_error(ended: object, code: int, *words: str) -> None:
    """Expect an exit code, nothing on stdout, and one line of complaint, beside a hint, with these words."""
    assert (ended.returncode, ended.stdout) == (code, ""), ended
    first, *rest = ended.stderr.splitlines()
    assert first.startswith("memtrace: ")
    assert all(line.startswith("  hint: ") for line in rest)
    assert len(rest) <= 1
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in ended.stderr


def test_a_new_organization_is_printed_as_promised(deployment: Deployment) -> None:
    """`org create` prints the id and the name on stdout, and suggests the next step on stderr."""
    ended = deployment.memtrace("org", "create", "acme")
    assert ended.returncode == 0
    assert re.fullmatch(r"Organization created\n  id:   org_[0-9a-f]{24}\n  name: acme\n", ended.stdout)
    assert "memtrace org add-arc org_" in ended.stderr


def test_databases_are_made_private(deployment: Deployment) -> None:
    """The first command makes the data folder with mode 0700 and the files in it with 0600."""
    create(deployment)
    assert stat.S_IMODE(deployment.data.stat().st_mode) == 0o700
    files = list(deployment.data.iterdir())
    assert {"memtrace.db", "journal.db"} <= {file.name for file in files}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_an_organization_goes_through_its_life(deployment: Deployment) -> None:
    """Bind, show, change, unbind, delete: each step does what it says, and the Arc key stays masked."""
    org_id = create(deployment)
    said = bind(deployment, org_id)
    assert ARC_KEY not in said
    masked = "arc-" + "*" * (len(ARC_KEY) - 8) + "6789"
    shown = deployment.done("org", "show-arc", org_id)
    for value in (URL, "acme_memory", "events", masked):
        assert re.search(rf":\s+{re.escape(value)}$", shown, re.MULTILINE)
    assert ARC_KEY not in shown

    deployment.done("org", "set-arc", org_id, "--measurement", "memories", "--api-key", "12345678")
    changed = deployment.told("org", "show-arc", org_id)
    assert (changed["url"], changed["database"], changed["measurement"]) == (URL, "acme_memory", "memories")
    assert changed["api_key"] == "*" * 8

    deployment.done("org", "remove-arc", org_id)
    assert_one_line_error(deployment.here("org", "show-arc", org_id), 1, "no Arc instance", "add-arc")
    assert_one_line_error(deployment.here("org", "remove-arc", org_id), 1, "no Arc instance")
    deployment.done("org", "delete", org_id, "--yes")
    assert deployment.told("org", "list") == []
    assert_one_line_error(deployment.here("org", "delete", org_id, "--yes"), 1, org_id)


def test_an_organization_has_one_instance(deployment: Deployment) -> None:
    """A second `add-arc` is refused and changes nothing."""
    org_id = create(deployment)
    bind(deployment, org_id)
    ended = deployment.here(
        "org", "add-arc", org_id, "--url", "http://other", "--api-key", "x", "--database", "other"
    )
    assert_one_line_error(ended, 1)
    assert deployment.told("org", "show-arc", org_id)["url"] == URL


def test_lists_are_plain_tables(deployment: Deployment) -> None:
    """Away from a terminal there are no rules, colours or cuts: one row each, the id first, columns aligned."""
    long = "a name that is much longer than any column of a terminal would like it to be " + "x" * 40
    acme, other = create(deployment), create(deployment, long)
    bind(deployment, acme)
    header, *rows = deployment.done("org", "list").splitlines()
    assert re.match(r"ID\s+NAME\s+CREATED", header)
    assert [row.split()[0] for row in rows] == [acme, other]
    assert URL in rows[0]
    assert URL not in rows[1]
    assert long in rows[1]
    at = header.index("NAME")
    assert rows[0][at:].startswith("acme")
    assert not re.search(r"[^\x20-\x7e]", "".join(rows))


def test_lists_have_a_json_form(deployment: Deployment) -> None:
    """`--json` prints `[]` for an empty list, and objects with ids and times for others."""
    assert deployment.done("org", "list", "--json") == "[]\n"
    made = deployment.told("org", "create", "acme")
    org_id = made["id"]
    assert deployment.done("key", "list", "--org", org_id, "--json") == "[]\n"
    (listed,) = deployment.told("org", "list")
    assert (listed["id"], listed["name"], listed["arc"]) == (org_id, "acme", None)
    assert listed["created_at"] == made["created_at"]
    key = deployment.told("key", "create", "--org", org_id, "--name", "k")
    assert key["key"].startswith("mtk_")
    (listed,) = deployment.told("key", "list", "--org", org_id)
    assert (listed["id"], listed["permissions"]) == (key["id"], ["read", "write"])
    assert "key" not in listed


def test_a_key_is_printed_once(deployment: Deployment) -> None:
    """`key create` prints the key under its warning, and no list shows it again."""
    org_id = create(deployment)
    said = deployment.memtrace("key", "create", "--org", org_id, "--name", "acme-prod").stdout
    match = re.fullmatch(r"API key created \(shown only once — save it now\):\n(mtk_[A-Za-z0-9_-]{43})\n", said)
    assert match
    listed = deployment.done("key", "list", "--org", org_id)
    header, row = listed.splitlines()
    assert re.match(r"ID\s+NAME\s+PERMISSIONS\s+CREATED", header)
    assert re.match(r"key_\w+\s+acme-prod\s+read,write\s+\d{4}-", row)
    assert match[1] not in listed


def test_key_names_are_unique_among_live_keys_of_an_org(deployment: Deployment) -> None:
    """A live name is taken in its organization only, and free again once its key is revoked."""
    one, other = create(deployment, "one"), create(deployment, "other")
    deployment.done("key", "create", "--org", one, "--name", "prod")
    assert_one_line_error(deployment.here("key", "create", "--org", one, "--name", "prod"), 1, "prod")
    deployment.done("key", "create", "--org", other, "--name", "prod")
    (key,) = deployment.told("key", "list", "--org", one)
    deployment.done("key", "revoke", key["id"])
    deployment.done("key", "create", "--org", one, "--name", "prod", "--permissions", "admin")
    states = [bool(one["revoked_at"]) for one in deployment.told("key", "list", "--org", one)]
    assert states == [True, False]


def test_an_arc_key_can_come_from_stdin_or_a_file(deployment: Deployment) -> None:
    """`--api-key -` reads a line from standard input, `--api-key-file` a file, without the line's end."""
    file = deployment.folder / "arc.key"
    file.write_text(ARC_KEY + "\n")
    for arguments, stdin in ((("--api-key", "-"), ARC_KEY + "\n"), (("--api-key-file", str(file)), "")):
        org_id = create(deployment)
        deployment.done("org", "add-arc", org_id, "--url", URL, "--database", "d", *arguments, stdin=stdin)
        shown = deployment.told("org", "show-arc", org_id)
        assert shown["api_key"] == "arc-" + "*" * (len(ARC_KEY) - 8) + "6789"


def test_the_embedded_store_needs_no_key(deployment: Deployment) -> None:
    """`--url embedded:` binds without asking for an API key."""
    org_id = create(deployment)
    deployment.done("org", "add-arc", org_id, "--url", "embedded:", "--database", "memory")
    assert deployment.told("org", "show-arc", org_id)["url"] == "embedded:"


@pytest.mark.parametrize("stdin", ["", "y\n"])
def test_a_deletion_without_a_terminal_needs_yes(deployment: Deployment, stdin: str) -> None:
    """Where nobody can be asked, `org delete` wants `--yes`, whatever stands on standard input."""
    org_id = create(deployment)
    assert_one_line_error(deployment.memtrace("org", "delete", org_id, stdin=stdin), 2, "--yes")
    assert org_id in deployment.done("org", "list")


def test_a_deletion_takes_everything_of_the_org_along(deployment: Deployment) -> None:
    """Instance, agents, sessions, keys and embedded memories go; what another organization has stays."""
    doomed, other = deployment.tenant("doomed"), deployment.tenant("other")
    with deployment.serve() as server, server.client(doomed) as api, server.client(other) as others:
        for client in (api, others):
            client.post("/api/v1/agents", json={"name": "ada"})
            client.post("/api/v1/sessions", json={"agent_id": "ada"})
            for number in range(3):
                body = {"agent_id": "ada", "content": f"the famous content {number}"}
                assert client.post("/api/v1/memories", json=body).status_code == 201
        said = deployment.done("org", "delete", doomed.org_id, "--yes")
        assert "3 embedded memories" in said
        assert api.get("/api/v1/memories").status_code == 401
        kept = others.get("/api/v1/memories")
        assert kept.status_code == 200, (kept.text, server.err)
        assert kept.json()["count"] == 3
        assert others.get("/api/v1/agents").json()["count"] == 1
        assert others.get("/api/v1/agents/ada/stats").json()["session_count"] == 1
    assert [one["id"] for one in deployment.told("org", "list")] == [other.org_id]
    assert_one_line_error(deployment.here("key", "list", "--org", doomed.org_id), 1, doomed.org_id)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("org", "show-arc", "org_nobody"), ["org_nobody"]),
        (("org", "remove-arc", "org_nobody"), ["org_nobody"]),
        (("org", "delete", "org_nobody", "--yes"), ["org_nobody"]),
        (("org", "set-arc", "org_nobody", "--database", "x"), ["org_nobody"]),
        (("org", "add-arc", "org_nobody", "--url", "embedded:", "--database", "x"), ["org_nobody"]),
        (("key", "create", "--org", "org_nobody", "--name", "k"), ["org_nobody"]),
        (("key", "list", "--org", "org_nobody"), ["org_nobody"]),
        (("key", "revoke", "key_nobody"), ["key_nobody"]),
        (("org", "create", ""), ["name"]),
        (("org", "create", "x" * 129), ["name"]),
        (("org", "create", "two\nlines"), ["name"]),
        (("key", "create", "--org", "ORG", "--name", ""), ["name"]),
        (("key", "create", "--org", "ORG", "--name", "k", "--permissions", "fly"), ["permission"]),
        (("key", "create", "--org", "ORG", "--name", "k", "--permissions", ""), ["permission"]),
        (("org", "add-arc", "ORG", "--url", "ftp://x", "--api-key", "k", "--database", "d"), ["url"]),
        (("org", "add-arc", "ORG", "--url", "http://u:p@x", "--api-key", "k", "--database", "d"), ["url"]),
        (("org", "add-arc", "ORG", "--url", URL, "--api-key", "k", "--database", "1 d"), ["database"]),
        (("org", "add-arc", "ORG", "--url", "embedded:", "--database=d", "--measurement=a-b"), ["measurement"]),
        (("org", "add-arc", "ORG", "--url", URL, "--api-key", "two words", "--database", "d"), ["api-key"]),
        (("org", "add-arc", "ORG", "--url", URL, "--database", "d"), ["--api-key"]),
        (("org", "add-arc", "ORG", "--url", URL, "--database", "d", "--api-key-file", "nowhere"), ["nowhere"]),
        (("org", "add-arc", "ORG", "--url", "embedded:", "--database", "d", "--api-key", "k"), ["api-key"]),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_one_line(
    deployment: Deployment, arguments: tuple[str, ...], words: list[str]
) -> None:
    """A failure is exit code 1 and one line on stderr that names what is wrong, without a traceback."""
    if "ORG" in arguments:
        org_id = deployment.org(bound=False)
        arguments = tuple(org_id if one == "ORG" else one for one in arguments)
    assert_one_line_error(deployment.here(*arguments), 1, *words)


@pytest.mark.parametrize(
    "arguments",
    [
        ("fly",),
        ("org", "fly"),
        ("org", "create"),
        ("org", "create", "a", "b"),
        ("org", "create", "a", "--fly"),
        ("org", "add-arc", "org_a"),
        ("org", "set-arc", "org_a"),
        ("key", "create", "--name", "k"),
        ("key", "list"),
        ("keygen", "servant"),
        ("serve", "--port", "abc"),
        ("serve", "--port", "9100"),
        ("--fly",),
        ("org", "list", "--json", "--json=maybe"),
        ("key", "revoke", "\udcff"),
        ("key", "create", "--org", "org_a\udcff", "--name", "k"),
    ],
)
def test_misuse_is_exit_code_two(deployment: Deployment, arguments: tuple[str, ...]) -> None:
    """A command line that cannot be meant is exit code 2 and a short complaint, and nothing is made on disk."""
    assert_one_line_error(deployment.here(*arguments), 2)
    assert not deployment.data.exists()


@pytest.mark.parametrize("arguments", [(), ("org",), ("org", "add-arc"), ("key", "create"), ("serve",), ("demo",)])
def test_help_works_without_any_setting(deployment: Deployment, arguments: tuple[str, ...]) -> None:
    """`--help` is exit code 0 on stdout with an example, needs no master key, and makes nothing."""
    ended = deployment.here(*arguments, "--help", variables={"MEMTRACE_MASTER_KEY": None})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Usage: memtrace" in ended.stdout
    if arguments in (("org", "add-arc"), ("key", "create"), ("serve",), ("demo",)):
        assert "Example: " in ended.stdout
    assert not deployment.data.exists()


def test_the_version_is_printed(deployment: Deployment) -> None:
    """`--version` prints the program's name and version, without a master key."""
    ended = deployment.memtrace("--version", variables={"MEMTRACE_MASTER_KEY": None})
    assert ended.returncode == 0
    assert re.fullmatch(r"memtrace \d+\.\d+\.\d+\n", ended.stdout)


def test_a_fresh_master_key_stands_alone(deployment: Deployment) -> None:
    """`keygen master` prints 32 bytes of base64 and nothing else, another each time, without a key being set."""
    ended = [deployment.here("keygen", "master", variables={"MEMTRACE_MASTER_KEY": None}) for _ in range(2)]
    for one in ended:
        assert (one.returncode, one.stderr) == (0, "")
        assert re.fullmatch(r"[A-Za-z0-9+/]{43}=\n", one.stdout)
    assert ended[0].stdout != ended[1].stdout
    assert not deployment.data.exists()


def test_an_admin_command_imports_no_server(deployment: Deployment) -> None:
    """Admin commands load neither litestar nor aiohttp nor uvicorn."""
    create(deployment)
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "memtrace_cli", "org", "list"],
        capture_output=True, text=True, cwd=deployment.folder, env=deployment.environment, timeout=60, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in ended.stderr.splitlines()}
    assert "apsw" in imported
    assert imported.isdisjoint({"litestar", "aiohttp", "uvicorn", "uvloop", "memtrace_http", "rich"})


def test_organizations_are_listed_oldest_first(deployment: Deployment) -> None:
    """The list has the order of creation."""
    made = [create(deployment, name) for name in ("c", "a", "b")]
    listed = deployment.told("org", "list")
    assert [one["id"] for one in listed] == made
    assert all(one["created_at"] < other["created_at"] for one, other in pairwise(listed))


def test_the_exit_code_reaches_the_shell(deployment: Deployment) -> None:
    """Failure and misuse end the process with 1 and 2, a message on stderr and nothing on stdout."""
    assert_one_line_error(deployment.memtrace("org", "show-arc", "org_nobody"), 1, "org_nobody")
    assert_one_line_error(deployment.memtrace("fly"), 2, "fly")


def test_pending_memories_can_be_moved_on_request(deployment: Deployment) -> None:
    """`set-arc --move-pending` is taken, beside a change and alone."""
    org_id = create(deployment)
    bind(deployment, org_id)
    deployment.done("org", "set-arc", org_id, "--database", "other", "--move-pending")
    deployment.done("org", "set-arc", org_id, "--move-pending")
    assert deployment.told("org", "show-arc", org_id)["database"] == "other"


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://arc.example:8000", True),
        ("https://arc.example:8000", False),
        ("http://127.0.0.1:9", False),
        ("http://localhost:9", False),
        ("embedded:", False),
    ],
)
def test_plain_http_to_another_machine_is_warned_of(deployment: Deployment, url: str, warned: bool) -> None:
    """The Arc key would travel in the clear; on this machine it does not travel."""
    org_id = deployment.org(bound=False)
    key = [] if url == "embedded:" else ["--api-key", "k"]
    added = deployment.here("org", "add-arc", org_id, "--url", url, "--database", "d", "--no-check", *key)
    assert added.returncode == 0
    assert ("in the clear" in added.stderr) is warned
