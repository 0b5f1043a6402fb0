"""The power goes at every write, sync, creation, rename and removal of a run; `tests/torture` has more seeds."""

import random

import pytest
from builders import run
from power_loss import Make, MakeFolder, Mark, Recorder, SyncFolder, Write
from power_loss.crashes import all_points, check_crashes, check_crashes_of_the_next_start, telling_points
from power_loss.workload import ARC, numbered, record

from memtrace_core.query import MemoryQuery
from memtrace_core.testing import ManualClock
from memtrace_sqlite import SqliteJournal

PARTS = 4
STARTS = 2


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A run of the workload on both databases."""
    return record(tmp_path_factory.mktemp("recorded"))


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))])
def test_a_crash_at_any_operation_loses_nothing_and_leaves_nothing_half_done(story, tmp_path, part):
    """What was acknowledged is there once, and what was under way is there whole or not at all."""
    # Every eighth operation by default, every second with the slow tests; `tests/torture` takes them all.
    check_crashes(story, all_points(story.operations)[part :: 2 * PARTS], tmp_path)


def test_a_crash_around_a_sync_or_an_answer_loses_nothing(story, tmp_path):
    """At the moments that decide what is safe, other choices of what reached the disk are in order, too."""
    check_crashes(story, telling_points(story.operations), tmp_path, seed=1)


def test_a_crash_while_starting_after_a_crash_loses_nothing(story, tmp_path):
    """The start that mends a crash may itself be cut off anywhere."""
    points = random.Random(0).sample(all_points(story.operations), STARTS)
    assert check_crashes_of_the_next_start(story, points, tmp_path) > STARTS


def test_the_workload_folds_the_wal_into_both_databases_on_the_way(story):
    """The recorded run holds checkpoints in its middle, not only where files are closed."""
    files = {each.path: each.file for each in story.operations if isinstance(each, Make)}
    for name in ("data/journal.db.memtrace-new", "data/memtrace.db.memtrace-new"):
        steps = {marks_before for marks_before, file in writes_by_step(story) if file == files[name]}
        assert len(steps) >= 3, name


def writes_by_step(story):
    """Yield how many marks were before each write, and its file."""
    marks = 0
    for each in story.operations:
        if isinstance(each, Mark):
            marks += 1
        elif isinstance(each, Write):
            yield marks, each.file


def test_a_new_data_folder_is_safe_before_anything_in_it_is_acknowledged(tmp_path):
    """Who makes the folder for a new database syncs the folder that it lies in, or a crash takes all of it away."""

    async def scenario():
        journal = SqliteJournal(tmp_path / "data" / "journal.db", ManualClock())
        await journal.append(ARC, numbered("safe", 1))
        found = (await journal.view(MemoryQuery(org_id=ARC.org_id))).memories
        await journal.close()
        return found

    with Recorder(tmp_path) as recorder:
        assert len(run(scenario())) == 1
    made = recorder.operations.index(MakeFolder("data"))
    assert SyncFolder(".") in recorder.operations[made:]
