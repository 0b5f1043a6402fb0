"""The gateway for `http://` and `https://` instances."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from memtrace_arc.client import ArcClient, Endpoint, MissingColumn
from memtrace_arc.clients import Clients
from memtrace_arc.erasure import Erasure
from memtrace_arc.excluding import count_one_by_one, most_excluded, page_by_page
from memtrace_arc.sql import COLUMNS, EVERYTHING, Dialect, Window, window_of, window_of_forgotten
from memtrace_arc.windows import windows_of
from memtrace_arc.wire import CountRow, CoveredRow, Row, encode_batch
from memtrace_core.errors import ArcTimeout, ArcUnreachable, InvalidInput, VaultError
from memtrace_core.forgotten import Forgotten
from memtrace_core.identifiers import parse_memory_id
from memtrace_core.model import AgentCounts, ArcInstance, Memory
from memtrace_core.ports import Clock, KeyVault
from memtrace_core.query import AgentCountQuery, MemoryQuery, OwnSpan
from memtrace_core.timewindow import from_us

DEFAULT_CONNECT_TIMEOUT = 5.0
DEFAULT_QUERY_TIMEOUT = 30.0
MOST_ATTEMPTS = 4
MOST_BETWEEN = 10_000  # ids of others in one answer
MOST_MOMENTS = 450  # in one statement: Arc takes 10,000 bytes


class _Answer(msgspec.Struct):
    columns: list[str] | None = None


Selected = TypeVar("Selected", bound=_Answer)


class _Page(_Answer):
    data: list[Row] | None = None


class _Counts(_Answer):
    data: list[CountRow] | None = None


class _Number(_Answer):
    data: list[tuple[int]] | None = None


class _Ids(_Answer):
    data: list[tuple[str]] | None = None


class _CoveredRows(_Answer):
    data: list[CoveredRow] | None = None


_covered_rows = msgspec.json.Decoder(_CoveredRows)
_page = msgspec.json.Decoder(_Page)
_counts = msgspec.json.Decoder(_Counts)
_number = msgspec.json.Decoder(_Number)
_ids = msgspec.json.Decoder(_Ids)
_columns = msgspec.json.Decoder(_Answer)


class ArcGateway:
    """Keeps each org's memories in its Arc.

    Args:
        vault: opens the instances' API keys, for each request anew.
        clock: anchors the windows in which the newest memories are looked for.
        connect_timeout: in seconds.
        query_timeout: in seconds, for an answer to a write, too.
    """

    def __init__(
        self,
        vault: KeyVault,
        clock: Clock,
        *,
        connect_timeout: float = DEFAULT_CONNECT_TIMEOUT,
        query_timeout: float = DEFAULT_QUERY_TIMEOUT,
    ) -> None:
        self._vault = vault
        self._clock = clock
        self._clients = Clients(lambda: ArcClient(connect_timeout, query_timeout))
        self._existing: set[str] = set()

    async def write(self, instance: ArcInstance, memories: Sequence[Memory]) -> bool:
        """Hand memories over. Arc has them in its memory then, so they are never durable on return."""
        async with self._clients.of(instance) as client:
            await client.write(self._endpoint(instance), encode_batch(instance.measurement, memories))
        return False

    async def query(self, instance: ArcInstance, query: MemoryQuery) -> list[Memory]:
        """Return the memories that match, looking no further back than need be."""
        if not most_excluded(query.horizon):
            try:
                return await self._query(instance, query)
            except InvalidInput:
                if query.horizon is None or not query.horizon.forgotten:
                    raise
                # The filters alone may have room in a statement.
        return await page_by_page(partial(self._query, instance), query)

    async def _query(self, instance: ArcInstance, query: MemoryQuery) -> list[Memory]:
        rows: list[Row] = []
        for window in windows_of(query, self._clock.now()):
            found = await self._ask(instance, window, partial(_page_sql, query=query, window=window), _page)
            rows = (found and found.data) or []
            if len(rows) >= query.limit:
                break
        return [row.memory(query.org_id) for row in rows]

    async def count(self, instance: ArcInstance, query: AgentCountQuery) -> AgentCounts:
        """Count one agent's memories."""
        if most_excluded(query.horizon):
            return await count_one_by_one(partial(self._query, instance), query)
        found = await self._ask(instance, EVERYTHING, lambda dialect: dialect.count(query), _counts)
        return sum((row.counts() for row in (found and found.data) or []), AgentCounts())

    async def own_count(self, instance: ArcInstance, span: OwnSpan) -> int:
        """Count the distinct memories of a span."""
        found = await self._ask(
            instance, window_of(span), lambda dialect: dialect.own_count(span), _number, needs_ids=True
        )
        return found.data[0][0] if found and found.data else 0

    async def own_ids(self, instance: ArcInstance, span: OwnSpan) -> set[str]:
        """Return the ids of the memories of a span."""
        found = await self._ask(
            instance, window_of(span), lambda dialect: dialect.own_ids(span), _ids, needs_ids=True
        )
        return {memory_id for (memory_id,) in (found and found.data) or []}

    async def covered(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Count the rows that are to be forgotten."""
        found = await self._ask(
            instance,
            window_of_forgotten(forgotten),
            lambda dialect: dialect.covered(instance.org_id, forgotten),
            _number,
        )
        return found.data[0][0] if found and found.data else 0

    async def erase(self, instance: ArcInstance, forgotten: Sequence[Forgotten]) -> int:
        """Delete rows that are to be forgotten, as many as one go can take."""

        async def rows(limit: int) -> Sequence[CoveredRow]:
            found = await self._ask(
                instance,
                window_of_forgotten(forgotten),
                lambda dialect: dialect.covered_rows(instance.org_id, forgotten, limit),
                _covered_rows,
            )
            return (found and found.data) or []

        async def moment(older: int) -> int | None:
            found = await self._ask(
                instance,
                window_of_forgotten(forgotten),
                lambda dialect: dialect.covered_moment(instance.org_id, forgotten, older),
                _number,
            )
            return found.data[0][0] if found and found.data else None

        async def delete(predicate: str, *, dry_run: bool) -> int:
            async with self._clients.of(instance) as client:
                return await client.delete(
                    self._endpoint(instance), instance.measurement, predicate, dry_run=dry_run
                )

        erasure = Erasure(instance.org_id, partial(self.covered, instance), rows, moment, delete)
        return await erasure.go(forgotten)

    async def known_ids(self, instance: ArcInstance, memory_ids: Collection[str]) -> set[str]:
        """Return which of these memories are shown.

        Mostly few others lie between them: then all the ids of their time are asked for at once. Among many others,
        only those of their very moments are.
        """
        moments = sorted(parsed[0] for one in memory_ids if (parsed := parse_memory_id(one)))
        if not moments:
            return set()
        most = len(moments) + MOST_BETWEEN
        found = await self._ids_at(instance, moments, most)
        if len(found) == most:
            found = set()
            for start in range(0, len(moments), MOST_MOMENTS):
                found |= await self._ids_at(instance, moments[start : start + MOST_MOMENTS])
        return found & set(memory_ids)

    async def _ids_at(self, instance: ArcInstance, moments: Sequence[int], most: int | None = None) -> set[str]:
        """Return the ids of these moments (µs, rising), or the first `most` of all the time between them."""
        window = Window(from_us(moments[0]), from_us(moments[-1] + 1))

        def render(dialect: Dialect) -> str:
            if most is None:
                return dialect.ids_at(instance.org_id, window, moments)
            return dialect.ids(instance.org_id, window, most)

        found = await self._ask(instance, window, render, _ids)
        return {memory_id for (memory_id,) in (found and found.data) or []}

    async def ping(self, instance: ArcInstance) -> None:
        """Ask for nothing, with the instance's key."""
        async with self._clients.of(instance) as client:
            await self._probe(client, instance)

    async def server_version(self, instance: ArcInstance) -> str | None:
        """Return the version, if the server's health endpoint tells it."""
        async with self._clients.of(instance) as client:
            return await client.server_version(instance.url)

    async def close(self) -> None:
        """Close all connections."""
        await self._clients.close()

    async def _ask(
        self,
        instance: ArcInstance,
        window: Window,
        render: Callable[[Dialect], str],
        decoder: msgspec.json.Decoder[Selected],
        *,
        needs_ids: bool = False,
    ) -> Selected | None:
        """Run a statement on a measurement that may lack columns, or not be there at all (then return None).

        A file of another writer has no `memory_id`, and a column that is in none of the files of a statement's
        window is an error. Rows must not be taken for another writer's when a file of ours has just come: so after
        a statement without `memory_id` it is made sure that there still is no such column.
        """
        async with self._clients.of(instance) as client:
            endpoint = self._endpoint(instance)
            dialect = Dialect(instance.measurement)
            for _ in range(MOST_ATTEMPTS):
                try:
                    answer = await client.query(endpoint, render(dialect), decoder)
                except MissingColumn:
                    present = await self._present(client, instance, dialect, window)
                    if present is None or (needs_ids and "memory_id" not in present):
                        return None
                    dialect = Dialect(instance.measurement, present)
                    continue
                if dialect.names_ids:
                    if answer.columns:
                        self._existing.add(instance.id)
                    return answer
                present = await self._present(client, instance, dialect, window)
                if present is None or "memory_id" not in present:
                    return answer
                dialect = Dialect(instance.measurement, present)
        raise ArcUnreachable("arc's columns change too fast to be read")

    async def _present(
        self, client: ArcClient, instance: ArcInstance, dialect: Dialect, window: Window
    ) -> set[str] | None:
        """Return the columns that there are in a window, None without a measurement."""
        try:
            found = await client.query(self._endpoint(instance), dialect.columns(window), _columns)
        except MissingColumn as error:
            # The oldest Arc says the same of a missing measurement as of any failure.
            if instance.id in self._existing:
                raise ArcUnreachable(str(error)) from None
            await self._probe(client, instance)
            return None
        if not found.columns:
            return None
        self._existing.add(instance.id)
        return set(found.columns) & set(COLUMNS)

    async def _probe(self, client: ArcClient, instance: ArcInstance) -> None:
        """Return if a statement that needs nothing is answered."""
        try:
            await client.query(self._endpoint(instance), "SELECT 1", _number)
        except (ArcTimeout, MissingColumn) as error:
            raise ArcUnreachable(str(error)) from None

    def _endpoint(self, instance: ArcInstance) -> Endpoint:
        if instance.sealed_api_key is None:
            raise ArcUnreachable("the Arc instance has no API key")
        try:
            api_key = self._vault.open(instance.sealed_api_key, instance.key_context)
        except VaultError as error:
            raise ArcUnreachable(f"the API key of this Arc instance does not open: {error}") from None
        return Endpoint(instance.url, instance.database, api_key)


def _page_sql(dialect: Dialect, query: MemoryQuery, window: Window) -> str:
    return dialect.page(query, window)
