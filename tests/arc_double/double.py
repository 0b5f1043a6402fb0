"""`ArcDouble`: an Arc server in a thread of the test process."""

import asyncio
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

from arc_double.faults import Faults
from arc_double.history import fill
from arc_double.listener import HOST, Listener
from arc_double.records import ADMIN_TOKEN, READ_TOKEN, WRITE_TOKEN, Options, QueryRecord, WriteRecord
from arc_double.server import ArcServer
from arc_double.writes import TYPES, Batch


class ArcDouble:
    """An Arc server; a context manager that starts and stops it. README.md lists arguments and faults.

    Args:
        data: Folder of the Parquet files; None for one that goes with the double.
        port: 0 for a free one, which is kept from then on.
        options: The fields of `Options`.
    """

    read_token, write_token, admin_token = READ_TOKEN, WRITE_TOKEN, ADMIN_TOKEN

    def __init__(self, *, data: Path | str | None = None, port: int = 0, **options: Any):
        self.options = Options(**options)
        self.version = self.options.version
        self.port = port
        self._own_data = data is None
        self.data = Path(tempfile.mkdtemp(prefix="arc-double-") if data is None else data)
        self._thread: Thread | None = None
        self._server: ArcServer | None = None

    def __enter__(self) -> "ArcDouble":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()
        if self._own_data:
            shutil.rmtree(self.data, ignore_errors=True)

    def start(self) -> "ArcDouble":
        """Start, on the same port and data as before if it ran before; records and faults begin anew."""
        if self.running:
            return self
        self.data.mkdir(parents=True, exist_ok=True)
        ready = Event()
        failed: list[OSError] = []
        self._thread = Thread(
            target=lambda: asyncio.run(self._serve(ready, failed)), name="arc-double", daemon=True
        )
        self._thread.start()
        ready.wait()
        if failed:
            self._thread.join()
            raise failed[0]
        return self

    async def _serve(self, ready, failed):
        offset = self._server.offset if self._server else 0.0
        self._server = ArcServer(self.options, self.data)
        self._server.offset = offset
        listener = Listener(self._server, self.port)
        self._loop, self._ending, self._gracefully = asyncio.get_running_loop(), asyncio.Event(), True
        try:
            await listener.open()
            self.port = listener.port
        except OSError as error:
            failed.append(error)
            return
        finally:
            ready.set()
        ends = [asyncio.ensure_future(event.wait()) for event in (self._ending, self._server.crashed)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        await listener.close(self._gracefully and not self._server.crashed.is_set())

    def _end(self, gracefully):
        if self._thread is None:
            return
        if self._thread.is_alive():
            self._gracefully = gracefully
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()
        self._thread = None

    def stop(self) -> None:
        """End as on SIGTERM: nothing acknowledged is lost."""
        self._end(gracefully=True)

    def kill(self) -> None:
        """End as on kill -9: what is buffered is gone."""
        self._end(gracefully=False)

    @property
    def running(self) -> bool:
        """Say whether the server is up: neither stopped nor killed, nor crashed by an empty column name."""
        return self._thread is not None and self._thread.is_alive() and not self._server.crashed.is_set()

    @property
    def url(self) -> str:
        """Return the base URL."""
        return f"http://{HOST}:{self.port}"

    @property
    def faults(self) -> Faults:
        """Return the switches of this run."""
        return self._server.faults

    @property
    def queries(self) -> Sequence[QueryRecord]:
        """Return the queries so far."""
        return self._server.queries

    @property
    def writes(self) -> Sequence[WriteRecord]:
        """Return the writes so far."""
        return self._server.writes

    @property
    def requests(self) -> int:
        """Return the number of API requests so far."""
        return self._server.requests

    @property
    def concurrent(self) -> int:
        """Return the number of API requests that are being answered."""
        return self._server.concurrent

    @property
    def max_concurrent(self) -> int:
        """Return the most that were ever answered at once."""
        return self._server.max_concurrent

    @property
    def buffered_rows(self) -> int:
        """Return the number of rows that are acknowledged and not on disk."""
        with self._server.storage.lock:
            return len(self._server.storage.buffer)

    def clear_records(self) -> None:
        """Forget the requests so far."""
        self._server.clear_records()

    def flush(self) -> None:
        """Write all buffered rows to Parquet."""
        self._server.storage.flush()

    def advance(self, seconds: float) -> None:
        """Move the double's clock."""
        self._server.advance(seconds)

    def now(self) -> datetime:
        """Return the double's time."""
        return self._server.moment()

    def rows(self, database: str, measurement: str) -> list[dict[str, Any]]:
        """Return all rows, stored and buffered, whatever a query would see of them."""
        return self._server.storage.rows(database, measurement)

    def store(self, database: str, measurement: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Put rows straight into Parquet files; types are those of each column's first value that is not None."""
        typed = {
            name: (TYPES[type(next(value for value in values if value is not None))], list(values))
            for name, values in columns.items()
            if any(value is not None for value in values)
        }
        self._server.storage.store(database, Batch(measurement, typed))

    def fill(self, database: str, measurement: str, *, until: datetime | None = None, **wanted: Any) -> None:
        """Make a long history of hourly files; see `history.fill`."""
        until = until.astimezone(UTC) if until else self.now()
        fill(self._server.storage, database, measurement, until=until, **wanted)
