"""What `/metrics` tells, and to whom: over in-memory adapters."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pytest
from builders import ORG, OTHER_ORG, bound, draft, embedded_instance, instance, settle
from integration.asgi import with_client
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

from memtrace_core import Binding, ConfirmationPolicy
from memtrace_core.errors import ArcRejected, StorageUnavailable
from memtrace_core.metering import MeteredGateway
from memtrace_core.model import Permission
from memtrace_core.testing import InMemoryGateway, InMemoryJournal, ManualClock
from memtrace_http.metrics import Metrics
from memtrace_http.metrics.figures import FIGURES, LIBRARY_NAMES, ORG_PREFIX

TOKEN = "the-token-of-the-operator"


async def samples(client, **others):
    """Return every sample of `/metrics`: name and labels → value; the caller has no key unless one is given."""
    answer = await client.get("/metrics", **{"key": None, **others})
    assert answer.status == 200, answer.body
    return {
        (one.name, *sorted(one.labels.items())): one.value
        for family in text_string_to_metric_families(answer.body.decode())
        for one in family.samples
    }


def of_orgs(found):
    """Return the orgs that samples name."""
    return {dict(labels)["org"] for name, *labels in found if name.startswith(ORG_PREFIX)}


async def post(client, content, **others):
    """Store a memory."""
    return await client.post("/api/v1/memories", {"agent_id": "ada", "content": content}, **others)


def test_every_name_is_on_the_list_and_every_name_of_the_list_is_told():
    """The families, their kinds and their labels are those of the closed list, no more and no fewer."""
    clock = ManualClock()
    journal = InMemoryJournal(clock)
    metrics = Metrics(per_org=True, token=TOKEN, journal_limit=1 << 20)
    gateway = MeteredGateway(InMemoryGateway(journal, durable=False), clock, metrics.counting)

    @with_client(metrics=metrics, clock=clock, journal=journal, gateway=gateway)
    async def scenario(client):
        await bound(client.services, instance(OTHER_ORG))
        client.services.health.note_delivery(instance(OTHER_ORG), refused=True)
        await client.services.health.check_all()
        await client.services.journal.append(instance(OTHER_ORG), [draft()])
        await post(client, "x")
        answer = await client.get("/metrics", key=TOKEN)
        told = {}
        for family in text_string_to_metric_families(answer.body.decode()):
            for one in family.samples:
                name = one.name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
                told.setdefault((name, family.type), set()).update(set(one.labels) - {"le"})
        ours = {(name, kind): labels for (name, kind), labels in told.items() if name.startswith("memtrace_")}
        assert ours == {(one.name, one.kind): set(one.labels) for one in FIGURES}
        assert {name for name, _ in told if not name.startswith("memtrace_")} == set(LIBRARY_NAMES)


def test_requests_are_counted_by_route_and_status():
    """A request counts under its template, never under its path; what has no route counts together."""

    @with_client(metrics=Metrics())
    async def scenario(client):
        await post(client, "one")
        await post(client, "two")
        await post(client, "two")
        for path in ("/api/v1/memories/a%2Fb", "/api/v1/memories/c", "/.env", "/wp-admin"):
            await client.get(path)
        await client.request("BREW", "/api/v1/coffee")
        found = await samples(client)
        count = {
            labels: value
            for (name, *labels), value in found.items()
            if name == "memtrace_http_request_seconds_count"
            for labels in [tuple(dict(labels)[one] for one in ("method", "route", "status"))]
        }
        assert count == {
            ("POST", "/api/v1/memories", "201"): 2,
            ("POST", "/api/v1/memories", "409"): 1,
            ("GET", "/api/v1/memories/{reference}", "404"): 2,
            ("GET", "none", "404"): 2,
            ("other", "none", "404"): 1,
        }


def test_memories_are_counted_by_outcome():
    """Stored and duplicate ones of single writes and batches count, and those that break a rule as rejected."""

    @with_client(metrics=Metrics())
    async def scenario(client):
        await post(client, "one")
        await post(client, "one")
        some = [{"agent_id": "ada", "content": text} for text in ("one", "two", "three")]
        await client.post("/api/v1/memories", {"memories": some})
        await client.post("/api/v1/memories", {"memories": [*some, {"agent_id": "7", "content": "x"}]})
        found = await samples(client)
        outcomes = ("stored", "duplicate", "rejected")
        assert [found["memtrace_memories_total", ("outcome", one)] for one in outcomes] == [3, 2, 4]


class Arc:
    """An org's Arc in memory, measured, and the arguments of an app that delivers to it."""

    def __init__(self, metrics):
        self.clock, self.metrics = ManualClock(), metrics
        journal = InMemoryJournal(self.clock)
        self.store = InMemoryGateway(journal, durable=False)
        self.arguments = {
            "arc": False,
            "metrics": metrics,
            "clock": self.clock,
            "journal": journal,
            "gateway": MeteredGateway(self.store, self.clock, metrics.counting),
            "confirmation": ConfirmationPolicy(settle=timedelta(seconds=60)),
        }

    async def pass_time(self, seconds):
        """Move the clock on, second by second, and let everybody act on it."""
        for _ in range(seconds):
            self.clock.advance(timedelta(seconds=1))
            await settle()


