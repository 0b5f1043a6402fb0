"""Queries as SQL for Arc. The only place in which it is made.

Arc rewrites SQL by regular expressions before DuckDB sees it, and correctly quoted text can break out of its quotes
there. So text never stands in a statement: `text_value` writes it as hex digits. Quoted times are for Arc's pruner
alone. It skips hour folders by them and is wrong about rows near a bound; so they are widened, and exact bounds in
a form that the pruner does not know stand beside them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from memtrace_core.context import ERROR_EVENT
from memtrace_core.errors import InvalidInput
from memtrace_core.forgotten import Forgotten
from memtrace_core.identifiers import parse_memory_id
from memtrace_core.query import AgentCountQuery, Horizon, MemoryQuery, OwnSpan
from memtrace_core.timewindow import to_us

MAX_SQL_BYTES = 10_000
WIDENED = timedelta(minutes=61)
LONGEST_PRUNED = timedelta(days=40)
EARLIEST = datetime(1970, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)

_SELECTED = (
    "agent_id",
    "session_id",
    "memory_type",
    "event_type",
    "content",
    "metadata_json",
    "tags_csv",
    "dedup_key",
    "importance",
    "parent_id",
)
COLUMNS = ("time", "org_id", *_SELECTED, "memory_id")
# What another writer may have left out; the words are ours, so they may stand in quotes.
_DEFAULTS = {"memory_type": "episodic", "event_type": "general"}


class Window(msgspec.Struct, frozen=True):
    """A stretch of time, `since` included and `until` not; None is open."""

    since: datetime | None
    until: datetime | None


EVERYTHING = Window(None, None)


def window_of(span: OwnSpan) -> Window:
    """Return the stretch of time of a span."""
    return Window(span.first, span.last + timedelta(microseconds=1))


def window_of_forgotten(forgotten: Sequence[Forgotten]) -> Window:
    """Return the stretch of time in which everything is that is to be forgotten."""
    until = max(one.before for one in forgotten)
    if any(one.memory_id is None for one in forgotten):
        return Window(None, until)
    return Window(min(one.before for one in forgotten) - timedelta(microseconds=1), until)


class Dialect:
    """Renders statements for a measurement that has certain columns; a column it lacks counts as absent text."""

    def __init__(self, measurement: str, columns: Collection[str] = COLUMNS) -> None:
        self._measurement = measurement
        self._columns = frozenset(columns)

    @property
    def names_ids(self) -> bool:
        """Whether rows may carry a `memory_id` of their own."""
        return "memory_id" in self._columns

    def page(self, query: MemoryQuery, window: Window) -> str:
        """Return the statement for one page, one row per identity, of the memories within a window."""
        identity = self._identity()
        conditions = [
            *self._bounds(window),
            *self._filters(query),
            *self._beyond(query.horizon),
            *self._without(query.horizon),
        ]
        direction = query.order.upper()
        return _checked(
            f"SELECT epoch_us(time) AS us, {identity} AS id, {', '.join(map(self._column, _SELECTED))} "
            f"FROM {self._measurement} WHERE {' AND '.join(conditions)} "
            f"QUALIFY row_number() OVER (PARTITION BY {identity} ORDER BY time) = 1 "
            f"ORDER BY us {direction}, id {direction} LIMIT {query.limit:d} OFFSET {query.offset:d}"
        )

    def count(self, query: AgentCountQuery) -> str:
        """Return the statement that counts one agent's memories by type."""
        identity = self._identity()
        recent = f"epoch_us(time) >= {to_us(query.recent_since):d}"
        failed = f"{recent} AND {self._column('event_type')} = {text_value(ERROR_EVENT)}"
        conditions = [
            f"{self._column('org_id')} = {text_value(query.org_id)}",
            f"{self._column('agent_id')} = {text_value(query.agent_id)}",
            *self._bounds(Window(query.since, None)),
            *self._beyond(query.horizon),
            *self._without(query.horizon),
        ]
        return _checked(
            f"SELECT {self._column('memory_type')} AS kind, count(DISTINCT {identity}), "
            f"count(DISTINCT {identity}) FILTER ({recent}), "
            f"count(DISTINCT {identity}) FILTER ({failed}) "
            f"FROM {self._measurement} WHERE {' AND '.join(conditions)} GROUP BY kind"
        )

    def own_count(self, span: OwnSpan) -> str:
        """Return the statement that counts the distinct memories of a span."""
        return _checked(
            f"SELECT count(DISTINCT memory_id) FROM {self._measurement} WHERE {' AND '.join(self._span(span))}"
        )

    def own_ids(self, span: OwnSpan) -> str:
        """Return the statement for the ids of the memories of a span."""
        return _checked(
            f"SELECT DISTINCT memory_id FROM {self._measurement} WHERE {' AND '.join(self._span(span))}"
        )

    def covered(self, org_id: str, forgotten: Sequence[Forgotten]) -> str:
        """Return the statement that counts the rows, copies included, that are to be forgotten."""
        conditions = self._covered(org_id, forgotten)
        return _checked(f"SELECT count(*) FROM {self._measurement} WHERE {' AND '.join(conditions)}")

    def covered_rows(self, org_id: str, forgotten: Sequence[Forgotten], limit: int) -> str:
        """Return the statement for the oldest of these rows."""
        conditions = self._covered(org_id, forgotten)
        columns = ", ".join(map(self._text, ("memory_id", "agent_id", "session_id", "event_type")))
        return _checked(
            f"SELECT epoch_us(time) AS us, {columns} FROM {self._measurement} "
            f"WHERE {' AND '.join(conditions)} ORDER BY us LIMIT {limit:d}"
        )

    def covered_moment(self, org_id: str, forgotten: Sequence[Forgotten], older: int) -> str:
        """Return the statement for the time of the row, of these, that so many are older than."""
        conditions = self._covered(org_id, forgotten)
        return _checked(
            f"SELECT epoch_us(time) AS us FROM {self._measurement} "
            f"WHERE {' AND '.join(conditions)} ORDER BY us LIMIT 1 OFFSET {older:d}"
        )

    def _covered(self, org_id: str, forgotten: Sequence[Forgotten]) -> list[str]:
        single = [one.memory_id for one in forgotten if one.memory_id is not None]
        any_of = [f"({self._is_covered(one)})" for one in forgotten if one.memory_id is None]
        if single:
            any_of.append(f"({self._is_single(single)})")
        return [
            *self._bounds(window_of_forgotten(forgotten)),
            f"{self._column('org_id')} = {text_value(org_id)}",
            f"({' OR '.join(any_of)})",
        ]

    def _is_covered(self, one: Forgotten) -> str:
        parts = [f"epoch_us(time) < {to_us(one.before):d}"]
        for column, value in (("agent_id", one.agent_id), ("session_id", one.session_id)):
            if value is not None:
                # Never unknown: that would leave a row out of NOT and of its contrary.
                parts.append(f"{self._text(column)} = {text_value(value)}")
        return " AND ".join(parts)

    def _is_single(self, ids: Sequence[str]) -> str:
        return f"{self._identity()} IN ({', '.join(map(quoted_id, ids))})"

    def ids(self, org_id: str, window: Window, most: int) -> str:
        """Return the statement for the ids of an org's memories within a window, whoever wrote them."""
        conditions = [*self._bounds(window), f"{self._column('org_id')} = {text_value(org_id)}"]
        return _checked(
            f"SELECT DISTINCT {self._identity()} AS id FROM {self._measurement} "
            f"WHERE {' AND '.join(conditions)} LIMIT {most:d}"
        )

    def ids_at(self, org_id: str, window: Window, moments: Sequence[int]) -> str:
        """Return the statement for the ids of an org's memories at moments (in µs) within a window."""
        conditions = [
            *self._bounds(window),
            f"{self._column('org_id')} = {text_value(org_id)}",
            f"epoch_us(time) IN ({', '.join(f'{moment:d}' for moment in moments)})",
        ]
        return _checked(
            f"SELECT DISTINCT {self._identity()} AS id FROM {self._measurement} WHERE {' AND '.join(conditions)}"
        )

    def columns(self, window: Window) -> str:
        """Return the statement that names the columns there are in the files of a window."""
        bounds = self._bounds(window)
        where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
        return f"SELECT * FROM {self._measurement}{where} LIMIT 0"

    def _span(self, span: OwnSpan) -> list[str]:
        return [
            *self._bounds(window_of(span)),
            f"org_id = {text_value(span.org_id)}",
            f"substr(memory_id, 19, 6) = {text_value(span.node)}",
        ]

    def _column(self, name: str) -> str:
        """Return the expression of a column as readers are shown it, for filters as well as for answers."""
        if name == "importance":
            return "coalesce(CAST(importance AS DOUBLE), 0)" if name in self._columns else "CAST(0 AS DOUBLE)"
        if name in _DEFAULTS:
            default = f"'{_DEFAULTS[name]}'"
            return f"coalesce(nullif({name}, ''), {default})" if name in self._columns else default
        return name if name in self._columns else "''"

    def _text(self, name: str) -> str:
        """Return the expression of a column that is a text as it is stored, and never null."""
        return f"coalesce({name}, '')" if name in self._columns else "''"

    def _identity(self) -> str:
        """Return the expression of a memory's id, also for rows of writers that give none."""
        # A null would be left out together with its separator, and is there or not depending on the other files.
        parts = ", ".join(
            map(self._text, ("agent_id", "session_id", "memory_type", "event_type", "content", "dedup_key"))
        )
        derived = (
            f"('mem_' || printf('%014x', epoch_us(time)) || substr(sha256(concat_ws(chr(31), {parts})), 1, 10))"
        )
        return f"coalesce(nullif(memory_id, ''), {derived})" if self.names_ids else derived

    @staticmethod
    def _bounds(window: Window) -> list[str]:
        bounds: list[str] = []
        if window.since is not None and window.until is not None and window.until - window.since <= LONGEST_PRUNED:
            # Only as a pair: one alone makes the pruner guess the other. And only for a while: the pruner looks
            # for the folder of every single hour.
            bounds.append(
                f"time >= '{_quoted(window.since, -WIDENED)}' AND time < '{_quoted(window.until, WIDENED)}'"
            )
        if window.since is not None:
            bounds.append(f"epoch_us(time) >= {to_us(window.since):d}")
        if window.until is not None:
            bounds.append(f"epoch_us(time) < {to_us(window.until):d}")
        return bounds

    def _filters(self, query: MemoryQuery) -> list[str]:
        found = [f"{self._column('org_id')} = {text_value(query.org_id)}"]
        for column, values in (
            ("agent_id", query.agent_ids),
            ("session_id", query.session_ids),
            ("memory_type", query.memory_types),
            ("event_type", query.event_types),
        ):
            if values:
                found.append(f"{self._column(column)} IN ({', '.join(map(text_value, values))})")
        found += [
            f"list_contains(string_split({self._column('tags_csv')}, ','), {text_value(tag)})" for tag in query.tags
        ]
        if query.content_contains is not None:
            found.append(f"contains(lower({self._column('content')}), lower({text_value(query.content_contains)}))")
        importance = self._column("importance")
        if query.min_importance is not None:
            found.append(f"{importance} >= CAST({query.min_importance!r} AS DOUBLE)")
        if query.max_importance is not None:
            found.append(f"{importance} <= CAST({query.max_importance!r} AS DOUBLE)")
        if query.memory_id is not None:
            found.append(f"{self._identity()} = {text_value(query.memory_id)}")
        if query.dedup_key is not None:
            found.append(f"{self._column('dedup_key')} = {text_value(query.dedup_key)}")
        if query.after is not None:
            comparison = "<" if query.order == "desc" else ">"
            us = to_us(query.after.time)
            found.append(
                f"(epoch_us(time) {comparison} {us:d} OR (epoch_us(time) = {us:d} "
                f"AND {self._identity()} {comparison} {text_value(query.after.id)}))"
            )
        return found

    def _beyond(self, horizon: Horizon | None) -> list[str]:
        if horizon is None or not self.names_ids:
            return []
        own = f"epoch_us(time) < {to_us(horizon.before):d}"
        if horizon.set_aside:
            # Times of one node are unique, and shorter to write than ids.
            refused = sorted(parsed[0] for one in horizon.set_aside if (parsed := parse_memory_id(one)))
            own += f" AND epoch_us(time) NOT IN ({', '.join(map(str, refused))})"
        return [
            f"(memory_id IS NULL OR memory_id = '' OR substr(memory_id, 19, 6) <> {text_value(horizon.node)} "
            f"OR ({own}))"
        ]

    def _without(self, horizon: Horizon | None) -> list[str]:
        """Return the conditions that leave out what is forgotten."""
        forgotten = horizon.forgotten if horizon else ()
        single = [one.memory_id for one in forgotten if one.memory_id is not None]
        conditions = [f"NOT ({self._is_covered(one)})" for one in forgotten if one.memory_id is None]
        return [*conditions, f"NOT ({self._is_single(single)})"] if single else conditions


def text_value(text: str) -> str:
    """Return any text, NUL included, as an expression in which nothing of it can be read by Arc's rewriter."""
    return f"decode(unhex('{text.encode().hex().upper()}'))"


def quoted_id(memory_id: str) -> str:
    """Return a memory's id in quotes, in half the room of any other text: there is nothing in it but hex digits.

    Raises:
        InvalidInput: it is none.
    """
    if parse_memory_id(memory_id) is None:
        raise InvalidInput("not a memory's id")
    return f"'{memory_id}'"


def _quoted(moment: datetime, widened: timedelta) -> str:
    """Return a widened time as the pruner reads it, within the years in which there can be memories."""
    return f"{min(max(moment, EARLIEST), LATEST) + widened:%Y-%m-%d %H:%M:%S}"


def _checked(sql: str) -> str:
    if len(sql.encode()) > MAX_SQL_BYTES:
        raise InvalidInput("the filters are too long together for 10,000 bytes of SQL, Arc's limit; use fewer")
    return sql
