"""Any settings file and any environment: settings within their rules, or one line that says what is wrong."""

from contextlib import chdir, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memtrace_cli.settings import Settings, SettingsError, load_settings

KEYS = [
    (section, field.name)
    for section in Settings.__struct_fields__
    for field in msgspec.structs.fields(type(getattr(Settings(), section)))
]
VARIABLES = [f"MEMTRACE_{section}_{key}".upper() for section, key in KEYS]
NO_SYSTEM_FILE = Path("no-system-file.toml")

# Texts as an environment may hold them: bytes that are no UTF-8 come as lone surrogates.
TEXTS = st.text(st.characters(exclude_characters="\0"), max_size=30) | st.sampled_from(
    [
        "",
        " ",
        "\udcff\udcfe",
        "\n",
        "\x1b[2J",
        "9" * 5000,
        "1e999",
        "nan",
        "0x1",
        "-0",
        "true",
        "1",
        "٣",
        "\u202e",
        "a" * 9000,
    ]
)
LITERALS = st.one_of(
    st.integers().map(str),
    st.sampled_from(
        ["9" * 5000, "-9223372036854775809", "0x" + "f" * 400, "1e999", "nan", "-inf", "true", "1979-05-27"]
    ),
    st.sampled_from(
        ["[]", "[[[[1]]]]", "{a = {b = {}}}", "'x'", '"\\u0000"', '"\\ud800"', '"""\n\n"""', "07:32:00", ""]
    ),
    st.floats().map(repr),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(repr),
)


@st.composite
def files(draw):
    """Draw a settings file: sections and keys that are known, misspelt or odd, and values of all kinds."""
    lines = []
    for section, key in draw(st.lists(st.sampled_from(KEYS), max_size=5)):
        section = draw(st.sampled_from([section, section.upper(), f"{section}.{key}", f"[{section}]", '""', "a.b"]))
        key = draw(st.sampled_from([key, f"{key}x", f'"{key}"', f"{key}.{key}", '""', '"\\n"']))
        lines += [f"[{section}]", f"{key} = {draw(LITERALS)}"]
    return "\n".join(lines).encode()


@pytest.fixture(autouse=True, scope="module")
def nowhere(tmp_path_factory):
    """Run in an empty folder."""
    with chdir(tmp_path_factory.mktemp("nowhere")):
        yield


def loaded(content, environ):
    """Load settings; a failure must be one line that can be shown on any terminal."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "memtrace.toml")
        file.write_bytes(content)
        try:
            found = load_settings(file, environ, system_file=NO_SYSTEM_FILE)
        except SettingsError as error:
            text = str(error)
            assert text.isprintable(), text
            assert len(text) < 1000
            return None
    assert all(len(warning) < 1000 for warning in found.warnings)
    return found.settings


def assert_within_rules(settings):
    """Check settings as the schema of their types would, written out and read again."""
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings


@given(content=files() | st.binary(max_size=100))
@example(content=b"\xef\xbb\xbf[server]\nport = 1")
@example(content=b"[server]\r\nport = 1\r")
@example(content=b"a = " + b"[" * 100_000)
@example(content=b"a." * 2000 + b"a = 1")
@example(content=b"[server]\nport = 0x" + b"f" * 5000)
@example(content=b"[" + b"a" * 5000 + b"]\n[server]\n" + b"b" * 5000 + b" = 1")
@example(content=b"[server]\nport = " + b"9" * 100_000)
@example(content=b'"\\u000a[31m" = 1')
@example(content=b"[server]\nhost = '\x00'")
def test_any_file_gives_settings_or_one_line(content):
    """Whatever bytes a file holds, it is read by the rules or refused in one line, never with a traceback."""
    if settings := loaded(content, {}):
        assert_within_rules(settings)


@given(environ=st.dictionaries(st.sampled_from(VARIABLES) | TEXTS.map("MEMTRACE_{}".format), TEXTS, max_size=6))
@example(environ={"MEMTRACE_SERVER_PORT": "9" * 100_000})
@example(environ={"MEMTRACE_\x1b[31m": "1"})
@example(environ=dict.fromkeys(VARIABLES, "true"))
def test_any_environment_gives_settings_or_one_line(environ):
    """Whatever the variables hold, they count by the rules or are refused in one line."""
    if settings := loaded(b"", environ):
        assert_within_rules(settings)


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_that_is_no_utf_8_is_refused_by_name(name):
    """Bytes that are no text are no setting, not even a path: SQLite could not open it."""
    with pytest.raises(SettingsError, match=f"^{name} is not valid UTF-8$"):
        load_settings(None, {name: "a\udcff"}, system_file=NO_SYSTEM_FILE)


@given(path=TEXTS)
@example(path="\udcff")
@example(path="/" * 5000)
@example(path="a" * 5000)
def test_any_name_of_a_file_is_one_line(path):
    """A name that no file can have is said not to be there; an empty one is none."""
    refused = pytest.raises(SettingsError, match="there is no such file") if path else nullcontext()
    with refused:
        load_settings(None, {"MEMTRACE_CONFIG": path}, system_file=NO_SYSTEM_FILE)
