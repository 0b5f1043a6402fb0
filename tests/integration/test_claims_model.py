"""Dedup by two processes whose transactions are groups of jobs and may fail, against a dictionary."""

import copy
from datetime import timedelta

import apsw
import pytest
from builders import MICROSECOND, draft, embedded_instance, instance, memory, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memtrace_core.dedup import DedupPolicy
from memtrace_core.entries import Duplicate
from memtrace_core.errors import JournalFull
from memtrace_core.forgotten import Forgotten
from memtrace_core.model import Memory
from memtrace_core.testing import ManualClock
from memtrace_core.timewindow import to_us
from memtrace_sqlite import SqliteJournal, claim_filter, claims, forgetting
from memtrace_sqlite.writer import _Job

ARC, EMBEDDED = instance("org_a"), embedded_instance("org_b")
TARGETS = (ARC, EMBEDDED)
HOUR = timedelta(hours=1)
WINDOW = 3 * HOUR
PAUSES = (timedelta(), MICROSECOND, timedelta(minutes=20), HOUR, WINDOW - MICROSECOND, WINDOW)
AGES = (timedelta(), HOUR, WINDOW - 3 * MICROSECOND, WINDOW - MICROSECOND, WINDOW)
TROUBLE = ("commit", "commit twice", "note", "remember")


class Failing(Exception):
    """What a job fails with that is broken."""


class Claimed:
    """A memory that was stored, as the dictionary knows it; its id may not be known yet."""

    def __init__(self, time, memory_id=None):
        self.time = time  # in µs
        self.memory_id = memory_id


class Expected:
    """What ought to be: who holds a key, what is stored, and the next moment."""

    def __init__(self):
        self.held = {}
        self.stored = {target.org_id: [] for target in TARGETS}
        self.cutoffs = {target.org_id: 0 for target in TARGETS}
        self.last = 0
        self.next = 0

    def copy(self):
        """Return what ought to be if nothing more happens."""
        other = copy.copy(self)
        other.held, other.cutoffs = dict(self.held), dict(self.cutoffs)
        other.stored = {org_id: list(kept) for org_id, kept in self.stored.items()}
        return other

    def begin(self, now):
        """Begin a transaction."""
        self.next = max(now, self.last + 1)

    def counts(self, time):
        """Tell whether a claim of that time is within the window."""
        return self.next - time < WINDOW // MICROSECOND

    def holder(self, org_id, key):
        """Return the memory that holds a key now, if any."""
        holder = self.held.get((org_id, key))
        return holder if holder and self.counts(holder.time) else None

    def claim(self, org_id, key, claimed):
        """Store a memory, which holds its key."""
        self.stored[org_id].append(claimed)
        if self.counts(claimed.time):
            self.held[org_id, key] = claimed

    def forget(self, org_id, forgotten):
        """Let go of the memories of an org for which `forgotten` is true."""
        self.stored[org_id] = [one for one in self.stored[org_id] if not forgotten(one)]
        self.held = {key: holder for key, holder in self.held.items() if key[0] != org_id or not forgotten(holder)}

    def tick(self):
        """Take a moment that is nobody else's."""
        self.last, self.next = self.next, self.next + 1
        return self.last


class Append:
    """Memories with some keys."""

    def __init__(self, target, keys):
        self._target, self._keys = target, keys

    def work(self, ledger):
        return ledger.append(self._target, [draft(key, dedup_key=key) for key in self._keys])

    def expect(self, expected):
        org_id, outcomes = self._target.org_id, []
        for key in self._keys:
            holder = expected.holder(org_id, key)
            if holder is None:
                made = Claimed(expected.tick())
                expected.claim(org_id, key, made)
                outcomes.append((True, made))
            else:
                outcomes.append((False, holder))
        return outcomes

    def compare(self, outcomes, result):
        for (stored, claimed), outcome in zip(outcomes, result, strict=True):
            if stored:
                assert isinstance(outcome, Memory)
                assert to_us(outcome.time) == claimed.time
                claimed.memory_id = outcome.memory_id
            else:
                assert outcome == Duplicate(claimed.memory_id)


class Import:
    """Memories from elsewhere, of the embedded store, with keys that nobody holds."""

    def __init__(self, memories):
        self._memories = memories

    def work(self, ledger):
        return len(ledger.admit(EMBEDDED, self._memories).stored)

    def expect(self, expected):
        org_id, stored = EMBEDDED.org_id, 0
        for one in self._memories:
            claimed = Claimed(to_us(one.time), one.memory_id)
            if claimed.time >= expected.cutoffs[org_id]:
                stored += 1
                expected.claim(org_id, one.dedup_key, claimed)
        return stored

    def compare(self, stored, result):
        assert result == stored


