import socket
import subprocess
import sys

import pytest
from builders import in_memory, run

from memtrace_cli.bootstrap import bootstrap
from memtrace_cli.composition import compose
from memtrace_cli.listening import address_of, bound_socket
from memtrace_cli.settings import Arc, Auth, Journal, Settings, SettingsError
from memtrace_core.errors import StorageUnavailable
from memtrace_core.model import Permission
from memtrace_core.testing import ManualClock
from memtrace_sqlite import EnvelopeVault, MasterKey, Mode

KEY = EnvelopeVault(MasterKey(bytes(32)))
AUTH_OFF = Settings(auth=Auth(enabled=False))
LEGACY = Settings(arc=Arc(url="http://arc.example:8000", api_key="arc-secret", database="memory"))


@pytest.fixture
def heard(monkeypatch):
    """Collect what bootstrap logs."""
    from loguru import logger

    messages = []
    logger.remove()
    handler = logger.add(lambda message: messages.append((message.record["level"].name, message.record["message"])))
    yield messages
    logger.remove(handler)


def test_the_first_run_prints_a_key_once(capsys):
    """On a fresh installation the two published lines appear on stdout, the key works as admin, and never again."""
    services = in_memory()
    run(bootstrap(services, Settings()))
    first, second = capsys.readouterr().out.splitlines()
    assert first == "FIRST RUN: Save your admin API key (shown only once)"
    secret = second.removeprefix("API Key: ")
    assert secret.startswith("mtk_")
    principal = run(services.access.authenticate(secret))
    assert (principal.org_id, principal.permissions) == ("org_default", Permission.ADMIN)
    run(bootstrap(services, Settings()))
    assert capsys.readouterr().out == ""


def test_an_installation_with_orgs_gets_no_key(capsys):
    """Where an operator has made an org already, nothing is created behind their back."""
    services = in_memory()
    run(services.tenants.create_org("acme"))
    run(bootstrap(services, Settings()))
    assert capsys.readouterr().out == ""
    assert [org.name for org, _ in run(services.tenants.list_orgs())] == ["acme"]


def test_without_authentication_the_default_org_has_no_key(capsys, heard):
    """With auth off `org_default` is made without a key, and a warning says so."""
    services = in_memory()
    run(bootstrap(services, AUTH_OFF))
    assert capsys.readouterr().out == ""
    assert run(services.tenants.list_keys("org_default")) == []
    assert [level for level, _ in heard] == ["WARNING"]


def test_a_first_run_that_was_killed_before_its_key_is_made_up_for(capsys):
    """A default org without any key gets one at the next start."""
    services = in_memory()
    run(services.tenants.ensure_default_org())
    run(bootstrap(services, Settings()))
    assert capsys.readouterr().out.startswith("FIRST RUN")


def test_a_legacy_arc_block_moves_into_the_database_once(capsys, heard):
    """The old block becomes `arc_default` of `org_default` with the two published log lines; then never again."""
    services = in_memory()
    run(bootstrap(services, LEGACY))
    instance = run(services.tenants.instance_of("org_default"))
    assert (instance.id, instance.url, instance.database) == ("arc_default", "http://arc.example:8000", "memory")
    assert heard == [
        ("WARNING", "legacy [arc] config detected — migrating to DB"),
        (
            "INFO",
            "migration complete; remove [arc] url/api_key/database/measurement from memtrace.toml on next deploy",
        ),
    ]
    assert "arc-secret" not in str(heard)
    heard.clear()
    run(bootstrap(services, LEGACY))
    assert heard == []


@pytest.mark.parametrize("arc", [Arc(url="ftp://arc.example", api_key="x"), Arc(url="http://arc.example:8000")])
def test_a_legacy_arc_block_that_cannot_be_used_is_named(arc, heard):
    """An old block with a bad URL or without a key is told as what it is, with the way out; nothing is bound."""
    services = in_memory()
    with pytest.raises(SettingsError, match=r"legacy \[arc\] block cannot be used: (url|api-key) must") as raised:
        run(bootstrap(services, Settings(arc=arc)))
    assert "memtrace org add-arc" in raised.value.hint
    assert run(services.tenants.legacy_wanted())


def test_a_bound_port_is_a_sentence():
    """A port that is taken is one line with the way out, before anything is written."""
    taken = bound_socket("127.0.0.1", 0)
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use") as raised:
        bound_socket("127.0.0.1", port)
    assert "server.port" in raised.value.hint
    with pytest.raises(SettingsError) as raised:
        bound_socket("127.0.0.1", port, told_by="--port")
    assert raised.value.hint == "choose another with --port"
    taken.close()


