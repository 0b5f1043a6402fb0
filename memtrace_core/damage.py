"""Rows that hold what was never written: bytes that flipped within a value, which no database need notice."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import msgspec

from memtrace_core.errors import StorageUnavailable

Result = TypeVar("Result")

UNREADABLE = (AttributeError, OverflowError, TypeError, ValueError, msgspec.DecodeError)
"""What building a value from such a row may raise."""


class DamagedRow(StorageUnavailable):
    """A row does not hold what its table was made for."""

    def __init__(self) -> None:
        super().__init__("the database is damaged (a value cannot be read); restore it from a backup")


def of_sound_rows(build: Callable[[tuple[Any, ...]], Result]) -> Callable[[tuple[Any, ...]], Result]:
    """Let a function that builds a value from a row raise `DamagedRow` for a row that it cannot read."""

    @wraps(build)
    def guarded(row: tuple[Any, ...]) -> Result:
        try:
            return build(row)
        except UNREADABLE as error:
            raise DamagedRow from error

    return guarded
