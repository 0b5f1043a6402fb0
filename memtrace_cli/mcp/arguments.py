"""What the tools of `memtrace mcp` take, and what a model is told of it.

The docstring of a tool's arguments is its description. Types are checked here; every other rule is the server's,
whose errors name the argument.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from memtrace_core import rules
from memtrace_core.model import MEMORY_TYPES


def _said(text: str, **schema: object) -> Meta:
    """Describe an argument, with JSON schema that informs the model but leaves the verdict to the server."""
    return Meta(description=text, extra_json_schema=schema)


_IDENTIFIER = {"pattern": rules.IDENTIFIER_PATTERN}
_TYPES = {"enum": list(MEMORY_TYPES)}

AgentId = Annotated[
    str,
    _said(
        "Who remembers: a short, stable name of the agent, such as 'crawler' (no registration needed).",
        **_IDENTIFIER,
    ),
]
OnlyAgent = Annotated[str | None, _said("Only memories of this agent.")]
OnlySession = Annotated[str | None, _said("Only memories of this session.")]
InSession = Annotated[str | None, _said("The session this belongs to, from memtrace_session_create.")]
Tags = Annotated[
    list[str] | None,
    Meta(description="Labels to find it by: letters, digits, '_', '-' and '.', at most 64."),
]
AllTags = Annotated[list[str] | None, Meta(description="Only memories that have all of these tags.")]
Importance = Annotated[float | None, _said("0 (a detail) to 1 (vital); 0 if absent.", minimum=0, maximum=1)]
Since = Annotated[
    str | None,
    _said("Only memories from then on: '30m', '2h', '7d', '1w' ago, or an ISO 8601 time."),
]
Until = Annotated[str | None, _said("Only memories before then: in the same forms, or 'now'.")]
Limit = Annotated[int, _said("At most so many memories, 1 to 1000.", minimum=1, maximum=rules.MAX_LIMIT)]
OrderOfTime = Annotated[str, _said("'desc': newest first; 'asc': oldest first.", enum=["desc", "asc"])]
Cursor = Annotated[str | None, _said("next_cursor of the page before, to go on where it ended.")]
TypeList = Annotated[
    list[Annotated[str, Meta(extra_json_schema=_TYPES)]] | None,
    Meta(
        description="Any of: episodic (what happened), decision, entity (a fact about something), session (a note)."
    ),
]


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tool is called with; null means absent."""


class Remember(Arguments, frozen=True):
    """Store one memory, durably: something that happened, a fact you learned, a note for later.

    Write it so that it makes sense without this conversation. The same content of the same agent is kept once
    within the dedup window (24 hours unless set otherwise): then `duplicate` is true, and `memory_id` names the one
    that is kept. For a choice between options use memtrace_decide.
    """

    agent_id: AgentId
    content: Annotated[str, _said("What to remember: one self-contained statement, up to 1 MiB.", minLength=1)]
    memory_type: Annotated[
        str,
        _said("episodic: what happened; entity: a fact about something; session: a note; decision.", **_TYPES),
    ] = "episodic"
    event_type: Annotated[
        str,
        _said(
            "What kind of event, such as 'page_crawled'; 'error' has a section of its own in contexts.",
            pattern=rules.EVENT_TYPE_PATTERN,
        ),
    ] = "general"
    session_id: InSession = None
    metadata: Annotated[dict[str, object] | None, Meta(description="More about it, as a JSON object.")] = None
    tags: Tags = None
    importance: Importance = None
    dedup_key: Annotated[
        str | None,
        _said("What makes it unique within the dedup window; made from agent, event type and content if absent."),
    ] = None
    parent_id: Annotated[str | None, _said("memory_id of the memory that this one follows from.")] = None


