from datetime import timedelta

import pytest
from builders import ORG, OTHER_ORG

from memtrace_core.errors import TooManyRequests
from memtrace_core.limits import FairUse, Limits
from memtrace_core.model import Permission, Principal
from memtrace_core.testing import ManualClock

SECOND = timedelta(seconds=1)


def who(key_id="key_a", org_id=ORG):
    """Return a caller."""
    return Principal(org_id=org_id, permissions=Permission.READ, key_id=key_id)


def passed(limits, count, principal=None):
    """Return how many of so many requests at once are let through, each ended at once."""
    through = 0
    for _ in range(count):
        try:
            limits.enter(principal or who())
        except TooManyRequests:
            continue
        through += 1
        limits.leave(principal or who())
    return through


def test_without_limits_everything_passes():
    """The default keeps nobody out."""
    assert passed(Limits(ManualClock(), FairUse()), 10_000) == 10_000


@pytest.mark.parametrize("burst", [1, 2, 20])
def test_a_burst_passes_at_once_and_no_more(burst):
    """So many requests may come in one moment; the next one must wait, and is told how long."""
    limits = Limits(ManualClock(), FairUse(requests_per_second=0.5, burst=burst))
    assert passed(limits, burst + 5) == burst
    with pytest.raises(TooManyRequests) as refused:
        limits.enter(who())
    assert refused.value.retry_after == 2


@pytest.mark.parametrize(("rate", "burst"), [(0.5, 5), (3, 5), (10, 5), (1000, 150)])
def test_in_the_long_run_the_rate_holds(rate, burst):
    """However eager a key is, a minute lets through a minute's worth, and the burst."""
    clock = ManualClock()
    limits = Limits(clock, FairUse(requests_per_second=rate, burst=burst))
    through = 0
    for _ in range(600):
        through += passed(limits, burst + 1)
        clock.advance(SECOND / 10)
    assert abs(through - (60 * rate + burst)) <= max(1, rate / 10)


def test_who_waits_as_told_is_let_through():
    """A refused request costs nothing: after `retry_after` seconds the next one passes."""
    clock = ManualClock()
    limits = Limits(clock, FairUse(requests_per_second=0.1, burst=1))
    assert passed(limits, 50) == 1
    clock.advance(SECOND * 10)
    assert passed(limits, 50) == 1


def test_each_key_has_its_own_rate():
    """One key's eagerness is not another's, even within an org."""
    limits = Limits(ManualClock(), FairUse(requests_per_second=1, burst=3))
    assert passed(limits, 10) == 3
    assert passed(limits, 10, who("key_b")) == 3
    assert passed(limits, 10, who(None)) == 3


def test_so_many_requests_of_an_org_may_be_under_way():
    """Over all of its keys; another org has its own, and each end makes room."""
    limits = Limits(ManualClock(), FairUse(in_flight=2))
    limits.enter(who("key_a"))
    limits.enter(who("key_b"))
    with pytest.raises(TooManyRequests) as refused:
        limits.enter(who("key_c"))
    assert refused.value.retry_after == 1
    limits.enter(who("key_d", OTHER_ORG))
    limits.leave(who("key_b"))
    limits.enter(who("key_c"))
    with pytest.raises(TooManyRequests):
        limits.enter(who("key_a"))


def test_a_refusal_for_what_is_under_way_costs_no_part_of_the_rate():
    """Otherwise a busy org would be refused for longer than it is busy."""
    limits = Limits(ManualClock(), FairUse(requests_per_second=1, burst=2, in_flight=1))
    limits.enter(who())
    for _ in range(5):
        with pytest.raises(TooManyRequests):
            limits.enter(who())
    limits.leave(who())
    limits.enter(who())
