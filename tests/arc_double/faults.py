"""The switches by which a test makes the double misbehave, at run time and from any thread."""

import random
from collections.abc import Callable
from threading import Lock
from typing import Any

DEFAULTS: dict[str, Any] = {
    "write_latency": 0.0,
    "query_latency": 0.0,
    "hang": False,
    "hang_writes": False,
    "hang_queries": False,
    "hang_database": None,
    "lost_answer_share": 0.0,
    "lost_answer": "reset",
    "error_before_share": 0.0,
    "error_after_share": 0.0,
    "drop_share": 0.0,
    "query_error_share": 0.0,
    "next_writes": [],
    "reject": {},
    "auth_status": None,
    "visibility_lag": 0.0,
    "io_errors": 0,
    "down": False,
}
OUTCOMES = ("ok", "reset", "silence", "error_before", "error_after", "drop")


class Faults:
    """The faults of one double; README.md lists them.

    Args:
        seed: Of the draws, so that a run can be repeated.
    """

    def __init__(self, seed: int = 0):
        self.__dict__.update(random=random.Random(seed), lock=Lock(), on_down=None)
        self.__dict__.update(self._fresh())

    on_down: Callable[[bool], None] | None

    @staticmethod
    def _fresh() -> dict[str, Any]:
        return {name: value.copy() if isinstance(value, list | dict) else value for name, value in DEFAULTS.items()}

    def __setattr__(self, name, value):
        if name != "on_down" and name not in DEFAULTS:
            raise AttributeError(f"no such fault: {name}")
        if name == "lost_answer" and value not in ("reset", "silence"):
            raise ValueError("lost_answer must be 'reset' or 'silence'")
        if name == "next_writes" and not set(value) <= set(OUTCOMES):
            raise ValueError(f"next_writes may hold {', '.join(OUTCOMES)}")
        changed = name == "down" and value != self.down
        self.__dict__[name] = value
        if changed and self.on_down:
            self.on_down(value)

    def update(self, values: dict[str, Any]) -> None:
        """Set the given faults; a true `clear` among them resets all others first."""
        values = dict(values)
        if values.pop("clear", False):
            self.clear()
        for name, value in values.items():
            setattr(self, name, value)

    def clear(self) -> None:
        """End every fault."""
        for name, value in self._fresh().items():
            setattr(self, name, value)

    def current(self) -> dict[str, Any]:
        """Return every fault's value."""
        return {name: getattr(self, name) for name in DEFAULTS}

    def write_outcome(self) -> str:
        """Decide how the next write ends: one of `OUTCOMES`."""
        with self.lock:
            if self.next_writes:
                return self.next_writes.pop(0)
            drawn = self.random.random()
        for outcome, share in (
            (self.lost_answer, self.lost_answer_share),
            ("error_before", self.error_before_share),
            ("error_after", self.error_after_share),
            ("drop", self.drop_share),
        ):
            if drawn < share:
                return outcome
            drawn -= share
        return "ok"

    def rejection(self, body: bytes) -> int | None:
        """Return the status for a body that contains a marked content, None for any other."""
        return next((status for marker, status in self.reject.items() if marker.encode() in body), None)

    def query_fails(self) -> bool:
        """Decide whether the next query gets a passing 500."""
        with self.lock:
            return self.random.random() < self.query_error_share

    def take_io_error(self) -> bool:
        """Use up one of the IO errors that were ordered, if any is left."""
        with self.lock:
            taken = self.io_errors > 0
            self.__dict__["io_errors"] -= taken
        return taken
