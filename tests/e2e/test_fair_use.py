"""Limits, TLS, and what answers hold besides their bodies."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from e2e.processes import Deployment, Server, Tenant, eventually
from e2e.test_probe import probe

MEMORIES = "/api/v1/memories"


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a certificate that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    return cert_file, key_file


def presented(port: int) -> str:
    """Return the name in the certificate that a server presents to a new connection."""
    pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=10)
    names = x509.load_pem_x509_certificate(pem.encode()).subject
    return str(names.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


def test_a_key_that_asks_too_often_is_told_to_wait(deployment: Deployment) -> None:
    """A 429 with code and Retry-After; another key of the org goes on."""
    deployment.environment.update(MEMTRACE_LIMITS_REQUESTS_PER_SECOND="0.01", MEMTRACE_LIMITS_BURST="3")
    eager = deployment.tenant()
    other = deployment.key(eager.org_id, name="other")
    with deployment.serve() as server, server.client(eager) as api, server.client(other) as calm:
        answers = [api.get(MEMORIES) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].json()["code"] == "rate_limited"
        assert 0 < int(answers[-1].headers["retry-after"]) <= 100
        assert calm.get(MEMORIES).status_code == 200
        assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200


def test_requests_that_have_ended_make_room(deployment: Deployment) -> None:
    """One after the other, failing ones included, any number passes where one may be under way."""
    deployment.environment.update(MEMTRACE_LIMITS_IN_FLIGHT="1")
    tenant = deployment.tenant()
    with deployment.serve() as server, server.client(tenant) as api:
        for _ in range(3):
            assert api.get(MEMORIES).status_code == 200
            assert api.get(f"{MEMORIES}?limit=0").status_code == 400
            assert api.post(MEMORIES, content=b"{").status_code == 400
            assert api.get(f"{MEMORIES}/nothing").status_code == 404


def test_answers_are_not_kept_on_the_way(server: Server) -> None:
    """Every answer, an error too, forbids caches, guessing and other sites, and does not name the program."""
    foreign = {"origin": "https://elsewhere.example", "access-control-request-method": "GET"}
    for method, path in (("GET", "/health"), ("GET", MEMORIES), ("GET", "/nothing"), ("OPTIONS", MEMORIES)):
        answer = httpx.request(method, server.url + path, headers=foreign, trust_env=False)
        assert "server" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers


def test_health_may_be_told_without_the_orgs(deployment: Deployment) -> None:
    """With `health_detail = "summary"` the same statuses are given, and no organization is named."""
    tenant = deployment.tenant()
    with (
        deployment.serve(variables={"MEMTRACE_SERVER_HEALTH_DETAIL": "summary"}) as server,
        server.client() as api,
    ):
        for path in ("/health", "/ready"):
            answer = api.get(path)
            assert answer.status_code == 200
            assert tenant.org_id not in answer.text


def test_health_tells_of_each_org_unless_told_otherwise(server: Server, tenant: Tenant) -> None:
    """Without that setting the organizations are named."""
    with server.client() as api:
        for path in ("/health", "/ready"):
            assert tenant.org_id in api.get(path).text


def test_the_server_speaks_tls(deployment: Deployment, tmp_path: Path) -> None:
    """With a certificate and its key it is reached over https, and tells so."""
    cert, key = certificate(tmp_path, "first")
    deployment.environment.update(MEMTRACE_SERVER_TLS_CERT=str(cert), MEMTRACE_SERVER_TLS_KEY=str(key))
    tenant = deployment.tenant()
    with deployment.serve() as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(cert))
        context.check_hostname = False
        with httpx.Client(verify=context, trust_env=False, headers={"x-api-key": tenant.key}) as api:
            assert api.get(server.url + MEMORIES).status_code == 200
        deployment.environment["MEMTRACE_SERVER_PORT"] = str(server.port)
        assert probe(deployment).returncode == 0
        assert server.stop() == 0


@pytest.mark.slow
def test_the_server_takes_a_new_certificate(deployment: Deployment, tmp_path: Path) -> None:
    """Its certificate is loaded again when the files change; half a change leaves the one in use alone."""
    cert, key = certificate(tmp_path, "first")
    deployment.environment.update(MEMTRACE_SERVER_TLS_CERT=str(cert), MEMTRACE_SERVER_TLS_KEY=str(key))
    with deployment.serve() as server:
        assert presented(server.port) == "first"
        (tmp_path / "new").mkdir()
        new_cert, new_key = certificate(tmp_path / "new", "second")
        new_cert.replace(cert)
        eventually(lambda: "cannot be used (yet)" in server.err, what="a certificate without its key is noticed")
        assert presented(server.port) == "first"
        new_key.replace(key)
        eventually(lambda: presented(server.port) == "second", what="the new certificate is presented")
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("key", "said"),
    [
        pytest.param(None, "go together", marks=pytest.mark.slow),
        pytest.param("nowhere.pem", "cannot be used", marks=pytest.mark.slow),
        ("other/key.pem", "cannot be used"),
    ],
    ids=["no key", "a missing key", "the key of another"],
)
def test_a_certificate_that_cannot_be_used_is_told_at_once(
    deployment: Deployment, tmp_path: Path, key: str | None, said: str
) -> None:
    """Only half configured, missing, or of another key: one line, exit code 1."""
    cert, _ = certificate(tmp_path, "one")
    (tmp_path / "other").mkdir()
    certificate(tmp_path / "other", "two")
    ended = deployment.memtrace(
        "serve", variables={"MEMTRACE_SERVER_TLS_CERT": str(cert), "MEMTRACE_SERVER_TLS_KEY": key}
    )
    assert ended.returncode == 1
    assert said in ended.stderr.splitlines()[0]


def test_keys_in_the_clear_are_warned_of_once(server: Server) -> None:
    """Plain HTTP that others can reach, which is what a server does unless told otherwise, is warned of once."""
    assert len(warnings_of_the_clear(server)) == 1


def test_keys_that_stay_on_the_machine_are_not_warned_of(deployment: Deployment) -> None:
    """Plain HTTP on the loopback address is as it should be."""
    with deployment.serve(variables={"MEMTRACE_SERVER_HOST": "127.0.0.1"}) as server:
        assert warnings_of_the_clear(server) == []


def warnings_of_the_clear(server: Server) -> list[dict[str, Any]]:
    """Return the warnings about keys that others can read on their way."""
    return [event for event in server.events() if "in the clear" in event["message"]]
