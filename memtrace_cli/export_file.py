"""An export's file: its lines one by one, and where an unfinished one goes on."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from memtrace_cli import output
from memtrace_core.errors import InvalidInput, MemtraceError
from memtrace_core.export_lines import MOST_LINE_BYTES, read_head, read_line
from memtrace_core.exporting import Behind
from memtrace_core.model import Memory
from memtrace_core.query import Position, position_of


class FileTrouble(MemtraceError):
    """A file cannot be read, written, or gone on with."""

    code = "file"


def lines_of(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield lines with their line feeds; of one that is far too long only the beginning."""
    while line := stream.readline(MOST_LINE_BYTES + 1):
        yield line
        while len(line) > MOST_LINE_BYTES and not line.endswith(b"\n") and line:
            line = stream.readline(MOST_LINE_BYTES + 1)


@contextmanager
def told_of(file: str | Path) -> Iterator[None]:
    """Tell in one line what is wrong with a file; a reader who has had enough is another matter."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileTrouble(f"{file}: {error.strerror or error}") from None


def opened(file: Path, mode: str) -> IO[bytes]:
    """Open a file in a mode for bytes.

    Raises:
        FileTrouble: it cannot be opened.
    """
    with told_of(file):
        # A file that is made is for its owner alone.
        return cast("IO[bytes]", open(file, mode, opener=lambda path, flags: os.open(path, flags, 0o600)))


@contextmanager
def appending(file: Path, org_id: str) -> Iterator[tuple[IO[bytes], Behind | None]]:
    """Open an export to go on behind its last memory, or a new file (then that is None), for one process at a time.

    What stands behind that memory is cut off: half a line, or the end of an export that was complete.
    """
    with opened(file, "ab+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileTrouble(f"{file} is being written by another export") from None
        stream.seek(0)
        behind, end = _behind(stream, file, org_id)
        with told_of(file):
            stream.truncate(end)
        yield stream, behind
        with told_of(file):
            stream.flush()
            os.fsync(stream.fileno())


def _behind(stream: IO[bytes], file: Path, org_id: str) -> tuple[Behind | None, int]:
    """Return where an export was left, and the length of the file up to there."""
    first = stream.readline(MOST_LINE_BYTES)
    if not first.endswith(b"\n") and (not first or first.startswith(b'{"memtrace_export"')):
        return None, 0
    try:
        head = read_head(first)
    except InvalidInput as error:
        raise FileTrouble(f"{file}: {error}; it was left untouched") from None
    if head.org_id != org_id:
        raise output.Misused(f"{file} is an export of {head.org_id}; it was left untouched")
    end, memories, last = len(first), 0, None
    for number, text in enumerate(lines_of(stream), 2):
        try:
            line = read_line(text)
        except InvalidInput as error:
            if text.endswith(b"\n"):
                raise FileTrouble(f"{file}: line {number}: {error}; it was left untouched") from None
            break
        if not isinstance(line, Memory) or not text.endswith(b"\n"):
            break
        end, memories, last = end + len(text), memories + 1, _later(last, position_of(line))
    return Behind(head, memories, last), end


def _later(one: Position | None, other: Position) -> Position:
    return other if one is None else max(one, other)
