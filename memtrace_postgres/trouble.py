"""What goes wrong with a PostgreSQL, as one clear sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import psycopg

from memtrace_core.damage import DamagedRow
from memtrace_core.errors import StorageUnavailable
from memtrace_postgres.address import Address


class DatabaseAway(StorageUnavailable):
    """The database does not answer; it may later."""


@contextmanager
def reporting(address: Address) -> Iterator[None]:
    """Turn what goes wrong with a database into one clear sentence about it."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        # Our statements are right for our schema, so it is the schema that is not.
        raise StorageUnavailable(
            f"{address}: the schema {address.schema} is not as Memtrace made it ({address.told(error)})"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise StorageUnavailable(
            f"{address}: {address.told(error)}",
            hint=f"the role must own the schema {address.schema}, or be allowed to create it",
        ) from error
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as error:
        raise DatabaseAway(f"{address} is too slow ({address.told(error)})") from error
    except (psycopg.OperationalError, TimeoutError, OSError) as error:
        raise DatabaseAway(f"{address} cannot be reached: {address.told(error)}") from error
    except psycopg.Error as error:
        raise StorageUnavailable(f"{address} cannot be used: {address.told(error)}") from error
    except (DamagedRow, OverflowError, msgspec.DecodeError) as error:
        raise StorageUnavailable(
            f"{address} is damaged (a value cannot be read); restore it from a backup"
        ) from error
