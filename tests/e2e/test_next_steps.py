"""After a command that is one step of several, the next one is named: on stderr, and for people only."""

from __future__ import annotations

import pytest
from e2e.processes import Deployment
from e2e.test_terminal import on_terminal

EMBEDDED = ("--url", "embedded:", "--database", "memory")
ADD_ARC = "memtrace org add-arc {org} --url URL --database NAME"


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Deployment, str]:
    """Return a deployment with one organization, bound to the embedded store."""
    deployment = Deployment(tmp_path_factory.mktemp("provisioned"))
    return deployment, deployment.org()


def next_of(deployment: Deployment, *arguments: str) -> list[str]:
    """Run a command that must succeed, and return the steps that it names; the data must not."""
    ended = deployment.here(*arguments)
    assert ended.returncode == 0, ended
    assert "next: " not in ended.stdout
    return [line.removeprefix("next: ") for line in ended.stderr.splitlines() if line.startswith("next: ")]


def test_setting_up_a_tenant_is_a_chain_of_steps(deployment: Deployment) -> None:
    """From an empty list to a key, each command names the one that follows, with the ids that it needs."""
    assert next_of(deployment, "org", "list") == ["memtrace org create NAME"]
    ended = deployment.here("org", "create", "acme")
    org_id = ended.stdout.split()[3]
    named = f"next: {ADD_ARC.format(org=org_id)}"
    assert ended.stderr.splitlines() == [named]
    assert next_of(deployment, "org", "list") == [ADD_ARC.format(org=org_id)]
    assert next_of(deployment, "org", "add-arc", org_id, *EMBEDDED) == [
        f"memtrace key create --org {org_id} --name NAME"
    ]
    (last,) = next_of(deployment, "key", "create", "--org", org_id, "--name", "prod")
    assert "memtrace serve" in last
    assert next_of(deployment, "org", "list") == []


def test_a_changed_binding_is_to_be_checked_and_a_removed_one_replaced(deployment: Deployment) -> None:
    """The steps name the organization."""
    org_id = deployment.org()
    assert next_of(deployment, "org", "set-arc", org_id, "--database", "other") == [
        f"memtrace org check-arc {org_id}"
    ]
    assert next_of(deployment, "org", "remove-arc", org_id) == [ADD_ARC.format(org=org_id)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("org", "create", "other"),
        ("org", "list"),
        ("org", "set-arc", "ORG", "--database", "other"),
        ("key", "create", "--org", "ORG", "--name", "prod"),
        ("config", "show"),
        ("config", "check"),
        ("vault", "rewrap"),
    ],
    ids=" ".join,
)
def test_programs_are_told_no_steps(provisioned: tuple[Deployment, str], arguments: tuple[str, ...]) -> None:
    """With `--json` there is the data, and nothing on stderr."""
    deployment, org_id = provisioned
    ended = deployment.here(*(org_id if one == "ORG" else one for one in arguments), "--json")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_fresh_master_key_comes_with_advice_on_a_terminal_only(deployment: Deployment) -> None:
    """Whoever looks on is told to keep it; what takes it from a pipe gets the key and nothing else."""
    code, shown = on_terminal(deployment, "keygen", "master")
    assert code == 0
    assert "keep it safe" in shown
    assert "next: " in shown
    ended = deployment.memtrace("keygen", "master")
    assert len(ended.stdout.split()) == 1
    assert ended.stderr == ""
