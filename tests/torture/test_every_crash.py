"""The power goes at every operation of the workload, for many choices of what had reached the disk by then.

Run it with `pytest tests/torture/test_every_crash.py`; it is no part of the usual run. `CRASH_SEEDS=100` sets how
many choices there are (10 if not given), each worth half a minute; a `--basetemp` in memory makes it faster.
"""

import os

import pytest
from power_loss.crashes import all_points, check_crashes, check_crashes_of_the_next_start, telling_points
from power_loss.workload import record

SEEDS = range(2, 2 + int(os.environ.get("CRASH_SEEDS", "10")))

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_crash_loses_anything(tmp_path, seed):
    """The workload, recorded anew, survives a power loss at each of its operations."""
    story = record(tmp_path)
    check_crashes(story, all_points(story.operations), tmp_path, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_crash_of_the_start_after_a_crash_loses_anything(tmp_path, seed):
    """A start after a power loss survives another at each of its own operations."""
    story = record(tmp_path)
    assert check_crashes_of_the_next_start(story, telling_points(story.operations)[seed % 4 :: 4], tmp_path, seed)
