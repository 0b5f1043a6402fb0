"""A short torture; `python -m torture` is there for long ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from torture.history import Stored
from torture.plan import plan_of
from torture.run import run

CYCLES, SEED, SECONDS = 3, 341, 0.4


def test_the_short_torture_kills_everybody() -> None:
    """The seed was chosen so that few cycles kill the server, Arc, and both at once."""
    victims = {plan_of(SEED, number, SECONDS).victim for number in range(1, CYCLES + 1)}
    assert victims == {"server", "arc", "both"}


@pytest.mark.parametrize("cycles", [CYCLES, pytest.param(10, marks=pytest.mark.slow)])
def test_every_answer_holds_whatever_is_killed_and_however_arc_fails(tmp_path: Path, cycles: int) -> None:
    """While server and Arc are killed and Arc misbehaves, nothing is lost, doubled, altered or mixed up."""
    result = run(tmp_path, cycles=cycles, seed=SEED, seconds_per_cycle=SECONDS, forgetting=False)
    assert [str(violation) for violation in result.violations] == []
    assert result.cycles == cycles
    assert sum(isinstance(attempt.outcome, Stored) for attempt in result.attempts) > 100


@pytest.mark.slow
def test_what_is_forgotten_amid_all_that_never_comes_back(tmp_path: Path) -> None:
    """Orders to forget are carried out by whoever is alive; nothing forgotten is seen, and nothing else is gone."""
    result = run(tmp_path, cycles=6, seed=SEED, seconds_per_cycle=SECONDS)
    assert [str(violation) for violation in result.violations] == []
    assert sum(order.answered for order in result.orders) > 10
