"""How the command line speaks: data on stdout, everything else on stderr."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import msgspec

from memtrace_core.errors import MemtraceError

DONE, FAILED, MISUSED = 0, 1, 2

# How things stand, for the eye; the word itself says it too.
_COLOURS = {
    **dict.fromkeys(("ok", "active", "current"), "green"),
    **dict.fromkeys(("warning", "superseded", "previous", "pending"), "yellow"),
    **dict.fromkeys(("fault", "set_aside", "unknown"), "red"),
    **dict.fromkeys(("revoked", "expired"), "dim"),
}
_COLOURED = ("VERDICT", "STATE", "MASTER KEY")
# What a person has to read whole: it goes on in the next line.
_WRAPPED = ("DETAIL", "FROM")
_GAP = 2


class Misused(MemtraceError):
    """The command cannot be carried out as it was given."""

    code = "misused"


class Aborted(MemtraceError):
    """The operator said no."""

    code = "aborted"


class Unwritable(MemtraceError):
    """Standard output takes nothing."""

    code = "unwritable"


def say(text: str = "") -> None:
    """Print data.

    Raises:
        Unwritable: standard output is a full disk, say, or closed.
        BrokenPipeError: whoever read it has had enough.
    """
    with _telling():
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


@contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon_stdout()
        raise Unwritable(f"standard output cannot be written: {error.strerror or error}") from None


@contextmanager
def showing_key(key_id: str) -> Iterator[None]:
    """Print an API key that was just made, and of which there is no copy.

    Raises:
        Unwritable: it could not be shown; what to do is said.
    """
    try:
        yield
    except (BrokenPipeError, Unwritable):
        abandon_stdout()
        raise Unwritable(
            f"API key {key_id} was made, and could not be shown",
            hint=f"end it with `memtrace key revoke {key_id}`, and make another with `memtrace key create`",
        ) from None


def abandon_stdout() -> None:
    """Let what could not be written go nowhere, also at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(text: str) -> None:
    """Print a message for the person, not part of the data."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def suggest(command: str) -> None:
    """Name the command that usually comes next."""
    note(f"next: {command}")


def fail(error: MemtraceError) -> int:
    """Print an error in one line, how to mend it, and return the exit code."""
    note(f"memtrace: {one_line(str(error))}")
    if error.hint:
        note(f"  hint: {one_line(error.hint)}")
    return MISUSED if isinstance(error, Misused) else FAILED


def expect_json() -> None:
    """Let stdout take JSON, which is UTF-8 whatever the terminal's encoding is."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding != "utf-8":
        sys.stdout.reconfigure(encoding="utf-8")


def say_json(value: object) -> None:
    """Print a value as indented JSON."""
    expect_json()
    say(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def say_json_line(value: object) -> None:
    """Print a value as JSON in one line."""
    expect_json()
    with _telling():
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def say_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below their columns.

    On a terminal the table is made to fit, its first column and sentences whole, and has colours unless NO_COLOR is
    set. Elsewhere it is plain: no rules, no colour, nothing cut or folded.
    """
    if sys.stdout.isatty():
        _say_rich_table(columns, rows)
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def say_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Print names and values, a line each."""
    width = max(len(name) for name, _ in fields) + 1
    for name, value in fields:
        say(f"  {(name + ':').ljust(width)} {value}")


def confirm(question: str) -> bool:
    """Ask, on the terminal; anything but yes is no."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def shown_time(moment: datetime | None, absent: str = "-") -> str:
    """Return a time to the second, as people read it."""
    return absent if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def shown_bytes(size: int) -> str:
    """Return a size as people read it, in powers of 1,024."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def shown_memories(count: int) -> str:
    """Return a number of memories as people read it."""
    return "1 memory" if count == 1 else f"{count} memories"


def one_line(text: str) -> str:
    """Return text without line breaks or other control characters, so that it stays one line."""
    return "".join(character if character.isprintable() else " " for character in text)


def _say_rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.cells import cell_len
    from rich.console import Console  # only for a terminal: its import would cost every script
    from rich.table import Table
    from rich.text import Text

    console = Console(no_color=bool(os.environ.get("NO_COLOR")))
    widths = [max(map(cell_len, column)) for column in zip(columns, *rows, strict=True)]
    gaps = _GAP * (len(columns) - 1)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, (column, width) in enumerate(zip(columns, _fitting(widths, console.width - gaps), strict=True)):
        table.add_column(
            column,
            width=width,
            no_wrap=column not in _WRAPPED,
            overflow="fold" if column in _WRAPPED else "ellipsis",
            style="cyan" if index == 0 and column not in _COLOURED else None,
        )
    for row in rows:
        styles = [
            _COLOURS.get(cell, "") if column in _COLOURED else "" for column, cell in zip(columns, row, strict=True)
        ]
        table.add_row(*map(Text, row, styles))
    console.print(table)


def _fitting(widths: Sequence[int], room: int) -> Sequence[int]:
    """Return widths that fit: the widest are made narrower, the first is not, whose ids the next command needs."""
    first, *others = widths
    while others and first + sum(others) > room and max(others) > 1:
        others[others.index(max(others))] -= 1
    return [first, *others]