@pytest.mark.parametrize("host", ["256.1.1.1", "203.0.113.7", "no.such.host.invalid"])
def test_a_host_that_is_not_ours_is_a_sentence(host):
    """An address that this machine does not have is an error that names it."""
    with pytest.raises(SettingsError, match=f"cannot listen on {host}:0"):
        bound_socket(host, 0)


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")])
def test_the_address_of_a_socket_can_be_opened_on_this_machine(host, shown):
    """A server that listens everywhere is shown by its loopback address."""
    bound = bound_socket(host, 0)
    bound.listen()
    assert address_of(bound) == f"http://{shown}:{bound.getsockname()[1]}"
    with socket.create_connection((shown, bound.getsockname()[1])):
        pass
    bound.close()


def settings_in(folder, **journal):
    """Return settings with both databases in a folder."""
    return Settings(auth=Auth(db_path=str(folder / "memtrace.db")), journal=Journal(**journal))


def test_composed_services_open_both_files_and_release_them(tmp_path):
    """Composition makes the two databases side by side, and closing leaves nothing but them."""

    async def work():
        await compose(settings_in(tmp_path), KEY, Mode.MIGRATE, ManualClock()).close()

    run(work())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.db", "memtrace.db"]


def test_a_journal_that_is_not_ours_is_refused_and_the_metadata_released(tmp_path):
    """When the second file cannot be opened, the first is closed again and the foreign one is not touched."""
    foreign = tmp_path / "journal.db"
    foreign.write_text("notes of mine")
    with pytest.raises(StorageUnavailable, match=r"journal\.db is not a database; it was left untouched"):
        compose(settings_in(tmp_path), KEY, Mode.MIGRATE)
    assert foreign.read_text() == "notes of mine"
    assert not list(tmp_path.glob("*-wal"))


def test_a_damaged_check_value_is_told_from_a_wrong_key(tmp_path):
    """A broken check of the master key has a message of its own."""
    import apsw

    async def work():
        await compose(settings_in(tmp_path), KEY, Mode.MIGRATE).close()

    run(work())
    connection = apsw.Connection(str(tmp_path / "memtrace.db"))
    connection.execute("UPDATE meta SET value = substr(value, 1, 30) WHERE name = 'master_key_check'")
    connection.close()
    with pytest.raises(SettingsError, match="its check of the master key is damaged"):
        compose(settings_in(tmp_path), KEY, Mode.MIGRATE)


@pytest.mark.parametrize(("hard", "expected"), [(2048, 2048), (512, 512)])
def test_the_server_takes_all_the_open_files_it_may_have(hard, expected):
    """Thousands of connections must not end at what a shell grants unasked."""
    script = (
        "import resource; from memtrace_cli.listening import raise_open_files; raise_open_files();"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    limited = f'ulimit -Sn 256; ulimit -Hn {hard}; exec "$0" -c "{script}"'
    ended = subprocess.run(["/bin/sh", "-c", limited, sys.executable], capture_output=True, text=True, check=True)
    assert ended.stdout == f"({expected}, {hard})\n"


def test_a_lost_journal_is_not_begun_anew_in_silence(tmp_path):
    """Whether it is missing, empty or another deployment's: nothing is made, nothing is changed, and it is said."""

    async def open_and_close(settings, **options):
        services = compose(settings, KEY, Mode.MIGRATE, **options)
        await services.close()
        return services.journal.node

    settings = settings_in(tmp_path)
    node = run(open_and_close(settings))
    assert run(open_and_close(settings)) == node
    journal = settings.journal_file
    kept = journal.read_bytes()
    journal.unlink()
    with pytest.raises(StorageUnavailable, match="is gone") as caught:
        compose(settings, KEY, Mode.AS_IT_IS)
    assert "--new-journal" in caught.value.hint
    assert not journal.exists()
    journal.touch()
    with pytest.raises(StorageUnavailable, match="is gone"):
        compose(settings, KEY, Mode.MIGRATE)
    other = settings_in(tmp_path / "other")
    run(open_and_close(other))
    journal.write_bytes(other.journal_file.read_bytes())
    with pytest.raises(StorageUnavailable, match="is not the journal of"):
        compose(settings, KEY, Mode.MIGRATE)
    journal.write_bytes(kept)
    assert run(open_and_close(settings)) == node
    journal.unlink()
    assert run(open_and_close(settings, new_journal=True)) != node
    run(open_and_close(settings))
