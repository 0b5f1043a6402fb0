"""The Parquet files by hour, an index of them in memory, and the buffer in front of both."""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import RLock
from typing import Any

from arc_double import engine
from arc_double.buffer import Buffer, by_hour, merge
from arc_double.pruner import TimeRange
from arc_double.writes import Batch

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class File:
    """One Parquet file, seen by queries from `visible_at` on (seconds since 1970, the double's clock)."""

    path: Path
    visible_at: float = 0.0


@dataclass
class Hour:
    """One hour's folder, known to the pruner from `known_at` on."""

    known_at: float = 0.0
    files: list[File] = field(default_factory=list)


def folder_of(hour: int) -> str:
    """Return the folder of an hour (hours since 1970): `YYYY/MM/DD/HH`."""
    moment = EPOCH + timedelta(hours=hour)
    return f"{moment.year:04}/{moment:%m/%d/%H}"


def hour_of(folder: Sequence[str]) -> int:
    """Return the hour that four path components name."""
    year, month, day, hour = map(int, folder)
    return (datetime(year, month, day, hour, tzinfo=UTC) - EPOCH) // timedelta(hours=1)


class Storage:
    """All databases of one double.

    Args:
        root: Folder of the Parquet files; what is there already is found.
        now: The double's clock, in seconds since 1970.
        folder_cache_seconds: How late the pruner learns of a new hour.
        empty_range: What a pruned range without any folder opens: `all` files, or `none`.
        seed: Of the order of columns in the files, which is arbitrary.
        lag: Returns by how many seconds the rows of a flush are seen late.
    """

    def __init__(
        self,
        root: Path,
        now: Callable[[], float],
        *,
        folder_cache_seconds: float = 0.0,
        empty_range: str = "all",
        seed: int = 0,
        lag: Callable[[], float] = lambda: 0.0,
    ):
        self.root, self.now, self.lag = root, now, lag
        self.folder_cache_seconds, self.empty_range = folder_cache_seconds, empty_range
        self.lock = RLock()
        self.closed = False
        self.buffer = Buffer()
        self._shuffle = random.Random(seed).shuffle
        self._numbers = itertools.count()
        self.tables: dict[tuple[str, str], dict[int, Hour]] = {}
        for path in root.glob("*/*/*/*/*/*/*.parquet"):
            database, measurement, *hour, _ = path.relative_to(root).parts
            self.hour(database, measurement, hour_of(hour)).files.append(File(path))

    def hour(self, database: str, measurement: str, hour: int, known_at: float = 0.0) -> Hour:
        """Return the index entry of an hour's folder, a new one if need be."""
        return self.tables.setdefault((database, measurement), {}).setdefault(hour, Hour(known_at))

    def add(self, database: str, batch: Batch) -> bool:
        """Hold a batch in the buffer; returns whether it is the first there."""
        with self.lock:
            if self.closed:
                return False
            first = not self.buffer.batches
            self.buffer.add(database, batch, self.now())
            return first

    def flush(self) -> None:
        """Write everything that is buffered to Parquet."""
        with self.lock:
            for (database, measurement), batches in self.buffer.batches.items():
                for columns in merge(batches):
                    for hour, part in by_hour(columns).items():
                        self._write(database, measurement, hour, part)
            self.buffer.clear()

    def close(self, gracefully: bool) -> None:
        """Flush or lose the buffer; a thread that is late writes nothing more."""
        with self.lock:
            if gracefully:
                self.flush()
            self.buffer.clear()
            self.closed = True

    def flush_older_than(self, seconds: float) -> None:
        """Flush if the oldest buffered batch has waited that long."""
        with self.lock:
            if self.buffer.oldest is not None and self.now() - self.buffer.oldest >= seconds:
                self.flush()

    def store(self, database: str, batch: Batch) -> None:
        """Write one batch to Parquet, beside the buffer."""
        with self.lock:
            for hour, part in by_hour(batch.columns).items():
                self._write(database, batch.measurement, hour, part)

    def new_path(self, database: str, measurement: str, hour: int) -> Path:
        """Return a path that no file of that hour has yet."""
        folder = self.root / database / measurement / folder_of(hour)
        return next(
            path
            for number in self._numbers
            if not (path := folder / f"{measurement}_{hour}_{number}.parquet").exists()
        )

    def _write(self, database, measurement, hour, columns):
        names = list(columns)
        self._shuffle(names)
        path = self.new_path(database, measurement, hour)
        engine.write_parquet(path, {name: columns[name] for name in names})
        entry = self.hour(database, measurement, hour, self.now() + self.folder_cache_seconds)
        entry.files.append(File(path, self.now() + self.lag()))

    def paths(self, database: str, measurement: str, pruned_to: TimeRange | None = None) -> list[str]:
        """Return the files that a query of the measurement opens; none at all if there is no such measurement."""
        with self.lock:
            now = self.now()
            hours = self.tables.get((database, measurement), {})
            if pruned_to is not None:
                known = {number: hour for number, hour in hours.items() if hour.known_at <= now} or hours
                hours = {number: hour for number, hour in known.items() if pruned_to.covers(number)}
                if not hours:
                    hours = known if self.empty_range == "all" else dict(list(known.items())[:1])
            return [str(file.path) for hour in hours.values() for file in hour.files if file.visible_at <= now]

    def measurements(self, database: str) -> list[tuple[str, int]]:
        """Return the database's measurements and how many files each has."""
        with self.lock:
            found = [(name, len(self.paths(base, name))) for base, name in self.tables if base == database]
        return sorted((name, files) for name, files in found if files)

    def rows(self, database: str, measurement: str) -> list[dict[str, Any]]:
        """Return all rows, stored and buffered, hidden ones too; a column that a row has not is absent or None."""
        with self.lock:
            hours = self.tables.get((database, measurement), {})
            paths = [file.path for hour in hours.values() for file in hour.files]
            batches = list(self.buffer.batches.get((database, measurement), []))
            found = []
            if paths:
                with engine.cursor() as connection:
                    sql = f"SELECT epoch_us(time) AS __us, * EXCLUDE (time) FROM {engine.file_list(paths)}"
                    (_, *names), _, rows = engine.fetch(connection, sql)
                found = [{"time": us, **dict(zip(names, row, strict=True))} for us, *row in rows]
        for batch in batches:
            columns = {name: values for name, (_, values) in batch.columns.items()}
            found += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [{**row, "time": EPOCH + timedelta(microseconds=row["time"])} for row in found]