def test_the_way_to_arc_is_counted():
    """Deliveries, retries, confirmations and resent memories show what became of each memory, and when."""
    arc = Arc(Metrics())

    @with_client(**arc.arguments)
    async def scenario(client):
        await client.services.repo.bind_instance(instance(ORG))
        arc.store.unreachable.add(instance(ORG).id)
        await post(client, "one")
        lost = (await post(client, "two")).json["memory_id"]
        await arc.pass_time(2)
        away = await samples(client)
        assert away["memtrace_journal_memories", ("state", "pending")] == 2
        assert away["memtrace_journal_pending_bytes",] > 0
        assert away["memtrace_journal_oldest_pending_seconds",] == 2
        assert away["memtrace_delivery_retries_total",] >= 1
        assert away["memtrace_deliveries_total",] == 0
        refused = ("memtrace_arc_request_seconds_count", ("operation", "write"), ("outcome", "arc_unreachable"))
        assert away[refused] == away["memtrace_delivery_retries_total",]

        arc.store.unreachable.clear()
        await arc.pass_time(15)
        taken = await samples(client)
        assert taken["memtrace_deliveries_total",] == 1
        assert taken["memtrace_delivered_memories_total",] == 2
        assert taken["memtrace_journal_memories", ("state", "delivered")] == 2
        assert taken["memtrace_journal_oldest_pending_seconds",] == 0
        assert taken["memtrace_journal_oldest_seconds",] == 17

        arc.store.forget(instance(ORG), [lost])
        await arc.pass_time(240)
        ended = await samples(client)
        assert ended["memtrace_resent_memories_total",] == 1
        assert ended["memtrace_delivered_memories_total",] == 3
        assert ended["memtrace_confirmed_memories_total",] == 2
        assert ended["memtrace_journal_memories", ("state", "delivered")] == 0
        assert ended["memtrace_arc_request_seconds_count", ("operation", "confirm"), ("outcome", "ok")] >= 2


def test_what_arc_refuses_is_counted_as_set_aside():
    """A memory that Arc will never take counts, and stays visible in the journal."""
    arc = Arc(Metrics())

    async def refuse(one, memories):
        raise ArcRejected("bad row")

    arc.store.write = refuse

    @with_client(**arc.arguments)
    async def scenario(client):
        await client.services.repo.bind_instance(instance(ORG))
        await post(client, "one")
        await arc.pass_time(2)
        found = await samples(client)
        assert found["memtrace_set_aside_memories_total",] == 1
        assert found["memtrace_journal_memories", ("state", "set_aside")] == 1
        assert found["memtrace_arc_request_seconds_count", ("operation", "write"), ("outcome", "arc_rejected")] == 1


