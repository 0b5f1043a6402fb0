"""Which of several processes does what only one may do."""

from __future__ import annotations

from typing import Protocol


class Ownership(Protocol):
    """Makes one of the processes that share a journal the one that delivers what is in it.

    When the owner ends, in whatever way, another one can take its place. Which one is owner matters to nobody who
    writes or reads.
    """

    @property
    def held(self) -> bool:
        """Whether this process is the owner; once it is, it remains so until `release`."""
        ...

    def take(self) -> bool:
        """Become the owner unless another process is, and tell whether this one is now. Does not wait."""
        ...

    def release(self) -> None:
        """Let another process be the owner."""
        ...
