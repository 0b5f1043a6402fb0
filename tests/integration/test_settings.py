import os
import random
from pathlib import Path

import pytest

from memtrace_cli.settings import SECRETS, Settings, SettingsError, load_settings

# The table of the published contract: section, key, default, another good value, and values that are not.
TABLE = [
    ("server", "host", "0.0.0.0", "127.0.0.1", ("",)),
    ("server", "port", 9100, 9200, (-1, 65_536, 1.5, True)),
    ("server", "read_timeout", 30, 2.5, (0, -1, 86_401, True)),
    ("server", "write_timeout", 30, 60, (0, -1, 86_401, True)),
    ("server", "shutdown_timeout", 30, 0, (-1, 86_401, True)),
    ("log", "level", "info", "debug", ("", "loud", "INFO", "trace", 1)),
    ("log", "format", "console", "json", ("", "text", "JSON")),
    ("arc", "connect_timeout", 5, 1, (0, -1, 86_401)),
    ("arc", "query_timeout", 30, 0.5, (0, -1, 86_401)),
    ("arc", "write_batch_size", 100, 1000, (0, -1, 100_001, 1.5)),
    ("arc", "write_flush_interval_ms", 1000, 0, (-1, 3_600_001, 1.5)),
    ("auth", "enabled", True, False, ("maybe", "", 2)),
    ("auth", "db_path", "./data/memtrace.db", "/var/lib/memtrace/memtrace.db", ("",)),
    (
        "auth",
        "db_url",
        None,
        "postgresql://memtrace:p%40ss@db.example:5432/memtrace?sslmode=verify-full",
        (
            "",
            "db.example",
            "sqlite:///x",
            "postgresql://u:p@ss@db/x",
            "postgresql://u:p/ss@db/x",
            "postgresql://a b/x",
        ),
    ),
    ("dedup", "enabled", True, False, ("maybe", "")),
    ("dedup", "window_hours", 24, 87_600, (0, -1, 87_601, 1.5)),
    ("journal", "path", None, "/var/lib/memtrace/queue.db", ("",)),
    ("journal", "settle_seconds", 120, 86_400, (-1, 86_401, 1.5)),
    ("journal", "max_bytes", 1_073_741_824, 1 << 30, (0, -1, 1.5)),
    ("arc", "url", None, "http://arc.example:8000", ("",)),
    ("arc", "api_key", None, "arc-secret", ("",)),
    ("server", "workers", 1, 64, (0, -1, 65, 1.5, "many")),
    ("server", "health_detail", "full", "summary", ("", "none", "FULL")),
    ("server", "tls_cert", None, "cert.pem", ("",)),
    ("server", "tls_key", None, "key.pem", ("",)),
    (
        "server",
        "trusted_proxies",
        (),
        ("10.0.0.1", "10.1.0.0/16", "fd00::/8"),
        ("*", "proxy.example", "10.0.0.1/8"),
    ),
    ("limits", "requests_per_second", 0.0, 2.5, ("-1", "fast", "1000001", "")),
    ("limits", "burst", 20, 100, ("0", "1.5", "many", "")),
    ("limits", "in_flight", 0, 64, ("-1", "1.5", "")),
    ("metrics", "enabled", True, False, ("maybe", "", 2)),
    ("metrics", "per_org", False, True, ("maybe", "", 2)),
    ("metrics", "token", None, "metrics-secret", ("",)),
    ("tracing", "enabled", False, True, ("maybe", "", 2)),
    ("arc", "database", None, "memory", ("",)),
    ("arc", "measurement", None, "events", ("",)),
]
NAMES = [f"{section}.{key}" for section, key, *_ in TABLE]
every_key = pytest.mark.parametrize(("section", "key", "default", "other", "bad"), TABLE, ids=NAMES)
BAD = [(section, key, value) for section, key, _, _, values in TABLE for value in values]


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """Run every test in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(environ=None, config=None, system_file=None):
    """Load settings from what a test names, and from nothing of this machine."""
    return load_settings(config, environ or {}, system_file=system_file or Path("no-system-file.toml"))


def toml(value):
    """Write a value as TOML does."""
    value = list(value) if isinstance(value, tuple) else value
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


def text_of(value):
    """Write a value as a variable holds it."""
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def variable(section, key):
    """Return the name of a key's environment variable."""
    return f"MEMTRACE_{section}_{key}".upper()


