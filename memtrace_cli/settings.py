"""Settings: one TOML file, overridden by environment variables. The only place that reads either.

The first file found wins: `./memtrace.toml`, `/etc/memtrace/memtrace.toml`, `$HOME/.memtrace/memtrace.toml`; or the
one that `--config` or `MEMTRACE_CONFIG` names. `MEMTRACE_<SECTION>_<KEY>` overrides a key.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from memtrace_cli.proxies import Network
from memtrace_core.errors import MemtraceError

PREFIX = "MEMTRACE_"
SYSTEM_FILE = Path("/etc/memtrace/memtrace.toml")
SHORTEST_SAFE_SETTLE = 60

# Variables that are ours and no setting. MEMTRACE_URL and MEMTRACE_API_KEY are for clients.
OTHER_VARIABLES = (
    "MASTER_KEY", "MASTER_KEY_FILE", "MASTER_KEY_PREVIOUS", "MASTER_KEY_PREVIOUS_FILE", "CONFIG", "URL", "API_KEY",
)  # fmt: skip

SECRETS = ("api_key", "token", "db_url")
"""Keys whose values are never shown."""

_TRUTH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?", re.ASCII)
_WHOLE = re.compile(r"-?[0-9]{1,18}", re.ASCII)

Port = Annotated[int, Meta(ge=0, le=65_535, description="a whole number from 0 to 65,535")]
Seconds = Annotated[float, Meta(gt=0, le=86_400, description="a number of seconds above 0, up to 86,400")]
Text = Annotated[str, Meta(min_length=1, description="a text that is not empty")]
Flag = Annotated[bool, Meta(description="true or false")]
Level = Annotated[Literal["debug", "info", "warn", "error"], Meta(description="one of debug, info, warn, error")]
Networks = Annotated[
    tuple[Network, ...], Meta(description="a list of addresses or networks, such as 10.0.0.1 or 10.0.0.0/8")
]
PostgresURL = Annotated[
    str,
    # A special character that is not encoded makes a part of the password a part of the host, which is shown.
    Meta(
        pattern=r"^postgres(ql)?://([^@/?#\s]*@)?[^@?#\s]*(\?[^@#\s]*)?$",
        description="postgresql://user:password@host:5432/database, special characters in it written with a %",
    ),
]
Format = Annotated[Literal["console", "json"], Meta(description="console or json")]


class SettingsError(MemtraceError):
    """A setting cannot be used; the message is one line that says where it stands and what is expected."""

    code = "settings"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server listens, in how many processes, its timeouts in seconds, its certificate (PEM files) if it
    speaks TLS, and the proxies that tell it who their clients are.
    """

    host: Text = "0.0.0.0"  # noqa: S104 - a server in a container must be reachable from outside
    port: Port = 9100
    workers: Annotated[int, Meta(ge=1, le=64, description="a whole number from 1 to 64")] = 1
    read_timeout: Seconds = 30.0
    write_timeout: Seconds = 30.0
    shutdown_timeout: Annotated[
        float, Meta(ge=0, le=86_400, description="a number of seconds from 0 to 86,400")
    ] = 30.0
    health_detail: Annotated[Literal["full", "summary"], Meta(description="full or summary")] = "full"
    tls_cert: Text | None = None
    tls_key: Text | None = None
    trusted_proxies: Networks = ()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What is fair use; 0 is no limit."""

    requests_per_second: Annotated[float, Meta(ge=0, le=1_000_000, description="a number from 0 to 1,000,000")] = (
        0.0
    )
    burst: Annotated[int, Meta(ge=1, le=1_000_000, description="a whole number from 1 to 1,000,000")] = 20
    in_flight: Annotated[int, Meta(ge=0, le=1_000_000, description="a whole number from 0 to 1,000,000")] = 0


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """What is logged, and how."""

    level: Level = "info"
    format: Format = "console"


class Arc(msgspec.Struct, frozen=True, kw_only=True):
    """How every org's Arc is talked to; the last four are the legacy binding of `org_default`."""

    connect_timeout: Seconds = 5.0
    query_timeout: Seconds = 30.0
    write_batch_size: Annotated[int, Meta(ge=1, le=100_000, description="a whole number from 1 to 100,000")] = 100
    write_flush_interval_ms: Annotated[
        int, Meta(ge=0, le=3_600_000, description="a whole number of milliseconds from 0 to 3,600,000")
    ] = 1000
    url: Text | None = None
    api_key: Text | None = None
    database: Text | None = None
    measurement: Text | None = None


class Auth(msgspec.Struct, frozen=True, kw_only=True):
    """API keys, and the database that holds them and all other metadata: a file, or a PostgreSQL if it is given."""

    enabled: Flag = True
    db_path: Text = "./data/memtrace.db"
    db_url: PostgresURL | None = None