def test_arcs_are_up_down_or_not_yet_known():
    """The last check decides; a key that is refused is told, and makes an Arc that answers count as down."""
    arc = Arc(Metrics(per_org=True, token=TOKEN))

    async def states(client):
        arc.clock.advance(timedelta(seconds=2))
        found = await samples(client, key=TOKEN)
        counts = [found["memtrace_arc_instances", ("state", one)] for one in ("up", "down", "unknown")]
        verdicts = {org: found.get(("memtrace_org_arc_up", ("org", org))) for org in (ORG, OTHER_ORG)}
        return counts, verdicts, found["memtrace_arc_refused_keys",]

    @with_client(**arc.arguments)
    async def scenario(client):
        await client.services.repo.bind_instance(instance(ORG))
        await bound(client.services, instance(OTHER_ORG))
        assert await states(client) == ([0, 0, 2], {ORG: None, OTHER_ORG: None}, 0)
        arc.store.unreachable.add(instance(OTHER_ORG).id)
        await client.services.health.check_all()
        assert await states(client) == ([1, 1, 0], {ORG: 1, OTHER_ORG: 0}, 0)
        client.services.health.note_delivery(instance(ORG), refused=True)
        assert await states(client) == ([0, 2, 0], {ORG: 0, OTHER_ORG: 0}, 1)


def test_the_embedded_store_is_no_arc():
    """What cannot be away is neither up nor down."""

    @with_client(metrics=Metrics(per_org=True, token=TOKEN))
    async def scenario(client):
        await client.services.health.check_all()
        found = await samples(client, key=TOKEN)
        assert sum(value for (name, *_), value in found.items() if name == "memtrace_arc_instances") == 0
        assert ("memtrace_org_arc_up", ("org", ORG)) not in found


def test_secrets_are_counted_by_the_key_they_are_sealed_with():
    """Each master key at hand is told with its standing, and with how many secrets lie under it as of now."""

    @with_client(arc=False, metrics=Metrics())
    async def scenario(client):
        secrets = ("memtrace_vault_secrets", ("key_id", "transparent"), ("standing", "current"))
        assert (await samples(client))[secrets] == 0
        await client.services.tenants.bind(ORG, Binding(url="http://arc.example", api_key="k", database="memory"))
        client.services.clock.advance(timedelta(seconds=2))
        assert (await samples(client))[secrets] == 1


def test_figures_of_orgs_are_for_the_operator_and_an_orgs_own_admin():
    """The token shows all orgs, an admin's key its own; no other key, and nobody without one, sees any."""

    @with_client(metrics=Metrics(per_org=True, token=TOKEN))
    async def scenario(client):
        await bound(client.services, embedded_instance(OTHER_ORG))
        foreign = await client.key_of(Permission.ADMIN, OTHER_ORG)
        await post(client, "mine")
        await post(client, "theirs", key=foreign)
        assert of_orgs(await samples(client)) == set()
        assert of_orgs(await samples(client, key=TOKEN)) == {ORG, OTHER_ORG}
        assert of_orgs(await samples(client, headers={"authorization": f"Bearer {TOKEN}"})) == {ORG, OTHER_ORG}
        assert of_orgs(await samples(client, key=client.key)) == {ORG}
        assert of_orgs(await samples(client, key=foreign)) == {OTHER_ORG}
        weak = await client.key_of(Permission.READ | Permission.WRITE)
        assert of_orgs(await samples(client, key=weak)) == set()
        own = await samples(client, key=foreign)
        assert own["memtrace_org_memories_total", ("org", OTHER_ORG), ("outcome", "stored")] == 1
        assert own["memtrace_memories_total", ("outcome", "stored")] == 2
        for text in (ORG, OTHER_ORG, ORG_PREFIX):
            assert text.encode() not in (await client.get("/metrics", key=None)).body


def test_who_may_see_no_org_does_not_let_them_be_counted():
    """With thousands of orgs it takes a while to put their figures together; not for whoever reaches the port."""
    metrics = Metrics(per_org=True, token=TOKEN)
    collected = []

    class Watched:
        def collect(self):
            collected.append(1)
            return []

    metrics.counting.by_org.register(Watched())
    collected.clear()

    @with_client(metrics=metrics)
    async def scenario(client):
        await post(client, "one")
        assert of_orgs(await samples(client)) == set()
        assert collected == []
        assert of_orgs(await samples(client, key=TOKEN)) == {ORG}
        assert collected == [1]


def test_no_org_is_named_unless_the_settings_say_so():
    """Without `per_org` not even the token or an admin sees an org."""

    @with_client(metrics=Metrics(token=TOKEN))
    async def scenario(client):
        await post(client, "one")
        for key in (TOKEN, client.key):
            assert ORG.encode() not in (await client.get("/metrics", key=key)).body


