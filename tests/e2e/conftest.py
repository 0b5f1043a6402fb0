"""One server per worker, and a fresh organization per test, so that tests never meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from e2e.marks import shown
from e2e.processes import Deployment, Server, Tenant, made


@contextmanager
def examined() -> Iterator[None]:
    """Let deployments be made, and look at what is left of them in the end."""
    before = len(made)
    yield
    for one in made[before:]:
        one.look_at_files()
    try:
        assert_no_leaks()
    finally:
        del made[before:]


def assert_no_leaks() -> None:
    """Expect that nothing is known of a secret that was shown; what is told once is told no more."""
    found = {leak for one in made for leak in one.leaks}
    for one in made:
        one.leaks.clear()
    assert not found, f"secrets are shown: {', '.join(sorted(found))}"


@pytest.fixture(scope="session", autouse=True)
def no_secret_is_left_of_the_session(shared: Deployment) -> Iterator[None]:
    """Fail if a secret lies anywhere in what the tests of a worker share, which is made before all else."""
    yield
    shared.look_at_files()
    assert_no_leaks()


@pytest.fixture(scope="module", autouse=True)
def no_secret_is_left_of_the_module() -> Iterator[None]:
    """Fail if a secret lies anywhere in what the tests of a module share."""
    with examined():
        yield


@pytest.fixture(autouse=True)
def no_secret_is_shown() -> Iterator[None]:
    """Fail the test in which a secret is shown in any output, or lies anywhere in what was the test's own."""
    with examined():
        yield
        for one in made:
            one.look_at_output()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Return the deployment that the tests of a worker share."""
    return Deployment(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def server(shared: Deployment) -> Iterator[Server]:
    """Return the server that the tests of a worker share; none of them may stop it or change its settings."""
    with shared.serve() as running:
        yield running
        with running.client() as anybody:
            for path in ("/schema/openapi.json", "/metrics", "/health", "/ready"):
                shared.leaks |= {f"{name} in the answer of {path}" for name in shown(anybody.get(path).content)}


@pytest.fixture
def tenant(shared: Deployment, server: Server) -> Tenant:
    """Return a fresh organization on the embedded store, with an admin key."""
    return shared.tenant()


@pytest.fixture
def api(server: Server, tenant: Tenant) -> Iterator[httpx.Client]:
    """Return a client of the fresh organization."""
    with server.client(tenant) as client:
        yield client


@pytest.fixture(scope="module")
def lasting_api(shared: Deployment, server: Server) -> Iterator[httpx.Client]:
    """Return a client of one organization for all tests of a module, where none stores what another would see."""
    with server.client(shared.tenant()) as client:
        yield client


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    """Return a folder of the test's own to run commands and servers in."""
    return Deployment(tmp_path)
