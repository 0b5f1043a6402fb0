"""Reads: one answer, one page after the other, and a follower that never lets go of its cursor."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec

from torture.checks import Position, position_of
from torture.history import Fields
from torture.recorder import Recorder

LIST = "/api/v1/memories"
SEARCH = "/api/v1/search"
PAGE = 40
AWAY = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


class Reader:
    """Reads as one org; an answer that no fault excuses is a violation.

    Args:
        api: with the org's key.
        org: its id.
        mark: begins the content of all its memories.
        over_arc: whether its Arc may be away.
        recorder: takes down violations.
    """

    def __init__(self, api: aiohttp.ClientSession, org: str, mark: str, over_arc: bool, recorder: Recorder) -> None:
        self.org, self.mark = org, mark
        self.recorder = recorder
        self.api = api
        self._over_arc = over_arc

    async def get(self, path: str, *, of: Fields | None = None, **parameters: Any) -> Fields | None:
        """Return an answer; None if the server was killed, its Arc is away, or what it is `of` is forgotten."""
        return await self._ask("GET", path, of, params=parameters)

    async def search(self, **filters: Any) -> Fields | None:
        """Return what a search finds, as `get` does."""
        return await self._ask("POST", SEARCH, None, json=filters)

    async def _ask(self, method: str, path: str, of: Fields | None, **body: Any) -> Fields | None:
        asked = self.recorder.moment()
        try:
            async with self.api.request(method, path, **body) as response:
                answer: Fields = msgspec.json.decode(await response.read())
        except TimeoutError:
            self.recorder.violated("status", self.org, f"{path} was not answered in time")
            return None
        except (aiohttp.ClientError, OSError) as error:
            self.recorder.broken(self.org, path, error)
            return None
        if response.status == HTTPStatus.OK:
            self._look_for_the_forgotten(path, answer, asked)
            return answer
        if response.status == HTTPStatus.NOT_FOUND:
            if of is not None and self.recorder.may_be_gone(of):
                return None
            self.recorder.violated("lost", self.org, f"{path} is not found")
        elif not (self._over_arc and response.status in AWAY):
            self.recorder.violated("status", self.org, f"{path} was answered {response.status}: {answer}")
        return None

    def _look_for_the_forgotten(self, path: str, answer: Fields, asked: int) -> None:
        shown = [answer] if "memory_id" in answer else [*answer.get("memories", ()), *answer.get("results", ())]
        for memory in shown:
            if self.recorder.must_be_gone(self.org, memory["memory_id"], asked):
                self.recorder.violated(
                    "resurrected", self.org, f"{path} shows {memory['memory_id']}, forgotten before"
                )

    async def everything(self) -> list[Fields] | None:
        """Return all memories, oldest first, read from the newest on; None if a page could not be had."""
        found: list[Fields] = []
        parameters: dict[str, Any] = {"limit": 1000}
        while True:
            page = await self.get(LIST, **parameters)
            if page is None:
                return None
            found += page["memories"]
            if not page["has_more"]:
                return found[::-1]
            parameters["cursor"] = page["next_cursor"]


class Follower:
    """Follows an org's memories from the first on, over restarts; on its last page it waits for more.

    What it has met may only ever be followed by more: a page that it has seen begins the same way for ever, what is
    forgotten of it apart.
    """

    def __init__(self) -> None:
        self.met: list[Fields] = []
        self._page: list[Fields] = []
        self._cursor: str | None = None
        self._last: Position | None = None

    async def look(self, reader: Reader) -> bool:
        """Read the page once more, or go on to the next; tell whether there is more to read at once."""
        cursor = {} if self._cursor is None else {"cursor": self._cursor}
        answer = await reader.get(LIST, order="asc", limit=PAGE, **cursor)
        if answer is None:
            return False
        memories = answer["memories"]
        self._compare(memories, reader)
        seen = {memory["memory_id"] for memory in self._page}
        for memory in memories:
            if memory["memory_id"] not in seen:
                self._meet(memory, reader)
        self._page = memories
        if answer["has_more"]:
            self._cursor, self._page = answer["next_cursor"], []
        return bool(answer["has_more"])

    def _compare(self, memories: list[Fields], reader: Reader) -> None:
        if memories[: len(self._page)] == self._page:
            return
        now, before = ({memory["memory_id"]: memory for memory in page} for page in (memories, self._page))
        for gone in before.keys() - now.keys():
            if reader.recorder.may_be_gone(before[gone]):
                continue
            reader.recorder.violated("lost", reader.org, f"the follower met {gone}, and then not again")
        for memory_id in now.keys() & before.keys():
            if now[memory_id] != before[memory_id]:
                reader.recorder.violated("altered", reader.org, f"{now[memory_id]} was {before[memory_id]}")
        late = [one for one in now.keys() - before.keys() if position_of(now[one]) < position_of(self._page[-1])]
        for memory_id in late:
            reader.recorder.violated("skipped", reader.org, f"{memory_id} came in behind the follower")

    def _meet(self, memory: Fields, reader: Reader) -> None:
        position = position_of(memory)
        if self._last is not None and position <= self._last:
            reader.recorder.violated("out of order", reader.org, f"{position[1]} follows {self._last[1]}")
        # The content tells, too: an answer might name the reader's org whosever the memory is.
        if memory["org_id"] != reader.org or not memory["content"].startswith(reader.mark):
            reader.recorder.violated("foreign", reader.org, f"the follower met {memory['content'][:40]!r}")
        self._last = position
        self.met.append(memory)
