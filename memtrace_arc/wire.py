"""Arc's wire: memories out as columns of msgpack, rows in from JSON."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from memtrace_core.model import UNIMPORTANT, AgentCounts, Memory
from memtrace_core.timewindow import from_us, to_us

NO_METADATA = "{}"

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()
_metadata = msgspec.json.Decoder(dict[str, object])


def encode_batch(measurement: str, memories: Sequence[Memory]) -> bytes:
    """Return memories of one org as the body of a write.

    Absent text is `''`, never null; times are microseconds and `importance` is a float in every row, because Arc
    takes a column's type and unit from its first value.
    """
    return _msgpack.encode(
        {
            "m": measurement,
            "columns": {
                "time": [to_us(memory.time) for memory in memories],
                "org_id": [memory.org_id for memory in memories],
                "agent_id": [memory.agent_id for memory in memories],
                "session_id": [memory.session_id or "" for memory in memories],
                "memory_type": [memory.memory_type for memory in memories],
                "event_type": [memory.event_type for memory in memories],
                "content": [memory.content for memory in memories],
                "metadata_json": [
                    _json.encode(memory.metadata).decode() if memory.metadata else NO_METADATA
                    for memory in memories
                ],
                "tags_csv": [",".join(memory.tags) for memory in memories],
                "dedup_key": [memory.dedup_key or "" for memory in memories],
                "importance": [float(memory.importance) for memory in memories],
                "parent_id": [memory.parent_id or "" for memory in memories],
                "memory_id": [memory.memory_id for memory in memories],
            },
        }
    )


class Row(msgspec.Struct, array_like=True):
    """A memory as the page statement of `memtrace_arc.sql` selects it; null and `''` both mean absent."""

    time_us: int
    memory_id: str
    agent_id: str | None
    session_id: str | None
    memory_type: str | None
    event_type: str | None
    content: str | None
    metadata_json: str | None
    tags_csv: str | None
    dedup_key: str | None
    importance: float | None
    parent_id: str | None

    def memory(self, org_id: str) -> Memory:
        """Return the memory."""
        return Memory(
            memory_id=self.memory_id,
            time=from_us(self.time_us),
            org_id=org_id,
            agent_id=self.agent_id or "",
            session_id=self.session_id or None,
            memory_type=self.memory_type or "episodic",  # type: ignore[arg-type]  # another writer's may be any text
            event_type=self.event_type or "general",
            content=self.content or "",
            metadata=_object(self.metadata_json),
            tags=tuple(self.tags_csv.split(",")) if self.tags_csv else (),
            dedup_key=self.dedup_key or None,
            importance=self.importance or UNIMPORTANT,
            parent_id=self.parent_id or None,
        )


class CoveredRow(msgspec.Struct, array_like=True):
    """A row that is to be forgotten; `memory_id` is `''` if its writer gave none."""

    time_us: int
    memory_id: str
    agent_id: str | None
    session_id: str | None
    event_type: str | None


class CountRow(msgspec.Struct, array_like=True):
    """Memories of one type, counted."""

    memory_type: str | None
    total: int
    recent: int
    recent_errors: int

    def counts(self) -> AgentCounts:
        """Return the counts."""
        by_type = {self.memory_type or "episodic": self.total}
        return AgentCounts(total=self.total, recent=self.recent, recent_errors=self.recent_errors, by_type=by_type)


class Failure(msgspec.Struct):
    """An answer that says what went wrong."""

    error: str | None = None


class Deletion(msgspec.Struct):
    """How many rows were deleted, or would be."""

    deleted_count: int


class ServerHealth(msgspec.Struct):
    """What a server says of itself."""

    version: str | None = None


def _object(text: str | None) -> dict[str, object] | None:
    if not text or text == NO_METADATA:
        return None
    try:
        return _metadata.decode(text) or None
    except (msgspec.DecodeError, RecursionError):
        # Some other writer's: not an object. It is shown rather than dropped.
        return {"metadata_json": text}
