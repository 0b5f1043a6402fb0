"""Are the rows of both databases in order after a crash?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from power_loss.workload import JOURNAL, METADATA, Row, State, Story, memories_in

# Running totals change in place and have a check of their own.
TOTALS = {(JOURNAL, "ledger"), (JOURNAL, "backlog"), (JOURNAL, "agent_activity"), (METADATA, "config_version")}
PENDING = 0

_NOTHING: frozenset[Row] = frozenset()


def check_steps(state: State, story: Story, begun: int, done: int) -> None:
    """All steps that were done are there, and the one under way: whole or not, or in parts if it is in parts."""
    before, after = story.states[done], story.states[begun]
    if begun == done:
        assert differing(state, before) == []
    elif story.steps[done].whole:
        assert state in (before, after), (differing(state, before), differing(state, after))
    else:
        for table in (before.keys() | after.keys() | state.keys()) - TOTALS:
            rows, earlier, later = (each.get(table, _NOTHING) for each in (state, before, after))
            assert earlier & later <= rows <= earlier | later, table
        check_batches(state, before)


def differing(state: State, expected: State) -> list[tuple[str, str]]:
    """Return the tables in which two states differ."""
    return sorted(table for table in state.keys() | expected.keys() if state.get(table) != expected.get(table))


def check_batches(state: State, before: State) -> None:
    """An append is there whole or not at all."""
    parts: Counter[tuple[str, int]] = Counter()
    former = memories_in(before)
    for memory_id, content in memories_in(state).items():
        if memory_id not in former:
            name, _, count, _ = content.split("|", 3)
            parts[name, int(count)] += 1
    assert all(found == count for (_, count), found in parts.items()), parts


def check_totals(state: State) -> None:
    """The running totals are those of the rows; an org that was ever bound is bound to one instance."""
    waiting: Counter[str] = Counter()
    for row in state[JOURNAL, "journal"]:
        _, org_id, _, kind, size, *_ = row
        if kind == PENDING:
            waiting[str(org_id)] += int(str(size))
    ((_, _, pending_bytes),) = state[JOURNAL, "ledger"]
    assert pending_bytes == waiting.total()
    assert {org_id: size for org_id, size in state[JOURNAL, "backlog"] if size} == waiting
    instances = state[METADATA, "arc_instances"]
    bound = [org_id for _, org_id, *_, retired in instances if not retired]
    assert len(bound) == len(set(bound))
    assert set(bound) == {org_id for _, org_id, *_ in instances}


def check_claims(state: State, stored_before: Collection[str]) -> None:
    """No claim stands for a memory that nobody ever stored."""
    stored = memories_in(state).keys() | set(stored_before)
    for (file, table), rows in state.items():
        if file == JOURNAL and table.startswith("claims_"):
            assert {memory_id for _, _, memory_id, _ in rows} <= stored, table
    recent = {memory_id for _, _, _, memory_id, _ in state[JOURNAL, "recent_claims"]}
    assert recent - {""} <= stored, "recent_claims"
