import asyncio
import multiprocessing
import threading
from datetime import timedelta

import apsw
import pytest
from builders import START, agent, api_key, instance, org, run, session

from memtrace_core.errors import Conflict, NotFound, SealBroken, StorageUnavailable, WrongMasterKey
from memtrace_core.query import Position
from memtrace_sqlite import EnvelopeVault, MasterKey, SqliteMetadataRepo
from memtrace_sqlite.metadata import CHECK_CONTEXT

VAULT = EnvelopeVault(MasterKey(bytes(32)))
OTHER_VAULT = EnvelopeVault(MasterKey(bytes(range(32))))


def scenario(*paths):
    """Run the decorated coroutine function with a repo for each path, closed in the end; return its result."""

    def decorate(work):
        async def opened():
            repos = [SqliteMetadataRepo(path, VAULT) for path in paths]
            try:
                return await work(*repos)
            finally:
                for repo in repos:
                    await repo.close()

        return run(opened())

    return decorate


def rows(path, sql):
    """Read a database from outside."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


CHANGES = {
    "an org": lambda repo: repo.create_org(org("org_new")),
    "an org's end": lambda repo: repo.delete_org("org_gone"),
    "an org's retention": lambda repo: repo.set_retention("org_a", timedelta(days=90)),
    "a binding": lambda repo: repo.bind_instance(instance("org_b")),
    "another binding": lambda repo: repo.rebind_instance(instance(url="http://new.example")),
    "a binding's end": lambda repo: repo.unbind_instance("org_a"),
    "a key": lambda repo: repo.create_key(api_key(number=2)),
    "a key's end": lambda repo: repo.revoke_key(api_key().id, START),
}
STEADY = {
    "an agent": lambda repo: repo.create_agent(agent(number=2)),
    "an agent's end": lambda repo: repo.delete_agent("org_a", agent().id),
    "a session": lambda repo: repo.create_session(session(number=2)),
    "a session's change": lambda repo: repo.update_session(
        "org_a", session().id, status="closed", metadata={"k": 1}, at=START
    ),
    "a refused org": lambda repo: refused(repo.create_org(org())),
    "a refused key": lambda repo: refused(repo.create_key(api_key())),
}


async def refused(work):
    """Do what is refused as a conflict."""
    with pytest.raises(Conflict):
        await work


async def furnished(repo):
    """Give a repo one of everything."""
    for one in ("org_a", "org_b", "org_gone"):
        await repo.create_org(org(one))
    await repo.bind_instance(instance())
    await repo.create_key(api_key())
    await repo.create_agent(agent())
    await repo.create_session(session())


@pytest.mark.parametrize("elsewhere", [False, True], ids=["by itself", "by another process"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_version_moves_at_once_when_orgs_bindings_or_keys_change(tmp_path, change, elsewhere):
    """After any such change, made here or by another connection, the very next look shows another version."""

    @scenario(tmp_path / "memtrace.db", tmp_path / "memtrace.db")
    async def _(server, cli):
        await furnished(server)
        before = server.version()
        assert server.version() == before
        await change(cli if elsewhere else server)
        after = server.version()
        assert after != before
        assert server.version() == after


@pytest.mark.parametrize("elsewhere", [False, True], ids=["by itself", "by another process"])
@pytest.mark.parametrize("change", STEADY.values(), ids=STEADY)
def test_the_version_stands_still_when_agents_or_sessions_change(tmp_path, change, elsewhere):
    """What changes all the time, and what is refused, makes no server forget what it knows."""

    @scenario(tmp_path / "memtrace.db", tmp_path / "memtrace.db")
    async def _(server, cli):
        await furnished(server)
        before = server.version()
        await change(cli if elsewhere else server)
        assert server.version() == before


def test_one_look_at_the_version_serves_a_turn_of_the_loop_and_no_longer(tmp_path):
    """Requests that were there before the look share it; what the loop begins after it sees another's commit."""

    @scenario(tmp_path / "memtrace.db")
    async def _(server):
        await furnished(server)
        before = server.version()
        other = apsw.Connection(str(tmp_path / "memtrace.db"))
        other.execute("UPDATE orgs SET name = 'committed'")
        assert server.version() == before
        await asyncio.sleep(0)
        assert server.version() != before


def test_the_version_is_asked_without_waiting_for_a_writer(tmp_path):
    """While another process holds the write lock, looking at the version and reading go on."""

    @scenario(tmp_path / "memtrace.db")
    async def _(server):
        await furnished(server)
        before = server.version()
        other = apsw.Connection(str(tmp_path / "memtrace.db"))
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE orgs SET name = 'not committed'")
        assert server.version() == before
        assert (await server.get_org("org_a")).name == "The org_a"
        other.execute("ROLLBACK")
        other.close()


