"""The DuckDB of this process: one instance for all doubles, started when first needed."""

import importlib.util
import sys
import types
from collections.abc import Sequence
from datetime import UTC, timedelta, tzinfo
from functools import cache
from pathlib import Path
from typing import Any

import duckdb


class _Utc(tzinfo):
    """The little of a pytz zone that DuckDB asks for when it fetches a TIMESTAMPTZ."""

    def utcoffset(self, moment):
        return timedelta()

    def dst(self, moment):
        return timedelta()

    def localize(self, moment):
        return moment.replace(tzinfo=UTC)


if importlib.util.find_spec("pytz") is None:
    sys.modules["pytz"] = types.SimpleNamespace(timezone=lambda name: _Utc(), utc=_Utc())


@cache
def _instance() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    connection.execute("SET GLOBAL autoinstall_known_extensions = false")
    # Sharing the rows of a test out among threads takes longer than going through them.
    connection.execute("SET GLOBAL threads = 1")
    return connection


def cursor() -> duckdb.DuckDBPyConnection:
    """Return a connection of its own, for one thread at a time."""
    return _instance().cursor()


def fetch(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[str], list[str], list[tuple[Any, ...]]]:
    """Run a statement and return its column names, their types and its rows."""
    connection.execute(sql)
    described = connection.description or []
    return [name for name, *_ in described], [str(kind) for _, kind, *_ in described], connection.fetchall()


def quoted(name: str) -> str:
    """Return an identifier in quotes."""
    return '"' + name.replace('"', '""') + '"'


def file_list(paths: Sequence[Path | str]) -> str:
    """Return `read_parquet(…)` over these files."""
    listed = ", ".join("'{}'".format(str(path).replace("'", "''")) for path in paths)
    return f"read_parquet([{listed}], union_by_name=true, hive_partitioning=false)"


def write_parquet(path: Path, columns: dict[str, tuple[str, list[Any]]]) -> None:
    """Write columns to a file that is there whole or not at all; `time` becomes a TIMESTAMPTZ."""
    selected = ", ".join(
        f"make_timestamptz(unnest(?::BIGINT[])) AS {quoted(name)}"
        if name == "time"
        else f"unnest(?::{kind}[]) AS {quoted(name)}"
        for name, (kind, _) in columns.items()
    )
    copy_to(f"SELECT {selected}", path, [values for _, values in columns.values()])


def copy_to(select: str, path: Path, parameters: Sequence[Any] = ()) -> None:
    """Write a SELECT to a Parquet file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    target = str(part).replace("'", "''")
    with cursor() as connection:
        connection.execute(f"COPY ({select}) TO '{target}' (FORMAT parquet)", list(parameters))
    part.replace(path)
