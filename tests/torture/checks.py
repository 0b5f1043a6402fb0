"""The judgement over a history: pure, and in time that grows with its length (sorting apart)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise

from torture.fates import Birth, Fates, birth_of
from torture.history import Attempt, Fields, History, Known, Reading, Stored, Violation
from torture.sent import as_stored, is_as_sent, microseconds

Position = tuple[datetime, str]


def check(history: History) -> list[Violation]:
    """Return every broken promise."""
    by_org: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in history.attempts:
        by_org[attempt.org].append(attempt)
    senders = {_content_key(attempt.sent): attempt.org for attempt in history.attempts}
    fates = Fates(history.orders)
    owners = {
        attempt.outcome.memory["memory_id"]: attempt.org
        for attempt in history.attempts
        if isinstance(attempt.outcome, Stored)
    }
    return [
        *(
            violation
            for reading in history.readings
            for violation in _Judge(reading, by_org[reading.org], senders, owners, fates).violations()
        ),
        *order_of_acknowledgement(history.attempts),
        *times_of_the_journal(history.readings),
        *what_lies_in_arc(history, fates),
    ]


def position_of(memory: Fields) -> Position:
    """Return where a memory stands in its org's order."""
    return datetime.fromisoformat(memory["time"]), memory["memory_id"]