def write(text, file="memtrace.toml"):
    """Write a settings file."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text)
    return Path(file)


def value_of(loaded, section, key):
    """Return one setting."""
    return getattr(getattr(loaded.settings, section), key)


def message_of(*args, **kwargs):
    """Return the one line with which loading fails."""
    with pytest.raises(SettingsError) as raised:
        load(*args, **kwargs)
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_the_table_names_every_setting_there_is():
    """No key is missing from these tests."""
    known = {
        f"{section}.{key}"
        for section in Settings.__struct_fields__
        for key in getattr(Settings(), section).__struct_fields__
    }
    assert known == set(NAMES)


@every_key
def test_defaults_are_the_published_ones(section, key, default, other, bad):
    """Without a file and variables every key has its published default."""
    assert value_of(load(), section, key) == default


@every_key
def test_every_key_can_be_set_in_the_file(section, key, default, other, bad):
    """A key in memtrace.toml counts, and changes nothing else."""
    write(f"[{section}]\n{key} = {toml(other)}\n")
    loaded = load()
    assert value_of(loaded, section, key) == other
    assert loaded.warnings == ()
    for other_section, other_key, other_default, *_ in TABLE:
        if (other_section, other_key) != (section, key):
            assert value_of(loaded, other_section, other_key) == other_default


@every_key
def test_every_key_can_be_overridden_by_its_variable(section, key, default, other, bad):
    """`MEMTRACE_<SECTION>_<KEY>` counts, and beats the file."""
    if default is not None:
        write(f"[{section}]\n{key} = {toml(default)}\n")
    loaded = load({variable(section, key): text_of(other)})
    assert value_of(loaded, section, key) == other
    assert loaded.warnings == ()


@pytest.mark.parametrize(("section", "key", "value"), BAD)
def test_a_bad_value_in_the_file_is_named_with_what_is_expected(section, key, value):
    """One line says file, key, what was found and what is expected."""
    write(f"[{section}]\n{key} = {toml(value)}\n")
    message = message_of()
    assert message.startswith(f"memtrace.toml: {section}.{key} is ")
    assert ", expected " in message
    shown = "a hidden value" if key in SECRETS else toml(value).replace('"', "'")
    assert f" is {shown}, expected" in message


@pytest.mark.parametrize(("section", "key", "value"), BAD)
def test_a_bad_value_in_a_variable_is_named_with_what_is_expected(section, key, value):
    """One line says variable, what was found and what is expected; the file does not help."""
    write("[server]\nport = 1\n")
    text = str(value)
    if isinstance(value, bool):
        text = "yes please"
    message = message_of({variable(section, key): text})
    shown = "a hidden value" if key in SECRETS else repr(text)
    assert message.startswith(f"{variable(section, key)} is {shown}, expected ")


@every_key
@pytest.mark.parametrize("wrong", ["[1]", "{a = 1}", "1979-05-27", "nan", "-inf"])
def test_a_value_of_the_wrong_type_is_refused(section, key, default, other, bad, wrong):
    """A list, a table, a date or no number in place of a value is refused in one line."""
    write(f"[{section}]\n{key} = {wrong}\n")
    assert message_of().startswith(f"memtrace.toml: {section}.{key} is ")


@every_key
def test_text_in_place_of_a_number_and_a_number_in_place_of_text_are_refused_in_the_file(
    section, key, default, other, bad
):
    """TOML has types, and they count: a quoted number is no number, a bare number no text."""
    write(f"[{section}]\n{key} = " + ("12" if isinstance(other, str) else '"12"') + "\n")
    assert f"{section}.{key} is" in message_of()


@pytest.mark.parametrize(
    "one", ["", "*", "proxy.example", "10.0.0.1/8", "10.0.0.256", "::1/129", "10.0.0.1 10.0.0.2"]
)
def test_a_list_of_proxies_holds_addresses_and_networks_only(one):
    """One that is neither is refused with the list that it stands in, in the file and in a variable."""
    expected = "expected a list of addresses or networks, such as 10.0.0.1 or 10.0.0.0/8"
    write(f'[server]\ntrusted_proxies = ["127.0.0.1", "{one}"]\n')
    assert message_of() == f"memtrace.toml: server.trusted_proxies is ['127.0.0.1', '{one}'], {expected}"
    given = {"MEMTRACE_SERVER_TRUSTED_PROXIES": f"127.0.0.1,{one}"}
    assert message_of(given) == f"MEMTRACE_SERVER_TRUSTED_PROXIES is '127.0.0.1,{one}', {expected}"


def test_an_empty_list_of_proxies_trusts_nobody():
    """Nobody is trusted where the list is empty, as a variable, too, which thus beats the file."""
    write('[server]\ntrusted_proxies = ["127.0.0.1"]\n')
    assert load({"MEMTRACE_SERVER_TRUSTED_PROXIES": ""}).settings.server.trusted_proxies == ()
    write("[server]\ntrusted_proxies = []\n")
    assert load().settings.server.trusted_proxies == ()


def test_a_wrong_value_says_what_would_be_right():
    """The expectations are sentences with the range."""
    assert message_of({"MEMTRACE_SERVER_PORT": "70000"}) == (
        "MEMTRACE_SERVER_PORT is '70000', expected a whole number from 0 to 65,535"
    )
    assert message_of({"MEMTRACE_LOG_LEVEL": "loud"}).endswith("expected one of debug, info, warn, error")
    assert message_of({"MEMTRACE_AUTH_ENABLED": "maybe"}).endswith("expected true or false")


@pytest.mark.parametrize("text", ["true", "TRUE", "True", "1", "yes", "on"])
def test_ways_to_say_yes_in_a_variable(text):
    """Common spellings of true count, whatever their case."""
    assert load({"MEMTRACE_AUTH_ENABLED": text}).settings.auth.enabled is True


@pytest.mark.parametrize("text", ["false", "FALSE", "0", "no", "off", "Off"])
def test_ways_to_say_no_in_a_variable(text):
    """Common spellings of false count, whatever their case."""
    assert load({"MEMTRACE_AUTH_ENABLED": text}).settings.auth.enabled is False


@pytest.mark.parametrize(
    "text", ["", " ", "9100.0", "9e3", "0x10", "1_000", "٩١٠٠", "+9100", " 9100", "9" * 5000, "-", "None", "true"]
)
def test_a_whole_number_in_a_variable_is_plain_digits(text):
    """Nothing but decimal digits is a whole number, and a huge one is refused without choking."""
    message = message_of({"MEMTRACE_SERVER_PORT": text})
    assert message.startswith("MEMTRACE_SERVER_PORT is ")
    assert len(message) < 250


@pytest.mark.parametrize("text", ["", "fast", "nan", "inf", "-inf", "1e400", "1,5"])
def test_a_number_of_seconds_in_a_variable_is_finite(text):
    """What is no finite number of seconds is refused."""
    assert "expected a number of seconds" in message_of({"MEMTRACE_SERVER_READ_TIMEOUT": text})


@pytest.mark.parametrize(("text", "seconds"), [("30", 30), ("2.5", 2.5), ("0.001", 0.001), ("86400", 86_400)])
def test_seconds_in_a_variable_may_have_a_fraction(text, seconds):
    """Timeouts are numbers of seconds, whole or not."""
    assert load({"MEMTRACE_SERVER_READ_TIMEOUT": text}).settings.server.read_timeout == seconds


FILES = ["memtrace.toml", "etc/memtrace.toml", "home/.memtrace/memtrace.toml"]


@pytest.mark.parametrize("first", range(4))
def test_the_first_file_found_wins_alone(nowhere, first):
    """Working folder, system, home: the first that is there counts, and nothing of the others is mixed in."""
    for number, name in enumerate(FILES[first:], first):
        write(f"[server]\nport = {number + 1}\n" + ("[log]\nlevel = 'debug'\n" if number > first else ""), name)
    loaded = load({"HOME": str(nowhere / "home")}, system_file=Path("etc/memtrace.toml"))
    assert loaded.settings.server.port == (9100 if first == 3 else first + 1)
    assert loaded.settings.log.level == "info"
    found = None if loaded.file is None else loaded.file.absolute()
    assert found == (None if first == 3 else nowhere / FILES[first])


def test_the_system_file_is_the_published_one():
    """The machine-wide file is where the contract says."""
    from memtrace_cli.settings import SYSTEM_FILE

    assert Path("/etc/memtrace/memtrace.toml") == SYSTEM_FILE


@pytest.mark.parametrize("way", ["--config", "MEMTRACE_CONFIG"])
def test_a_named_file_is_used_instead_of_the_first_one_found(way):
    """`--config` and MEMTRACE_CONFIG choose a file; those in the usual places are not read."""
    write("[server]\nport = 1\n")
    named = write("[server]\nport = 2\n", "elsewhere/mine.toml")
    loaded = load(config=named) if way == "--config" else load({"MEMTRACE_CONFIG": str(named)})
    assert loaded.settings.server.port == 2
    assert loaded.file == named
    assert loaded.warnings == ()


def test_the_command_line_beats_the_variable():
    """When both name a file, `--config` counts."""
    flag, other = write("[server]\nport = 1\n", "flag.toml"), write("[server]\nport = 2\n", "variable.toml")
    assert load({"MEMTRACE_CONFIG": str(other)}, config=flag).settings.server.port == 1


@pytest.mark.parametrize("kind", ["missing", "folder"])
@pytest.mark.parametrize("way", ["--config", "MEMTRACE_CONFIG"])
def test_a_named_file_that_is_not_there_is_an_error(way, kind):
    """Naming a file means wanting it: the usual places are no substitute."""
    write("[server]\nport = 1\n")
    named = Path("named.toml")
    if kind == "folder":
        named.mkdir()
    message = message_of(config=named) if way == "--config" else message_of({"MEMTRACE_CONFIG": str(named)})
    assert message == "named.toml: there is no such file"


def test_a_file_that_may_not_be_read_is_named(unprivileged, monkeypatch):
    """A file without read permission is an error that names it, never skipped in silence."""
    with unprivileged() as folder:
        file = folder / "memtrace.toml"
        file.write_text("[server]\nport = 1\n")
        file.chmod(0)
        assert message_of(config=file) == f"{file}: Permission denied"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[server\nport = 1\n", "not valid TOML: "),
        (b"port = \n", "not valid TOML: "),
        (b"[server]\nport = 1\nport = 2\n", "not valid TOML: "),
        (b"[server]\nhost = '\xff'\n", "not valid TOML: it is not UTF-8"),
        (b"\x00", "not valid TOML: "),
    ],
)
def test_broken_toml_is_one_line_with_the_file(content, reason):
    """A file that does not parse is named, with the place where it breaks."""
    Path("memtrace.toml").write_bytes(content)
    message = message_of()
    assert message.startswith(f"memtrace.toml: {reason}")
    assert "UTF-8" in message or "line" in message


@pytest.mark.parametrize("value", ["1", '"text"', "[1]", "true"])
def test_a_value_in_place_of_a_section_is_refused(value):
    """`server = 1` is no section."""
    write(f"server = {value}\n")
    assert message_of().startswith("memtrace.toml: server is ")
    assert message_of().endswith("expected a section [server]")


def test_an_unknown_section_key_or_variable_is_a_warning_that_suggests_the_nearest():
    """Misspelt names do not stop the program; each is said with the name that was probably meant."""
    write("[serve]\nport = 1\n[server]\nprot = 2\n[dedup]\nwindow = 3\n[zzz]\n")
    loaded = load({"MEMTRACE_SERVER_PROT": "3", "OTHER": "x"})
    assert loaded.settings == Settings()
    assert loaded.warnings == (
        "memtrace.toml: unknown section [serve] (did you mean server?)",
        "memtrace.toml: unknown key server.prot (did you mean port?)",
        "memtrace.toml: unknown key dedup.window (did you mean window_hours?)",
        "memtrace.toml: unknown section [zzz]",
        "unknown variable MEMTRACE_SERVER_PROT (did you mean MEMTRACE_SERVER_PORT?)",
    )


def test_a_variable_that_is_like_no_other_suggests_nothing():
    """A suggestion is only made where there is some likeness besides the prefix."""
    assert load({"MEMTRACE_QQQ": "1"}).warnings == ("unknown variable MEMTRACE_QQQ",)


@pytest.mark.parametrize("name", ["MASTER_KEY", "MASTER_KEY_FILE", "CONFIG", "URL", "API_KEY"])
def test_variables_that_are_no_settings_are_known_all_the_same(name):
    """The master key's variables, and those of clients, cause no warning."""
    environ = {f"MEMTRACE_{name}": str(write("", "empty.toml"))}
    assert load(environ).warnings == ()


