"""One client per organization, made when it is first used and closed when the binding has changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from memtrace_arc.client import ArcClient
from memtrace_core.errors import ArcUnreachable
from memtrace_core.model import ArcInstance

MOST_CLIENTS = 1_000


class Clients:
    """The clients of all organizations, one for each: that of the binding that was used last.

    When another one is used, the client of the former is closed as soon as the last request through it is done.
    (While memories still go to a former binding the two take turns, at the price of new connections.) So is the
    client that was not used for the longest when there are more than `most`; it is made again when it is wanted.
    """

    def __init__(self, make: Callable[[], ArcClient], *, most: int = MOST_CLIENTS) -> None:
        self._make = make
        self._most = most
        self._current: OrderedDict[str, _Held] = OrderedDict()
        self._retired: set[_Held] = set()
        self._closed = False

    @asynccontextmanager
    async def of(self, instance: ArcInstance) -> AsyncIterator[ArcClient]:
        """Use the client of an instance, as the instance is given: of that URL, with that key."""
        held = self._hold(instance)
        held.users += 1
        try:
            await self._close_retired()
            yield held.client
        finally:
            held.users -= 1
            await self._close_retired()

    async def close(self) -> None:
        """Close them all, in use or not."""
        self._closed = True
        everyone = [*self._current.values(), *self._retired]
        self._current.clear()
        self._retired.clear()
        for held in everyone:
            await held.client.close()

    def _hold(self, instance: ArcInstance) -> _Held:
        if self._closed:
            raise ArcUnreachable("the clients are closed")
        held = self._current.get(instance.org_id)
        if held is None or held.instance != instance:
            if held is not None:
                self._retired.add(held)
            held = self._current[instance.org_id] = _Held(instance, self._make())
        self._current.move_to_end(instance.org_id)
        if len(self._current) > self._most:
            self._retired.add(self._current.popitem(last=False)[1])
        return held

    async def _close_retired(self) -> None:
        done = [held for held in self._retired if not held.users]
        self._retired.difference_update(done)
        for held in done:
            await held.client.close()


class _Held:
    """A client, the binding that it is for, and how many are using it."""

    __slots__ = ("client", "instance", "users")

    def __init__(self, instance: ArcInstance, client: ArcClient) -> None:
        self.instance = instance
        self.client = client
        self.users = 0