class ForgetAll:
    """An order to forget what an org has, younger memories than `before` apart, and portions of its execution."""

    def __init__(self, target, before, sweeps):
        self._target, self._before, self._sweeps = target, before, sweeps

    def work(self, ledger):
        what = Forgotten(before=self._before)
        ledger.forget(self._target.org_id, what, in_arc=False, reason="asked")
        for _ in range(self._sweeps):
            ledger.sweep(self._target.org_id)

    def expect(self, expected):
        org_id = self._target.org_id
        cutoff = min(to_us(self._before), expected.tick())
        expected.cutoffs[org_id] = max(cutoff, expected.cutoffs[org_id])
        expected.forget(org_id, lambda one: one.time < cutoff)

    def compare(self, expected, result):
        assert result is expected is None


class ForgetOne:
    """An order to forget one memory, or its removal from the journal for good."""

    def __init__(self, target, memory_id, drop):
        self._target, self._memory_id, self._drop = target, memory_id, drop and not target.embedded

    def work(self, ledger):
        if self._drop:
            ledger.drop(self._target.org_id, [self._memory_id])
        else:
            what = Forgotten.one(self._memory_id)
            ledger.forget(self._target.org_id, what, in_arc=False, reason="asked")

    def expect(self, expected):
        if not self._drop:
            expected.tick()
        expected.forget(self._target.org_id, lambda one: one.memory_id == self._memory_id)

    def compare(self, expected, result):
        assert result is expected is None


class Purge:
    """The removal of all that is of an org."""

    def __init__(self, target):
        self._org_id = target.org_id

    def work(self, ledger):
        while ledger.purge_some(self._org_id):
            pass

    def expect(self, expected):
        expected.forget(self._org_id, lambda _: True)
        expected.cutoffs[self._org_id] = 0

    def compare(self, expected, result):
        assert result is expected is None


class Fail:
    """A job that claims keys and then fails, by a fault of its own or as the disk is full."""

    def __init__(self, target, keys, error):
        self._append, self._error = Append(target, keys), error

    def work(self, ledger):
        self._append.work(ledger)
        ledger.write_rows()
        raise self._error

    def expect(self, _):
        raise self._error


