"""What the core tells of its work, so that somebody can count it."""

from __future__ import annotations

from typing import Literal, Protocol

__all__ = ["SILENT", "Meter", "Operation", "SilentMeter"]

Operation = Literal["write", "query", "count", "confirm", "erase", "ping"]


class Meter(Protocol):
    """Takes note of what happens. Every call is on somebody's way: it is cheap, and raises nothing."""

    def remembered(self, org_id: str, stored: int, duplicates: int) -> None:
        """Memories were acknowledged as stored, others as duplicates."""
        ...

    def rejected(self, org_id: str, memories: int) -> None:
        """Memories were refused: they break a rule, or cannot be stored now."""
        ...

    def asked_arc(self, operation: Operation, seconds: float, outcome: str) -> None:
        """An Arc was asked for something: how long that took, and `ok` or the code of its error."""
        ...

    def delivered(self, org_id: str, memories: int) -> None:
        """An Arc took a batch."""
        ...

    def delivery_failed(self, org_id: str) -> None:
        """A batch was not taken, and will be sent again."""
        ...

    def set_aside(self, org_id: str, memories: int) -> None:
        """An Arc refuses memories for good; they stay in the journal."""
        ...

    def confirmed(self, org_id: str, memories: int) -> None:
        """Delivered memories were seen in Arc, and left the journal."""
        ...

    def resent(self, org_id: str, memories: int) -> None:
        """Delivered memories were not seen in Arc, and wait for delivery again."""
        ...

    def forgotten(self, org_id: str, memories: int) -> None:
        """Memories were removed here, or their rows deleted in Arc, because somebody said to forget them."""
        ...


class SilentMeter:
    """Counts nothing."""

    def remembered(self, org_id: str, stored: int, duplicates: int) -> None:
        """Do nothing."""

    def rejected(self, org_id: str, memories: int) -> None:
        """Do nothing."""

    def asked_arc(self, operation: Operation, seconds: float, outcome: str) -> None:
        """Do nothing."""

    def delivered(self, org_id: str, memories: int) -> None:
        """Do nothing."""

    def delivery_failed(self, org_id: str) -> None:
        """Do nothing."""

    def set_aside(self, org_id: str, memories: int) -> None:
        """Do nothing."""

    def confirmed(self, org_id: str, memories: int) -> None:
        """Do nothing."""

    def resent(self, org_id: str, memories: int) -> None:
        """Do nothing."""

    def forgotten(self, org_id: str, memories: int) -> None:
        """Do nothing."""


SILENT: Meter = SilentMeter()
