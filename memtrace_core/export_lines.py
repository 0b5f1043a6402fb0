"""The lines of an export: what stands in each, written and read back.

An export is JSON, a line each: first what it is, then memories in the form of the HTTP API, the oldest first, then
the registered agents and the sessions, and in the end how many there are of each. A file without its last line is
not complete.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from memtrace_core import rules
from memtrace_core.errors import InvalidInput
from memtrace_core.identifiers import parse_memory_id
from memtrace_core.model import UNIMPORTANT, Agent, Memory, Session, SessionStatus
from memtrace_core.timewindow import to_us

FORMAT = 1
MOST_LINE_BYTES = 16 << 20
MOST_ID_CHARACTERS = 256


class Head(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an export is: of which org, when it was begun, and from which time on (None: from the beginning)."""

    memtrace_export: int
    org_id: str
    org_name: str
    began_at: datetime
    since: datetime | None = None


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How many lines of each kind there are, and the time that all memories are older than."""

    memories: int
    agents: int
    sessions: int
    until: datetime


Line = Head | Memory | Agent | Session | End


class _Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    memory_id: str
    time: datetime
    org_id: str
    agent_id: str
    session_id: str | None = None
    memory_type: str
    event_type: str
    content: str
    metadata: dict[str, object] | None = None
    tags: tuple[str, ...] = ()
    dedup_key: str | None = None
    importance: float = UNIMPORTANT
    parent_id: str | None = None


class _Agent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: str
    org_id: str
    name: str
    description: str | None = None
    config: dict[str, object] | None = None
    created_at: datetime
    last_active_at: datetime | None = None


class _Session(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: str
    org_id: str
    agent_id: str
    status: SessionStatus
    metadata: dict[str, object] | None = None
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None = None


class _Wrapped(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line that is no memory names its kind: {"agent": {…}}."""

    agent: _Agent | None = None
    session: _Session | None = None
    end: End | None = None


_encoder = msgspec.json.Encoder()
_head = msgspec.json.Decoder(Head)
_memory = msgspec.json.Decoder(_Memory)
_wrapped = msgspec.json.Decoder(_Wrapped)


def encode_line(line: Line) -> str:
    """Return a line of an export, its line feed included."""
    if isinstance(line, Head | Memory):
        return _encoder.encode(line).decode() + "\n"
    return _encoder.encode({type(line).__name__.lower(): line}).decode() + "\n"


def read_head(text: bytes) -> Head:
    """Read the first line of a file.

    Raises:
        InvalidInput: the file is no export, or one of another version.
    """
    try:
        head = _head.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise InvalidInput("this is not an export of Memtrace: its first line does not say so") from None
    if head.memtrace_export != FORMAT:
        raise InvalidInput(f"this export has format {head.memtrace_export}, and this program reads format {FORMAT}")
    return head


def read_line(text: bytes) -> Memory | Agent | Session | End:
    """Read a line that is not the first.

    What another writer may have given a memory is taken as readers are shown it; what no store could keep, or find
    again, is not.

    Raises:
        InvalidInput: with what is wrong in it.
    """
    if len(text) > MOST_LINE_BYTES:
        raise InvalidInput("the line is longer than 16 MiB")
    try:
        try:
            return _checked_memory(_memory.decode(text))
        except msgspec.ValidationError:
            if b'"memory_id"' in text[:64]:
                raise
            wrapped = _wrapped.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(str(error)) from None
    if wrapped.agent:
        return _checked_agent(wrapped.agent)
    if wrapped.session:
        return _checked_session(wrapped.session)
    if wrapped.end:
        return wrapped.end
    raise InvalidInput("it is neither a memory nor an agent, a session or the end")


def _checked_memory(found: _Memory) -> Memory:
    _aware(found.time, "time")
    parsed = parse_memory_id(found.memory_id)
    if parsed is None or parsed[0] != to_us(found.time):
        raise InvalidInput(
            "memory_id must be mem_ and 24 hex digits, the first 14 of them the time in microseconds"
        )
    rules.content(found.content, "content")
    if found.metadata is not None:
        rules.json_object(found.metadata, "metadata")
    for field in ("agent_id", "session_id", "memory_type", "event_type", "dedup_key", "parent_id"):
        _short_text(getattr(found, field) or "", field)
    for tag in found.tags:
        _short_text(tag, "tags")
    if any("," in tag or not tag for tag in found.tags):
        raise InvalidInput("tags must not be empty, or hold a comma")
    return Memory(
        memory_id=found.memory_id,
        time=found.time.astimezone(UTC),
        org_id=found.org_id,
        agent_id=found.agent_id,
        session_id=found.session_id or None,
        memory_type=found.memory_type,  # type: ignore[arg-type]  # another writer's may be any text
        event_type=found.event_type,
        content=found.content,
        metadata=found.metadata or None,
        tags=found.tags,
        dedup_key=found.dedup_key or None,
        importance=found.importance or UNIMPORTANT,
        parent_id=found.parent_id or None,
    )


def _checked_agent(found: _Agent) -> Agent:
    _id(found.id)
    rules.name(found.name, "name")
    if found.description is not None:
        rules.description(found.description, "description")
    if found.config is not None:
        rules.json_object(found.config, "config")
    _aware(found.created_at, "created_at")
    _aware(found.last_active_at, "last_active_at")
    return Agent(**{name: getattr(found, name) for name in _Agent.__struct_fields__})


def _checked_session(found: _Session) -> Session:
    _id(found.id)
    _short_text(found.agent_id, "agent_id")
    if found.metadata is not None:
        rules.json_object(found.metadata, "metadata")
    for field in ("created_at", "updated_at", "closed_at"):
        _aware(getattr(found, field), field)
    return Session(**{name: getattr(found, name) for name in _Session.__struct_fields__})


def _aware(moment: datetime | None, field: str) -> None:
    if moment is not None and moment.tzinfo is None:
        raise InvalidInput(f"{field} must have an offset, as in 2026-02-07T20:15:00Z")


def _id(value: str) -> None:
    if not value:
        raise InvalidInput("id must not be empty")
    _short_text(value, "id")


def _short_text(value: str, field: str) -> None:
    if len(value) > MOST_ID_CHARACTERS or (value and not value.isprintable()):
        raise InvalidInput(f"{field} must be at most {MOST_ID_CHARACTERS} printable characters")
