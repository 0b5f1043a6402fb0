"""The load generator: a closed loop over raw sockets, in a process of its own.

`python -m benchmarks.load` reads one `Load` as JSON from stdin, and prints the `Sample` that it made of it. It
knows just enough HTTP for answers that have a `content-length`, and spends on a request a small part of what any
server must spend on it; what it can do at most is measured against `benchmarks.ceiling`.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
import time
from collections import Counter
from collections.abc import Callable

import msgspec
import uvloop
from benchmarks.footprint import cpu_seconds, family, resident_bytes
from benchmarks.requests import Template
from benchmarks.sample import Sample, sample_of

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send, to whom, and for how long.

    `process` is the subject's first process. `templates` take turns; they have places for equally many numbers.
    Requests of the first `warm_seconds` do not count. `first` is the number of the first request's first memory.
    With a `rate` no more than so many requests a second are sent; the latency of each then counts from when it was
    due.
    """

    host: str
    port: int
    process: int
    templates: tuple[Template, ...]
    concurrency: int
    warm_seconds: float
    seconds: float
    first: int
    rate: float = 0


class _Run:
    """What the connections of one run share: requests to send, and what came of them."""

    def __init__(self, make: Callable[[], bytes], rate: float) -> None:
        self.make = make
        self._between = 1e9 / rate if rate else 0
        self._next = float(time.perf_counter_ns())
        self.counting = False
        self.counted = asyncio.Event()
        self.over = False
        self.latencies: list[int] = []
        self.statuses: Counter[bytes] = Counter()

    def due(self) -> int:
        """Return when the next request is to be sent, in nanoseconds; that may be past."""
        if not self._between:
            return time.perf_counter_ns()
        self._next += self._between
        return int(self._next)


class _Connection(asyncio.Protocol):
    """Sends a request, takes the answer, and sends the next."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._received = bytearray()
        self._wanted = 0
        self._started = 0
        self.idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as it is for TCP
        self._transport = transport
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.idle.done():
            self.idle.set_exception(exc or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._wanted and (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._received, 0, end + 2)
            assert length, bytes(self._received)
            self._wanted = end + 4 + int(length[1])
        if self._wanted and len(self._received) >= self._wanted:
            now = time.perf_counter_ns()
            run = self._run
            run.statuses[bytes(self._received[9:12])] += 1
            if run.counting:
                run.latencies.append(now - self._started)
                run.counted.set()
            self._received.clear()
            self._wanted = 0
            self._send()

    def _send(self) -> None:
        if self._run.over:
            self.idle.set_result(None)
            self._transport.close()
        else:
            self._started = self._run.due()
            wait = (self._started - time.perf_counter_ns()) / 1e9
            if wait > 0:
                asyncio.get_running_loop().call_later(wait, self._write)
            else:
                self._write()

    def _write(self) -> None:
        self._transport.write(self._run.make())


async def put_under(load: Load) -> Sample:
    """Do it.

    Raises:
        RuntimeError: an answer was no success.
    """
    run = _Run(_maker(load), load.rate)
    loop = asyncio.get_running_loop()
    connections = []
    for _ in range(load.concurrency):
        _, connection = await loop.create_connection(lambda: _Connection(run), load.host, load.port)
        connections.append(connection)
    await asyncio.sleep(load.warm_seconds)
    subject, own, started = cpu_seconds(load.process), time.process_time(), time.perf_counter()
    run.counting = True
    await asyncio.sleep(load.seconds)
    await run.counted.wait()  # one answer may take longer than that
    run.counting = False
    seconds = time.perf_counter() - started
    subject, own = cpu_seconds(load.process) - subject, time.process_time() - own
    run.over = True
    await asyncio.gather(*(connection.idle for connection in connections))
    if any(not status.startswith(b"2") for status in run.statuses):
        one = load.templates[0]
        raise RuntimeError(f"{one.method} {one.path}: answers {dict(run.statuses)}")
    return sample_of(
        run.latencies,
        concurrency=load.concurrency,
        items=load.templates[0].items,
        seconds=seconds,
        cpu=subject,
        resident=max(map(resident_bytes, family(load.process))),
        load_share=own / seconds,
    )


def _maker(load: Load) -> Callable[[], bytes]:
    """Return what gives one request after the other."""
    forms = itertools.cycle([template.for_host(load.host, load.port) for template in load.templates])
    numbers = load.templates[0].numbers
    if not numbers:
        return lambda: next(forms)
    count = itertools.count(load.first, numbers)

    def make() -> bytes:
        first = next(count)
        return next(forms) % tuple(range(first, first + numbers))

    return make


if __name__ == "__main__":
    sample = uvloop.run(put_under(msgspec.json.decode(sys.stdin.buffer.read(), type=Load)))
    sys.stdout.buffer.write(msgspec.json.encode(sample))