def make(path, vault=VAULT):
    """Begin a database with a master key."""

    async def begin():
        repo = SqliteMetadataRepo(path, vault)
        await repo.close()

    run(begin())


def test_another_master_key_is_named_before_there_is_any_secret(tmp_path):
    """A database that holds nothing yet already knows its master key."""
    make(tmp_path / "memtrace.db")
    with pytest.raises(WrongMasterKey, match="another master key"):
        SqliteMetadataRepo(tmp_path / "memtrace.db", OTHER_VAULT)
    make(tmp_path / "memtrace.db")


def test_a_wrong_master_key_does_not_replace_the_right_one(tmp_path):
    """Being refused leaves the stored check value as it was."""
    make(tmp_path / "memtrace.db")
    before = rows(tmp_path / "memtrace.db", "SELECT * FROM meta")
    with pytest.raises(WrongMasterKey):
        SqliteMetadataRepo(tmp_path / "memtrace.db", OTHER_VAULT)
    assert rows(tmp_path / "memtrace.db", "SELECT * FROM meta") == before
    assert VAULT.open(before[0][1], CHECK_CONTEXT)


@pytest.mark.parametrize("damage", ["x'00'", "x''", "substr(value, 1, 40)"])
def test_a_damaged_check_value_is_no_wrong_key(tmp_path, damage):
    """When the check value itself is broken, that is what is said."""
    make(tmp_path / "memtrace.db")
    connection = apsw.Connection(str(tmp_path / "memtrace.db"))
    connection.execute(f"UPDATE meta SET value = {damage}")
    connection.close()
    with pytest.raises(SealBroken):
        SqliteMetadataRepo(tmp_path / "memtrace.db", VAULT)


