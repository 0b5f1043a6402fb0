"""What grows, how far, and what is asked of each size."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import requests
from benchmarks.footprint import total_bytes
from benchmarks.growth.filled import HISTORY, SESSION, Filled, Plan, filled, session_name
from benchmarks.growth.record import Point
from benchmarks.requests import Template
from benchmarks.subjects import Effort

CONCURRENCY = 16
PAGE = 50
MOST_ANSWER_BYTES = 20_000_000  # of 16 larger ones at once, the loopback's time would be measured
_SESSIONS = 100  # that contexts are asked of, one after the other

AXES: dict[str, dict[int, Plan]] = {
    # A thousand is as good as none, and enough for what is read.
    "depth": {size: Plan(memories=size, embedded=False) for size in (1_000, 10**5, 10**6, 10**7)},
    "orgs": {size: Plan(memories=500_000, orgs=size) for size in (1, 100, 5_000)},
    "store": {size: Plan(memories=size) for size in (10**4, 10**5, 10**6, 10**7)},
    "tags": {size: Plan(memories=10_000, tags=size) for size in (0, 5, 20)},
    "content": {size: Plan(memories=500, content_bytes=size) for size in (100, 1_000, 10_000, 100_000, 1_000_000)},
}
"""By axis, the plan of each size along it."""

ADDING = "single write"
OPERATIONS = ("newest 50", "context of 100", ADDING)  # the one that adds comes last


def fill(folder: Path, axis: str, most: int | None) -> dict[int, Filled]:
    """Return the deployments of an axis, filled, up to the size `most`."""
    wanted = {size: plan for size, plan in AXES[axis].items() if most is None or size <= most}
    return {size: filled(folder / f"{axis}-{size}", plan) for size, plan in wanted.items()}


def measure(subjects: dict[int, Filled], axis: str, began: str, effort: Effort) -> Iterator[Point]:
    """Measure one operation after the other, all sizes in turn.

    In turn, because what disturbs the machine for a while then disturbs all of them.
    """
    with ExitStack() as serving:
        served = {size: serving.enter_context(one.served()) for size, one in subjects.items()}
        offered = {size: operations(one) for size, one in subjects.items()}
        for operation in OPERATIONS:
            asked = {size: offers[operation] for size, offers in offered.items() if operation in offers}
            warm = Effort(warm_seconds(operation, effort), 0, 1)
            for size, templates in asked.items():
                served[size].measure(templates, CONCURRENCY, warm)
            for turn in range(effort.repeats):
                for size, templates in asked.items():
                    one = subjects[size]
                    yield Point(
                        began=began,
                        axis=axis,
                        size=size,
                        operation=operation,
                        turn=turn,
                        memories=one.memories(),
                        file_bytes=total_bytes(one.journal),
                        sample=served[size].measure(templates, CONCURRENCY, effort),
                    )


def warm_seconds(operation: str, effort: Effort) -> float:
    """Return how long a server is warmed up that has just been started."""
    if operation == ADDING:
        # Its first transactions learn the dedup claims of the window, a thousand each.
        return min(10, 4 * effort.seconds)
    return effort.warm_seconds


def operations(subject: Filled) -> dict[str, Sequence[Template]]:
    """Return what is asked, by name: requests that take turns, so that all orgs have their share."""
    plan, sessions = subject.plan, subject.plan.memories // SESSION
    # In no order, as clients come: orgs that were made one after the other lie side by side in the indexes.
    order = random.Random(sessions)
    holders = order.sample(subject.holders, len(subject.holders))
    some = order.sample(range(sessions), min(sessions, max(_SESSIONS, len(holders))))
    since = f"{HISTORY.days * 2}d"
    write, page = requests.single(plan.memory("written")), requests.newest(PAGE)
    contexts = {one: requests.context(session_name(one), SESSION, since=since) for one in some}
    offered: dict[str, Sequence[Template]] = {
        "newest 50": [requests.with_key(page, holder.key) for holder in holders],
        "context of 100": [
            requests.with_key(context, subject.holder(one).key) for one, context in contexts.items()
        ],
        ADDING: [requests.with_key(write, holder.key) for holder in holders],
    }
    answers = {"newest 50": PAGE, "context of 100": SESSION, ADDING: 0}
    return {name: offered[name] for name in OPERATIONS if answers[name] * plan.content_bytes <= MOST_ANSWER_BYTES}