def test_a_misspelt_master_key_variable_is_suggested():
    """The most dangerous misspelling is caught too."""
    (warning,) = load({"MEMTRACE_MASTERKEY": "secret"}).warnings
    assert warning == "unknown variable MEMTRACE_MASTERKEY (did you mean MEMTRACE_MASTER_KEY?)"


SECRET = "s3cr3t-that-nobody-may-see"


@pytest.mark.parametrize(
    "content",
    [
        f"[arc]\napi_key = ['{SECRET}']\n",
        f"[arc]\napi_key = {{key = '{SECRET}'}}\n",
        f"[arc]\napi_kye = '{SECRET}'\n",
        f"[master]\nkey = '{SECRET}'\n",
        f"master_key = '{SECRET}'\n",
        f"[server]\nmaster_key = '{SECRET}'\n",
        f"[arc]\napi_key = '{SECRET}\n",
        f"[arc]\napi_key = {SECRET}\n",
        f"[arc]\napi_key = '{SECRET}'\n[server]\nport = 'x'\n",
    ],
)
def test_no_message_shows_a_secret(content):
    """However a secret is misplaced in the file, neither error nor warning repeats it."""
    write(content)
    try:
        said = " ".join(load({"MEMTRACE_ARC_APIKEY": SECRET, "MEMTRACE_MASTERKEY": SECRET}).warnings)
    except SettingsError as error:
        said = f"{error} {error.hint} {error.__cause__} {error.__notes__ if hasattr(error, '__notes__') else ''}"
    assert said
    assert SECRET not in said


