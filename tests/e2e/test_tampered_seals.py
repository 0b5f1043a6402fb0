"""Somebody changes sealed Arc keys in the database of a running server: nothing opens, and nobody else notices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from arc_double import ArcDouble
from e2e.processes import Deployment, Server, Tenant, eventually, new_master_key
from e2e.sealed_rows import bound_instance, put_sealed, sealed_keys
from e2e.test_organizations import assert_one_line_error

from memtrace_sqlite import EnvelopeVault, MasterKey

pytestmark = pytest.mark.slow

VERSION, KEY_ID, WRAPPED = 1, 8, 12 + 32 + 16


@dataclass(frozen=True)
class Place:
    """A server with a victim and a neighbour, both bound to one Arc."""

    deployment: Deployment
    server: Server
    victim: Tenant
    neighbour: Tenant

    @property
    def file(self) -> Path:
        """The metadata database."""
        return self.deployment.data / "memtrace.db"

    def instance(self, tenant: Tenant) -> str:
        """The id of a tenant's instance."""
        return bound_instance(self.file, tenant.org_id)

    def sealed(self, tenant: Tenant) -> bytes:
        """A tenant's sealed key."""
        return sealed_keys(self.file)[self.instance(tenant)]

    def put(self, sealed: bytes, tenant: Tenant | None = None) -> None:
        """Put a sealed value in the place of a tenant's, by default the victim's."""
        put_sealed(self.file, self.instance(tenant or self.victim), sealed)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Return a running server with two organizations."""
    deployment = Deployment(tmp_path_factory.mktemp("tampered"), MEMTRACE_LOG_LEVEL="debug")
    with ArcDouble(max_buffer_age_ms=0) as arc, deployment.serve() as server:
        yield Place(deployment, server, *(bind(deployment, arc, name) for name in ("victim", "neighbour")))
        server.stop()
        assert_log_is_clean(server, deployment, arc.write_token)


def bind(deployment: Deployment, arc: ArcDouble, name: str) -> Tenant:
    """Return a fresh organization with a database of its name in an Arc."""
    tenant = deployment.tenant(name, bound=False)
    deployment.done(
        "org", "add-arc", tenant.org_id, "--url", arc.url, "--database", name, "--api-key", "-",
        stdin=arc.write_token,
    )  # fmt: skip
    return tenant


def assert_log_is_clean(server: Server, deployment: Deployment, arc_key: str) -> None:
    """Expect no defect and no secret in all that was logged."""
    events = server.events()
    assert not [event for event in events if event.get("status") == 500 or "exception" in event]
    assert arc_key not in server.err
    assert deployment.master_key not in server.err


@pytest.fixture(autouse=True)
def mended(place: Place) -> Iterator[None]:
    """Put both sealed values back afterwards; then everything must work again."""
    kept = {tenant: place.sealed(tenant) for tenant in (place.victim, place.neighbour)}
    yield
    for tenant, sealed in kept.items():
        place.put(sealed, tenant)
    assert [read(place, tenant).status_code for tenant in kept] == [200, 200]


def read(place: Place, tenant: Tenant) -> httpx.Response:
    """List memories."""
    with place.server.client(tenant) as api:
        return api.get("/api/v1/memories")


def assert_shut(response: httpx.Response) -> None:
    """Expect the answer of an organization whose Arc cannot be used, which says nothing of why."""
    assert response.status_code == 503, response.text
    assert response.json()["code"] == "arc_unreachable"
    assert response.json()["error"] == "the organization's Arc cannot be used at the moment"
    assert response.headers["retry-after"]


def test_no_flipped_bit_is_let_through_by_a_running_server(place: Place) -> None:
    """Bits all along the value, one by one: 503 at the very next request, and 200 for the neighbour."""
    good = place.sealed(place.victim)
    with place.server.client(place.victim) as victim, place.server.client(place.neighbour) as neighbour:
        for number in range(0, len(good), 4):
            altered = bytearray(good)
            altered[number] ^= 1 << number // 4 % 8
            place.put(bytes(altered))
            assert_shut(victim.get("/api/v1/memories"))
            assert neighbour.get("/api/v1/memories").status_code == 200


def test_no_part_of_a_value_and_nothing_longer_opens(place: Place) -> None:
    """Cut anywhere near the seams, down to nothing, or with something appended: 503."""
    good = place.sealed(place.victim)
    seams = (0, VERSION, VERSION + KEY_ID, VERSION + KEY_ID + WRAPPED, VERSION + KEY_ID + WRAPPED + 12, len(good))
    lengths = {length for seam in seams for length in (seam - 1, seam, seam + 1) if 0 <= length < len(good)}
    with place.server.client(place.victim) as victim:
        for altered in (
            *(good[:length] for length in sorted(lengths)),
            good + b"\0",
            good + good,
            good + good[-16:],
        ):
            place.put(altered)
            assert_shut(victim.get("/api/v1/memories"))


def test_values_that_changed_places_do_not_open(place: Place) -> None:
    """Two organizations' sealed keys that were swapped open for neither, though both are sound."""
    one, other = place.sealed(place.victim), place.sealed(place.neighbour)
    place.put(other)
    place.put(one, place.neighbour)
    for tenant in (place.victim, place.neighbour):
        assert_shut(read(place, tenant))