class World:
    """Two processes that use one journal in turn, each of whose transactions is watched."""

    def __init__(self, folder):
        self.clock = ManualClock()
        self.expected = Expected()
        self._path = folder / "journal.db"
        self._journals = [self._open(), self._open()]
        self._commits_to_fail = 0
        self._imported = 0

    def _open(self):
        journal = SqliteJournal(self._path, self.clock, DedupPolicy(True, WINDOW))
        journal._connection.set_commit_hook(self._fail_commit)
        return journal

    def _fail_commit(self):
        self._commits_to_fail -= 1
        return self._commits_to_fail >= 0

    async def restart(self, which):
        """Let another process take the place of one."""
        await self._journals[which].close()
        self._journals[which] = self._open()

    async def close(self):
        """End both processes."""
        for journal in self._journals:
            await journal.close()

    def jobs(self, plans):
        """Make the jobs of a group of what was drawn."""
        self.expected.begin(to_us(self.clock.now()))
        jobs, named = [], set()
        for kind, target, numbers, choice in plans:
            keys = [f"k{number}" for number in numbers]
            stored = self.expected.stored[target.org_id]
            if kind in ("fail", "full"):
                jobs.append(Fail(target, keys, Failing() if kind == "fail" else apsw.FullError()))
            elif kind == "import":
                # Whether a memory from elsewhere gets a key that is held depends on where that claim lies.
                free = [
                    key
                    for key in dict.fromkeys(keys)
                    if key not in named and self.expected.holder(EMBEDDED.org_id, key) is None
                ]
                jobs.append(Import([self._elsewhere(key, AGES[choice % len(AGES)]) for key in free]))
                named.update(free)
            elif kind == "forget all":
                before = self.clock.now() + (timedelta(days=1), -HOUR)[choice % 2]
                jobs.append(ForgetAll(target, before, choice % 3))
            elif kind == "forget and repeat":
                jobs.append(Append(target, keys))
                jobs.append(ForgetAll(target, self.clock.now() + HOUR, 0))
                jobs.append(Append(target, keys[:1]))
                if target is EMBEDDED:
                    named.update(keys)
            elif kind == "forget" and stored:
                jobs.append(ForgetOne(target, stored[-1 - choice % len(stored)].memory_id, choice % 2))
            elif kind == "purge":
                jobs.append(Purge(target))
            else:
                jobs.append(Append(target, keys))
                if target is EMBEDDED:
                    named.update(keys)
        return jobs

    def _elsewhere(self, key, age):
        self._imported += 1
        return memory(self.clock.now() - age, EMBEDDED.org_id, salt=self._imported, dedup_key=key)

    def commit(self, which, jobs, trouble):
        """Run jobs in one transaction, as the writer does with those that wait together."""
        journal = self._journals[which]
        self._commits_to_fail = ("commit", "commit twice").index(trouble) + 1 if "commit" in trouble else 0
        outcomes = self._expect(jobs, self._commits_to_fail)
        group = [_Job(job.work) for job in jobs]
        with pytest.MonkeyPatch.context() as patch:
            known = journal._writer._state._claims
            if trouble == "note":
                patch.setattr(known._recent.__class__, "added", property(lambda _: 1 / 0))
            elif trouble == "remember":
                patch.setattr(known._recent, "committed", lambda: 1 / 0)
            journal._writer._commit(group)
        self._commits_to_fail = 0
        for job, one, expected in zip(jobs, group, outcomes, strict=True):
            if isinstance(expected, type):
                assert isinstance(one.error, expected)
            else:
                assert one.error is None
                job.compare(expected, one.result)

    def _expect(self, jobs, commits_to_fail):
        before = self.expected.copy()
        self.expected.begin(to_us(self.clock.now()))
        try:
            outcomes = [job.expect(self.expected) for job in jobs]
            if commits_to_fail:
                raise apsw.ConstraintError
        except apsw.FullError:
            self.expected = before
            return [JournalFull] * len(jobs)
        except (Failing, apsw.ConstraintError) as error:
            self.expected = before
            commits_to_fail -= isinstance(error, apsw.ConstraintError)
            if len(jobs) == 1:
                return [type(error)]
            outcomes = []
            for job in jobs:
                outcomes += self._expect([job], commits_to_fail)
                commits_to_fail -= outcomes[-1] is apsw.ConstraintError
        return outcomes

    async def check_stored(self):
        """See that all that ought to be is in the file, once, and nothing else."""
        for target in TARGETS:
            while await self._journals[0]._writer.run(lambda ledger, org_id=target.org_id: ledger.sweep(org_id)):
                pass
        connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
        for target, sql in (
            (ARC, "SELECT memory_id FROM journal WHERE org_id = ?"),
            (EMBEDDED, "SELECT memory_id FROM embedded JOIN stores USING (store) WHERE org_id = ?"),
        ):
            found = sorted(connection.execute(sql, (target.org_id,)))
            assert found == sorted((one.memory_id,) for one in self.expected.stored[target.org_id])
        assert connection.pragma("integrity_check") == "ok"
        connection.close()


async def play(folder, steps):
    """Let two processes do what was drawn, each step one transaction, and compare each with what ought to be."""
    world = World(folder)
    for which, pause, plans, trouble, restart in steps:
        world.clock.advance(pause)
        if restart:
            await world.restart(which)
        world.commit(which, world.jobs(plans), trouble)
    await world.check_stored()
    await world.close()


KINDS = (
    ("append",) * 12
    + ("import",) * 3
    + ("forget all", "forget and repeat") * 2
    + ("forget",) * 2
    + ("purge", "fail", "full")
)
PLANS = st.tuples(
    st.sampled_from(KINDS),
    st.sampled_from(TARGETS),
    st.lists(st.integers(0, 12), min_size=1, max_size=6),
    st.integers(0, 30),
)
STEPS = st.tuples(
    st.integers(0, 1),
    st.sampled_from(PAUSES[:1] * 4 + PAUSES),
    st.lists(PLANS, min_size=1, max_size=5),
    st.sampled_from(("",) * 8 + TROUBLE),
    st.sampled_from((False,) * 9 + (True,)),
)


def small(patch, bits):
    """Have claims move and be learned in portions of a few, from one small table to the next."""
    patch.setattr(claims, "PORTION", 3)
    patch.setattr(claims, "LEARNED_AT_ONCE", 2)
    patch.setattr(claims, "LARGE_TABLE", 7)
    patch.setattr(claim_filter, "FILTER_BITS", bits)
    patch.setattr(forgetting, "SWEPT_AT_ONCE", 1)


@pytest.mark.parametrize("bits", [1 << 6, 1 << 16])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(steps=st.lists(STEPS, min_size=15, max_size=60))
def test_groups_of_jobs_that_may_fail_agree_with_a_dictionary(new_folder, monkeypatch, bits, steps):
    """Whatever is stored, imported, forgotten and purged together, and at whatever point it fails: a key is refused
    exactly when it should be, and what was answered is stored once.
    """
    small(monkeypatch, bits)
    run(play(new_folder(), steps))
