"""Sends memories and orders to forget them, and writes down what was answered."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from http import HTTPStatus

import aiohttp
import msgspec

from torture.contents import sameness_of
from torture.fates import Birth, Fates, birth_of
from torture.history import Attempt, Fields, Known, Order, Stored, Violation

PATH = "/api/v1/memories"
_JSON = {"content-type": "application/json"}


class Recorder:
    """The record of all posts and orders of a run."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.violations: list[Violation] = []
        self.server_lives = True
        # Org → what it was answered with 201, and what it was never answered.
        self.acknowledged: dict[str, list[Fields]] = defaultdict(list)
        self.unanswered: dict[str, list[Fields]] = defaultdict(list)
        # Org and agent → the ids of all the agent's memories that an answer named.
        self.ids: dict[tuple[str, str], set[str]] = defaultdict(set)
        # Org and what dedup takes for the same → the ids of its copies that an answer named.
        self.copies: dict[tuple[str, str], set[str]] = defaultdict(set)
        # The same → the births of what no answer has named.
        self.unnamed: dict[tuple[str, str], list[Birth]] = defaultdict(list)
        # Org and agent → how many memories may be there besides those that an answer named.
        self.besides: dict[tuple[str, str], int] = defaultdict(int)
        # The orgs whose memories end up in Arc.
        self.over_arc: frozenset[str] = frozenset()
        self.orders: list[Order] = []
        self.fates = Fates()
        # Org and id → when a memory was stored that an answer named.
        self.births: dict[tuple[str, str], Birth] = {}
        # Org → the orders that were never answered.
        self.unsure: dict[str, list[Order]] = defaultdict(list)
        self._moments = itertools.count()
        self._requests = itertools.count()

    async def post(self, api: aiohttp.ClientSession, org: str, memories: Sequence[Fields]) -> bool:
        """Send one memory alone, or several as a batch; tell whether there was an answer."""
        body: object = memories[0] if len(memories) == 1 else {"memories": memories}
        began = self.moment()
        outcomes: Sequence[Stored | Known | None] = [None] * len(memories)
        try:
            async with api.post(PATH, data=msgspec.json.encode(body), headers=_JSON) as response:
                answer = msgspec.json.decode(await response.read())
            outcomes = self._outcomes(org, response.status, answer, memories)
        except TimeoutError:
            self.violated("status", org, "a post was not answered in time")
        except (aiohttp.ClientError, OSError) as error:
            self.broken(org, "a post", error)
        ended, request = self.moment(), next(self._requests)
        for memory, outcome in zip(memories, outcomes, strict=True):
            attempt = Attempt(
                org=org,
                request=request,
                sent=memory,
                sameness=sameness_of(memory),
                began=began,
                ended=ended,
                outcome=outcome,
            )
            self.attempts.append(attempt)
            self._remember(attempt)
        return None not in outcomes

    async def forget(
        self,
        api: aiohttp.ClientSession,
        org: str,
        *,
        memory_id: str | None = None,
        agent: str | None = None,
        session: str | None = None,
        again: bool = False,
    ) -> bool:
        """Give one order, for a memory, an agent or a session; tell whether there was an answer.

        A memory that is not there is in order only if it may be forgotten already, as one is that is forgotten
        `again`.
        """
        order = Order(org=org, memory_id=memory_id, agent=agent, session=session, began=self.moment())
        birth = self.births.get((org, memory_id)) if memory_id else None
        self.orders.append(order)
        self.fates.add(order)
        status = None
        try:
            async with api.delete(_path_of(order)) as response:
                answer = await response.read()
                status = response.status
        except TimeoutError:
            self.violated("status", org, "an order to forget was not answered in time")
        except (aiohttp.ClientError, OSError) as error:
            self.broken(org, "an order to forget", error)
        order.ended = self.moment()
        order.answered = status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND)
        # Another client may have been faster; or ours: it repeats a DELETE whose connection broke with a process.
        others = birth is not None and self.fates.may_be_gone(birth, beside=order)
        gone_before = again or others or not self.server_lives
        if status is None:
            self.unsure[org].append(order)
        elif status != HTTPStatus.OK and not (status == HTTPStatus.NOT_FOUND and gone_before):
            self.violated("status", org, f"the order to forget {_path_of(order)} got {status}: {answer!r}")
        return status is not None

    def moment(self) -> int:
        """Return the number of this moment, greater than that of all before it."""
        return next(self._moments)

    def must_be_gone(self, org: str, memory_id: str, since: int) -> bool:
        """Tell whether a memory was forgotten before a moment, so that no later question may show it."""
        birth = self.births.get((org, memory_id))
        gone_at = birth and self.fates.gone_at(birth)
        return gone_at is not None and gone_at < since

    def may_be_gone(self, memory: Fields) -> bool:
        """Tell whether a memory that was seen may be forgotten by now."""
        org, memory_id = memory["org_id"], memory["memory_id"]
        birth = self.births.get((org, memory_id)) or Birth(
            org=org,
            memory_id=memory_id,
            agent=memory["agent_id"],
            session=memory.get("session_id"),
            began=0,
            ended=0,
        )
        return self.fates.may_be_gone(birth)

    def count_of(self, org: str, agent: str) -> range:
        """Return how many memories an agent may have."""
        surely = perhaps = 0
        for memory_id in self.ids[org, agent]:
            birth = self.births[org, memory_id]
            if self.fates.gone_at(birth) is None:
                perhaps += 1
                surely += not self.fates.may_be_gone(birth)
        return range(surely, perhaps + self.besides[org, agent] + 1)

    def broken(self, org: str, what: str, error: Exception) -> None:
        """Take note of a broken connection: that is in order only when the server was killed."""
        if self.server_lives:
            self.violated("status", org, f"{what} ended in {error!r} while the server ran")

    def violated(self, kind: str, org: str, what: str) -> None:
        """Write down a violation that is seen at once."""
        self.violations.append(Violation(kind, org, what))

    def _outcomes(
        self, org: str, status: int, answer: Fields, memories: Sequence[Fields]
    ) -> Sequence[Stored | Known | None]:
        if status == HTTPStatus.CONFLICT and len(memories) == 1:
            return [Known(answer["memory_id"])]
        if status != HTTPStatus.CREATED:
            # A full journal apart, which no run comes near, nothing may keep a write from being taken.
            self.violated("status", org, f"a post was answered {status}: {answer}")
            return [None] * len(memories)
        if len(memories) == 1:
            return [Stored(answer)]
        known = {one["index"]: Known(one["memory_id"]) for one in answer["duplicates"]}
        stored = map(Stored, answer["memories"])
        if answer["count"] != len(answer["memories"]) or answer["count"] + len(known) != len(memories):
            self.violated("count", org, f"a batch of {len(memories)} was answered {answer}")
            return [None] * len(memories)
        return [known.get(index) or next(stored) for index in range(len(memories))]

    def _remember(self, attempt: Attempt) -> None:
        org, sent, outcome = attempt.org, attempt.sent, attempt.outcome
        same = org, attempt.sameness
        if outcome is None:
            self.unanswered[org].append(sent)
            self._expect_another(attempt, [self.births[org, memory_id] for memory_id in self.copies[same]])
            self.unnamed[same].append(birth_of(attempt))
            return
        if isinstance(outcome, Stored):
            self.acknowledged[org].append(outcome.memory)
            memory_id = outcome.memory["memory_id"]
            self.births[org, memory_id] = birth_of(attempt, memory_id)
            self._expect_another(attempt, self.unnamed[same])
            self._compare_with_copies(attempt, memory_id)
        else:
            memory_id = outcome.memory_id
            self.births.setdefault((org, memory_id), birth_of(attempt, memory_id))
            if memory_id not in self.copies[same] and self.unnamed[same]:
                self.unnamed[same].pop(0)  # this is what it was stored as
        self.ids[org, sent["agent_id"]].add(memory_id)
        self.copies[same].add(memory_id)

    def _expect_another(self, attempt: Attempt, formers: Sequence[Birth]) -> None:
        """Count on a memory that no answer named, if an attempt may have stored a copy or a copy of it."""
        if any(self._may_be_stored_again(birth, attempt.ended, attempt) for birth in formers):
            self.besides[attempt.org, attempt.sent["agent_id"]] += 1

    def _compare_with_copies(self, attempt: Attempt, memory_id: str) -> None:
        """See that what was just stored was free to be, and what was stored after it."""
        org, copies = attempt.org, self.copies[attempt.org, attempt.sameness]
        before = max((one for one in copies if one < memory_id), default=memory_id)
        behind = min((one for one in copies if one > memory_id), default=memory_id)
        for former, latter in {(before, memory_id), (memory_id, behind)} - {(memory_id, memory_id)}:
            first, second = self.births[org, former], self.births[org, latter]
            if not self._may_be_stored_again(first, second.ended, attempt):
                self.violated("doubled", org, f"{attempt.sameness} is stored as {former} and as {latter}")

    def _may_be_stored_again(self, former: Birth, moment: int, attempt: Attempt) -> bool:
        return self.fates.may_be_stored_again(
            former, moment, own_key="dedup_key" in attempt.sent, over_arc=attempt.org in self.over_arc
        )


def _path_of(order: Order) -> str:
    if order.memory_id is not None:
        return f"{PATH}/{order.memory_id}"
    kind, name = ("agents", order.agent) if order.agent is not None else ("sessions", order.session)
    return f"/api/v1/{kind}/{name}/memories"
