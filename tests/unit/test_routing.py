import pytest
from builders import ORG, START, embedded_instance, instance, memory, run

from memtrace_core.query import AgentCountQuery, MemoryQuery, OwnSpan
from memtrace_core.routing import GatewayByURL

QUERY = MemoryQuery(org_id=ORG)
SPAN = OwnSpan(ORG, "0a0b0c", START, START)
COUNT = AgentCountQuery(org_id=ORG, agent_id="ada", recent_since=START)


class Recorder:
    """A gateway that answers every call with its name and arguments."""

    def __init__(self, *, fails_to_close=False):
        self.closed = False
        self._fails_to_close = fails_to_close
        self.pinged = []

    async def write(self, one, memories):
        return self, one, memories

    async def query(self, one, query):
        return self, one, query

    async def count(self, one, query):
        return self, one, query

    async def own_count(self, one, span):
        return self, "count", one, span

    async def own_ids(self, one, span):
        return self, "ids", one, span

    async def covered(self, one, forgotten):
        return self, "covered", one, forgotten

    async def erase(self, one, forgotten):
        return self, "erase", one, forgotten

    async def known_ids(self, one, memory_ids):
        return self, "known", one, memory_ids

    async def server_version(self, one):
        return self, "version", one

    async def ping(self, one):
        self.pinged.append(one)

    async def close(self):
        self.closed = True
        if self._fails_to_close:
            raise OSError("no")


@pytest.mark.parametrize(
    ("one", "embedded"),
    [(embedded_instance(), True), (instance(), False), (instance(url="https://arc.example"), False)],
    ids=["embedded", "http", "https"],
)
def test_the_url_of_an_instance_chooses_its_gateway(one, embedded):
    """Every call goes, with what it was given, to the gateway of its kind and to no other."""

    async def body():
        inside, outside = Recorder(), Recorder()
        gateway = GatewayByURL(embedded=inside, http=lambda: outside)
        chosen, other = (inside, outside) if embedded else (outside, inside)
        memories = [memory()]
        assert await gateway.write(one, memories) == (chosen, one, memories)
        assert await gateway.query(one, QUERY) == (chosen, one, QUERY)
        assert await gateway.count(one, COUNT) == (chosen, one, COUNT)
        assert await gateway.own_count(one, SPAN) == (chosen, "count", one, SPAN)
        assert await gateway.own_ids(one, SPAN) == (chosen, "ids", one, SPAN)
        assert await gateway.covered(one, []) == (chosen, "covered", one, [])
        assert await gateway.erase(one, []) == (chosen, "erase", one, [])
        assert await gateway.known_ids(one, {"mem_x"}) == (chosen, "known", one, {"mem_x"})
        assert await gateway.server_version(one) == (chosen, "version", one)
        await gateway.ping(one)
        assert (chosen.pinged, other.pinged) == ([one], [])

    run(body())


def test_both_gateways_are_closed_though_one_fails():
    """An error of the first does not keep the second open, and is not hidden."""

    async def body():
        inside, outside = Recorder(fails_to_close=True), Recorder()
        gateway = GatewayByURL(embedded=inside, http=lambda: outside)
        await gateway.ping(instance())
        with pytest.raises(OSError, match="no"):
            await gateway.close()
        assert inside.closed
        assert outside.closed

    run(body())


def test_the_gateway_over_http_is_made_when_it_is_needed_and_once():
    """With embedded instances alone there is none, not even to be closed."""

    async def body():
        made = []

        def make():
            made.append(Recorder())
            return made[-1]

        gateway = GatewayByURL(embedded=Recorder(), http=make)
        await gateway.ping(embedded_instance())
        await gateway.close()
        assert made == []
        await gateway.ping(instance())
        await gateway.query(instance(), QUERY)
        assert len(made) == 1

    run(body())
