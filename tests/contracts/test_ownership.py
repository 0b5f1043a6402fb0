import pytest

from memtrace_core.testing import InMemoryOwnership
from memtrace_sqlite import JournalOwnership


@pytest.fixture(params=["in memory", "sqlite"])
def contender(request, tmp_path):
    """Return a function that makes another contender for the same journal."""
    journal, contenders = tmp_path / "journal.db", []
    journal.touch()
    return lambda: InMemoryOwnership(contenders) if request.param == "in memory" else JournalOwnership(journal)


def test_nobody_is_the_owner_before_it_asks(contender):
    """A process that has not asked, like an admin command, keeps nobody else from being the owner."""
    idle, other = contender(), contender()
    assert not idle.held
    assert other.take()
    other.release()


def test_there_is_one_owner_at_a_time(contender):
    """While one is the owner nobody else becomes it, however often it asks; the owner is told that it still is."""
    one, other = contender(), contender()
    assert one.take()
    assert [other.take(), other.take(), one.take()] == [False, False, True]
    assert (one.held, other.held) == (True, False)
    one.release()


def test_another_one_takes_over_after_the_release(contender):
    """The ownership can change hands again and again; to release it twice, or without having it, does nothing."""
    one, other = contender(), contender()
    for former, new in ((one, other), (other, one)):
        assert former.take()
        former.release()
        former.release()
        assert not former.held
        assert new.take()
        assert not former.take()
        new.release()
