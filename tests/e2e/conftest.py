"""One server per worker, and a fresh organization per test, so that tests never meet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2e.processes import Deployment, Server, Tenant


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Return the deployment that the tests of a worker share."""
    return Deployment(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def server(shared: Deployment) -> Iterator[Server]:
    """Return the server that the tests of a worker share; none of them may stop it or change its settings."""
    with shared.serve() as running:
        yield running


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