class _Judge:
    """Compares what one org reads with what it sent and was answered."""

    def __init__(
        self,
        reading: Reading,
        attempts: Sequence[Attempt],
        senders: Mapping[str, str],
        owners: Mapping[str, str],
        fates: Fates,
    ) -> None:
        self._org = reading.org
        self._reading = reading
        self._attempts = attempts
        self._senders, self._owners, self._fates = senders, owners, fates
        self._read = {memory["memory_id"]: memory for memory in reading.memories}
        self._acknowledged = {
            attempt.outcome.memory["memory_id"]: attempt
            for attempt in attempts
            if isinstance(attempt.outcome, Stored)
        }
        self._by_content: dict[str, list[Attempt]] = defaultdict(list)
        for attempt in attempts:
            self._by_content[_content_key(attempt.sent)].append(attempt)
        self._by_sameness: dict[str, list[Attempt]] = defaultdict(list)
        for attempt in attempts:
            self._by_sameness[attempt.sameness].append(attempt)
        # Stored, though the answer never came: id → the unanswered attempts that may have brought it.
        self._silent: dict[str, list[Attempt]] = {}

    def violations(self) -> Iterator[Violation]:
        yield from self._order()
        yield from self._acknowledgements()
        yield from self._others()
        yield from self._one_memory_for_the_same()
        yield from self._duplicates()
        yield from self._batches()
        yield from self._follower()

    def _order(self) -> Iterator[Violation]:
        positions = [position_of(memory) for memory in self._reading.memories]
        for former, latter in pairwise(positions):
            if not former < latter and former[1] != latter[1]:
                yield self._violation("out of order", f"{latter[1]} is read after {former[1]}")
        for memory_id, times in Counter(memory_id for _, memory_id in positions).items():
            if times > 1:
                yield self._violation("doubled", f"{memory_id} is read {times} times")

    def _acknowledgements(self) -> Iterator[Violation]:
        for attempt in self._attempts:
            if not isinstance(attempt.outcome, Stored):
                continue
            answer = attempt.outcome.memory
            memory_id = answer["memory_id"]
            if self._acknowledged[memory_id] is not attempt:
                yield self._violation("doubled", f"{memory_id} was answered to two requests")
            if answer["org_id"] != self._org or not is_as_sent(answer, attempt.sent):
                yield self._violation("altered", f"the answer {answer} to {attempt.sent}")
            found, birth = self._read.get(memory_id), birth_of(attempt, memory_id)
            if found is None:
                if not self._fates.may_be_gone(birth):
                    kind = "overforgotten" if self._fates.any_since(self._org, attempt.began) else "lost"
                    yield self._violation(kind, f"{memory_id}, {_shown(answer)}")
            elif self._fates.gone_at(birth) is not None:
                yield self._violation("resurrected", f"{memory_id}, {_shown(answer)}, is read")
            elif found != answer:
                yield self._violation("altered", f"{found} was {answer} when it was acknowledged")

    def _others(self) -> Iterator[Violation]:
        """Judge the memories that no 201 named: each must be one that was sent and never answered."""
        for memory_id, memory in self._read.items():
            same_content = self._by_content.get(_content_key(memory), [])
            if memory["org_id"] != self._org:
                yield self._violation("foreign", f"{_shown(memory)} is of {memory['org_id']}")
            elif memory_id in self._acknowledged:
                continue
            elif not same_content:
                sender = self._senders.get(_content_key(memory))
                yield self._violation("foreign" if sender else "unsent", f"{_shown(memory)}, sent by {sender}")
            elif not (exact := [one for one in same_content if is_as_sent(memory, one.sent)]):
                yield self._violation("altered", f"{memory} was sent as {same_content[0].sent}")
            elif unanswered := [one for one in exact if one.outcome is None]:
                if all(self._fates.gone_at(birth_of(one, memory_id)) is not None for one in unanswered):
                    yield self._violation("resurrected", f"{memory_id}, {_shown(memory)}, is read")
                self._silent[memory_id] = unanswered
            else:
                yield self._violation("doubled", f"{_shown(memory)} has a second copy under {memory_id}")

    def _one_memory_for_the_same(self) -> Iterator[Violation]:
        self._copies: dict[str, set[str]] = defaultdict(set)
        for memory_id, attempt in self._acknowledged.items():
            self._copies[attempt.sameness].add(memory_id)
        for memory_id, (attempt, *_) in self._silent.items():
            self._copies[attempt.sameness].add(memory_id)
        for sameness, ids in self._copies.items():
            silent = sum(one.outcome is None for one in self._by_sameness[sameness])
            if len(ids & self._silent.keys()) > silent:
                yield self._violation("doubled", f"{sameness} was sent {silent} times without an answer: {ids}")
            for former, latter in pairwise(sorted(ids)):
                if not self._may_be_stored_again(former, latter):
                    yield self._violation("doubled", f"{sameness} is stored as {former}, {latter}")

    def _may_be_stored_again(self, former: str, latter: str) -> bool:
        """Tell whether an order that was given in time has freed a claim, or may have."""
        return any(
            self._fates.may_be_stored_again(
                birth_of(first, former),
                second.ended,
                own_key="dedup_key" in second.sent,
                over_arc=self._reading.over_arc,
            )
            for first in self._sources_of(former)
            for second in self._sources_of(latter)
            if first is not second
        )

    def _sources_of(self, memory_id: str) -> Sequence[Attempt]:
        """Return the attempts of which one has stored a memory."""
        attempt = self._acknowledged.get(memory_id)
        return self._silent[memory_id] if attempt is None else [attempt]

    def _duplicates(self) -> Iterator[Violation]:
        for attempt in self._attempts:
            if not isinstance(attempt.outcome, Known):
                continue
            memory_id = attempt.outcome.memory_id
            first = self._acknowledged.get(memory_id)
            origins = [first] if first else self._silent.get(memory_id, [])
            if not origins and self._silently_forgotten(attempt):
                continue
            if not any(one.sameness == attempt.sameness and one.began < attempt.ended for one in origins):
                yield self._violation("unjustified", f"{_shown(attempt.sent)} is no duplicate of {memory_id}")
            gone_at = first and self._fates.gone_at(birth_of(first, memory_id))
            if gone_at is not None and gone_at < attempt.began:
                yield self._violation("unjustified", f"{_shown(attempt.sent)} is no duplicate: {memory_id} is gone")

    def _silently_forgotten(self, attempt: Attempt) -> bool:
        """Tell whether a duplicate may be one of a memory that was stored without an answer, and then forgotten."""
        return any(
            one.outcome is None
            and one.sameness == attempt.sameness
            and one.began < attempt.ended
            and self._fates.may_be_gone(birth_of(one))
            for one in self._by_sameness[attempt.sameness]
        )

    def _batches(self) -> Iterator[Violation]:
        """Look at batches without an answer: all of their members were stored, or none."""
        batches: dict[int, list[Attempt]] = defaultdict(list)
        for attempt in self._attempts:
            if attempt.outcome is None:
                batches[attempt.request].append(attempt)
        for members in batches.values():
            fates: dict[bool, Attempt] = {}
            for member in members if len(members) > 1 else ():
                others = [one for one in self._by_sameness[member.sameness] if one.request != member.request]
                # What was also sent at another time without an answer, or before, says nothing about this one.
                sure = all(one.outcome is not None and one.began > member.ended for one in others)
                # Of twins in it one was stored, and an order may have met that one alone.
                twins = [one for one in members if one.sameness == member.sameness]
                if sure and not any(self._fates.may_be_gone(birth_of(one)) for one in twins):
                    by_others = {
                        one.outcome.memory["memory_id"] for one in others if isinstance(one.outcome, Stored)
                    }
                    fates[bool(self._copies.get(member.sameness, set()) - by_others)] = member
            if len(fates) == 2:
                yield self._violation(
                    "torn",
                    f"a batch is stored with {_shown(fates[True].sent)} and without {_shown(fates[False].sent)}",
                )

    def _follower(self) -> Iterator[Violation]:
        followed = Counter(self._reading.followed)
        for memory_id in self._read.keys() - followed.keys():
            yield self._violation("skipped", f"the follower never met {memory_id}")
        for memory_id, times in followed.items():
            if memory_id not in self._read and not self._may_be_forgotten(memory_id):
                kind = "overforgotten" if self._fates.any_since(self._org, 0) else "lost"
                if self._owners.get(memory_id, self._org) != self._org:
                    kind = "foreign"
                yield self._violation(kind, f"the follower met {memory_id}, which is not there")
            if times > 1:
                yield self._violation("doubled", f"the follower met {memory_id} {times} times")
        still_there = [memory_id for memory_id in followed if memory_id in self._read]
        if len(still_there) == len(self._read) and still_there != list(self._read):
            yield self._violation("out of order", "the follower met memories in another order")

    def _may_be_forgotten(self, memory_id: str) -> bool:
        """Tell whether what the follower met may be forgotten; what no answer named may have met any order."""
        attempt = self._acknowledged.get(memory_id)
        if attempt is None:
            return memory_id not in self._owners and self._fates.any_since(self._org, 0)
        return self._fates.may_be_gone(birth_of(attempt, memory_id))

    def _violation(self, kind: str, what: str) -> Violation:
        return Violation(kind, self._org, what)


