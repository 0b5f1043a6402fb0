"""Whether the files of an open database are still where they were."""

from __future__ import annotations

import os
import time
from pathlib import Path

from memtrace_core.errors import StorageUnavailable

SUFFIXES = ("", "-wal", "-shm")


class Presence:
    """Notices that a file of an open database was deleted, moved or replaced.

    SQLite would not: it goes on with files that nobody can open again, and what it acknowledges then is lost. A
    look costs one `stat` a file.

    Args:
        path: the database, open already.
        suffixes: which of the files that belong to it are looked at.
        every: how many seconds the last look counts, where one each time would be felt.
    """

    def __init__(self, path: Path, suffixes: tuple[str, ...] = SUFFIXES, every: float = 0) -> None:
        files = [f"{path}{suffix}" for suffix in suffixes]
        self._identities = [(file, _identity(file)) for file in files]
        self._every = every
        self._looked_at = float("-inf")

    def check(self) -> None:
        """Return if all files are the ones that were there at first.

        Raises:
            StorageUnavailable: naming the first one that is not.
        """
        if self._every and time.monotonic() - self._looked_at < self._every:
            return
        for file, identity in self._identities:
            if _identity(file) != identity:
                raise StorageUnavailable(
                    f"{file} was deleted, moved or replaced while it was in use",
                    hint="stop the server, put the file back or restore a backup, and start again",
                )
        if self._every:
            self._looked_at = time.monotonic()


def _identity(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - three times as fast as Path.stat, on every request
    except OSError:
        return None
    return found.st_dev, found.st_ino
