"""An agent's day: it works in the morning, makes a mistake, and does not make it again in the evening.

The loop is the one of every agent with tools: a prompt goes to a model, the model asks for tool calls, their
results go back to it, until it has an answer. Memtrace adds three things to it:

1. before the first prompt, what happened in the last session and what was ever decided goes *in*, as text;
2. every tool call and every error goes *out*, as a memory of this session;
3. so does every decision, with its reasoning.

Run it against a server (`memtrace serve --dev` prints a key):

    pip install memtrace-sdk
    MEMTRACE_URL=http://127.0.0.1:9100 MEMTRACE_API_KEY=mtk_... python agent_day.py

`ScriptedModel` stands in for a language model, so that this runs without one. It knows nothing but the messages
that it is given, as any model: what it learns from, it has from its prompt. Put a client of your own in its place.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
from memtrace import (
    AddMemoryRequest,
    ConflictError,
    ContextOptions,
    CreateSessionRequest,
    Memtrace,
    MemtraceError,
    SearchQuery,
)

AGENT = "price_watcher"
TASK = "Get the prices of all 24 articles of example.com."
MOST_TURNS = 12
TOKENS_FOR_MEMORY = 800


# The model's side: messages, tool calls, and a stand-in for the model


@dataclass(frozen=True)
class ToolCall:
    """What a model wants done."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Message:
    """One turn of the conversation; `role` is system, user, assistant or tool."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()


class Model(Protocol):
    """A language model: it reads the whole conversation, and says what comes next."""

    def reply(self, messages: list[Message]) -> Message:
        """Return the next message: tool calls, or the answer."""
        ...


class ScriptedModel:
    """Behaves as a model would that reads its prompt: it asks for everything at once unless it knows better."""

    def reply(self, messages: list[Message]) -> Message:
        """Return the next message."""
        known = "\n".join(message.content for message in messages if message.role in ("system", "tool"))
        limit = re.search(r"at most (\d+) articles", known)
        at_once = int(limit[1]) if limit else 24
        decided = any(call.name == "decide" for message in messages for call in message.tool_calls)
        if limit and "Decisions" not in messages[0].content and not decided:
            return self._asks(
                "decide",
                decision=f"Ask example.com for at most {at_once} articles at a time",
                reasoning="it refuses larger requests with 429",
            )
        got = sum(int(count) for count in re.findall(r"(\d+) prices", known_results(messages)))
        if got < 24:
            return self._asks("fetch_prices", first=got + 1, count=min(at_once, 24 - got))
        return Message("assistant", "I have all 24 prices.")

    @staticmethod
    def _asks(name: str, **arguments: Any) -> Message:
        return Message("assistant", "", (ToolCall(name, arguments),))


def known_results(messages: list[Message]) -> str:
    """Return what the tools have answered in this conversation."""
    return "\n".join(message.content for message in messages if message.role == "tool")


# The world's side: the one tool that reaches out


class ToolFailed(Exception):
    """A tool could not do what it was asked."""


def fetch_prices(first: int, count: int) -> str:
    """Get prices from a shop that has a limit which nobody is told before."""
    if count > 10:
        raise ToolFailed("HTTP 429 from example.com: at most 10 articles in one request")
    return f"{count} prices, from article {first} on"


# The agent


@dataclass
class Run:
    """What became of one run: the answer, and which calls failed on the way."""

    answer: str = ""
    calls: int = 0
    mistakes: list[str] = field(default_factory=list)


class Agent:
    """Runs a model with tools, and keeps what happens in Memtrace."""

    def __init__(self, memory: Memtrace, model: Model) -> None:
        self._memory = memory
        self._model = model

    def run(self, task: str) -> Run:
        """Do a task in a session of its own."""
        known = self._what_is_known()  # before the new session begins, which is empty
        session = self._memory.create_session(CreateSessionRequest(agent_id=AGENT, metadata={"task": task}))
        messages = [Message("system", f"You watch prices. What you know:\n\n{known}"), Message("user", task)]
        run = Run()
        for turn in range(MOST_TURNS):
            reply = self._model.reply(messages)
            messages.append(reply)
            if not reply.tool_calls:
                run.answer = reply.content
                break
            for number, call in enumerate(reply.tool_calls):
                result = self._perform(call, session.id, f"{turn}.{number}", run)
                messages.append(Message("tool", result))
        self._memory.close_session(session.id)
        return run

    def _what_is_known(self) -> str:
        """Return the last session as text for a prompt, and below it every decision of the last month."""
        parts = []
        sessions = self._memory.list_sessions(AGENT).sessions  # the newest first
        if sessions:
            options = ContextOptions(max_tokens=TOKENS_FOR_MEMORY, since="7d")
            parts.append(self._memory.get_session_context(sessions[0].id, options).context)
        decisions = self._memory.search_memories(
            SearchQuery(agent_id=AGENT, memory_types=["decision"], since="30d", limit=20)
        ).results
        if decisions:
            parts.append("## Decisions so far\n" + "\n".join(f"- {one.content}" for one in decisions))
        return "\n\n".join(parts) or "Nothing yet."

    def _perform(self, call: ToolCall, session_id: str, step: str, run: Run) -> str:
        """Do what the model wants, note it, and return the result for the model to read."""
        run.calls += 1
        if call.name == "decide":
            decision, reasoning = call.arguments["decision"], call.arguments["reasoning"]
            self._note(session_id, step, decision, "decision", "decision", {"reasoning": reasoning})
            return "noted"
        try:
            result = fetch_prices(**call.arguments)
        except ToolFailed as error:
            run.mistakes.append(str(error))
            self._note(session_id, step, str(error), "episodic", "error", call.arguments, importance=0.9)
            return str(error)
        self._note(session_id, step, f"Got {result}", "episodic", "tool_call", call.arguments)
        return result

    def _note(
        self,
        session_id: str,
        step: str,
        content: str,
        memory_type: Any,
        event_type: str,
        metadata: dict[str, Any],
        importance: float | None = None,
    ) -> None:
        """Remember a step. Its key names session and step, so a step that is sent twice is kept once."""
        # A conflict says that it is stored: an earlier attempt got through, and only its answer was lost.
        with suppress(ConflictError):
            self._memory.add_memory(
                AddMemoryRequest(
                    agent_id=AGENT,
                    session_id=session_id,
                    memory_type=memory_type,
                    event_type=event_type,
                    content=content,
                    metadata=metadata,
                    importance=importance,
                    dedup_key=f"{session_id}:{step}",
                )
            )


def main() -> int:
    """Play the day, and return the exit code."""
    key = os.environ.get("MEMTRACE_API_KEY")
    if not key:
        print("set MEMTRACE_API_KEY; `memtrace serve --dev` prints one", file=sys.stderr)
        return 2
    url = os.environ.get("MEMTRACE_URL", "http://127.0.0.1:9100")
    try:
        with Memtrace(url, key) as memory:
            agent = Agent(memory, ScriptedModel())
            for part_of_day in ("morning", "evening"):
                run = agent.run(TASK)
                print(f"{part_of_day}: {run.answer} ({run.calls} tool calls, {len(run.mistakes)} refused)")
                for mistake in run.mistakes:
                    print(f"  {mistake}")
    except MemtraceError as error:
        print(f"Memtrace: {error}", file=sys.stderr)
        return 1
    except httpx.TransportError as error:  # the client's own word for a server that cannot be reached
        print(f"no Memtrace server can be reached at {url}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
