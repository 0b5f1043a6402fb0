"""`memtrace org forget`, `set-retention` and `show`: what is to be forgotten, and how far that is."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Annotated

from cyclopts import Parameter

from memtrace_cli import output
from memtrace_cli.admin import administer
from memtrace_cli.times import typed_bound, typed_duration
from memtrace_core import ArcInstance, NotFound, Org, Services
from memtrace_core.forgetting import Reach
from memtrace_core.forgotten import ForgetOrder, Forgotten

Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")]
Yes = Annotated[bool, Parameter(name="--yes", alias="-y", negative=(), help="Do not ask.")]


def forget(
    org_id: str,
    /,
    *,
    agent: str | None = None,
    session: str | None = None,
    before: str | None = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Forget memories for good: of an agent, of a session, older than a time, or what is all of these.

    No read shows them from then on, whether a server runs or not. A server that runs deletes them in Arc, too; for
    that, the Arc key must be an admin token.

    Example: memtrace org forget org_a1b2c3 --agent crawler

    Example: memtrace org forget org_a1b2c3 --before 365d --yes

    Parameters
    ----------
    org_id
        The organization.
    agent
        The agent whose memories they are.
    session
        The session that they were stored in.
    before
        Only older ones: 90d, 2w, 36h ago, or an ISO 8601 time. Else all until now.
    """
    if agent is None and session is None and before is None:
        raise output.Misused("give at least one of --agent, --session, --before")

    async def work(services: Services) -> ForgetOrder:
        org = await services.tenants.get_org(org_id)
        bound = typed_bound(before, "--before", services.clock.now())
        what = services.forgetting.scope(agent_id=agent, session_id=session, before=bound)
        if not yes and not sys.stdin.isatty():
            raise output.Misused("forgetting memories needs --yes where there is no terminal")
        reach = await services.forgetting.reach(org_id, what)
        output.note(f"This forgets {_meant(agent, session, before)} of {org.name!r} ({org.id}), for good:")
        output.note(_told(reach))
        if not yes and not output.confirm("Forget them?"):
            raise output.Aborted("nothing was forgotten")
        return await services.forgetting.order(org_id, agent_id=agent, session_id=session, before=bound)

    order = administer(work)
    if as_json:
        output.say_json(_described(order))
        return
    output.say(f"Forgotten, {output.shown_memories(order.removed)} here removed")
    if order.done_at is None:
        output.note("what Arc has is hidden, and deleted by the server that runs")
        output.suggest(f"memtrace org show {org_id}")


def set_retention(org_id: str, retention: str, /, *, yes: Yes = False, as_json: Json = False) -> None:
    """Keep an organization's memories only for a time; older ones are forgotten, from the next read on.

    They are deleted in Arc, too, by a server that runs, if the Arc key is an admin token.

    Example: memtrace org set-retention org_a1b2c3 90d

    Example: memtrace org set-retention org_a1b2c3 none

    Parameters
    ----------
    org_id
        The organization.
    retention
        How long: 12h, 90d, 52w; none keeps them for ever.
    """
    wanted = None if retention == "none" else typed_duration(retention, "retention")

    async def work(services: Services) -> Org:
        org = await services.tenants.get_org(org_id)
        if wanted is not None and not yes and (org.retention is None or wanted < org.retention):
            if not sys.stdin.isatty():
                raise output.Misused("forgetting memories needs --yes where there is no terminal")
            what = services.forgetting.scope(before=services.clock.now() - wanted)
            output.note(f"This forgets what is older than {retention} of {org.name!r} ({org.id}), for good:")
            output.note(_told(await services.forgetting.reach(org_id, what)))
            if not output.confirm("Forget it?"):
                raise output.Aborted("nothing was forgotten")
        return await services.tenants.set_retention(org_id, wanted)

    org = administer(work)
    if as_json:
        output.say_json({"id": org.id, "name": org.name, "retention": _kept(org)})
        return
    output.say("Retention changed")
    output.say_fields([("id", org.id), ("retention", _kept(org))])
    output.suggest(f"memtrace org show {org.id}")


def show(org_id: str, /, *, as_json: Json = False) -> None:
    """Show an organization: where its memories live, and what of them is being forgotten.

    Example: memtrace org show org_a1b2c3

    Parameters
    ----------
    org_id
        The organization.
    """

    async def work(services: Services) -> tuple[Org, ArcInstance | None, list[ForgetOrder]]:
        org = await services.tenants.get_org(org_id)
        try:
            instance = await services.tenants.instance_of(org_id)
        except NotFound:
            instance = None
        return org, instance, await services.forgetting.orders(org_id)

    org, instance, orders = administer(work)
    if as_json:
        output.say_json(
            {
                "id": org.id,
                "name": org.name,
                "created_at": org.created_at,
                "arc": instance and instance.url,
                "retention": _kept(org),
                "forgetting": [_described(order) for order in orders],
            }
        )
        return
    output.say("Organization")
    waiting = [order for order in orders if order.done_at is None]
    output.say_fields(
        [
            ("id", org.id),
            ("name", output.one_line(org.name)),
            ("created_at", output.shown_time(org.created_at)),
            ("arc", instance.url if instance else "-"),
            ("retention", _kept(org)),
            ("forgetting", f"{len(waiting)} orders waiting, {len(orders) - len(waiting)} done"),
        ]
    )
    if orders:
        output.say()
        output.say_table(
            ("ORDER", "WHAT", "MADE", "STATE", "REMOVED", "DELETED", "TROUBLE"),
            [
                (
                    str(order.key),
                    _covered(order.what),
                    output.shown_time(order.made_at),
                    _state(order),
                    str(order.removed),
                    str(order.deleted),
                    output.one_line(order.trouble or "-"),
                )
                for order in orders
            ],
        )


def _kept(org: Org) -> str:
    """Return how long memories are kept, as it is typed."""
    if org.retention is None:
        return "none"
    for unit, length in (("d", timedelta(days=1)), ("h", timedelta(hours=1))):
        if org.retention % length == timedelta(0):
            return f"{org.retention // length}{unit}"
    return f"{org.retention // timedelta(minutes=1)}m"


def _told(reach: Reach) -> str:
    here = output.shown_memories(reach.here)
    if reach.in_arc is None:
        return f"{here} here, and what Arc has, which does not answer now."
    return f"{here} here, {reach.in_arc} rows in Arc (what was delivered lately is in both)."


def _meant(agent: str | None, session: str | None, before: str | None) -> str:
    parts = ["all memories"]
    if agent is not None:
        parts.append(f"of agent {agent}")
    if session is not None:
        parts.append(f"in session {session}")
    parts.append(f"before {before}" if before else "until now")
    return " ".join(parts)


def _covered(what: Forgotten) -> str:
    if what.memory_id is not None:
        return what.memory_id
    named = [("agent", what.agent_id), ("session", what.session_id), ("before", output.shown_time(what.before))]
    return ", ".join(f"{name} {value}" for name, value in named if value)


def _state(order: ForgetOrder) -> str:
    return "waiting" if order.done_at is None else "done"


def _described(order: ForgetOrder) -> dict[str, object]:
    return {
        "order": order.key,
        "memory_id": order.what.memory_id,
        "agent_id": order.what.agent_id,
        "session_id": order.what.session_id,
        "before": order.what.before,
        "reason": order.reason,
        "state": _state(order),
        "made_at": order.made_at,
        "done_at": order.done_at,
        "removed": order.removed,
        "deleted_in_arc": order.deleted,
        "trouble": order.trouble,
    }
