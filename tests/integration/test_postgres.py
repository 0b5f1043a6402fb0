"""The metadata repo over a PostgreSQL of the tests' own: what the contract suite does not ask for."""

import asyncio
import contextlib
import itertools
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest
from builders import START, agent, api_key, instance, org, run, session
from integration.test_metadata import CHANGES, HOSTILE, STEADY, VAULT, furnished
from postgres_server import PASSWORD, PostgresServer, new_schema, require, shared_server

from memtrace_core.errors import Conflict, InvalidInput, NotFound, StorageUnavailable, WrongMasterKey
from memtrace_core.opening import Mode
from memtrace_postgres import PostgresMetadataRepo, inspect, watch
from memtrace_postgres.address import Address
from memtrace_postgres.watch import TRUST_SECONDS
from memtrace_sqlite import EnvelopeVault, MasterKey

OTHER_VAULT = EnvelopeVault(MasterKey(bytes(range(32))))


class Clockwork:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@contextlib.asynccontextmanager
async def opened(*, number=1, server=None, schema=None, **options):
    """Open repos on one schema, as so many nodes would, and close them in the end."""
    url, schema = (server or shared_server()).url, schema or new_schema()
    repos = [PostgresMetadataRepo(url, VAULT, schema=schema, **options) for _ in range(number)]
    try:
        yield repos
    finally:
        for repo in repos:
            await repo.close()


def scenario(number=1, **options):
    """Run the decorated coroutine function with repos on a schema of its own; return its result."""

    def decorate(work):
        async def body():
            async with asyncio.timeout(60), opened(number=number, **options) as repos:
                return await work(*repos)

        return run(body())

    return decorate


