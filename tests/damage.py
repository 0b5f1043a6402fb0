"""Damage to a database file, of the kinds that disks, copies and operators do."""

from __future__ import annotations

import os
from pathlib import Path

import apsw


def pages_of(path: Path, name: str) -> list[int]:
    """Return where the leaf pages of a table or index begin, in bytes; its name may hold a `*`."""
    connection = apsw.Connection(str(path))
    try:
        found = connection.execute(
            "SELECT pgoffset FROM dbstat WHERE name GLOB ? AND pagetype = 'leaf' ORDER BY path",
            (name,),
        )
        return [offset for (offset,) in found]
    finally:
        connection.close()


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Put other bytes into a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def spoil_page(path: Path, name: str, *, which: float = 0.5) -> None:
    """Make one page of a table or index unreadable, by default one in its middle."""
    pages = pages_of(path, name)
    overwrite(path, pages[min(int(len(pages) * which), len(pages) - 1)], b"\xff" * 512)


def replace_bytes(path: Path, before: bytes, after: bytes) -> None:
    """Change bytes wherever they stand to as many others, which SQLite cannot notice."""
    assert len(before) == len(after)
    path.write_bytes(path.read_bytes().replace(before, after))


def cut_in_half(path: Path) -> None:
    """Cut the second half of a file off."""
    os.truncate(path, path.stat().st_size // 2)


def execute(path: Path, statements: str) -> None:
    """Change a database as another program would."""
    connection = apsw.Connection(str(path))
    connection.execute(statements)
    connection.close()
