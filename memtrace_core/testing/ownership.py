"""The ownership of a journal in memory, for several services in one process."""

from __future__ import annotations


class InMemoryOwnership:
    """One of several that contend for a journal; those that are given the same `contenders` do."""

    def __init__(self, contenders: list[InMemoryOwnership] | None = None) -> None:
        self._contenders = [] if contenders is None else contenders
        self._contenders.append(self)
        self._held = False

    @property
    def held(self) -> bool:
        """Whether this one is the owner."""
        return self._held

    def take(self) -> bool:
        """Become the owner if nobody is."""
        self._held = self._held or not any(one.held for one in self._contenders)
        return self._held

    def release(self) -> None:
        """Let another one be the owner."""
        self._held = False
