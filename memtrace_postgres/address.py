"""Where the database is, how it is connected to, and how it is spoken of: never with a password."""

from __future__ import annotations

import re

import psycopg
from psycopg.conninfo import conninfo_to_dict

from memtrace_core.errors import StorageUnavailable

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 30
SCHEMA = "memtrace"

_PLAIN_NAME = re.compile("[a-z_][a-z0-9_]{0,62}", re.ASCII)
# A connection over which nothing comes any more must not be waited for until the kernel gives up, after minutes.
_DEFAULTS: dict[str, str | int] = {
    "application_name": "memtrace",
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class Address:
    """A database, and the schema in it that is Memtrace's.

    Args:
        url: as libpq takes it; what it leaves out is libpq's to find (PGPASSFILE, PGSSLMODE and so on).
        schema: a plain name in lower case.

    Raises:
        StorageUnavailable: the url cannot be read, or the schema is no such name.
    """

    def __init__(self, url: str, schema: str = SCHEMA) -> None:
        if not _PLAIN_NAME.fullmatch(schema):
            raise StorageUnavailable(f"{schema!r} is not the plain name of a schema")
        try:
            found = conninfo_to_dict(url)
        except psycopg.Error:
            # What libpq says of it may hold a part of the password.
            raise StorageUnavailable(
                "the URL of the metadata database cannot be read",
                hint="special characters of a password are written with a %: %40 for @, %2F for /",
            ) from None
        self.schema = schema
        self._password = str(found.get("password") or "")
        settings = f"-c search_path={schema} -c statement_timeout={STATEMENT_SECONDS}s"
        self.parameters: dict[str, str | int] = {
            **_DEFAULTS,
            **{name: value for name, value in found.items() if value is not None},
            "client_encoding": "UTF8",
            "options": f"{found.get('options') or ''} {settings}".strip(),
        }
        hosts = str(found.get("host") or found.get("hostaddr") or "localhost").split(",")
        ports = str(found.get("port") or 5432).split(",")
        if len(ports) < len(hosts):
            ports = ports[:1] * len(hosts)
        places = ",".join(
            host if host.startswith("/") else f"{host}:{port}" for host, port in zip(hosts, ports, strict=False)
        )
        name = found.get("dbname") or found.get("user") or "postgres"
        self._shown = f"PostgreSQL database {name} at {places}"

    def __str__(self) -> str:
        """Return what messages call it."""
        return self._shown

    def told(self, error: BaseException) -> str:
        """Return what an error of the library says, in one line and without the password."""
        primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        # Lines that begin with a tab are libpq's advice.
        lines = [line for line in str(error).splitlines() if not line.startswith("\t")]
        said = " ".join((primary or " ".join(lines) or type(error).__name__).split())
        said = said.removeprefix("connection failed: ")
        return said.replace(self._password, "***") if self._password else said