class Dedup(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and how long equal memories are refused."""

    enabled: Flag = True
    window_hours: Annotated[int, Meta(ge=1, le=87_600, description="a whole number of hours from 1 to 87,600")] = 24


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """The durable queue in front of every Arc."""

    path: Text | None = None
    settle_seconds: Annotated[
        int, Meta(ge=0, le=86_400, description="a whole number of seconds from 0 to 86,400")
    ] = 120
    max_bytes: Annotated[
        int, Meta(ge=1 << 20, le=1 << 50, description="a whole number of bytes from 1,048,576")
    ] = 1 << 30


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures for Prometheus at /metrics; by org only if `per_org`, and then for `token` or an org's own admin."""

    enabled: Flag = True
    per_org: Flag = False
    token: Text | None = None


class Tracing(msgspec.Struct, frozen=True, kw_only=True):
    """Whether requests are traced; OpenTelemetry's own variables say where the traces go."""

    enabled: Flag = False


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, each from the environment, the file, or its default."""

    server: Server = Server()
    log: Log = Log()
    arc: Arc = Arc()
    auth: Auth = Auth()
    dedup: Dedup = Dedup()
    journal: Journal = Journal()
    limits: Limits = Limits()
    metrics: Metrics = Metrics()
    tracing: Tracing = Tracing()

    @property
    def database_file(self) -> Path:
        """The metadata database."""
        return Path(self.auth.db_path)

    @property
    def journal_file(self) -> Path:
        """The journal: beside the metadata database unless it is placed elsewhere."""
        return Path(self.journal.path) if self.journal.path else self.database_file.with_name("journal.db")


class Loaded(msgspec.Struct, frozen=True):
    """Settings, and what to tell the operator about them; `file` is None where there was none.

    `origins` tells of each value that is not a default, as `section.key`, where it was found. `problems` is what
    cannot be used; in `settings` a default stands in its place.
    """

    settings: Settings
    warnings: tuple[str, ...] = ()
    file: Path | None = None
    origins: Mapping[str, str] = {}
    problems: tuple[SettingsError, ...] = ()

    def origin(self, section: str, key: str) -> str:
        """Return where a value comes from: a variable, a place in the file, or `default`."""
        return self.origins.get(f"{section}.{key}", "default")


class _Origin(msgspec.Struct, frozen=True):
    """Where a value was found, as a message calls it."""

    name: str
    value: object


def load_settings(config: Path | None, environ: Mapping[str, str], *, system_file: Path = SYSTEM_FILE) -> Loaded:
    """Read the settings.

    Args:
        config: the file that the command line names, if it does.
        environ: the environment.
        system_file: the machine-wide file.

    Raises:
        SettingsError: a file cannot be read, or a value is not what is expected; the first of several.
    """
    loaded = examine_settings(config, environ, system_file=system_file)
    if loaded.problems:
        raise loaded.problems[0]
    return loaded


def examine_settings(config: Path | None, environ: Mapping[str, str], *, system_file: Path = SYSTEM_FILE) -> Loaded:
    """Read the settings as far as they can be read, and tell of everything that cannot be used."""
    warnings: list[str] = []
    problems: list[SettingsError] = []
    found: dict[tuple[str, str], _Origin] = {}
    file = None
    try:
        file = _file(config, environ, system_file)
        if file is not None:
            found.update(_from_file(file, warnings, problems))
    except SettingsError as error:
        problems.append(error)
    found.update(_from_environment(environ, warnings, problems))
    sections: dict[str, Any] = {}
    for section, kind in _sections():
        values = {}
        for field in msgspec.structs.fields(kind):
            origin = found.get((section, field.name))
            if origin is not None:
                try:
                    values[field.name] = _converted(origin, field.type, secret=field.name in SECRETS)
                except SettingsError as error:
                    problems.append(error)
        sections[section] = kind(**values)
    settings = Settings(**sections)
    if settings.journal_file.absolute() == settings.database_file.absolute():
        problems.append(SettingsError("journal.path and auth.db_path name the same file; they must be two"))
    if settings.journal.settle_seconds < SHORTEST_SAFE_SETTLE:
        warnings.append(
            f"journal.settle_seconds is below {SHORTEST_SAFE_SETTLE}: "
            "memories may be looked for in Arc before it shows them"
        )
    origins = {f"{section}.{key}": origin.name for (section, key), origin in found.items()}
    return Loaded(settings, tuple(warnings), file, origins, tuple(problems))


def _file(config: Path | None, environ: Mapping[str, str], system_file: Path) -> Path | None:
    named = config or (Path(environ["MEMTRACE_CONFIG"]) if environ.get("MEMTRACE_CONFIG") else None)
    if named is not None:
        if not _is_file(named):
            raise SettingsError(f"{named}: there is no such file")
        return named
    candidates = [Path("memtrace.toml"), system_file]
    if environ.get("HOME"):
        candidates.append(Path(environ["HOME"], ".memtrace", "memtrace.toml"))
    return next((candidate for candidate in candidates if _is_file(candidate)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False  # in a folder that this user may not enter


def _from_file(
    file: Path, warnings: list[str], problems: list[SettingsError]
) -> Iterator[tuple[tuple[str, str], _Origin]]:
    import tomllib  # only where there is a file

    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{file}: not valid TOML: it is not UTF-8") from None
    except RecursionError:
        raise SettingsError(f"{file}: not valid TOML: it is nested too deeply") from None
    except ValueError:
        raise SettingsError(f"{file}: not valid TOML: a number has too many digits") from None
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from None
    known = _known()
    for section, keys in content.items():
        if section not in {owner for owner, _ in known}:
            warnings.append(
                f"{file}: unknown section [{_short(section)}]{_nearest(section, [one for one, _ in known])}"
            )
        elif not isinstance(keys, dict):
            problems.append(SettingsError(f"{file}: {section} is {_shown(keys)}, expected a section [{section}]"))
        else:
            for key, value in keys.items():
                if (section, key) in known:
                    yield (section, key), _Origin(f"{file}: {section}.{key}", value)
                else:
                    near = _nearest(key, [name for owner, name in known if owner == section])
                    warnings.append(f"{file}: unknown key {section}.{_short(key)}{near}")


def _from_environment(
    environ: Mapping[str, str], warnings: list[str], problems: list[SettingsError]
) -> Iterator[tuple[tuple[str, str], _Origin]]:
    variables = {f"{PREFIX}{section}_{key}".upper(): (section, key) for section, key in _known()}
    others = {PREFIX + name for name in OTHER_VARIABLES}
    for name, value in environ.items():
        if name in variables:
            try:
                value.encode()
            except UnicodeEncodeError:
                problems.append(SettingsError(f"{name} is not valid UTF-8"))
            else:
                yield variables[name], _Origin(name, value)
        elif name.startswith(PREFIX) and name not in others:
            known = [one.removeprefix(PREFIX) for one in (*variables, *others)]
            warnings.append(f"unknown variable {_short(name)}{_nearest(name.removeprefix(PREFIX), known, PREFIX)}")


def _converted(origin: _Origin, kind: Any, *, secret: bool) -> object:
    plain = _plain_type(kind)
    value = origin.value
    if origin.name.startswith(PREFIX) and isinstance(value, str):
        value = _parsed(value, plain)
    try:
        return msgspec.convert(value, kind, dec_hook=lambda wanted, found: wanted(found))
    except msgspec.ValidationError:
        found = "a hidden value" if secret else _shown(origin.value)
        raise SettingsError(f"{origin.name} is {found}, expected {_expected(kind)}") from None


def _parsed(text: str, plain: Any) -> object:
    if plain is bool:
        return _TRUTH.get(text.lower(), text)
    if plain is int:
        return int(text) if _WHOLE.fullmatch(text) else text
    if plain is float:
        return float(text) if _NUMBER.fullmatch(text) else text
    if get_origin(plain) is tuple:
        return [one.strip() for one in text.split(",")] if text else []
    return text


def _plain_type(kind: Any) -> Any:
    """Return the type behind `Annotated` and `| None`."""
    if get_origin(kind) is Annotated:
        return _plain_type(get_args(kind)[0])
    if type(None) in get_args(kind):
        return _plain_type(get_args(kind)[0])
    return kind


def _expected(kind: Any) -> str:
    if type(None) in get_args(kind):
        return _expected(get_args(kind)[0])
    return str(get_args(kind)[1].description)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return repr(_short(value))
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return _short(f"[{', '.join(map(_shown, value[:8]))}{', ...' if len(value) > 8 else ''}]")
    if isinstance(value, int) and value.bit_length() > 256:
        return "a huge number"  # which Python would not even write
    return _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(name: str, known: list[str], prefix: str = "") -> str:
    from difflib import get_close_matches  # only for a mistake: its import would cost every command

    near = get_close_matches(name[:80], known, n=1, cutoff=0.6)
    return f" (did you mean {prefix}{near[0]}?)" if near else ""


def _sections() -> list[tuple[str, Any]]:
    return [(field.name, field.type) for field in msgspec.structs.fields(Settings)]


@functools.cache  # reading the types of all settings takes longer than reading their values
def _known() -> tuple[tuple[str, str], ...]:
    return tuple((section, field.name) for section, kind in _sections() for field in msgspec.structs.fields(kind))