async def eventually(condition, within=20):
    """Wait until a condition holds."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - what changes is not ours to signal
            await asyncio.sleep(0.005)


def listening_backend(repo):
    """Return the process of the server that a node listens to; it must be the only node."""
    sql = "SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = hashtext(%s)::oid"
    ((pid,),) = shared_server().execute(sql, repo.address.schema)
    return pid


async def versions_stand(repo):
    """Wait until a node trusts what it reads."""
    await repo.list_orgs()
    await eventually(lambda: repo.version() == repo.version())


@pytest.fixture
def no_heartbeat(monkeypatch):
    """Let nodes ask for nothing by themselves, so that they know only what they are told."""
    monkeypatch.setattr(watch, "BEAT_SECONDS", 3600)


@pytest.fixture
def own_server():
    """Return a server that a test may stop."""
    server = PostgresServer(require())
    yield server
    server.remove()


# --- what nodes tell each other


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", [False, True], ids=["by itself", "by another node"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_when_a_change_returns_every_node_has_taken_note(no_heartbeat, change, elsewhere):
    """After a change of orgs, bindings or keys, made here or there, the very next look shows another version."""

    @scenario(2, monotonic=Clockwork())
    async def _(server, other):
        await furnished(server)
        await versions_stand(server)
        before = server.version()
        await change(other if elsewhere else server)
        assert server.version() != before
        after = server.version()
        assert server.version() == after


def test_a_revoked_key_is_revoked_on_every_node_when_the_command_returns(no_heartbeat):
    """No node has to be waited for: of several, each sees another version, and then the revocation."""

    @scenario(4, monotonic=Clockwork())
    async def _(*nodes):
        await furnished(nodes[0])
        for node in nodes:
            await versions_stand(node)
        before = [node.version() for node in nodes]
        await nodes[0].revoke_key(api_key().id, START)
        assert all(node.version() != seen for node, seen in zip(nodes, before, strict=True))
        assert {(await node.find_key(api_key().digest)).revoked_at for node in nodes} == {START}
        assert [node.version() for node in nodes] == [node.version() for node in nodes]


@pytest.mark.slow
@pytest.mark.parametrize("change", STEADY.values(), ids=STEADY)
def test_the_version_stands_still_when_agents_or_sessions_change(change):
    """What changes all the time, and what is refused, makes no node forget what it knows."""

    @scenario(2)
    async def _(server, other):
        await furnished(server)
        await versions_stand(server)
        before = server.version()
        await change(other)
        async with opened() as (stranger,):  # the installation of another schema
            await stranger.create_org(org())
        assert server.version() == before


def test_a_change_waits_for_a_node_that_has_not_taken_note():
    """As long as a node holds an older version and may trust it, the change is made and does not return."""

    @scenario(2)
    async def _(server, other):
        await furnished(server)
        await versions_stand(other)
        other._watch._task.cancel()  # it hears nothing any more, and its connection is still there
        await asyncio.sleep(0)
        held = psycopg.connect(shared_server().url, autocommit=True)
        (version,) = held.execute(f"SELECT version FROM {server.address.schema}.config_version").fetchone()
        held.execute("SELECT pg_advisory_lock_shared(hashtext(%s), %s)", (server.address.schema, version))
        revoking = asyncio.create_task(server.revoke_key(api_key().id, START))
        table = f"{server.address.schema}.api_keys"
        await eventually(lambda: held.execute(f"SELECT 1 FROM {table} WHERE revoked_at IS NOT NULL").fetchone())
        for _ in range(20):
            await server.find_key(api_key().digest)
        assert not revoking.done()
        held.close()
        assert await asyncio.wait_for(revoking, 20) is True


def test_a_node_that_hears_nothing_trusts_nothing():
    """When its time is over the version is another one at each look, though the connection seems to be there."""
    clock = Clockwork()

    @scenario(monotonic=clock)
    async def _(repo):
        await furnished(repo)
        await versions_stand(repo)
        backend = listening_backend(repo)
        os.kill(backend, signal.SIGSTOP)
        try:
            clock.now += TRUST_SECONDS - 0.001
            assert repo.version() == repo.version()
            clock.now += 0.002
            assert len({repo.version() for _ in range(5)}) == 5
            assert await repo.find_key(api_key().digest) == api_key()
        finally:
            os.kill(backend, signal.SIGCONT)
        await eventually(lambda: repo.version() == repo.version())


# --- a database that goes away


@pytest.mark.slow
def test_a_lost_database_is_told_at_once_and_found_again(own_server):
    """Until it is back every look is another version and every request an error; what delivers goes on."""

    async def body():
        async with opened(server=own_server) as (repo,):
            await furnished(repo)
            await versions_stand(repo)
            known = await repo.get_instance("org_a", instance().id)
            own_server.stop()
            await eventually(lambda: repo._watch._away is not None)
            assert len({repo.version() for _ in range(5)}) == 5
            for ask in (repo.list_orgs(), repo.find_key(b""), repo.create_agent(agent(number=5))):
                with pytest.raises(StorageUnavailable, match="cannot be reached"):
                    await ask
            assert await repo.get_instance("org_a", instance().id) == known
            with pytest.raises(StorageUnavailable):
                await repo.get_instance("org_b", "arc_unknown")
            own_server.start()
            await eventually(lambda: repo._watch._away is None)
            assert (await repo.get_org("org_a")).id == "org_a"
            await versions_stand(repo)
            before = repo.version()
            await repo.revoke_key(api_key().id, START)
            assert repo.version() != before

    run(body())


@pytest.mark.slow
def test_what_was_missed_while_the_connection_was_lost_counts_when_it_is_back():
    """Its listening connection ended by an admin, a node comes back with another version than before."""

    @scenario()
    async def _(server):
        await furnished(server)
        await versions_stand(server)
        before = server.version()
        table = f"{server.address.schema}.api_keys"
        with psycopg.connect(shared_server().url) as admin:
            admin.execute("SELECT pg_terminate_backend(%s)", (listening_backend(server),))
            admin.execute(f"UPDATE {table} SET revoked_at = 1")
        assert server.version() == before  # it cannot know yet: the loop has not turned
        await eventually(lambda: server.version() != before)
        await eventually(lambda: server._watch._away is None and server.version() == server.version())
        assert (await server.find_key(api_key().digest)).revoked_at is not None


def test_without_a_database_nothing_opens_and_no_password_is_told(own_url):
    """The error names the place, and neither it nor any that it came from holds the password."""
    for url in own_url:
        with pytest.raises(StorageUnavailable) as caught:
            PostgresMetadataRepo(url, VAULT)
        error = caught.value
        while error is not None:
            assert "pass" not in str(error).replace("password authentication failed", "")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_no_password_is_told_whatever_an_error_says():
    """What a library or a server between says is told with the password left out."""
    address = Address("postgresql://memtrace:pass%23word@127.0.0.1:1/x")
    assert address.told(psycopg.OperationalError('no "pass#word" here\n\tadvice')) == 'no "***" here'


@pytest.fixture
def own_url():
    """Return URLs that lead nowhere: a closed port, a wrong password, and what is no URL."""
    port = shared_server().port
    return [
        "postgresql://memtrace:pass-word@127.0.0.1:1/x",
        f"postgresql://memtrace:pass%23word@127.0.0.1:{port}/postgres",
        "postgresql://memtrace:pass%zzword@127.0.0.1/x",
        "postgresql://memtrace:pass#word@127.0.0.1/x",
    ]


# --- opening


def test_nodes_that_start_at_once_make_one_database():
    """Of several that begin an empty schema together one makes the tables, and all work."""

    async def body():
        schema, url = new_schema(), shared_server().url
        made = await asyncio.gather(
            *(asyncio.to_thread(PostgresMetadataRepo, url, VAULT, schema=schema) for _ in range(4))
        )
        await made[0].create_org(org())
        assert [await repo.list_orgs() for repo in made] == [[org()]] * 4
        for repo in made:
            await repo.close()

    run(body())


@pytest.mark.slow
def test_of_two_first_master_keys_one_wins():
    """When nodes with different keys begin one schema, those with the other key are told so."""

    async def body():
        schema, url = new_schema(), shared_server().url
        vaults = [VAULT, OTHER_VAULT] * 2
        made = await asyncio.gather(
            *(asyncio.to_thread(PostgresMetadataRepo, url, vault, schema=schema) for vault in vaults),
            return_exceptions=True,
        )
        return [type(one) for one in made]

    kinds = run(body())
    assert sorted((kinds[0], kinds[1]), key=str) == sorted((PostgresMetadataRepo, WrongMasterKey), key=str)
    assert kinds[:2] == kinds[2:]


@pytest.mark.slow
def test_another_schema_version_is_refused():
    """Newer tables are refused always, older ones unless they may be migrated; nothing is changed by that."""
    schema, server = new_schema(), shared_server()
    run(_opened_and_closed(schema))
    server.execute(f"UPDATE {schema}.schema_version SET version = 99")
    for mode in Mode:
        with pytest.raises(StorageUnavailable, match="version 99, newer"):
            PostgresMetadataRepo(server.url, VAULT, schema=schema, mode=mode)
    assert inspect(server.url, schema).schema_version == 99


async def _opened_and_closed(schema):
    async with opened(schema=schema):
        pass


@pytest.mark.slow
def test_a_schema_that_is_anothers_is_left_untouched():
    """A schema with tables of another program is refused, and has no table more afterwards."""
    schema, server = new_schema(), shared_server()
    server.execute(f"CREATE SCHEMA {schema} CREATE TABLE orders (id int)")
    with pytest.raises(StorageUnavailable, match="not Memtrace's"):
        PostgresMetadataRepo(server.url, VAULT, schema=schema)
    tables = server.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", schema)
    assert tables == [("orders",)]
    server.execute(f"DROP TABLE {schema}.orders")
    run(_opened_and_closed(schema))


@pytest.mark.slow
def test_a_role_needs_no_right_but_its_own_schema():
    """A role that owns an empty schema, and may make none, can use it; one without has a hint."""
    schema, server = new_schema(), shared_server()
    server.execute(f"CREATE ROLE {schema} LOGIN")
    url = server.url.replace("memtrace@", f"{schema}@")
    with pytest.raises(StorageUnavailable) as caught:
        PostgresMetadataRepo(url, VAULT, schema=schema)
    assert "must own the schema" in caught.value.hint
    server.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {schema}")

    async def body():
        repos = [PostgresMetadataRepo(url, VAULT, schema=schema) for _ in range(2)]
        await repos[0].create_org(org())
        assert await repos[1].list_orgs() == [org()]
        for repo in repos:
            await repo.close()

    run(body())


@pytest.mark.slow
def test_looking_makes_nothing():
    """An inspection of an empty database leaves it empty, and tells of one that is not."""
    schema, server = new_schema(), shared_server()
    found = inspect(server.url, schema)
    assert (found.schema_version, found.journals) == (0, {})
    assert server.execute("SELECT to_regnamespace(%s)", schema) == [(None,)]
    run(_opened_and_closed(schema))
    assert inspect(server.url, schema).schema_version == found.expected_version


def test_a_node_remembers_its_journal_and_where_it_lies():
    """What one node knows another one that opens later knows, too; a journal that has moved has its new place."""

    async def body():
        async with opened() as (first,):
            assert first.known_journals() == {}
            first.know_journal("a1b2c3", "here:/journal.db")
            first.know_journal("d4e5f6", "there:/journal.db")
            first.know_journal("a1b2c3", "there, too:/journal.db")
            schema = first.address.schema
        async with opened(schema=schema) as (second,):
            return second.known_journals()

    assert run(body()) == {"a1b2c3": "there, too:/journal.db", "d4e5f6": "there:/journal.db"}


# --- many at once


@pytest.mark.slow
def test_of_rotations_on_several_nodes_one_wins():
    """One key rotated on every node at once has one successor."""

    @scenario(3)
    async def _(*nodes):
        await furnished(nodes[0])
        keys = [
            api_key(number=number, name=api_key().name, created_at=START + timedelta(days=1))
            for number in range(10, 19)
        ]
        done = await asyncio.gather(
            *(
                nodes[turn % 3].rotate_key(api_key().id, key, START + timedelta(days=9))
                for turn, key in enumerate(keys)
            )
        )
        assert sum(done) == 1
        assert {key.id for key in await nodes[1].list_keys("org_a")} == {api_key().id, keys[done.index(True)].id}


@pytest.mark.slow
def test_the_default_org_made_by_two_nodes_at_once_is_there_once():
    """One of them makes it, the other is told that it is there."""

    @scenario(2)
    async def _(one, two):
        made = await asyncio.gather(one.create_org(org()), two.create_org(org()), return_exceptions=True)
        assert sorted(map(type, made), key=str) == sorted((type(None), Conflict), key=str)
        assert await one.list_orgs() == [org()]


@pytest.mark.slow
def test_changes_of_one_session_on_several_nodes_all_count():
    """Metadata is merged inside the transaction, so no change of another node is overwritten."""

    @scenario(2)
    async def merged(one, two):
        await one.create_org(org())
        await one.create_session(session())
        changes = [
            repo.update_session("org_a", session().id, status=None, metadata={f"{name}{number}": number}, at=START)
            for number in range(10)
            for name, repo in (("a", one), ("b", two))
        ]
        await asyncio.gather(*changes)
        return (await one.get_session("org_a", session().id)).metadata

    assert merged == {f"{name}{number}": number for number in range(10) for name in "ab"}


@pytest.mark.slow
def test_an_org_is_deleted_while_others_write_to_it():
    """What is under way comes before and goes with the org, all else is refused; nothing is left, nobody waits."""

    @scenario(3)
    async def left(*nodes):
        await furnished(nodes[0])

        written = []

        async def write(turn):
            node = nodes[turn % 2]
            for number in itertools.count(100 + turn, 8):
                await node.create_agent(agent(number=number))
                await node.create_session(session(number=number))
                await node.create_key(api_key(number=number))
                await node.update_session("org_a", session().id, status="closed", metadata={"n": number}, at=START)
                written.append(number)

        writing = [asyncio.create_task(write(turn)) for turn in range(8)]
        await eventually(lambda: written)
        assert await nodes[2].delete_org("org_a")
        ends = await asyncio.gather(*writing, return_exceptions=True)
        assert {type(end) for end in ends} == {NotFound}
        assert await nodes[0].find_key(api_key().digest) is None
        tables = ("arc_instances", "api_keys", "agents", "sessions")
        sql = " UNION ALL ".join(f"SELECT org_id FROM {nodes[0].address.schema}.{table}" for table in tables)
        return shared_server().execute(sql)

    assert left == []


@pytest.mark.slow
def test_secrets_sealed_anew_and_a_binding_made_meanwhile_are_both_kept():
    """Resealing and binding wait for each other, so none overwrites what the other has written."""

    @scenario(2)
    async def _(one, two):
        await furnished(one)
        bound = instance("org_b", sealed_api_key=b"new")
        await asyncio.gather(one.reseal(lambda secret: b"fresh " + secret.value), two.bind_instance(bound))
        assert (await one.instance_of("org_a")).sealed_api_key == b"fresh sealed"
        assert (await two.instance_of("org_b")).sealed_api_key in (b"new", b"fresh new")


@pytest.mark.slow
def test_changes_of_many_rows_never_lock_each_other_out():
    """A binding that is changed while secrets are sealed anew waits before it has touched anything."""

    @scenario()
    async def _(repo):
        await furnished(repo)
        await repo.bind_instance(instance("org_b", sealed_api_key=b"other"))
        *_, last = await repo.list_instances()
        changed = instance(last.org_id, id=last.id, url="http://new.example", sealed_api_key=b"new")

        async def rebind():
            async with opened(schema=repo.address.schema) as (other,):
                await other.rebind_instance(changed)

        def reseal(secret):
            if secret.context == last.key_context:
                rebinding.append(pool.submit(asyncio.run, rebind()))
                deadline = time.monotonic() + 20
                while not shared_server().execute("SELECT pid FROM pg_locks WHERE NOT granted"):
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
            return b"fresh " + secret.value

        rebinding = []
        with ThreadPoolExecutor(1) as pool:
            assert await repo.reseal(reseal) == 3
            await asyncio.wrap_future(rebinding[0])
        assert await repo.get_instance(last.org_id, last.id) == changed


# --- texts


@pytest.mark.slow
@pytest.mark.parametrize("text", [*HOSTILE, "%s", "{}", "\ud800", "nul\0"])
def test_hostile_names_are_names(text):
    """Ids and names that look like SQL, or cannot even be stored, find what is called so and nothing else."""

    @scenario()
    async def _(repo):
        await furnished(repo)
        assert await repo.get_org(text) is None
        assert await repo.find_agent("org_a", text) is None
        assert await repo.get_session(text, session().id) is None
        assert await repo.update_session("org_a", text, status="closed", metadata=None, at=START) is None
        assert await repo.list_keys(text) == []
        assert await repo.count_sessions("org_a", text) == (0, 0)
        assert not await repo.revoke_key(text, START)
        assert not await repo.delete_org(text)
        assert not await repo.delete_agent("org_a", text)
        named = agent(number=9, name=text)
        if text in ("\ud800", "nul\0"):
            with pytest.raises(InvalidInput, match="NUL"):
                await repo.create_agent(named)
            return
        await repo.create_agent(named)
        assert await repo.find_agent("org_a", text) == named
        assert len(await repo.list_orgs()) == 3


def test_texts_are_ordered_by_their_code_points():
    """Whatever the locale, ids are in the order in which SQLite and Python have them."""
    ids = ["org_Z", "org_a", "org_b", "org_ä", "org_🙂", "org_é", "org__"]

    @scenario()
    async def listed(repo):
        for one in ids:
            await repo.create_org(org(one))
        return [one.id for one in await repo.list_orgs()]

    assert listed == sorted(ids)


def test_a_closed_repo_says_so():
    """After `close` calls raise StorageUnavailable, which does not tell the password."""

    async def work():
        repo = PostgresMetadataRepo(shared_server().new_database(), VAULT)
        await repo.create_org(org())
        await repo.close()
        await repo.close()
        with pytest.raises(StorageUnavailable, match="is closed") as caught:
            await repo.list_orgs()
        assert PASSWORD not in str(caught.value)

    run(work())