def test_the_value_of_an_organizations_former_instance_does_not_open(place: Place) -> None:
    """A key is bound to its instance, too: put back an old one of the same organization, and it is shut."""
    tenant = place.deployment.tenant("moved", bound=False)
    arc = ("--url", place.deployment.told("org", "show-arc", place.victim.org_id)["url"], "--api-key", "-")
    place.deployment.done("org", "add-arc", tenant.org_id, *arc, "--database", "old", stdin=ArcDouble.write_token)
    former = place.sealed(tenant)
    place.deployment.done("org", "set-arc", tenant.org_id, "--database", "new")
    assert read(place, tenant).status_code == 200
    place.put(former, tenant)
    assert_shut(read(place, tenant))
    place.deployment.done("org", "delete", tenant.org_id, "--yes")


def test_an_unknown_version_and_an_unknown_key_are_told_apart_in_the_log(place: Place) -> None:
    """To the caller both are one 503; the log says which it was, and whose request, by the request's id."""
    good = place.sealed(place.victim)
    context = f"{place.victim.org_id}|{place.instance(place.victim)}|arc_api_key"
    foreign = EnvelopeVault(MasterKey.parse(new_master_key())).seal("a-key", context)
    for altered, said in ((b"\x02" + good[1:], "unknown version"), (foreign, "another master key")):
        place.put(altered)
        response = read(place, place.victim)
        assert_shut(response)
        request_id = response.json()["request_id"]

        def events(request_id: str = request_id) -> list[dict[str, object]] | None:
            found = [event for event in place.server.events() if event.get("request_id") == request_id]
            return found if len(found) == 2 else None

        told, request = eventually(events, what="the request is logged")
        assert said in str(told["message"])
        assert (request["org"], request["status"]) == (place.victim.org_id, 503)


def test_health_and_readiness_tell_whose_key_does_not_open(place: Place) -> None:
    """`/health` and `/ready` say at once that this organization's Arc cannot be used, and so does the log."""
    before = len(place.server.events())
    place.put(place.sealed(place.victim)[:-1])
    expected = {place.victim.org_id: False, place.neighbour.org_id: True}
    with place.server.client() as api:
        health, ready = api.get("/health"), api.get("/ready")
    assert (health.status_code, health.json()["arc"]) == (200, expected)
    assert (ready.status_code, ready.json()) == (503, {"status": "not ready", "arc": expected})
    since = place.server.events()[before:]
    told = [event for event in since if "does not open" in event["message"] and "org" in event]
    assert {event["org"] for event in told} == {place.victim.org_id}


def test_no_route_of_the_organization_is_a_500(place: Place) -> None:
    """Reads that need Arc are 503, writes go to the journal, and what needs no Arc works."""
    place.put(place.sealed(place.neighbour))
    with place.server.client(place.victim) as api:
        assert api.post("/api/v1/memories", json={"agent_id": "ada", "content": "kept"}).status_code == 201
        assert api.get("/api/v1/agents").status_code == 200
        assert api.post("/api/v1/agents", json={"name": "ada"}).status_code == 201
        session = api.post("/api/v1/sessions", json={"agent_id": "ada"}).json()["id"]
        assert api.get(f"/api/v1/sessions/{session}").status_code == 200
        for response in (
            api.get("/api/v1/agents/ada/memories"),
            api.get("/api/v1/agents/ada/stats"),
            api.get(f"/api/v1/sessions/{session}/memories"),
            api.post(f"/api/v1/sessions/{session}/context"),
            api.post("/api/v1/search", json={"content_contains": "x"}),
            api.get("/api/v1/memories/mem_unknown"),
        ):
            assert_shut(response)


def test_the_commands_name_the_organization_and_one_of_them_mends_it(place: Place) -> None:
    """`show-arc` and `check-arc` fail, `doctor` names the organization, and `set-arc` with a key mends it."""
    place.put(place.sealed(place.neighbour))
    org_id, here = place.victim.org_id, place.deployment.here
    assert_one_line_error(here("org", "show-arc", org_id), 1, "the sealed value was altered")
    assert here("org", "list").returncode == 0
    checked = here("org", "check-arc", org_id)
    assert (checked.returncode, "does not open" in checked.stdout + checked.stderr) == (1, True)
    examined = here("doctor", "--json")
    assert examined.returncode == 1
    verdicts = {one["check"]: one["verdict"] for one in json.loads(examined.stdout)["checks"]}
    assert verdicts[f"arc of {org_id}"] == "fault"
    assert verdicts[f"arc of {place.neighbour.org_id}"] == "ok"
    assert_one_line_error(here("org", "set-arc", org_id, "--database", "other"), 1, "the sealed value was altered")
    place.deployment.done("org", "set-arc", org_id, "--api-key", "-", stdin=ArcDouble.write_token)
    assert read(place, place.victim).status_code == 200
