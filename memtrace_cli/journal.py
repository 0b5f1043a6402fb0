"""`memtrace journal`: what is on its way to the organizations' Arcs."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from enum import Enum
from typing import Annotated

from cyclopts import App, Parameter

from memtrace_cli import output
from memtrace_cli.admin import administer
from memtrace_core import Org, Services
from memtrace_core.entries import EntryState, JournalEntry, OrgBacklog

app = App(name="journal")

SHOWN_CHARACTERS = 60

Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")]
Yes = Annotated[bool, Parameter(name="--yes", alias="-y", negative=(), help="Do not ask.")]


class State(Enum):
    """The states by the names that the command line has for them."""

    PENDING = "pending"
    DELIVERED = "delivered"
    SET_ASIDE = "set-aside"

    @property
    def meaning(self) -> EntryState:
        """The state of the journal."""
        return EntryState[self.name]


States = Annotated[
    tuple[State, ...],
    Parameter(name="--state", negative=(), help="Only memories in this state; may be given several times."),
]


@app.command
def status(*, as_json: Json = False) -> None:
    """Show, organization by organization, how many memories wait, and for how long.

    Pending ones wait for delivery. Delivered ones wait to be seen in Arc. Arc refuses those that are set aside.

    Example: memtrace journal status
    """

    async def work(services: Services) -> tuple[list[tuple[Org, OrgBacklog | None]], datetime]:
        return await services.backlog.status(), services.clock.now()

    found, now = administer(work)
    if as_json:
        output.say_json([_counted(org, backlog) for org, backlog in found])
        return
    rows = [
        (
            org.id,
            org.name,
            str(backlog.pending),
            str(backlog.delivered),
            str(backlog.set_aside),
            _age(now - backlog.oldest) if backlog.oldest else "-",
            output.shown_bytes(backlog.pending_bytes),
        )
        for org, backlog in found
        if backlog is not None
    ]
    output.say_table(("ID", "NAME", "PENDING", "DELIVERED", "SET ASIDE", "OLDEST", "BYTES"), rows)
    if any(backlog and backlog.set_aside for _, backlog in found):
        output.suggest("memtrace journal list ORG_ID --state set-aside")


@app.command(name="list")
def list_entries(org_id: str, /, *, state: States = (), limit: int = 50, as_json: Json = False) -> None:
    """List an organization's memories in the journal, the oldest first, with what Arc said of them.

    Example: memtrace journal list org_a1b2c3 --state set-aside

    Parameters
    ----------
    org_id
        The organization.
    limit
        The most there may be.
    """
    if limit < 1:
        raise output.Misused("--limit must be at least 1")

    async def work(services: Services) -> tuple[list[JournalEntry], bool]:
        found: list[JournalEntry] = []
        async for entry in services.backlog.entries(org_id, _meant(state)):
            if len(found) == limit:
                return found, True
            found.append(entry)
        return found, False

    found, more = administer(work)
    if as_json:
        output.say_json([_described(entry) for entry in found])
    else:
        output.say_table(
            ("ID", "TIME", "STATE", "AGENT", "CONTENT", "ANSWER"),
            [
                (
                    entry.memory.memory_id,
                    output.shown_time(entry.memory.time),
                    State[entry.state.name].value,
                    output.one_line(entry.memory.agent_id),
                    _shortened(entry.memory.content),
                    _shortened(entry.answer or "-"),
                )
                for entry in found
            ],
        )
    if more:
        output.note(f"there are more than {limit}; see --limit, or `memtrace journal export {org_id}`")


@app.command
def retry(org_id: str, /, *memory_ids: str) -> None:
    """Send memories again that Arc refused and that are set aside: the named ones, or all.

    Example: memtrace journal retry org_a1b2c3

    Parameters
    ----------
    org_id
        The organization.
    memory_ids
        Ids of memories; all that are set aside if none is given.
    """
    sent = administer(lambda services: services.backlog.retry(org_id, memory_ids))
    output.say(f"{output.shown_memories(sent)} will be sent again")


@app.command
def drop(org_id: str, /, *memory_ids: str, state: States = (), yes: Yes = False) -> None:
    """Give memories up for good: the named ones, and all in a state. What Arc has of them stays there.

    Example: memtrace journal drop org_a1b2c3 --state set-aside

    Parameters
    ----------
    org_id
        The organization.
    memory_ids
        Ids of memories.
    """
    if not memory_ids and not state:
        raise output.Misused("name the memories to drop, or their --state")
    named = [output.shown_memories(len(memory_ids))] if memory_ids else []
    meant = " and ".join(named + [f"all {one.value} memories" for one in state])

    async def work(services: Services) -> int:
        org = await services.tenants.get_org(org_id)
        if not yes:
            if not sys.stdin.isatty():
                raise output.Misused("dropping memories needs --yes where there is no terminal")
            output.note(f"This drops {meant} of {org.name!r} ({org.id}) from the journal, for good.")
            if not output.confirm("Drop them?"):
                raise output.Aborted("nothing was dropped")
        return await services.backlog.drop(org_id, memory_ids, [one.meaning for one in state])

    output.say(f"{output.shown_memories(administer(work))} dropped")


@app.command
def export(org_id: str, /, *, state: States = ()) -> None:
    """Print an organization's memories in the journal, whole, one JSON object a line, the oldest first.

    Example: memtrace journal export org_a1b2c3 --state set-aside > refused.jsonl

    Parameters
    ----------
    org_id
        The organization.
    """

    async def work(services: Services) -> None:
        async for entry in services.backlog.entries(org_id, _meant(state)):
            output.say_json_line(_described(entry))

    administer(work)


def _meant(states: tuple[State, ...]) -> tuple[EntryState, ...]:
    return tuple(dict.fromkeys(one.meaning for one in states or State))


def _counted(org: Org, backlog: OrgBacklog | None) -> dict[str, object]:
    return {
        "org_id": org.id,
        "name": org.name,
        "pending": backlog.pending if backlog else 0,
        "delivered": backlog.delivered if backlog else 0,
        "set_aside": backlog.set_aside if backlog else 0,
        "oldest": backlog and backlog.oldest,
        "pending_bytes": backlog.pending_bytes if backlog else 0,
    }


def _described(entry: JournalEntry) -> dict[str, object]:
    memory = entry.memory
    return {
        "memory_id": memory.memory_id,
        "time": memory.time,
        "state": entry.state.value,
        "instance_id": entry.instance_id,
        "resent": entry.resent,
        "bytes": entry.bytes,
        "answer": entry.answer,
        "agent_id": memory.agent_id,
        "session_id": memory.session_id,
        "memory_type": memory.memory_type,
        "event_type": memory.event_type,
        "content": memory.content,
        "metadata": memory.metadata,
        "tags": memory.tags,
        "dedup_key": memory.dedup_key,
        "importance": memory.importance,
        "parent_id": memory.parent_id,
    }


def _shortened(text: str) -> str:
    text = output.one_line(text)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _age(elapsed: timedelta) -> str:
    seconds = max(0, int(elapsed.total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
