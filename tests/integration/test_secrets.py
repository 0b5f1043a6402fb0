import base64
import io
import sys

import pytest

from memtrace_cli import secrets as secrets_module
from memtrace_cli.composition import compose
from memtrace_cli.secrets import arc_api_key, master_key
from memtrace_cli.settings import Auth, Settings, SettingsError
from memtrace_sqlite import EnvelopeVault, MasterKey, Mode

GOOD = base64.b64encode(bytes(range(32))).decode()
SHORT = base64.b64encode(bytes(range(16))).decode()
MALFORMED = "this is not base64!"


def message_of(environ):
    """Return the one line with which reading the master key fails."""
    with pytest.raises(SettingsError) as raised:
        master_key(environ)
    text = str(raised.value)
    assert "\n" not in text
    for value in environ.values():
        assert not value.strip() or value not in f"{text} {raised.value.hint}" or value.startswith("/")
    return text


def test_the_four_ways_to_have_no_good_master_key_have_four_messages(tmp_path, new_folder):
    """Missing, malformed, wrong length, and another key than the database's: each is told from the others."""
    settings = Settings(auth=Auth(db_path=str(tmp_path / "memtrace.db")))

    def other_key():
        compose_and_release(settings, EnvelopeVault(MasterKey.parse(GOOD)))
        with pytest.raises(SettingsError) as raised:
            compose(settings, EnvelopeVault(MasterKey(bytes(32))), Mode.AS_IT_IS)
        assert raised.value.hint == (
            "set MEMTRACE_MASTER_KEY to this database's key; MEMTRACE_MASTER_KEY_PREVIOUS names former ones"
        )
        return str(raised.value)

    messages = [
        message_of({}),
        message_of({"MEMTRACE_MASTER_KEY": MALFORMED}),
        message_of({"MEMTRACE_MASTER_KEY": SHORT}),
        other_key(),
    ]
    assert messages == [
        "MEMTRACE_MASTER_KEY is not set: it must hold the master key, 32 bytes in base64",
        "MEMTRACE_MASTER_KEY: the master key is not valid base64; expected 32 bytes in base64",
        "MEMTRACE_MASTER_KEY: the master key is 16 bytes long, not 32; expected 32 bytes in base64",
        f"{tmp_path / 'memtrace.db'} was sealed with another master key than the one given",
    ]


def compose_and_release(settings, key):
    """Make the databases, and close them again."""
    import asyncio

    async def work():
        await compose(settings, key, Mode.AS_IT_IS).close()

    asyncio.run(work())


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_variable_is_a_missing_key(text):
    """A variable that is set to nothing is treated as one that is not set."""
    assert message_of({"MEMTRACE_MASTER_KEY": text}).startswith("MEMTRACE_MASTER_KEY is not set")


def test_a_missing_key_comes_with_the_way_to_make_one():
    """The hint names the command that prints a key."""
    with pytest.raises(SettingsError) as raised:
        master_key({})
    assert "`memtrace keygen master`" in raised.value.hint


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n", "  "])
def test_a_key_file_may_end_as_editors_end_files(tmp_path, ending):
    """A mounted secret with a trailing newline is the same key as without."""
    file = tmp_path / "key"
    file.write_bytes((GOOD + ending).encode())
    expected = MasterKey.parse(GOOD).id
    assert master_key({"MEMTRACE_MASTER_KEY_FILE": str(file)}).id == expected
    assert master_key({"MEMTRACE_MASTER_KEY": GOOD + ending}).id == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file in MEMTRACE_MASTER_KEY_FILE is empty: it must hold the master key, 32 bytes in base64"),
        (b" \n", "the file in MEMTRACE_MASTER_KEY_FILE is empty: it must hold the master key, 32 bytes in base64"),
        (
            MALFORMED.encode(),
            "MEMTRACE_MASTER_KEY_FILE: the master key is not valid base64; expected 32 bytes in base64",
        ),
        (
            SHORT.encode(),
            "MEMTRACE_MASTER_KEY_FILE: the master key is 16 bytes long, not 32; expected 32 bytes in base64",
        ),
    ],
)
def test_a_bad_key_file_is_named_by_its_variable(tmp_path, content, message):
    """What is wrong with a key from a file is said of the file's variable, not of the other one."""
    file = tmp_path / "key"
    file.write_bytes(content)
    assert message_of({"MEMTRACE_MASTER_KEY_FILE": str(file)}) == message


def test_a_key_file_that_cannot_be_read_is_named(tmp_path):
    """A missing file, a folder, or bytes that are no text: the path and the reason."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe" * 16)
    for path, reason in (
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (binary, "it is not text"),
    ):
        assert message_of({"MEMTRACE_MASTER_KEY_FILE": str(path)}) == f"{path}: {reason}"


def test_two_master_keys_are_one_too_many(tmp_path):
    """When both variables are set nobody knows which one is meant, so neither is taken."""
    environ = {"MEMTRACE_MASTER_KEY": GOOD, "MEMTRACE_MASTER_KEY_FILE": str(tmp_path / "key")}
    assert message_of(environ) == "both MEMTRACE_MASTER_KEY and MEMTRACE_MASTER_KEY_FILE are set; set one of them"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_an_arc_key_comes_from_a_flag_a_file_or_standard_input(tmp_path, monkeypatch):
    """Each of the ways gives the key without the white space around it."""
    file = tmp_path / "key"
    file.write_text("from-file\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("from-stdin\nsecond line\n"))
    assert arc_api_key("from-flag", None) == "from-flag"
    assert arc_api_key(None, file) == "from-file"
    assert arc_api_key("-", None) == "from-stdin"


def test_without_a_key_a_terminal_is_asked(monkeypatch):
    """At a terminal the key is prompted for, without being shown."""
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", lambda prompt: f" typed after {prompt}")
    assert arc_api_key(None, None) == "typed after Arc API key:"


def test_without_a_key_and_without_a_terminal_there_is_a_clear_error(monkeypatch):
    """A script that gives no key is told the three ways to give one."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("not read"))
    with pytest.raises(SettingsError, match=r"--api-key KEY, --api-key - \(stdin\) or --api-key-file FILE"):
        arc_api_key(None, None)
    assert sys.stdin.read() == "not read"


def test_a_flag_and_a_file_together_are_refused(tmp_path):
    """Two sources for one key are a mistake, not a matter of precedence."""
    with pytest.raises(SettingsError, match="not both"):
        arc_api_key("key", tmp_path / "key")


def test_only_the_environment_that_is_handed_over_counts(monkeypatch):
    """The process's own environment is not read here."""
    monkeypatch.setenv(secrets_module.VARIABLE, GOOD)
    with pytest.raises(SettingsError):
        master_key({})