class Recall(Arguments, frozen=True):
    """Read an agent's recent memories, newest first: what was done, found and decided lately.

    Use it at the start of a task. To look for something in particular, over all agents or further back, use
    memtrace_search. If `has_more` is true, call again with `cursor` = `next_cursor`.
    """

    agent_id: AgentId
    since: Since = "24h"
    until: Until = None
    session_id: OnlySession = None
    memory_type: Annotated[str | None, _said("Only memories of this type.", **_TYPES)] = None
    event_type: Annotated[str | None, _said("Only events of this kind.")] = None
    tags: AllTags = None
    limit: Limit = 100
    order: OrderOfTime = "desc"
    cursor: Cursor = None


class Search(Arguments, frozen=True):
    """Find memories of all agents and all times by words, tags, type, importance or time.

    All given filters must match; without any it lists everything, newest first. `content_contains` is a plain
    substring, case-insensitive: search for one characteristic word rather than for a sentence. If `has_more` is
    true, call again with the same filters and `cursor` = `next_cursor`.
    """

    content_contains: Annotated[str | None, _said("Words that must stand in the content, exactly so.")] = None
    agent_id: OnlyAgent = None
    session_id: OnlySession = None
    memory_types: TypeList = None
    event_types: Annotated[list[str] | None, Meta(description="Any of these kinds of event.")] = None
    tags: AllTags = None
    min_importance: Annotated[float | None, _said("At least this important.", minimum=0, maximum=1)] = None
    max_importance: Annotated[float | None, _said("At most this important.", minimum=0, maximum=1)] = None
    since: Since = None
    until: Until = None
    limit: Limit = 100
    order: OrderOfTime = "desc"
    cursor: Cursor = None


class Decide(Arguments, frozen=True):
    """Store a decision with its reasoning, so that later runs know what was chosen, and why.

    It appears under "Decisions Made" in the session's context. The same decision of the same agent within the dedup
    window is kept once, as with memtrace_remember.
    """

    agent_id: AgentId
    decision: Annotated[str, _said("What was decided, in one self-contained statement.", minLength=1)]
    reasoning: Annotated[str, _said("Why: what spoke for it and against the alternatives.")]
    session_id: InSession = None
    tags: Tags = None
    importance: Importance = None


class CreateSession(Arguments, frozen=True):
    """Start a session: a bounded stretch of work whose memories belong together.

    Give the `id` of the answer as session_id to memtrace_remember and memtrace_decide, and to
    memtrace_session_context later, also in another conversation.
    """

    agent_id: AgentId
    metadata: Annotated[
        dict[str, object] | None,
        Meta(description="What the session is about, as a JSON object: a goal, a task id."),
    ] = None


class ReadContext(Arguments, frozen=True):
    """Read a session's memories as one Markdown text, ready for a prompt.

    Sections: recent actions, decisions with their reasons, entities, notes, errors. Use it to continue a session's
    work. With max_tokens the least important and oldest memories are left out first.
    """

    session_id: Annotated[str, _said("The session, from memtrace_session_create.", **_IDENTIFIER)]
    since: Since = "24h"
    until: Until = None
    include_types: TypeList = None
    exclude_types: TypeList = None
    max_tokens: Annotated[
        int | None,
        _said(
            "Greatest length of the text, counted as four characters a token: 32 to 1,000,000.",
            minimum=rules.MIN_CONTEXT_TOKENS,
            maximum=rules.MAX_CONTEXT_TOKENS,
        ),
    ] = None
    order: OrderOfTime = "desc"


class RegisterAgent(Arguments, frozen=True):
    """Register an agent, with a description for people. Optional: memories need no registered agent.

    Once for each name; afterwards use its name (or its id) as agent_id everywhere.
    """

    name: Annotated[
        str,
        _said("Its name; a letter, then letters, digits, '_' or '-', if it shall serve as agent_id.", minLength=1),
    ]
    description: Annotated[str | None, _said("What the agent is for.")] = None
    config: Annotated[dict[str, object] | None, Meta(description="Its settings, as a JSON object.")] = None