@pytest.mark.parametrize("token", [None, TOKEN])
def test_wrong_credentials_are_an_error(token):
    """A scraper that brings the wrong token is told so rather than shown less."""

    @with_client(metrics=Metrics(per_org=True, token=token))
    async def scenario(client):
        answer = await client.get("/metrics", key="not-" + TOKEN)
        assert (answer.status, answer.json["code"]) == (401, "invalid_api_key")
        assert (await client.get("/metrics", key="\u00e9")).status == 401


def test_an_app_without_figures_has_no_such_route():
    """Where metrics are turned off there is nothing at /metrics."""

    @with_client()
    async def scenario(client):
        assert (await client.get("/metrics")).status == 404


def test_an_unknown_parameter_is_refused_here_too():
    """A query parameter has no meaning here, so it is a 400."""

    @with_client(metrics=Metrics())
    async def scenario(client):
        assert (await client.get("/metrics?org=org_a")).status == 400


def test_who_asks_for_open_metrics_gets_them():
    """The answer is in the form that the scraper asks for."""

    @with_client(metrics=Metrics())
    async def scenario(client):
        answer = await client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert "memtrace_memories" in {family.name for family in open_families(answer.body.decode())}


def test_the_rest_is_told_while_the_journal_cannot_be_read():
    """A journal in trouble is told as such, and takes no other figure away."""
    clock = ManualClock()

    class Broken(InMemoryJournal):
        async def backlogs(self):
            raise StorageUnavailable("no")

    @with_client(metrics=Metrics(), clock=clock, journal=Broken(clock))
    async def scenario(client):
        found = await samples(client)
        assert found["memtrace_readable", ("part", "journal")] == 0
        assert found["memtrace_readable", ("part", "vault")] == 1
        assert ("memtrace_journal_pending_bytes",) not in found
        assert ("memtrace_memories_total", ("outcome", "stored")) in found


def test_a_deep_journal_is_not_counted_all_the_time():
    """What was read serves for a second, and for twenty times as long as reading took."""
    clock = ManualClock()
    looks, takes = [], [0]

    class Slow(InMemoryJournal):
        async def backlogs(self):
            looks.append(clock.monotonic())
            clock.advance(timedelta(seconds=takes[0]))
            return await super().backlogs()

    @with_client(metrics=Metrics(), clock=clock, journal=Slow(clock))
    async def scenario(client):
        for _ in range(3):
            await samples(client)
        assert looks == [0]
        clock.advance(timedelta(seconds=1))
        takes[0] = 0.5
        for _ in range(3):
            await samples(client)
        assert looks == [0, 1]
        clock.advance(timedelta(seconds=9.5))
        await samples(client)
        assert looks == [0, 1]
        clock.advance(timedelta(seconds=0.5))
        await samples(client)
        assert looks == [0, 1, 11.5]


_TWO_PROCESSES = """
import asyncio, os, pathlib, sys
from builders import in_memory
from memtrace_http.metrics import Metrics

metrics = Metrics(per_org=True, shared=pathlib.Path(sys.argv[1]))
child = os.fork()
metrics.counting.remembered("org_a", 2, 1)
metrics.counting.answered("GET", "/health", 200, 0.002)
if not child:
    os._exit(0)
os.waitpid(child, 0)
print(asyncio.run(metrics.exposition(in_memory(), "", ["org_a"]))[0].decode())
"""


def test_processes_that_share_a_folder_add_up(tmp_path):
    """In the library's multiprocess mode any process tells what all of them have counted."""
    told = subprocess.run(
        [sys.executable, "-c", _TWO_PROCESSES, str(tmp_path)],
        env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert 'memtrace_memories_total{outcome="stored"} 4.0' in told
    assert 'memtrace_org_memories_total{org="org_a",outcome="duplicate"} 2.0' in told
    assert 'memtrace_http_request_seconds_count{method="GET",route="/health",status="200"} 2.0' in told
    assert "memtrace_journal_pending_bytes 0.0" in told
    assert "process_open_fds" not in told