def test_a_long_or_hostile_value_is_shown_shortened_and_in_one_line():
    """What is shown of a wrong value is cut and escaped."""
    message = message_of({"MEMTRACE_LOG_LEVEL": "a\nb\x1b[31m" + "x" * 500})
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < 200


@pytest.mark.parametrize(
    ("database", "journal"),
    [("a.db", "a.db"), ("a.db", "./a.db"), ("./data/a.db", "data/a.db"), ("data/journal.db", None)],
)
def test_one_file_cannot_be_both_databases(database, journal):
    """The journal and the metadata must be two files, however the paths are written."""
    environ = {"MEMTRACE_AUTH_DB_PATH": database}
    if journal is not None:
        environ["MEMTRACE_JOURNAL_PATH"] = journal
    assert message_of(environ) == "journal.path and auth.db_path name the same file; they must be two"


def test_an_absolute_and_a_relative_path_to_one_file_are_the_same(nowhere):
    """The working folder counts when the two paths are compared."""
    environ = {"MEMTRACE_AUTH_DB_PATH": "a.db", "MEMTRACE_JOURNAL_PATH": str(nowhere / "a.db")}
    assert "the same file" in message_of(environ)


def test_the_journal_lies_beside_the_metadata_unless_it_is_placed():
    """`journal.path` follows `auth.db_path` until it is set."""
    assert load().settings.journal_file == Path("data/journal.db")
    assert load({"MEMTRACE_AUTH_DB_PATH": "/x/y.db"}).settings.journal_file == Path("/x/journal.db")
    assert load({"MEMTRACE_JOURNAL_PATH": "/z/q.db"}).settings.journal_file == Path("/z/q.db")


