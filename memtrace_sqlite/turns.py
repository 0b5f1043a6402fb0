"""Locks between processes that share a journal: whose turn it is to write, and who delivers.

Each is an `flock` on a file of its own beside the journal, which the kernel lets go of when its process dies. The
database file itself must not be opened for that: closing any descriptor of it drops SQLite's own locks.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memtrace_sqlite.database import reporting

TURN, NEXT, DELIVERY = "-turn", "-next", "-delivery"


class Turns:
    """Lets the processes that write one database do so in turn, in the order in which they came.

    SQLite would let them, too, but by sleeping and looking again, for up to 100 ms; here who waits is woken. What
    keeps the database whole is SQLite's own lock all the same. There is no limit to waiting: a process that is
    stopped (SIGSTOP) in its turn holds up the others.

    Args:
        path: the database, which must be there when the first turn is taken.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: tuple[int, int] | None = None

    @contextmanager
    def take(self) -> Iterator[None]:
        """Wait for the turn, and have it for a while. One thread at a time may ask."""
        turn, next_one = self._files or self._open()
        # Who waits holds this one: without it, a busy process would have its next turn before another is awake.
        fcntl.flock(next_one, fcntl.LOCK_EX)
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)
        finally:
            fcntl.flock(next_one, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(turn, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release the files."""
        for file in self._files or ():
            os.close(file)
        self._files = None

    def _open(self) -> tuple[int, int]:
        turn = _open_beside(self._path, TURN)
        try:
            self._files = turn, _open_beside(self._path, NEXT)
        except BaseException:
            os.close(turn)
            raise
        return self._files


class JournalOwnership:
    """Makes one of the processes that use a journal its owner, who delivers what is in it.

    Args:
        path: the journal, which must be there when `take` is called.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process is the owner."""
        return self._file is not None

    def take(self) -> bool:
        """Become the owner unless another process is, and tell whether this one is now.

        Raises:
            StorageUnavailable: the lock's file cannot be used.
        """
        if self._file is not None:
            return True
        with reporting(self._path.with_name(self._path.name + DELIVERY)):
            file = _open_beside(self._path, DELIVERY)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                return False
            except BaseException:
                os.close(file)
                raise
        self._file = file
        return True

    def release(self) -> None:
        """Let another process be the owner."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _open_beside(path: Path, suffix: str) -> int:
    """Open a file beside a database, made with the database's mode and owner, as SQLite does with its own."""
    beside = f"{path}{suffix}"
    try:
        return os.open(beside, os.O_RDWR)
    except FileNotFoundError:
        pass
    database = path.stat()
    file = os.open(beside, os.O_RDWR | os.O_CREAT, stat.S_IMODE(database.st_mode))
    try:
        if os.geteuid() == 0:
            os.fchown(file, database.st_uid, database.st_gid)
    except BaseException:
        os.close(file)
        raise
    return file
