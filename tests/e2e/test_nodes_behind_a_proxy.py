"""Two nodes behind real proxies, configured as docs/scaling.md says: each organization has one home."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from e2e.nodes import MEMORIES, Pair, listed, node_of, post, two_nodes
from e2e.processes import Tenant, eventually
from e2e.test_documentation import BLOCKS, TOP
from e2e.test_fair_use import certificate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HOSTS = ("acme.memtrace.example.com", "globex.memtrace.example.com")
PROGRAMS = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin"
TOLD = ("10.0.0.1:9100", "10.0.0.2:9100")
"""Addresses of the nodes in the page's examples."""


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs, in a folder of its own."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    def client(self, tenant: Tenant, host: str = HOSTS[0]) -> httpx.Client:
        """Return a client that calls it by a host name, with the tenant's key."""
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}",
            headers={"host": host, "x-api-key": tenant.key},
            verify=_any_certificate(),
            timeout=30,
            trust_env=False,
        )


def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def example(first_line: str) -> str:
    """Return the block of the page that begins so."""
    (block,) = [
        one for one in BLOCKS if one.page == TOP / "docs" / "scaling.md" and one.text.startswith(first_line)
    ]
    return block.text


def replaced(text: str, places: Mapping[str, str]) -> str:
    """Return an example with real places for those that it tells, each of which must be there."""
    for told, meant in places.items():
        assert told in text, told
        text = text.replace(told, meant)
    return text


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def addresses(pair: Pair) -> dict[str, str]:
    """Return what the nodes' addresses in an example are here."""
    return {told: f"127.0.0.1:{server.port}" for told, server in zip(TOLD, pair.servers, strict=True)}


def haproxy(pair: Pair, folder: Path) -> tuple[int, list[str]]:
    """Write HAProxy's configuration, and return its port and how it is started."""
    cert, key = certificate(folder, "*.memtrace.example.com")
    together, orgs, port = folder / "memtrace.pem", folder / "orgs.map", free_port()
    together.write_bytes(cert.read_bytes() + key.read_bytes())
    orgs.write_text(example("acme.memtrace.example.com"))
    places = {
        "/etc/haproxy/orgs.map": str(orgs),
        "/etc/haproxy/memtrace.pem": str(together),
        "bind :443": f"bind 127.0.0.1:{port}",
    }
    configured = replaced(example("defaults\n"), {**addresses(pair), **places})
    (folder / "haproxy.cfg").write_text(configured)
    return port, ["-db", "-f", str(folder / "haproxy.cfg")]


def haproxy_by_key(pair: Pair, folder: Path) -> tuple[int, list[str]]:
    """Let HAProxy tell organizations by the digests of their keys; the second is at home on the second node."""
    port, arguments = haproxy(pair, folder)
    keys, configuration = folder / "keys.map", folder / "haproxy.cfg"
    told, digest = example("# printf"), "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
    line = next(one for one in told.splitlines() if one.startswith(digest))
    keys.write_text(
        "".join(
            line.replace(digest, hashlib.sha256(tenant.key.encode()).hexdigest()).replace("node-a", node) + "\n"
            for tenants in (pair.tenants, pair.other_keys)
            for tenant, node in zip(tenants, ("node-a", "node-b", "node-a"), strict=False)
        )
    )
    (by_host,) = re.findall(r"    http-request set-var\(txn.home\) .*\n", configuration.read_text())
    by_key = replaced(example("    http-request set-var(txn.key)"), {"/etc/haproxy/keys.map": str(keys)})
    configuration.write_text(replaced(configuration.read_text(), {by_host: by_key + "\n"}))
    return port, arguments


