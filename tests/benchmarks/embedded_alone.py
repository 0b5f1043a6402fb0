"""The embedded store's own answer, in this process and with nothing around it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import uvloop
from benchmarks.footprint import resident_bytes
from benchmarks.sample import Sample, sample_of
from benchmarks.subjects import Effort

from memtrace_core.clock import SystemClock
from memtrace_core.model import ArcInstance
from memtrace_core.query import MemoryQuery
from memtrace_sqlite import SqliteEmbeddedGateway, SqliteJournal


def embedded_alone(
    journal: Path, instance: ArcInstance, query: MemoryQuery, concurrency: int, effort: Effort
) -> Sample:
    """Ask the store the same in a closed loop."""
    return uvloop.run(_ask(journal, instance, query, concurrency, effort))


async def _ask(file: Path, instance: ArcInstance, query: MemoryQuery, concurrency: int, effort: Effort) -> Sample:
    journal = SqliteJournal(file, SystemClock())
    gateway = SqliteEmbeddedGateway(journal)
    latencies: list[int] = []

    async def ask(until: float) -> None:
        while (started := time.perf_counter()) < until:
            await gateway.query(instance, query)
            latencies.append(round((time.perf_counter() - started) * 1e9))

    async def ask_for(seconds: float) -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(ask(until) for _ in range(concurrency)))

    try:
        await ask_for(effort.warm_seconds)
        latencies.clear()
        cpu, started = time.process_time(), time.perf_counter()
        await ask_for(effort.seconds)
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
    finally:
        await journal.close()
    return sample_of(
        latencies,
        concurrency=concurrency,
        items=query.limit,
        seconds=seconds,
        cpu=cpu,
        resident=resident_bytes(),
        load_share=0,
    )
