"""Any order of events, compared with a model: journal, dedup, delivery, confirmation and reads together.

`MEMTRACE_MODEL_EXAMPLES=1000 MEMTRACE_MODEL_STEPS=60 pytest --timeout=0 tests/integration/test_journal_model.py`
looks for longer, and elsewhere every time.
"""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from model.machine import Machine
from model.worlds import InMemoryWorld, SqliteWorld

EXAMPLES = os.environ.get("MEMTRACE_MODEL_EXAMPLES")
STEPS = int(os.environ.get("MEMTRACE_MODEL_STEPS", "40"))


def agrees(make_world, examples):
    """Run machines over worlds of a kind."""
    run_state_machine_as_test(
        lambda: Machine(make_world),
        settings=settings(
            max_examples=int(EXAMPLES or examples),
            stateful_step_count=STEPS,
            derandomize=EXAMPLES is None,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("examples", [10, pytest.param(40, marks=pytest.mark.slow)])
def test_over_the_journal_in_memory_everything_is_as_promised(examples):
    """Whatever happens in whatever order, each acknowledged memory is seen once, in order, and by its org alone."""
    agrees(InMemoryWorld, examples)


@pytest.mark.parametrize("examples", [4, pytest.param(16, marks=pytest.mark.slow)])
def test_over_the_journal_in_sqlite_everything_is_as_promised(examples):
    """The same holds over files, which are closed, opened again, and left open by servers that die."""
    agrees(SqliteWorld, examples)
