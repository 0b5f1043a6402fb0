"""Sends memories, and writes down what was answered."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from http import HTTPStatus

import aiohttp
import msgspec

from torture.contents import sameness_of
from torture.history import Attempt, Fields, Known, Stored, Violation

PATH = "/api/v1/memories"
_JSON = {"content-type": "application/json"}


class Recorder:
    """The record of all posts of a run."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.violations: list[Violation] = []
        self.server_lives = True
        # Org → what it was answered with 201, and what it was never answered.
        self.acknowledged: dict[str, list[Fields]] = defaultdict(list)
        self.unanswered: dict[str, list[Fields]] = defaultdict(list)
        # Org and agent → the ids of all the agent's memories that an answer named.
        self.ids: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._moments = itertools.count()
        self._requests = itertools.count()

    async def post(self, api: aiohttp.ClientSession, org: str, memories: Sequence[Fields]) -> bool:
        """Send one memory alone, or several as a batch; tell whether there was an answer."""
        body: object = memories[0] if len(memories) == 1 else {"memories": memories}
        began = next(self._moments)
        outcomes: Sequence[Stored | Known | None] = [None] * len(memories)
        try:
            async with api.post(PATH, data=msgspec.json.encode(body), headers=_JSON) as response:
                answer = msgspec.json.decode(await response.read())
            outcomes = self._outcomes(org, response.status, answer, memories)
        except TimeoutError:
            self.violated("status", org, "a post was not answered in time")
        except (aiohttp.ClientError, OSError) as error:
            self.broken(org, "a post", error)
        ended, request = next(self._moments), next(self._requests)
        for memory, outcome in zip(memories, outcomes, strict=True):
            self.attempts.append(
                Attempt(
                    org=org,
                    request=request,
                    sent=memory,
                    sameness=sameness_of(memory),
                    began=began,
                    ended=ended,
                    outcome=outcome,
                )
            )
            self._remember(org, memory, outcome)
        return None not in outcomes

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

    def _remember(self, org: str, sent: Fields, outcome: Stored | Known | None) -> None:
        if outcome is None:
            self.unanswered[org].append(sent)
        elif isinstance(outcome, Stored):
            self.acknowledged[org].append(outcome.memory)
            self.ids[org, sent["agent_id"]].add(outcome.memory["memory_id"])
        else:
            self.ids[org, sent["agent_id"]].add(outcome.memory_id)