def order_of_acknowledgement(attempts: Iterable[Attempt]) -> Iterator[Violation]:
    """Check that what was acknowledged before another request began has the lower time, over all orgs."""
    stored = [attempt for attempt in attempts if isinstance(attempt.outcome, Stored)]
    timed = [(attempt, position_of(attempt.outcome.memory)) for attempt in stored]
    for (former, earlier), (latter, later) in pairwise(timed):
        if former.request == latter.request and not earlier < later:
            yield Violation("out of order", latter.org, f"{later[1]} stands behind {earlier[1]} in its batch")
    ends = sorted(timed, key=lambda one: one[0].ended)
    done, newest = 0, None
    for attempt, position in sorted(timed, key=lambda one: one[0].began):
        while ends[done][0].ended < attempt.began:
            newest = max(newest, ends[done][1]) if newest else ends[done][1]
            done += 1
        if newest is not None and position[0] <= newest[0]:
            yield Violation("out of order", attempt.org, f"{position[1]} was sent after the answer {newest[1]}")


def times_of_the_journal(readings: Iterable[Reading]) -> Iterator[Violation]:
    """Check that no two memories of one journal share a time, whosever they are."""
    seen: dict[str, str] = {}
    for reading in readings:
        for memory in {memory["memory_id"]: memory for memory in reading.memories}.values():
            other = seen.setdefault(memory["time"], memory["memory_id"])
            if other != memory["memory_id"]:
                yield Violation("out of order", reading.org, f"{memory['memory_id']} has the time of {other}")


def what_lies_in_arc(history: History, fates: Fates) -> Iterator[Violation]:
    """Check that Arc holds what its orgs read, what is set aside apart, and nothing else."""
    by_org = {reading.org: reading for reading in history.readings}
    stored = {
        attempt.outcome.memory["memory_id"]: attempt
        for attempt in history.attempts
        if isinstance(attempt.outcome, Stored)
    }
    for table in history.tables:
        rows: dict[str, dict[str, Fields]] = {org: {} for org in table.orgs}
        for row in table.rows:
            if row["org_id"] not in rows:
                yield Violation("foreign", row["org_id"], f"its {row['memory_id']} lies in Arc in another's table")
                continue
            first = rows[row["org_id"]].setdefault(row["memory_id"], row)
            if as_stored(first) != as_stored(row):
                yield Violation("altered", row["org_id"], f"Arc holds two versions of {row['memory_id']}")
        for org, held in rows.items():
            if org in by_org:
                yield from _arc_of(by_org[org], held, stored, fates)


def _arc_of(
    reading: Reading, held: Mapping[str, Fields], stored: Mapping[str, Attempt], fates: Fates
) -> Iterator[Violation]:
    read = {memory["memory_id"]: memory for memory in reading.memories}
    for memory_id in read.keys() - held.keys() - reading.set_aside:
        kind = "overforgotten" if fates.any_since(reading.org, 0) else "lost"
        yield Violation(kind, reading.org, f"{memory_id} is read, but does not lie in Arc")
    for memory_id in held.keys() - read.keys():
        attempt = stored.get(memory_id)
        born = birth_of(attempt, memory_id) if attempt else _seen_in(held[memory_id], reading.org)
        kind = "resurrected" if fates.may_be_gone(born) else "unsent"
        yield Violation(kind, reading.org, f"{memory_id} lies in Arc, but is not read")
    for memory_id in held.keys() & read.keys():
        row, memory = held[memory_id], read[memory_id]
        if (row["time"], row["content"]) != (microseconds(memory["time"]), memory["content"]):
            yield Violation("altered", reading.org, f"{memory_id} in Arc is not what is read")


def _seen_in(row: Fields, org: str) -> Birth:
    """Return the birth of a row that no answer named: any time."""
    return Birth(
        org=org,
        memory_id=row["memory_id"],
        agent=row["agent_id"],
        session=row["session_id"] or None,
        began=0,
        ended=0,
    )


def _content_key(fields: Fields) -> str:
    return str(fields["content"])


def _shown(fields: Fields) -> str:
    return repr(fields["content"][:60])