@pytest.mark.parametrize(("seconds", "warned"), [(0, True), (59, True), (60, False), (120, False)])
def test_a_short_settle_time_works_with_a_warning(seconds, warned):
    """Below a minute the server starts, and says what may happen."""
    loaded = load({"MEMTRACE_JOURNAL_SETTLE_SECONDS": str(seconds)})
    assert loaded.settings.journal.settle_seconds == seconds
    assert [warning.startswith("journal.settle_seconds is below 60: ") for warning in loaded.warnings] == [
        True
    ] * warned


def test_the_example_file_of_the_contract_loads_without_a_warning():
    """The published table as a file, with JSON logs, is accepted whole."""
    sections = {}
    for section, key, default, *_ in TABLE:
        if default is not None and section != "journal":
            sections.setdefault(section, []).append(f"{key} = {toml(default)}")
    sections["log"][-1] = 'format = "json"'
    write("\n".join(f"[{section}]\n" + "\n".join(keys) for section, keys in sections.items()))
    loaded = load()
    assert loaded.warnings == ()
    assert loaded.settings.log.format == "json"


def test_loading_looks_at_nothing_but_what_it_is_given(monkeypatch):
    """The process's own environment does not count, only the mapping that is handed over."""
    for section, key, _, other, _ in TABLE:
        monkeypatch.setenv(variable(section, key), text_of(other))
    monkeypatch.setenv("MEMTRACE_CONFIG", "missing.toml")
    before = dict(os.environ)
    assert load().settings == Settings()
    assert dict(os.environ) == before


def test_the_order_of_variables_does_not_matter():
    """Any order of the same variables gives the same settings."""
    environ = {variable(section, key): text_of(other) for section, key, _, other, _ in TABLE}
    expected = load(environ).settings
    names = list(environ)
    for seed in range(5):
        random.Random(seed).shuffle(names)
        assert load({name: environ[name] for name in names}).settings == expected
