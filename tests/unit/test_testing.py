import asyncio
from datetime import UTC, timedelta

import pytest
from builders import START, run, settle

from memtrace_core.clock import SystemClock
from memtrace_core.testing import ManualClock

SECOND = timedelta(seconds=1)


def test_a_manual_clock_stands_still_until_it_is_moved():
    """Time of day and monotonic time move by what they are told, together."""
    clock = ManualClock(START)
    assert (clock.now(), clock.monotonic()) == (START, 0.0)
    clock.advance(SECOND)
    assert (clock.now(), clock.monotonic()) == (START + SECOND, 1.0)


def test_moving_a_clock_in_parts_is_moving_it_by_their_sum():
    """A sleeper wakes exactly when its time is over, in however many steps that comes."""

    async def body():
        clock = ManualClock()
        clock.advance(SECOND)
        sleeper = asyncio.create_task(clock.sleep(1))
        await settle()
        for part in (timedelta(microseconds=999_999), timedelta(microseconds=1)):
            assert clock.sleeping == 1
            clock.advance(part)
        assert clock.sleeping == 0
        await settle()
        assert sleeper.done()

    run(body())


def test_the_time_of_day_can_jump_back_alone():
    """A clock that is set back keeps its monotonic time."""
    clock = ManualClock(START)
    clock.advance(SECOND)
    clock.set_back(2 * SECOND)
    assert (clock.now(), clock.monotonic()) == (START - SECOND, 1.0)


def test_sleepers_wake_when_their_time_has_come_and_in_order():
    """Moving the clock wakes whoever slept until then, the earliest first, and nobody else."""

    async def body():
        clock, woken = ManualClock(), []

        async def sleep(seconds):
            await clock.sleep(seconds)
            woken.append(seconds)

        tasks = [asyncio.create_task(sleep(seconds)) for seconds in (3, 1, 2)]
        await settle()
        assert clock.sleeping == 3
        clock.advance(2 * SECOND)
        await settle()
        assert (woken, clock.sleeping) == ([1, 2], 1)
        clock.advance(SECOND)
        await asyncio.gather(*tasks)
        assert (woken, clock.sleeping) == ([1, 2, 3], 0)

    run(body())


def test_a_cancelled_sleeper_is_not_counted():
    """Who gave up does not sleep any more, and waking the others is not disturbed."""

    async def body():
        clock = ManualClock()
        gone, stays = (asyncio.create_task(clock.sleep(1)) for _ in range(2))
        await settle()
        gone.cancel()
        await settle()
        assert clock.sleeping == 1
        clock.advance(SECOND)
        await stays
        with pytest.raises(asyncio.CancelledError):
            await gone

    run(body())


def test_the_clock_of_the_machine_tells_the_time_in_utc():
    """Real time is aware, in UTC, and its monotonic twin does not run backwards."""
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() <= clock.monotonic()
    run(clock.sleep(0))
