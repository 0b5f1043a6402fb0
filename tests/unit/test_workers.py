import asyncio
from datetime import timedelta

import pytest
from builders import MICROSECOND, run, settle

from memtrace_core.testing import ManualClock
from memtrace_core.workers import OrgWorkers, Pause

SECOND = timedelta(seconds=1)


class Work:
    """Steps that do what they are told, one list of results for each org."""

    def __init__(self, **plans):
        self.plans = plans
        self.done = []
        self.begun = []
        self.gates = {}

    def begin(self, org_id):
        self.begun.append(org_id)

        async def step():
            self.done.append(org_id)
            if gate := self.gates.get(org_id):
                await gate.wait()
            result = self.plans[org_id].pop(0) if self.plans[org_id] else None
            if isinstance(result, Exception):
                raise result
            return result

        return step


def started(**plans):
    """Return a clock, the work and the workers that do it."""
    clock, work = ManualClock(), Work(**plans)
    return clock, work, OrgWorkers(clock, work.begin)


def test_a_woken_org_is_worked_for_until_nothing_is_left():
    """Step follows step while there is work, and then nothing is left running."""

    async def body():
        _, work, workers = started(a=[Pause(0), Pause(0), None])
        workers.wake("a")
        await settle()
        assert (work.begun, work.done) == (["a"], ["a"] * 3)
        assert len(asyncio.all_tasks()) == 1
        workers.wake("a")
        await settle()
        assert (work.begun, work.done) == (["a", "a"], ["a"] * 4)

    run(body())


def test_an_org_has_one_task_however_often_it_is_woken():
    """Waking again while a step runs begins no second one beside it, and is not lost either."""

    async def body():
        _, work, workers = started(a=[None, None])
        work.gates["a"] = asyncio.Event()
        for _ in range(5):
            workers.wake("a")
            await settle()
        assert work.done == ["a"]
        work.gates["a"].set()
        await settle()
        assert (work.begun, work.done) == (["a"], ["a", "a"])

    run(body())


def test_orgs_are_worked_for_side_by_side():
    """A step that hangs holds up its own org only."""

    async def body():
        _, work, workers = started(a=[None], b=[None])
        work.gates["a"] = asyncio.Event()
        workers.wake("a")
        workers.wake("b")
        await settle()
        assert work.begun == ["a", "b"]
        assert len(asyncio.all_tasks()) == 2
        await workers.cancel()

    run(body())


def test_a_pause_lasts_as_long_as_it_says():
    """The next step comes when the clock has moved so far, not before."""

    async def body():
        clock, work, workers = started(a=[Pause(1.0), None])
        workers.wake("a")
        await settle()
        clock.advance(SECOND - MICROSECOND)
        await settle()
        assert work.done == ["a"]
        clock.advance(MICROSECOND)
        await settle()
        assert work.done == ["a", "a"]
        assert clock.sleeping == 0

    run(body())


@pytest.mark.parametrize("wakeable", [True, False])
def test_news_ends_a_pause_only_if_it_may(wakeable):
    """A wake-up during a pause brings the next step at once, or is kept until the pause is over."""

    async def body():
        clock, work, workers = started(a=[Pause(1.0, wakeable=wakeable), None])
        workers.wake("a")
        await settle()
        workers.wake("a")
        await settle()
        assert len(work.done) == (2 if wakeable else 1)
        clock.advance(SECOND)
        await settle()
        assert len(work.done) == 2
        assert clock.sleeping == 0

    run(body())


def test_finishing_ends_all_pauses_now_and_to_come():
    """At the end nobody rests: what can still be done is done, without any time passing."""

    async def body():
        clock, work, workers = started(a=[Pause(60.0, wakeable=False), Pause(60.0), Pause(60.0), None])
        workers.wake("a")
        await settle()
        await workers.finish(SECOND)
        assert work.done == ["a"] * 4
        assert clock.sleeping == 0
        assert len(asyncio.all_tasks()) == 1

    run(body())


def test_what_does_not_finish_in_time_is_cancelled():
    """A step that hangs is ended with the time for it."""

    async def body():
        _, work, workers = started(a=[None])
        work.gates["a"] = asyncio.Event()
        workers.wake("a")
        await settle()
        await workers.finish(timedelta(0))
        assert len(asyncio.all_tasks()) == 1

    run(body())


def test_cancelling_ends_steps_and_pauses():
    """Nothing runs or sleeps afterwards."""

    async def body():
        clock, work, workers = started(a=[Pause(60.0)], b=[None])
        work.gates["b"] = asyncio.Event()
        workers.wake("a")
        workers.wake("b")
        await settle()
        await workers.cancel()
        await settle()
        assert clock.sleeping == 0
        assert len(asyncio.all_tasks()) == 1

    run(body())


def test_a_step_that_dies_is_logged_and_the_next_wake_begins_anew(caplog):
    """A defect stops one task, is told with its traceback, and is not the end for the org."""

    async def body():
        _, work, workers = started(a=[RuntimeError("a defect"), None])
        workers.wake("a")
        await settle()
        workers.wake("a")
        await settle()
        assert (work.begun, work.done) == (["a", "a"], ["a", "a"])

    run(body())
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "a defect" in str(record.exc_info[1])


def test_an_org_that_rests_is_not_roused():
    """The mere chance of work begins a task where there is none, and does not shorten a pause."""

    async def body():
        clock, work, workers = started(a=[Pause(1), None])
        workers.rouse("a")
        await settle()
        workers.rouse("a")
        await settle()
        assert work.done == ["a"]
        clock.advance(SECOND)
        await settle()
        assert work.done == ["a"] * 2

    run(body())


def test_rousing_an_org_that_is_just_worked_for_makes_it_look_again():
    """What came while the step looked is not missed."""

    async def body():
        _, work, workers = started(a=[None, None])
        work.gates["a"] = asyncio.Event()
        workers.wake("a")
        await settle()
        workers.rouse("a")
        work.gates["a"].set()
        await settle()
        assert work.done == ["a"] * 2

    run(body())
