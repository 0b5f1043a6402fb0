"""Memories to send: each content begins with a mark of its own, by which it can be told from all others."""

from __future__ import annotations

from random import Random

from torture.history import Fields

TEXTURES = (
    "plain",
    "line one\nline two\ttabbed\r\n",
    "Größe ΣΊΣΥΦΟΣ İstanbul ẞ 🙂👩‍👩‍👧 \u202eright to left",
    "'; DROP TABLE journal; -- \\ % _ \" ` $(x) {{y}} <z>",
    "\ufeff\u00a0\u2028\u007f\u0001",
)
# Few memories hold it: what Arc has refused once is set aside for ever.
POISON = "poison"
EVENTS = ("general", "error", "page_crawled")
SESSIONS = ("s1", "s2")
TYPES = ("episodic", "session", "decision", "entity")
TAGS = ("auth", "a.b", "a-b", "x_y")


class Pen:
    """Writes memories that nobody has written before.

    Args:
        mark: begins every content, and is no other pen's.
        agent: whose memories they are.
        rng: draws everything else.
    """

    def __init__(self, mark: str, agent: str, rng: Random) -> None:
        self._mark, self._agent, self._rng = mark, agent, rng
        self._written = 0

    def memory(self) -> Fields:
        """Return the body of a new memory."""
        rng = self._rng
        self._written += 1
        mark = f"{self._mark}.{self._written}"
        size = rng.choices((1, 40, 400, 20_000), (60, 30, 10, 0.5))[0]
        made: Fields = {"agent_id": self._agent, "content": f"{mark} {self._texture()}" + "é~" * size}
        optional: Fields = {
            "session_id": rng.choice(SESSIONS),
            "memory_type": rng.choice(TYPES),
            "event_type": rng.choice(EVENTS),
            "tags": rng.sample(TAGS, rng.randint(1, 3)),
            "metadata": {"n": rng.randint(-(2**53), 2**53), "π": [None, True, {"deep": "\"'\\"}]},
            "importance": rng.choice((0.1, 0.25, 1.0)),
            "parent_id": "mem_of_old",
        }
        made |= {name: value for name, value in optional.items() if rng.random() < 0.3}
        if rng.random() < 0.1:
            made["dedup_key"] = f"key {mark}"
        return made

    def _texture(self) -> str:
        return POISON if self._rng.random() < 0.06 else self._rng.choice(TEXTURES)

    def twin(self, memory: Fields) -> Fields:
        """Return what dedup must take for the same memory: it differs only where dedup does not look."""
        if "dedup_key" not in memory:
            return memory
        return {
            "agent_id": memory["agent_id"],
            "content": self.memory()["content"],
            "dedup_key": memory["dedup_key"],
        }


def sameness_of(memory: Fields) -> str:
    """Return a text that is equal for what dedup must take for the same memory."""
    if "dedup_key" in memory:
        return f"key {memory['dedup_key']}"
    return f"{memory['agent_id']}|{memory.get('event_type', 'general')}|{memory['content'].partition(' ')[0]}"