def test_of_two_first_master_keys_one_wins(tmp_path):
    """When two processes with different keys begin one database, one of them is told that it has the wrong key."""
    barrier = threading.Barrier(2)
    results = []

    def begin(vault):
        barrier.wait()
        try:
            SqliteMetadataRepo(tmp_path / "memtrace.db", vault).release()
            results.append("taken")
        except WrongMasterKey:
            results.append("refused")

    threads = [threading.Thread(target=begin, args=[vault]) for vault in (VAULT, OTHER_VAULT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["refused", "taken"]


def test_deleting_an_org_takes_all_that_is_its_own_and_nothing_else(tmp_path):
    """Instances (retired ones too), keys, agents and sessions go with their org; another org keeps every row."""

    @scenario(tmp_path / "memtrace.db")
    async def _(repo):
        for number, one in enumerate(("org_a", "org_b")):
            await repo.create_org(org(one))
            await repo.bind_instance(instance(one))
            await repo.rebind_instance(instance(one, id=f"arc_new_{one}"))
            await repo.create_key(api_key(one, number))
            await repo.create_agent(agent(one, number))
            await repo.create_session(session(one, number))
        assert await repo.delete_org("org_a")
        assert not await repo.delete_org("org_a")

    owned = [
        table
        for (table, sql) in rows(
            tmp_path / "memtrace.db", "SELECT name, sql FROM sqlite_schema WHERE type = 'table'"
        )
        if "org_id" in sql
    ]
    assert len(owned) == 5
    for table in owned:
        assert set(rows(tmp_path / "memtrace.db", f"SELECT DISTINCT org_id FROM {table}")) == {("org_b",)}


@pytest.mark.parametrize(
    "create",
    [
        lambda repo: repo.bind_instance(instance("org_none")),
        lambda repo: repo.create_key(api_key("org_none")),
        lambda repo: repo.create_agent(agent("org_none")),
        lambda repo: repo.create_session(session("org_none")),
    ],
)
def test_nothing_can_be_made_for_an_org_that_is_gone(tmp_path, create):
    """A row for an unknown org is refused as such, not as a name that is taken."""

    @scenario(tmp_path / "memtrace.db")
    async def _(repo):
        with pytest.raises(NotFound):
            await create(repo)


def test_no_secret_lies_in_the_files_in_the_clear(tmp_path):
    """Neither an Arc API key nor the master key is found in any byte on disk, the WAL included."""
    secret = "arc-secret-that-nobody-may-read"

    @scenario(tmp_path / "memtrace.db")
    async def _(repo):
        await repo.create_org(org())
        one = instance()
        await repo.bind_instance(instance(sealed_api_key=VAULT.seal(secret, one.key_context)))
        found = await repo.instance_of("org_a")
        assert VAULT.open(found.sealed_api_key, found.key_context) == secret
        for path in tmp_path.iterdir():
            assert secret.encode() not in path.read_bytes()

    assert any(b"org_a" in path.read_bytes() for path in tmp_path.iterdir())


def write_many(arguments):
    """Create and revoke keys, agents and sessions from a process of its own."""
    path, worker = arguments

    async def work():
        repo = SqliteMetadataRepo(path, VAULT)
        for number in range(worker * 20, worker * 20 + 20):
            await repo.create_key(api_key(number=number))
            await repo.create_agent(agent(number=number))
            await repo.create_session(session(number=number))
            await repo.revoke_key(api_key(number=number).id, START)
        await repo.close()

    asyncio.run(work())


def test_server_and_cli_write_at_once_without_a_locked_database(tmp_path):
    """Many processes and connections write to one file: nobody sees "locked", and nothing is lost."""
    path = tmp_path / "memtrace.db"

    @scenario(path)
    async def _(repo):
        await repo.create_org(org())

    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.map(write_many, [(path, worker) for worker in range(3)])

    @scenario(path, path)
    async def _(one, two):
        await asyncio.gather(
            *(
                repo.create_agent(agent(number=1000 + number * 2 + turn))
                for number in range(30)
                for turn, repo in enumerate((one, two))
            )
        )

    for table, count in (("api_keys", 60), ("agents", 120), ("sessions", 60)):
        assert rows(path, f"SELECT count(*) FROM {table}") == [(count,)]


def test_concurrent_changes_of_one_session_all_count(tmp_path):
    """Metadata is merged inside the transaction, so no change through another connection is overwritten."""

    @scenario(tmp_path / "memtrace.db", tmp_path / "memtrace.db")
    async def merged(one, two):
        await one.create_org(org())
        await one.create_session(session())
        changes = [
            repo.update_session("org_a", session().id, status=None, metadata={f"{name}{number}": number}, at=START)
            for number in range(20)
            for name, repo in (("a", one), ("b", two))
        ]
        await asyncio.gather(*changes)
        return (await one.get_session("org_a", session().id)).metadata

    assert merged == {f"{name}{number}": number for number in range(20) for name in "ab"}


def test_a_closed_repo_says_so(tmp_path):
    """After `close` calls raise StorageUnavailable, and the folder holds the database alone."""

    async def work():
        repo = SqliteMetadataRepo(tmp_path / "memtrace.db", VAULT)
        await repo.create_org(org())
        await repo.close()
        await repo.close()
        with pytest.raises(StorageUnavailable, match=r"memtrace\.db is closed"):
            await repo.list_orgs()

    run(work())
    assert [path.name for path in tmp_path.iterdir()] == ["memtrace.db"]


HOSTILE = ["' OR '1'='1", "x'; DROP TABLE orgs; --", '"', "%", "\\", "agent_%"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_names(tmp_path, text):
    """Ids and names that look like SQL find what is called so and nothing else."""

    @scenario(tmp_path / "memtrace.db")
    async def _(repo):
        await furnished(repo)
        assert await repo.get_org(text) is None
        assert await repo.find_agent("org_a", text) is None
        assert await repo.find_agent(text, agent().name) is None
        assert await repo.get_session(text, session().id) is None
        assert await repo.list_keys(text) == []
        assert not await repo.revoke_key(text, START)
        assert not await repo.delete_org(text)
        assert not await repo.delete_agent("org_a", text)
        named = agent(number=9, name=text)
        await repo.create_agent(named)
        assert await repo.find_agent("org_a", text) == named
        assert await repo.find_agent("org_b", text) is None
        assert len(await repo.list_orgs()) == 3


LOOK_UPS = {
    "a key by its hash": lambda repo: repo.find_key(b"digest"),
    "an org's binding": lambda repo: repo.instance_of("org_a"),
    "an instance": lambda repo: repo.get_instance("org_a", "arc_a"),
    "a session": lambda repo: repo.get_session("org_a", "sess_a"),
    "the newest sessions": lambda repo: repo.list_sessions("org_a", None, 10, None),
    "an agent's newest sessions": lambda repo: repo.list_sessions("org_a", "ada", 10, Position(START, "sess_a")),
    "an agent's sessions in numbers": lambda repo: repo.count_sessions("org_a", "ada"),
    "the newest agents": lambda repo: repo.list_agents("org_a", 10, Position(START, "agent_a")),
}


@pytest.mark.parametrize("look_up", LOOK_UPS.values(), ids=LOOK_UPS)
def test_look_ups_on_the_request_path_use_an_index(tmp_path, look_up):
    """No look-up that a request causes scans or sorts a table."""
    asked = []

    @scenario(tmp_path / "memtrace.db")
    async def _(repo):
        repo._connection.exec_trace = lambda _, sql, values: not asked.append((sql, values))
        await look_up(repo)
        repo._connection.exec_trace = None
        ((sql, values),) = asked
        plan = [detail for *_, detail in repo._connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
        assert plan
        assert all(step.startswith("SEARCH") for step in plan)
