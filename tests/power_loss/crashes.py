"""Crash a recorded run at any of its operations, and see whether the product makes good of what is left."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from memtrace_core.model import Memory
from memtrace_core.testing import ManualClock, TransparentVault
from memtrace_sqlite import SqliteJournal, SqliteMetadataRepo
from power_loss import behaviour, verdict
from power_loss.disk import Disk, Mark, Operation, Sync, SyncFolder
from power_loss.recorder import Recorder
from power_loss.workload import JOURNAL, METADATA, Acknowledged, Began, Done, Story, dump


@dataclass
class Known:
    """What clients and operators know at the moment of a crash: how many steps were begun, and how many done."""

    begun: int = 0
    done: int = 0
    acknowledged: dict[str, Memory] = field(default_factory=dict)

    def take(self, mark: Mark) -> None:
        """Learn what a mark tells."""
        match mark.what:
            case Began(step):
                self.begun = step + 1
            case Done(step):
                self.done = step + 1
            case Acknowledged(memory):
                self.acknowledged[memory.memory_id] = memory


def all_points(operations: list[Operation], beginning: int = 0) -> list[int]:
    """Return the numbers of all operations before which the power may go, and of the end."""
    points = [number for number, each in enumerate(operations) if not isinstance(each, Mark)]
    return [number for number in [*points, len(operations)] if number >= beginning]


def telling_points(operations: list[Operation]) -> list[int]:
    """Return the moments around each sync and after each mark: there it is decided what is safe, and told."""
    around = {0}
    for number, each in enumerate(operations):
        if isinstance(each, Sync | SyncFolder):
            around |= {number, number + 1}
        elif isinstance(each, Mark):
            around.add(number + 1)
    return sorted(around & set(all_points(operations)))


def check_crashes(story: Story, points: Iterable[int], folder: Path, seed: int = 0) -> None:
    """Let the power go before each of these operations, and check what the product finds at its next start."""
    for point, disk, known in _moments(story, points):
        left = folder / f"crash-{seed}-{point}"
        left.mkdir()
        disk.lay_out(left, random.Random(f"{seed} {point}"))
        with _naming(story, known, point, seed):
            asyncio.run(check_start(story, known, left / "data"))
        shutil.rmtree(left)


def check_crashes_of_the_next_start(story: Story, points: Iterable[int], folder: Path, seed: int = 0) -> int:
    """Let the power go at each of these moments, and again at every moment of the start after; return how many."""
    crashes = 0
    for point, disk, known in _moments(story, points):
        left = folder / f"first-{seed}-{point}"
        left.mkdir()
        disk.lay_out(left, random.Random(f"{seed} {point}"))
        with Recorder(left) as recorder:
            asyncio.run(_start_and_stop(left / "data"))
        for again in all_points(recorder.operations, recorder.beginning):
            second = Disk()
            for operation in recorder.operations[:again]:
                second.apply(operation)
            target = folder / f"second-{seed}-{point}-{again}"
            target.mkdir()
            second.lay_out(target, random.Random(f"{seed} {point} {again}"))
            with _naming(story, known, point, seed):
                asyncio.run(check_start(story, known, target / "data"))
            shutil.rmtree(target)
            crashes += 1
    return crashes


def _moments(story: Story, points: Iterable[int]) -> Iterator[tuple[int, Disk, Known]]:
    disk, known, reached = Disk(), Known(), 0
    for point in sorted(points):
        for operation in story.operations[reached:point]:
            disk.apply(operation)
            if isinstance(operation, Mark):
                known.take(operation)
        reached = point
        yield point, disk, known


@contextmanager
def _naming(story: Story, known: Known, point: int, seed: int) -> Iterator[None]:
    """Add to whatever fails where the crash was, so that it can be had again."""
    try:
        yield
    except BaseException as error:
        step = story.steps[known.begun - 1].name if known.begun else "nothing yet"
        error.add_note(f"power loss before operation {point} with seed {seed}, in or after the step: {step}")
        raise


async def _start_and_stop(folder: Path) -> None:
    repo = SqliteMetadataRepo(folder / METADATA, TransparentVault())
    journal = SqliteJournal(folder / JOURNAL, ManualClock())
    await journal.pending_orgs()
    await journal.close()
    await repo.close()


async def check_start(story: Story, known: Known, folder: Path) -> None:
    """Open both databases as a server does, and check their rows and what they answer."""
    latest = max((memory.time for memory in known.acknowledged.values()), default=ManualClock().now())
    repo = SqliteMetadataRepo(folder / METADATA, TransparentVault())
    journal = SqliteJournal(folder / JOURNAL, ManualClock(latest))
    try:
        for name in (METADATA, JOURNAL):
            _check_integrity(folder / name)
        state = dump(folder)
        verdict.check_totals(state)
        verdict.check_claims(state, known.acknowledged.keys() | story.foreign)
        if known.done:
            verdict.check_steps(state, story, known.begun, known.done)
        safe = known.acknowledged.keys() - story.gone(known.begun, known.done)
        await behaviour.check_reading(journal, repo, state, [known.acknowledged[each] for each in safe])
        await behaviour.check_writing(journal, repo, state, latest if known.acknowledged else None)
    finally:
        await journal.close()
        await repo.close()


def _check_integrity(path: Path) -> None:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], path.name
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == [], path.name
    finally:
        connection.close()
