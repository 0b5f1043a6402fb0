"""A session's memories as Markdown for a prompt, within a budget of tokens.

A memory's content is data: it is kept to one line, so that it cannot forge a heading or another memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from memtrace_core.model import Memory

CHARACTERS_PER_TOKEN = 4
ERROR_EVENT = "error"

_SECOND = len("2006-01-02T15:04:05")

_SECTIONS = {
    "episodic": "Recent Actions",
    "decision": "Decisions Made",
    "entity": "Entities",
    "session": "Session Notes",
    ERROR_EVENT: "Errors",
}


class SessionContext(msgspec.Struct, frozen=True):
    """The text for a prompt, and how many memories are in it."""

    session_id: str
    context: str
    memory_count: int


def build_context(session_id: str, memories: Sequence[Memory], max_tokens: int | None = None) -> SessionContext:
    """Write memories as Markdown, in their order, section by section.

    Args:
        session_id: for the heading.
        memories: what to write, in the order in which a section lists them.
        max_tokens: the text never exceeds this many tokens of four characters. Left out first is what could not
            fit even alone, then the least important, then the oldest.
    """
    budget = None if max_tokens is None else max_tokens * CHARACTERS_PER_TOKEN
    text = _render(_heading(session_id, budget), memories)
    if budget is None or len(text) <= budget:
        return SessionContext(session_id, text, len(memories))
    kept = _fitting(_heading(session_id, budget), memories, budget)
    text = _render(_heading(session_id, budget), kept, left_out=len(memories) - len(kept))
    return SessionContext(session_id, text, len(kept))


def _fitting(heading: str, memories: Sequence[Memory], budget: int) -> list[Memory]:
    total = len(memories)

    def fits(chosen: list[Memory]) -> bool:
        return len(_render(heading, chosen, left_out=total - len(chosen))) <= budget

    possible = [memory for memory in memories if fits([memory])]
    ranked = sorted(possible, key=lambda memory: (memory.importance, memory.time, memory.memory_id), reverse=True)
    # Every further memory makes the text longer, so the longest fitting beginning is found by halving.
    low, high = 0, len(ranked)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(ranked[:middle]) else (low, middle - 1)
    chosen = {memory.memory_id for memory in ranked[:low]}
    return [memory for memory in memories if memory.memory_id in chosen]


def _heading(session_id: str, budget: int | None) -> str:
    heading = f"## Session Context ({session_id})"
    room = None if budget is None else budget - len(_left_out(1000)) - 2
    if room is None or len(heading) <= room:
        return heading
    return heading[: room - 2] + "…)"


def _render(heading: str, memories: Sequence[Memory], left_out: int = 0) -> str:
    sections: dict[str, list[str]] = {name: [] for name in _SECTIONS}
    # In one call, as there may be 1,000: each for itself, times would take a third of a context's time.
    times: list[str] = msgspec.to_builtins([memory.time for memory in memories])
    for memory, time in zip(memories, times, strict=True):
        name = ERROR_EVENT if memory.event_type == ERROR_EVENT else memory.memory_type
        # Another writer's memory may be of a type that is none of ours.
        sections[name if name in sections else "episodic"].append(_line(memory, time))
    parts = [heading]
    parts += [
        "\n".join((f"### {_SECTIONS[name]} ({len(lines)})", *lines)) for name, lines in sections.items() if lines
    ]
    if left_out:
        parts.append(_left_out(left_out))
    return "\n\n".join(parts)


def _left_out(count: int) -> str:
    return f"({count} {'memory' if count == 1 else 'memories'} left out)"


def _line(memory: Memory, time: str) -> str:
    line = f"- [{time[:_SECOND]}Z] {_one_line(memory.event_type)}: {_one_line(memory.content)}"
    if memory.memory_type == "decision" and memory.metadata:
        reasoning = memory.metadata.get("reasoning")
        if isinstance(reasoning, str) and reasoning:
            line += f" (reasoning: {_one_line(reasoning)})"
    return line


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