def nginx(pair: Pair, folder: Path) -> tuple[int, list[str]]:
    """Write nginx's configuration, and return its port and how it is started."""
    cert, key = certificate(folder, "*.memtrace.example.com")
    port = free_port()
    places = {
        "/etc/ssl/memtrace.pem": str(cert),
        "/etc/ssl/memtrace.key": str(key),
        "listen 443": f"listen 127.0.0.1:{port}",
    }
    configured = replaced(example("map $host $home {"), {**addresses(pair), **places})
    # Its workers would be another user, who may not enter the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = (f"{one}_temp_path {folder / one};" for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    around = (
        "daemon off;",
        user,
        f"pid {folder / 'pid'};",
        "error_log stderr;",
        "events {}",
        "http {",
        "access_log off;",
    )
    (folder / "nginx.conf").write_text("\n".join([*around, *temporary, configured, "}"]))
    return port, ["-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]


Kind = Callable[[Pair, Path], tuple[int, list[str]]]


@contextmanager
def in_front_of(pair: Pair, kind: Kind, folder: Path) -> Iterator[Proxy]:
    """Run a proxy of a kind before two nodes."""
    name = kind.__name__.partition("_")[0]
    program = shutil.which(name, path=PROGRAMS)
    if program is None:
        pytest.skip(f"{name} is not installed (on Debian: apt-get install {name})")
    port, arguments = kind(pair, folder)
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen([program, *arguments], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        eventually(lambda: _listens(port) or process.poll() is not None, what="the proxy listens")
        assert process.poll() is None, (folder / "said").read_text()
        yield Proxy(port, folder, process)
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Return two nodes that all tests of routing share."""
    with two_nodes(tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second"), orgs=4) as running:
        yield running


@pytest.fixture(scope="module", params=[haproxy, haproxy_by_key, nginx])
def proxy(request: pytest.FixtureRequest, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Return each kind of proxy in turn."""
    with in_front_of(pair, request.param, tmp_path_factory.mktemp("proxy")) as running:
        yield running


def test_all_requests_of_an_organization_reach_its_home(pair: Pair, proxy: Proxy) -> None:
    """With whichever key and header, and however the host is written; another organization's home is elsewhere."""
    homes = []
    for host, *keys in zip(HOSTS, pair.tenants, pair.other_keys, strict=False):
        stored = []
        for number, (tenant, written) in enumerate(itertools.product(keys, (host, host.upper(), f"{host}:443"))):
            memory = {"agent_id": "ada", "content": f"number {number} through {proxy.port}"}
            with proxy.client(tenant, written) as api:
                if number % 2:
                    del api.headers["x-api-key"]
                    api.headers["authorization"] = f"Bearer {tenant.key}"
                assert api.get("/health").status_code == 200
                stored.append(api.post(MEMORIES, json=memory).json())
                assert [one for one in listed(api, order="asc") if one in stored] == stored
        (home,) = {node_of(memory) for memory in stored}
        homes.append(home)
    assert len(set(homes)) == len(HOSTS)


def test_of_identical_writes_through_the_proxy_one_is_stored(pair: Pair, proxy: Proxy) -> None:
    """Sixteen at once over connections of their own, with two keys in turn."""
    keys = pair.tenants[2], pair.other_keys[2]
    memory = {"agent_id": "ada", "content": f"the same at {proxy.port}"}

    def send(number: int) -> httpx.Response:
        with proxy.client(keys[number % 2]) as api:
            return api.post(MEMORIES, json=memory)

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(send, range(16)))
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 15]
    assert len({answer.json()["memory_id"] for answer in answers}) == 1


def test_a_host_name_without_an_organization_is_refused_by_the_proxy(pair: Pair, proxy: Proxy) -> None:
    """It is a 421, and nothing is stored anywhere."""
    with proxy.client(pair.tenants[3], "nobody.memtrace.example.com") as api:
        assert api.post(MEMORIES, json={"agent_id": "ada", "content": "x"}).status_code == 421
    for server in pair.servers:
        with server.client(pair.tenants[3]) as api:
            assert listed(api) == []


@pytest.fixture
def own_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Return two nodes for one test, which may kill them."""
    with two_nodes(tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second"), orgs=1) as running:
        yield running


def answered(api: httpx.Client) -> bool:
    """Tell whether a request reaches a node."""
    return api.get(MEMORIES).status_code == 200


def test_haproxy_fails_over_and_back(own_pair: Pair, tmp_path: Path) -> None:
    """The other node goes on without what was not delivered; when the home is back, all is seen, each once."""
    (tenant,) = own_pair.tenants
    with in_front_of(own_pair, haproxy, tmp_path) as proxy, proxy.client(tenant) as api:
        stored = [post(api, "delivered")]
        eventually(lambda: own_pair.arc.writes, what="a delivery")
        home = own_pair.servers[0]
        own_pair.arc.faults.hang_writes = True
        stored.append(post(api, "only at home"))
        home.kill()
        own_pair.arc.faults.hang_writes = False
        eventually(lambda: answered(api), within=60, what="the other node takes over")
        assert listed(api) == stored[:1]
        stored.append(post(api, "elsewhere"))
        assert len({node_of(memory) for memory in stored}) == 2
        port = {"MEMTRACE_SERVER_PORT": str(home.port)}
        with own_pair.deployments[0].serve(variables=port):
            eventually(lambda: listed(api, order="asc") == stored, what="all three are seen")

            def at_home() -> bool:
                stored.append(post(api, f"number {len(stored)}"))
                return node_of(stored[-1]) == node_of(stored[0])

            eventually(at_home, within=60, what="the home takes over again")
            eventually(lambda: listed(api, order="asc") == stored, what="all are seen")


def test_nginx_moves_an_organization_when_it_is_told_to(own_pair: Pair, tmp_path: Path) -> None:
    """While the home is dead nothing answers in its stead; when the map is changed, the other node does."""
    (tenant,) = own_pair.tenants
    with in_front_of(own_pair, nginx, tmp_path) as proxy:
        with proxy.client(tenant) as api:
            stored = [post(api, "delivered")]
            eventually(lambda: own_pair.arc.writes, what="a delivery")
            own_pair.servers[0].kill()
            assert {api.get(MEMORIES).status_code for _ in range(4)} == {502}
        configured = tmp_path / "nginx.conf"
        moved = re.sub(rf"({re.escape(HOSTS[0])}\s+)node_a;", r"\1node_b;", configured.read_text())
        assert moved != configured.read_text()
        configured.write_text(moved)
        proxy.process.send_signal(signal.SIGHUP)

        def elsewhere() -> bool:
            with proxy.client(tenant) as api:
                return answered(api)

        eventually(elsewhere, within=60, what="nginx has read the map again")
        with proxy.client(tenant) as api:
            assert listed(api) == stored
            stored.append(post(api, "elsewhere"))
            assert listed(api, order="asc") == stored
        assert len({node_of(memory) for memory in stored}) == 2
